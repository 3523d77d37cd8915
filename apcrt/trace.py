"""Traces: named events with stable keys, through structlog, at next to no cost while nobody listens.

Here live the process-wide level, `emit`, the sinks behind it, the context that travels with queued work, and nothing
else; the schema is in `_events`, reading a recorded trace back is in `_trace_tools`. This module imports no other room.

How it works. `level` is a plain module variable, the lowest severity anybody wants. Hot code asks it first, so that
with tracing off an event costs one comparison and builds nothing:

    if trace.level <= trace.DEBUG:
        trace.emit(trace.DEBUG, "apc.queued", thread=thread.name, apc=name)

An event goes to the taps (tests, `testing.capture_trace`) and, when it reaches the configured level, to one sink:

* after `configure(renderer=..., file=...)`, lines of text or JSON to that file;
* else, when the application has configured structlog, to structlog under the logger name `apcrt`;
* else to standard error. Never to standard output, where an unconfigured structlog would print: it may be a transport.

Two promises to callers. `emit` never raises: a broken pipe behind the sink, a processor of the application that
fails, an event emitted from within a sink, all of these lose the event, are counted (`lost()`), and the first is
reported on standard error; a wait must not die of its own trace. And `emit` may run application code, so it is never
called while a lock is held.

Every function may be called from any thread. None of them waits, except for the file it writes to.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import Final, Literal, Protocol, TextIO, final

import structlog

from apcrt._events import DEBUG, EVENTS, INFO, OFF, WARNING, EventSpec
from apcrt.status import RpcUsageError, Status

__all__ = [
    "DEBUG",
    "EVENTS",
    "INFO",
    "LEVELS",
    "OFF",
    "WARNING",
    "EventSpec",
    "Renderer",
    "Snapshot",
    "Tap",
    "add_tap",
    "configure",
    "emit",
    "level",
    "lost",
    "remove_tap",
    "reset",
    "restored",
    "snapshot",
]

Renderer = Literal["console", "json"]
Tap = Callable[[int, str, dict[str, object]], object]

LEVELS: Final[Mapping[str, int]] = {"off": OFF, "warning": WARNING, "info": INFO, "debug": DEBUG}
"""The names of the levels, as configuration and the command line spell them."""

level: int = WARNING
"""The lowest severity that anybody wants now. Read it; `configure` and `add_tap` set it."""


class _Sink(Protocol):
    def __call__(self, severity: int, event: str, keys: dict[str, object], /) -> None: ...


# One lock for changes of the state below; emit reads it without. Re-entrant, as a finalizer may run inside a change.
_lock = threading.RLock()
_wanted: int = WARNING
_sink: _Sink | None = None
_taps: tuple[tuple[Tap, int], ...] = ()
_lost: int = 0
_inside = threading.local()


def emit(severity: int, event: str, /, **keys: object) -> None:
    """Report one event. Never raises, whatever a tap, a processor or a file does; see the module's text.

    `severity` is one of DEBUG, INFO, WARNING; `event` a name from `EVENTS`, `keys` the keys it lists there. They are
    not checked here, as this is the hot path; the tests check every place that calls. `exc_info=error` adds a
    traceback. Call it without any lock held, and behind a comparison with `level` wherever building the keys costs
    something.
    """
    if severity < level:
        return
    # An event that a sink causes would be reported to that sink, for ever: think of logs that travel over apcrt.
    if getattr(_inside, "emitting", False):
        _count_loss(event, None)
        return
    _inside.emitting = True
    try:
        for tap, threshold in _taps:
            if severity >= threshold:
                tap(severity, event, dict(keys))
        if severity >= _wanted:
            sink = _sink
            if sink is not None:
                sink(severity, event, keys)
            elif structlog.is_configured():
                _to_structlog(severity, event, keys)
            else:
                _to_stderr(severity, event, keys)
    except Exception as error:  # noqa: BLE001 - promised: the trace never breaks what it watches
        _count_loss(event, error)
    finally:
        _inside.emitting = False


def lost() -> int:
    """How many events could not be delivered since the start of the process."""
    return _lost


def _count_loss(event: str, error: Exception | None) -> None:
    global _lost
    with _lock:
        _lost += 1
        first = _lost == 1
    if first and sys.stderr is not None:
        reason = "emitted from within a sink" if error is None else repr(error)
        with contextlib.suppress(Exception):
            sys.stderr.write(f"apcrt: a trace event was lost ({event}): {reason}; further losses are only counted\n")


# ---------------------------------------------------------------------------------------------------------- listeners


def configure(*, level: str | int = "info", renderer: Renderer | None = None, file: TextIO | None = None) -> None:
    """Choose what is reported and where to. For applications and the command line, never called by the library.

    `level` is `"off"`, `"warning"`, `"info"`, `"debug"` or a number. With neither `renderer` nor `file` only the level
    changes, and events keep going to structlog if that is configured, else to standard error. With either, apcrt's
    events are rendered here: `"console"` for people, `"json"` for one object per line, the form that `apcrt trace`
    reads; `file` defaults to standard error. The file stays the caller's: it is flushed after each event and never
    closed. structlog's own configuration is never touched.

    Raises `RpcUsageError` (87) for an unknown level or renderer.
    """
    global _wanted, _sink
    number = _level_number(level)
    sink: _Sink | None = None
    if renderer is not None or file is not None:
        sink = _render_to(file, renderer or "console")
    with _lock:
        _wanted = number
        if sink is not None:
            _sink = sink
        _update_level()


def reset() -> None:
    """Go back to the state after import: warnings only, no file, no taps, nothing lost. For tests."""
    global _wanted, _sink, _taps, _lost
    with _lock:
        _wanted, _sink, _taps, _lost = WARNING, None, (), 0
        _update_level()


def add_tap(tap: Tap, level: int = DEBUG) -> None:
    """Have `tap(severity, event, keys)` called for every event from `level` up, on the thread that emits it.

    The dictionary is the tap's own. A tap must be quick, thread-safe and must not wait; what it raises is swallowed and
    counted. Lowers the process-wide level while it is there.
    """
    global _taps
    with _lock:
        _taps = (*_taps, (tap, level))
        _update_level()


def remove_tap(tap: Tap) -> None:
    """Take a tap away again; one that is not there is no error. It may still be running on another thread."""
    global _taps
    with _lock:
        _taps = tuple(pair for pair in _taps if pair[0] != tap)
        _update_level()


def _update_level() -> None:
    global level
    level = min([_wanted, *(threshold for _, threshold in _taps)])


def _level_number(name: str | int) -> int:
    if isinstance(name, int):
        return int(name)
    try:
        return LEVELS[name.lower()]
    except KeyError:
        raise RpcUsageError(
            Status.ERROR_INVALID_PARAMETER, f"unknown trace level {name!r}; there are {', '.join(LEVELS)}"
        ) from None


# -------------------------------------------------------------------------------------------------------------- sinks


def _to_structlog(severity: int, event: str, keys: dict[str, object]) -> None:
    # By method name: `log(level, ...)` is missing on some of structlog's wrapper classes, these are on all of them.
    logger = structlog.get_logger("apcrt")
    if severity >= WARNING:
        logger.warning(event, **keys)
    elif severity >= INFO:
        logger.info(event, **keys)
    else:
        logger.debug(event, **keys)


def _render_to(file: TextIO | None, renderer: Renderer) -> _Sink:
    """A sink that writes one line per event to `file`; None is standard error, looked up at each event."""
    format_exception = structlog.processors.format_exc_info
    render: Callable[[None, str, MutableMapping[str, object]], str | bytes]
    if renderer == "json":
        json = structlog.processors.JSONRenderer(default=str)

        def render_json(_: None, method: str, values: MutableMapping[str, object]) -> str | bytes:
            return json(None, method, format_exception(None, method, values))

        render = render_json
    elif renderer == "console":
        colors = file is None and sys.stderr is not None and sys.stderr.isatty()
        render = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
    else:
        raise RpcUsageError(
            Status.ERROR_INVALID_PARAMETER, f"unknown renderer {renderer!r}; there are 'console' and 'json'"
        )
    # Re-entrant because a finalizer may emit in the middle of a write; `emit` turns that away, this must not hang
    # first.
    writing = threading.RLock()

    def sink(severity: int, event: str, keys: dict[str, object]) -> None:
        target = file if file is not None else sys.stderr
        if target is None:
            return
        name = _severity_name(severity)
        values: dict[str, object] = {
            **structlog.contextvars.get_contextvars(),
            **keys,
            # A thread that is ending has no Thread object any more, and asking for one would make a new one.
            "emitter": keys["thread"] if event == "thread.ended" else threading.current_thread().name,
            "event": event,
            "level": name,
            "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"),
        }
        line = render(None, name, values)
        text = line.decode() if isinstance(line, bytes) else line
        with writing:
            target.write(text + "\n")
            target.flush()

    return sink


def _severity_name(severity: int) -> str:
    return "warning" if severity >= WARNING else "info" if severity >= INFO else "debug"


_stderr_sink: _Sink | None = None


def _to_stderr(severity: int, event: str, keys: dict[str, object]) -> None:
    global _stderr_sink
    if _stderr_sink is None:
        _stderr_sink = _render_to(None, "console")
    _stderr_sink(severity, event, keys)


# ------------------------------------------------------------------------------------------------------------ context


@final
class Snapshot:
    """What the issuer of some work had bound in structlog's context; opaque, immutable, may travel between threads."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def bound(self) -> AbstractContextManager[None]:
        """Bind the values, and on leaving give the thread its own back."""
        return structlog.contextvars.bound_contextvars(**self._values)

    def __repr__(self) -> str:
        return f"<Snapshot {dict(self._values)!r}>"


def snapshot() -> Snapshot | None:
    """The structlog context of the caller, to go with a queued item: context variables do not cross threads.

    None when nothing is bound or tracing is off for everything, so that the common case carries nothing.
    """
    if level >= OFF or not contextvars.copy_context():
        return None
    values = structlog.contextvars.get_contextvars()
    return Snapshot(values) if values else None


_NOTHING: Final = contextlib.nullcontext()


def restored(snapshot: Snapshot | None) -> AbstractContextManager[None]:
    """Bind a snapshot's values around a routine and give the thread its own context back afterwards.

    Values that the running thread has bound under other names stay visible. Nothing happens for None.
    """
    if snapshot is None:
        return _NOTHING
    return snapshot.bound()

"""Reading recorded traces: filtering lines for people, and a timeline for Chrome's and Perfetto's viewers.

The input is what `trace.configure(renderer="json")` writes, one object per line, or any structlog JSON log that has
`event` and an ISO `timestamp`. Functions here take and give iterables of records and do no input or output; `cli` does.

The timeline has one track per thread and one per call. What took time (`seconds`) is a bar that ends at its record,
everything else a mark on the thread that emitted it. An arrow leads from `apc.queued` on the queueing thread to the bar
of the routine on the thread that owns it. A queue is first in first out, so the n-th `apc.queued` of a routine on a
thread belongs to the n-th `apc.run` or `apc.failed` of that routine there; no identifier has to be recorded for that.
"""

from __future__ import annotations

import collections
import datetime
import fnmatch
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, cast

__all__ = ["Record", "parse", "render", "select", "timeline"]

Record = Mapping[str, object]

_FRAME: Final = frozenset({"timestamp", "level", "emitter", "event", "exception", "traceback"})


def parse(lines: Iterable[str]) -> Iterator[Record | None]:
    """The record of each line; None for a line that is no trace record, empty lines left out."""
    for line in lines:
        if not line.strip():
            continue
        try:
            value: object = json.loads(line)
        except ValueError:
            yield None
            continue
        record = cast("dict[str, object]", value) if isinstance(value, dict) else {}
        yield record if isinstance(record.get("event"), str) else None


def select(
    records: Iterable[Record], *, call: str | None = None, thread: str | None = None, event: str | None = None
) -> Iterator[Record]:
    """The records that name this call, concern or were emitted by this thread, and match this event pattern (`pipe.*`).

    None does not restrict. A call is named by its whole name, such as `read#12`, or by its number alone.
    """
    for record in records:
        name = str(record.get("call"))
        if call is not None and call not in (name, re.split("[#@]", name)[-1]):
            continue
        if thread is not None and thread not in {str(record.get("thread")), str(record.get("emitter"))}:
            continue
        if event is not None and not fnmatch.fnmatchcase(str(record["event"]), event):
            continue
        yield record


def render(record: Record) -> str:
    """One record as a line of text: time of day, level, emitting thread, event, keys; a traceback below it."""
    time = str(record.get("timestamp", ""))
    clock = time.partition("T")[2].removesuffix("+00:00").removesuffix("Z") or time
    keys = " ".join(f"{key}={value}" for key, value in record.items() if key not in _FRAME)
    line = (
        f"{clock:15} {record.get('level', ''):8}{record.get('emitter', ''):16} {record['event']!s:22} {keys}".rstrip()
    )
    trace = str(record.get("traceback") or record.get("exception") or "")
    return f"{line}\n{trace.rstrip()}" if trace else line


# ------------------------------------------------------------------------------------------------------------ timeline


def timeline(records: Iterable[Record]) -> dict[str, object]:
    """The records in the Trace Event Format, ready for `json.dump`; times are microseconds from the first record.

    Records without a readable timestamp are left out.
    """
    return _Timeline().convert(records)


class _Timeline:
    """One conversion: the tracks handed out so far, the arrows and waits still open, and the events made."""

    def __init__(self) -> None:
        self._tracks: dict[str, int] = {}
        self._arrows: dict[tuple[str, str], collections.deque[int]] = {}
        self._waits: dict[str, list[tuple[float, Record]]] = {}
        self._events: list[dict[str, object]] = []
        self._serial = 0

    def convert(self, records: Iterable[Record]) -> dict[str, object]:
        timed = [(at, record) for record in records if (at := _microseconds(record)) is not None]
        timed.sort(key=lambda pair: pair[0])
        start = min((at - _duration(record) for at, record in timed), default=0.0)
        for at, record in timed:
            self._add(at - start, record)
        for thread, waits in self._waits.items():
            # A wait that never ended is what one looks for in the trace of a program that hangs.
            for at, record in waits:
                self._event("B", at, thread, record)
        names: list[dict[str, object]] = [
            {"ph": "M", "name": "thread_name", "pid": 1, "tid": track, "args": {"name": name}}
            for name, track in self._tracks.items()
        ]
        return {"traceEvents": names + self._events, "displayTimeUnit": "ms"}

    def _add(self, at: float, record: Record) -> None:
        call = record.get("call")
        event, emitter = str(record["event"]), str(record.get("emitter") or record.get("thread") or "unknown")
        home = str(record.get("thread") or emitter)
        routine = (home, str(record.get("apc")))
        match event:
            case "apc.queued":
                self._serial += 1
                self._arrows.setdefault(routine, collections.deque()).append(self._serial)
                self._event("X", at, emitter, record, dur=1)  # an arrow starts at a bar, never at a mark
                self._event("s", at, emitter, record, id=self._serial)
            case "apc.run" | "apc.failed":
                duration = max(_duration(record), 1.0)
                self._event("X", at - duration, home, record, dur=duration)
                if waiting := self._arrows.get(routine):
                    self._event("f", at - duration, home, record, id=waiting.popleft(), bp="e")
            case "wait.begin":
                self._waits.setdefault(home, []).append((at, record))
            case "wait.end":
                if begun := self._waits.get(home):
                    begun.pop()
                self._event("X", at - _duration(record), home, record, dur=_duration(record))
            case "call.started" | "call.dispatched" if call is not None:
                self._event("b", at, emitter, record, id=str(call))
            case "call.completed" | "call.failed" | "call.cancelled" if call is not None:
                self._event("e", at, emitter, record, id=str(call))
            case _ if "seconds" in record:
                self._event("X", at - _duration(record), emitter, record, dur=_duration(record))
            case _:
                self._event("i", at, emitter, record, s="t")

    def _event(self, phase: str, at: float, thread: str, record: Record, **more: object) -> None:
        name, category = str(record["event"]), str(record["event"]).partition(".")[0]
        values: dict[str, object] = {"ph": phase, "name": name, "cat": category, "ts": round(at, 3), "pid": 1}
        values["tid"] = self._tracks.setdefault(thread, len(self._tracks) + 1)
        if phase in {"s", "f"}:
            values.update(name="apc", cat="apc")  # both ends of an arrow carry the same name
        elif phase in {"b", "e"}:
            values.update(name=f"call {record['call']}", args={"event": name, "status": record.get("status")})
        else:
            subject = record.get("apc") or record.get("wait")
            values["name"] = f"{name} {subject}" if subject else name
            values["args"] = {key: value for key, value in record.items() if key not in {"event", "timestamp"}}
        self._events.append({**values, **more})


def _microseconds(record: Record) -> float | None:
    try:
        return datetime.datetime.fromisoformat(str(record.get("timestamp"))).timestamp() * 1e6
    except ValueError:
        return None


def _duration(record: Record) -> float:
    seconds = record.get("seconds")
    return float(seconds) * 1e6 if isinstance(seconds, int | float) else 0.0

"""The running of APCs: what both faces share.

What lives here: taking entries from the queue and calling them, levels of nesting. What must not: sleeping; awaiting.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import cast

from trio.lowlevel import disable_ki_protection

from apcrt import trace
from apcrt.apc._dispatcher import Entry
from apcrt.apc._thread import ApcThread, apc_name
from apcrt.status import ApcError, Status

__all__ = ["NESTING_LIMIT", "Unfinished", "check_depth", "emit_failed", "emit_run", "run_slice", "run_specials"]

NESTING_LIMIT = 32
"""How deep alertable waits may nest in APCs before the next one fails with 1001. Python's own stack ends later."""

SLICE = 0.001
"""Seconds between two looks at the Port, and at who else should be released, during a drain."""

Unfinished = tuple[Entry, Coroutine[object, None, object]]
"""An entry that was taken, and the coroutine that its routine returned."""


def check_depth(thread: ApcThread) -> None:
    """Before a drain. Raises ApcError (1001) when nested too deep; nothing has run then."""
    if len(thread.drains) >= NESTING_LIMIT:
        raise ApcError(
            Status.ERROR_STACK_OVERFLOW,
            f"alertable waits are nested {NESTING_LIMIT} deep in APCs on thread {thread.name!r}",
        )


@disable_ki_protection
def run_slice(thread: ApcThread) -> Unfinished | None:
    """Run entries until the queue is empty, a slice of time is over, or a routine turns out to be async.

    Routines are user code, which Ctrl-C may interrupt on a trio thread too.
    """
    queue, specials = thread.queue, thread.specials
    until = time.monotonic() + SLICE
    while queue or specials:
        if specials:
            run_specials(thread)
            continue
        entry = queue[0]
        if not entry.live:
            del queue[0]
            continue
        if entry.context is not None or trace.level <= trace.DEBUG:
            outcome = _run_traced(thread, entry)
        else:
            try:
                # Trap: after popleft() Ctrl-C could fall between taking the entry and calling it, and lose it.
                thread.ran += 1
                entry.live = False
                del queue[0]
                outcome = entry.routine(*entry.args)
            except Exception:
                emit_failed(thread, entry)
                raise
        if outcome is not None and isinstance(outcome, Coroutine):
            return entry, cast("Coroutine[object, None, object]", outcome)
        if time.monotonic() >= until:
            break
    return None


@disable_ki_protection
def run_specials(thread: ApcThread) -> None:
    """Run the special APCs that are queued, and those that come meanwhile. Only on the thread itself."""
    specials = thread.specials
    while specials:
        entry = specials[0]
        begun = time.monotonic()
        with trace.restored(entry.context):
            try:
                thread.ran += 1
                entry.live = False
                del specials[0]
                entry.routine(*entry.args)
            except Exception:
                emit_failed(thread, entry)
                raise
        if trace.level <= trace.DEBUG:
            emit_run(thread, entry, begun)


def _run_traced(thread: ApcThread, entry: Entry) -> object:
    """Run the first entry in the trace context of its issuer, with its events. Returns what the routine returned."""
    queue = thread.queue
    begun = time.monotonic()
    with trace.restored(entry.context):
        try:
            thread.ran += 1
            entry.live = False
            del queue[0]
            outcome = entry.routine(*entry.args)
        except Exception:
            emit_failed(thread, entry)
            raise
    finished = not isinstance(outcome, Coroutine)
    if finished and trace.level <= trace.DEBUG:
        emit_run(thread, entry, begun)
    return outcome


def emit_run(thread: ApcThread, entry: Entry, begun: float) -> None:
    """Say that an APC has run, since `begun` (seconds, monotonic)."""
    seconds = time.monotonic() - begun
    trace.emit(trace.DEBUG, "apc.run", thread=thread.name, apc=apc_name(entry.routine), seconds=seconds)


def emit_failed(thread: ApcThread, entry: Entry) -> None:
    """Say that an exception is leaving an APC."""
    if trace.level <= trace.WARNING:
        trace.emit(trace.WARNING, "apc.failed", thread=thread.name, apc=apc_name(entry.routine))

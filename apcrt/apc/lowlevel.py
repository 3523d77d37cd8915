"""What the runtime's other rooms need of the threads: Ports, posting, waking, direct waits.

Not for users. In order of need:

- `ApcThread.port.arm(fd, interest, source)`: have a source called on a thread when a descriptor is ready.
- `post(thread, routine, args, source=, wakes=)` and `Latch.set(wakes)`: report an end, under a connection's lock if
  need be; afterwards, with no lock held, `wake(wakes)`. Locks are taken in the order pool, connection, D; what is
  called here takes D, or the Port's own small lock, and nothing beneath.
- `Latch.wait`, `await Latch.wait_async()`: wait for one operation, without APCs.
- `thread.add_dirty(f)`: be flushed before the thread's next wait. `thread.homed`: be told of its wake-up hook and end.
- `Waitable`, `D`, `signal`, `notify`, `deliver`: what new kinds of waitable objects are made of. `Dependent`,
  `thread.dependents`: be told, under D, of the end of a thread.
- `undisturbed(f, *args)`: do what Ctrl-C must not tear apart.
- `outlast`, `await outlast_async`: wait for an end that cannot be hurried, whatever is cancelled meanwhile.
- `driver_port()`: the Port to arm in for a thread with a wake-up hook, which never waits.
- `Clock`: the time of waits and timers; a test that moves time puts one of its own into `D.clock`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from apcrt import trace
from apcrt.apc import _task_wait
from apcrt.apc._clock import Clock
from apcrt.apc._dispatcher import Alarm, D, Dependent, Entry, Wait, Waitable, Wakes, deliver, notify, signal, wake
from apcrt.apc._driver import driver_port, ensure_driver, stop_driver
from apcrt.apc._interrupts import undisturbed
from apcrt.apc._latch import Latch
from apcrt.apc._operations import enrolled
from apcrt.apc._port import HANGUP, READ, WRITE, Port, Source
from apcrt.apc._pump import ensure_pump, in_trio_run, pumped_thread
from apcrt.apc._thread import ApcThread, Flushable, Homed, apc_name
from apcrt.apc._wait import block, waiting_thread

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "HANGUP",
    "READ",
    "WRITE",
    "Alarm",
    "ApcThread",
    "Clock",
    "D",
    "Dependent",
    "Entry",
    "Flushable",
    "Homed",
    "Latch",
    "Port",
    "Source",
    "Wait",
    "Waitable",
    "Wakes",
    "apc_name",
    "check_overdue",
    "deliver",
    "driver_port",
    "ensure_driver",
    "ensure_pump",
    "in_trio_run",
    "notify",
    "outlast",
    "outlast_async",
    "post",
    "signal",
    "undisturbed",
    "stop_driver",
    "wake",
]


def post(
    thread: ApcThread,
    routine: Callable[..., object],
    args: tuple[object, ...],
    *,
    source: str,
    wakes: list[ApcThread],
) -> bool:
    """Queue a completion to `thread`; False when the thread has ended, and nothing was queued.

    Takes only D and calls nobody, so a connection's lock may be held. The caller passes `wakes` to `wake` when it holds
    no lock any more. `source` names the origin in traces ("call", "io", "timer").
    """
    return thread.post(Entry(routine, args, source, trace.snapshot() if trace.level <= trace.INFO else None), wakes)


def outlast(waitable: Waitable) -> None:
    """Block a plain thread until `waitable` is signaled, though its structured scope be cancelled. Not alertable.

    For ends that come soon and by themselves. Raises ApcError (87) where trio runs; Ctrl-C passes.
    """
    block(Wait(waiting_thread("outlast", "await outlast_async(...)"), (waitable,), shielded=True), None)


async def outlast_async(waitable: Waitable) -> None:
    """The twin of `outlast` for trio tasks, shielded from cancel scopes too."""
    with trio.CancelScope(shield=True):
        await _task_wait.block(Wait(pumped_thread("outlast"), (waitable,), shielded=True), None)


def check_overdue(now: float, limit: float = 10.0) -> None:
    """Warn, once for each time, of threads that have owed completions for `limit` seconds without waiting alertably.

    To be called now and then, by the I/O thread. `now` is in seconds of the monotonic clock. Events that no thread has
    discovered yet count from the first call that sees them.
    """
    for thread in D.run(enrolled):
        pending = thread.pending()
        try:
            since = pending[0].queued_at
            thread.owing_since = None
        except IndexError:
            port = thread.open_port
            if port is None or thread.drives or not port.owes():
                thread.owing_since = None
                thread.warned = False
                continue
            since = thread.owing_since = now if thread.owing_since is None else thread.owing_since
        if now - since < limit:
            thread.warned = False
        elif not thread.warned:
            thread.warned = True
            queued = len(pending)
            if trace.level <= trace.WARNING:
                trace.emit(trace.WARNING, "thread.overdue", thread=thread.name, seconds=now - since, queued=queued)

"""Waiting on a plain thread, and the running of APCs there.

What lives here: the blocking face: the checks of arguments, the sleep on the Port, the drain. What must not: anything
of trio's beyond refusing it; the twin for trio threads is `aio`. What decides a wait is in `_dispatcher`.

How it works. `block` decides the wait under D and, while it is undecided, sleeps on the thread's Port and looks again.
When APCs have ended it, `drain` runs them, then `block` returns; a wait that was woken for entries that had been taken
back meanwhile goes on for the rest of its time.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import trio

from apcrt import trace
from apcrt.apc._dispatcher import ABANDONED, CANCELLED, IO_COMPLETION, TIMEOUT, D, Drain, Wait, Waitable, inside
from apcrt.apc._drain import check_depth, run_slice, run_specials
from apcrt.apc._operations import abandon, begin, leave_level, look, signal_and_begin
from apcrt.apc._thread import ApcThread, apc_name, current_thread
from apcrt.status import WAIT_FAILED, WAIT_OBJECT_0, ApcError, Status, WaitResult

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "MAXIMUM_WAIT_OBJECTS",
    "run_special_apcs",
    "signal_object_and_wait",
    "sleep_ex",
    "test_alert",
    "wait_for_multiple_objects_ex",
    "wait_for_single_object_ex",
]

MAXIMUM_WAIT_OBJECTS = 64

RESULTS = {
    number: WaitResult(number)
    for number in (
        *range(MAXIMUM_WAIT_OBJECTS),
        *range(ABANDONED, ABANDONED + MAXIMUM_WAIT_OBJECTS),
        IO_COMPLETION,
        TIMEOUT,
    )
}
"""Looked up and not made: a call could let Ctrl-C in after an object was taken, and the taking would be lost."""


def sleep_ex(seconds: float | None, *, alertable: bool = False) -> WaitResult:
    """Sleep (SleepEx). If `alertable`, run the APCs that are queued, or the first to come, and return then.

    Args:
        seconds: how long; 0 polls, None is for ever.
        alertable: whether APCs may run.

    Returns:
        WAIT_IO_COMPLETION (192) when APCs were run, else 0 once the time is over.

    Raises:
        ApcError: 87 for a negative time, or on a thread that runs trio (await `apc.aio.sleep_ex` there); 1001 nested
            too deep; 6 after a fork.
        WaitCancelled: the structured scope of this thread was cancelled.
        BaseException: whatever an APC raised; the rest stays queued.
    """
    check_seconds(seconds)
    thread = waiting_thread("sleep_ex")
    result = block(Wait(thread, (), alertable=alertable), seconds)
    return WAIT_OBJECT_0 if result == TIMEOUT else RESULTS[result]


def wait_for_single_object_ex(waitable: Waitable, seconds: float | None, *, alertable: bool = False) -> WaitResult:
    """Wait for one object (WaitForSingleObjectEx).

    Args:
        waitable: an Event, a thread, ...
        seconds: how long at most; 0 looks and returns, None is for ever.
        alertable: whether APCs may run. One that is pending, or comes first, ends the wait and nothing is taken.

    Returns:
        WAIT_OBJECT_0, WAIT_ABANDONED_0, WAIT_IO_COMPLETION or WAIT_TIMEOUT.

    Raises:
        ApcError: 6 not a waitable object, else as `sleep_ex`.
        WaitCancelled: as `sleep_ex`.
    """
    check_objects((waitable,))
    check_seconds(seconds)
    thread = waiting_thread("wait_for_single_object_ex")
    return RESULTS[block(Wait(thread, (waitable,), alertable=alertable), seconds)]


def wait_for_multiple_objects_ex(
    waitables: Sequence[Waitable],
    seconds: float | None,
    *,
    wait_all: bool = False,
    alertable: bool = False,
) -> WaitResult:
    """Wait for any or all of several objects (WaitForMultipleObjectsEx).

    Args:
        waitables: 1 to 64 different objects. With `wait_all` nothing is taken until all can be taken at one moment;
            else the first in order that is signaled is taken, and only that.
        seconds: how long at most; 0 looks and returns, None is for ever.
        wait_all: all, not any.
        alertable: whether APCs may run.

    Returns:
        WAIT_OBJECT_0 + index, WAIT_ABANDONED_0 + index, WAIT_IO_COMPLETION or WAIT_TIMEOUT. `.index` is the position.

    Raises:
        ApcError: 87 no object, more than 64, or one twice; 6 not a waitable object; else as `sleep_ex`.
        WaitCancelled: as `sleep_ex`.
    """
    waitables = tuple(waitables)
    check_objects(waitables)
    check_seconds(seconds)
    thread = waiting_thread("wait_for_multiple_objects_ex")
    return RESULTS[block(Wait(thread, waitables, wait_all=wait_all, alertable=alertable), seconds)]


def signal_object_and_wait(
    to_signal: Waitable, to_wait_on: Waitable, seconds: float | None, *, alertable: bool = False
) -> WaitResult:
    """Signal one object and wait for another, with nothing in between (SignalObjectAndWait).

    Args:
        to_signal: an Event, which is set; a Mutex, which is released; a Semaphore, which is released by one.
        to_wait_on: an Event, a thread, ...
        seconds: how long at most; 0 looks and returns, None is for ever.
        alertable: whether APCs may run; the signal stands whatever ends the wait.

    Returns:
        WAIT_OBJECT_0, WAIT_ABANDONED_0, WAIT_IO_COMPLETION or WAIT_TIMEOUT.

    Raises:
        ApcError: 6 `to_signal` is of another kind; 288 the mutex is not this thread's; 298 the semaphore is at its
            maximum. Nothing was waited for then. Else as `sleep_ex`.
        WaitCancelled: as `sleep_ex`.
    """
    check_objects((to_signal,))
    check_objects((to_wait_on,))
    check_seconds(seconds)
    thread = waiting_thread("signal_object_and_wait")
    return RESULTS[block(Wait(thread, (to_wait_on,), alertable=alertable), seconds, first=to_signal)]


def test_alert() -> bool:
    """Run the APCs that are queued, without waiting (NtTestAlert). Returns whether any ran.

    This is what the event loop of a thread with a wake-up hook calls. Raises as `sleep_ex`.
    """
    thread = waiting_thread("test_alert")
    return block(Wait(thread, (), alertable=True), 0) == IO_COMPLETION


def run_special_apcs() -> bool:
    """Run the special APCs of the calling thread that are queued. Returns whether any ran.

    For long computations that want to be interrupted; waits and calls do it by themselves. On trio threads too. Raises
    what they raise.
    """
    thread = current_thread()
    if not thread.specials:
        return False
    run_specials(thread)
    return True


def check_seconds(seconds: float | None) -> None:
    """Raises ApcError (87) for what is not a time-out."""
    if seconds is not None and (math.isnan(seconds) or seconds < 0):
        raise ApcError(Status.ERROR_INVALID_PARAMETER, f"a time-out is seconds, or None for ever, not {seconds!r}")


def check_objects(waitables: Sequence[object]) -> None:
    """Raises ApcError for a set that cannot be waited for: 87 by number, 6 by kind."""
    if not 1 <= len(waitables) <= MAXIMUM_WAIT_OBJECTS:
        raise ApcError(
            Status.ERROR_INVALID_PARAMETER,
            f"a wait is for 1 to {MAXIMUM_WAIT_OBJECTS} objects, not {len(waitables)}",
        )
    for waitable in waitables:
        if not isinstance(waitable, Waitable):
            raise ApcError(Status.ERROR_INVALID_HANDLE, f"{waitable!r} is not a waitable object")
        waitable.check_process()
    if len(set(waitables)) != len(waitables):
        raise ApcError(Status.ERROR_INVALID_PARAMETER, "the same object is named twice in one wait")


def waiting_thread(function: str, twin: str = "") -> ApcThread:
    """The calling thread, for a blocking function. Raises ApcError (87), naming its async twin, where trio runs."""
    if trio.lowlevel.in_trio_run():
        raise ApcError(
            Status.ERROR_INVALID_PARAMETER,
            f"{function} would block the trio loop of this thread; "
            f"use: {twin or f'await apcrt.apc.aio.{function}(...)'}",
        )
    return current_thread()


def block(wait: Wait, seconds: float | None, *, first: Waitable | None = None) -> int:
    """Have `wait` decided on a plain thread, and run the APCs that end it; arguments are checked.

    Args:
        wait: of the calling thread; new, or decided and read.
        seconds: how long at most; None is for ever.
        first: an object to be signaled at the beginning.
    """
    thread = wait.thread
    debug = trace.level <= trace.DEBUG
    begun = time.monotonic() if debug else 0.0
    if debug:
        trace.emit(trace.DEBUG, "wait.begin", thread=thread.name, wait=kind(wait))
    result = int(WAIT_FAILED)
    try:
        run_specials(thread)
        if thread.dirty:
            thread.flush_dirty()
        wait.deadline = math.inf if seconds is None else D.clock.now() + seconds
        ran = thread.ran
        while True:
            wait.result = None
            wait.drain = thread.drains[-1] if thread.drains else None
            result = _decide(wait, first)
            if result == CANCELLED:
                thread.check_cancelled()
            if result != IO_COMPLETION:
                if thread.specials:
                    _run_specials_after(wait)
                return result
            first = None
            drain_queue(thread)
            # Nothing ran: the entries were taken back between the decision and now.
            if thread.ran != ran:
                return result
    finally:
        if debug:
            taken = time.monotonic() - begun
            trace.emit(trace.DEBUG, "wait.end", thread=thread.name, wait=kind(wait), status=result, seconds=taken)


def _decide(wait: Wait, first: Waitable | None) -> int:
    """Sleep until the wait has its result, and return it. Left by an exception, the wait has consumed nothing."""
    thread = wait.thread
    thread.waiting += 1
    try:
        timed = wait.deadline < math.inf
        poll = timed and wait.deadline <= D.clock.now()
        port = thread.open_port if poll else thread.port
        if port is not None and port.armed:
            # Else a busy queue would starve I/O, and a wait of no time would not see what is there.
            port.service(0)
        result = D.run(begin, wait, poll) if first is None else D.run(signal_and_begin, wait, poll, first)
        while result is None:
            thread.port.service(sleep_time(wait.deadline))
            result = D.run(look, wait, timed and D.clock.now() >= wait.deadline)
        return result
    except BaseException:
        _abandon(wait)
        raise
    finally:
        thread.waiting -= 1


def _run_specials_after(wait: Wait) -> None:
    """The wait is over, and special APCs have come meanwhile. If one raises, nobody receives what the wait took."""
    try:
        run_specials(wait.thread)
    except BaseException:
        _abandon(wait)
        raise


def sleep_time(deadline: float) -> float | None:
    """Real seconds that a thread may sleep which has to do something at `deadline`, or at the next alarm before it."""
    alarm = D.next_alarm()
    until = deadline if alarm is None or deadline < alarm else alarm
    return None if until == math.inf else D.clock.real(max(0.0, until - D.clock.now()))


def _abandon(wait: Wait) -> None:
    while True:
        try:
            D.run(abandon, wait)
        except KeyboardInterrupt:  # a second one; the first is on its way already
            continue
        return


def drain_queue(thread: ApcThread) -> None:
    """Run what is queued, and what is queued meanwhile, on a plain thread.

    Stops early, leaving the rest queued, when an APC raises or the thread is cancelled.
    """
    check_depth(thread)
    outer = inside.get()
    depth = len(thread.drains)
    level = Drain(thread, thread.drains[-1] if depth else None)
    try:
        thread.drains.append(level)
        inside.set(level)
        while thread.has_apcs():
            unfinished = run_slice(thread)
            if unfinished is not None:
                entry, coroutine = unfinished
                coroutine.close()
                raise ApcError(
                    Status.ERROR_INVALID_PARAMETER,
                    f"{apc_name(entry.routine)} is async, and thread {thread.name!r} runs no trio loop to await it",
                )
            if thread.cancels:
                break
            port = thread.open_port
            if thread.has_apcs() and port is not None and port.armed:
                port.service(0)
    finally:
        # Without a call, and so whatever Ctrl-C does to the rest.
        del thread.drains[depth:]
        level.ended = True
        D.run(leave_level, level)
        inside.set(outer)


def kind(wait: Wait) -> str:
    """What a wait is, for a log: "sleep", "Event", "any of 3", "all of 2", and "alertable"."""
    objects = wait.objects
    if not objects:
        what = "sleep"
    elif len(objects) == 1:
        what = type(objects[0]).__name__
    else:
        what = f"{'all' if wait.wait_all else 'any'} of {len(objects)}"
    return f"{what} alertable" if wait.alertable else what

"""The waits of `apcrt.apc` for a thread that runs trio: the same names, awaitable.

Same rules, same results as the blocking face. Every function is a checkpoint; a wait that is cancelled has consumed
nothing and run nothing. Several tasks of one thread may wait alertably at the same time: whichever of them runs the
APCs, every alertable wait of the thread that was blocked then returns WAIT_IO_COMPLETION, so that

    while not done:
        await aio.sleep_ex(None, alertable=True)

cannot miss what it is waiting for. While APCs run for long, the others are released each millisecond.

An APC routine may be `async def` here. It is awaited by the task that runs the queue, one after the other, in order; it
may wait alertably itself, and so may tasks that it starts in `current_nursery()`. Cancelling the wait cancels the
async routine that is running; plain routines are never cut short; what has not begun stays queued.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import trio

from apcrt import trace
from apcrt.apc._dispatcher import CANCELLED, IO_COMPLETION, TIMEOUT, D, Drain, Wait, Waitable, inside, release
from apcrt.apc._drain import Unfinished, check_depth, emit_failed, emit_run, run_slice
from apcrt.apc._operations import begin, current_drain, leave_level, time_out, withdraw
from apcrt.apc._pump import pumped_thread
from apcrt.apc._wait import RESULTS, check_objects, check_seconds, kind
from apcrt.status import WAIT_FAILED, WAIT_OBJECT_0, ApcError, Status, WaitResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apcrt.apc._thread import ApcThread

__all__ = [
    "current_nursery",
    "sleep_ex",
    "test_alert",
    "wait_for_multiple_objects_ex",
    "wait_for_single_object_ex",
]


async def sleep_ex(seconds: float | None, *, alertable: bool = False) -> WaitResult:
    """Sleep (SleepEx); see `apcrt.apc.sleep_ex` for arguments, result and errors. Seconds of trio's clock."""
    check_seconds(seconds)
    thread = pumped_thread("sleep_ex")
    result = await block(thread, (), seconds, alertable=alertable)
    return WAIT_OBJECT_0 if result == TIMEOUT else RESULTS[result]


async def wait_for_single_object_ex(
    waitable: Waitable, seconds: float | None, *, alertable: bool = False
) -> WaitResult:
    """Wait for one object; see `apcrt.apc.wait_for_single_object_ex`. Cancelled, it has not taken the object."""
    check_objects((waitable,))
    check_seconds(seconds)
    thread = pumped_thread("wait_for_single_object_ex")
    return RESULTS[await block(thread, (waitable,), seconds, alertable=alertable)]


async def wait_for_multiple_objects_ex(
    waitables: Sequence[Waitable],
    seconds: float | None,
    *,
    wait_all: bool = False,
    alertable: bool = False,
) -> WaitResult:
    """Wait for any or all of several objects; see `apcrt.apc.wait_for_multiple_objects_ex`. Cancelled, it took none."""
    waitables = tuple(waitables)
    check_objects(waitables)
    check_seconds(seconds)
    thread = pumped_thread("wait_for_multiple_objects_ex")
    return RESULTS[await block(thread, waitables, seconds, wait_all=wait_all, alertable=alertable)]


async def test_alert() -> bool:
    """Run the APCs that are queued, without waiting for more (NtTestAlert). Returns whether any ran. A checkpoint."""
    thread = pumped_thread("test_alert")
    return await block(thread, (), 0, alertable=True) == IO_COMPLETION


def current_nursery() -> trio.Nursery:
    """The nursery for tasks that an async APC routine starts; the wait that runs it returns when they have ended.

    Raises:
        ApcError: 87 not called in an async routine that is being awaited, or in a task that one started.
    """
    drain = inside.get()
    if drain is None or drain.nursery is None:
        raise ApcError(Status.ERROR_INVALID_PARAMETER, "only an async APC routine has a nursery of its wait")
    return drain.nursery


async def block(
    thread: ApcThread,
    waitables: tuple[Waitable, ...],
    seconds: float | None,
    *,
    wait_all: bool = False,
    alertable: bool = False,
) -> int:
    """Wait in a trio task; arguments are checked, the pump runs."""
    begun = time.monotonic()
    debug = trace.level <= trace.DEBUG
    if debug:
        trace.emit(trace.DEBUG, "wait.begin", thread=thread.name, wait=kind(waitables, wait_all, alertable))
    result = int(WAIT_FAILED)
    try:
        await trio.lowlevel.checkpoint_if_cancelled()
        result, rested = await _decide_and_drain(thread, waitables, seconds, wait_all, alertable)
        if not rested:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return result
    finally:
        if debug:
            taken = time.monotonic() - begun
            what = kind(waitables, wait_all, alertable)
            trace.emit(trace.DEBUG, "wait.end", thread=thread.name, wait=what, status=result, seconds=taken)


async def _decide_and_drain(
    thread: ApcThread,
    waitables: tuple[Waitable, ...],
    seconds: float | None,
    wait_all: bool,
    alertable: bool,
) -> tuple[int, bool]:
    """Returns the result, and whether the task has yielded to others on the way."""
    if thread.dirty:
        thread.flush_dirty()
    port = thread.port
    if port.armed:
        port.service(0)
    deadline = math.inf if seconds is None else trio.current_time() + seconds
    poll = seconds == 0
    ran = thread.ran
    rested = False
    while True:
        task = trio.lowlevel.current_task()
        inner = current_drain(thread)
        wait = Wait(thread, waitables, wait_all=wait_all, alertable=alertable, drain=inner, task=task)
        result = D.run(begin, wait, poll)
        if result is None:
            rested = True
            if D.alarms:
                port.wake()  # so that the pump, which sleeps for all tasks, sleeps no longer than till the next alarm
            result = await _sleep(wait, deadline)
        if result == CANCELLED:
            thread.check_cancelled()
        if result != IO_COMPLETION:
            return result, rested
        if wait.may_drain():
            rested = await drain(thread, Drain.innermost(inner)) or rested
        # Else the entries were taken back between the decision and now.
        if thread.ran != ran:
            return result, rested
        poll = trio.current_time() >= deadline


async def _sleep(wait: Wait, deadline: float) -> int:
    def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        # The whole of "a cancelled wait has consumed nothing".
        return trio.lowlevel.Abort.SUCCEEDED if D.run(withdraw, wait) else trio.lowlevel.Abort.FAILED

    if deadline == math.inf:
        await trio.lowlevel.wait_task_rescheduled(abort)
    else:
        with trio.CancelScope(deadline=deadline):
            await trio.lowlevel.wait_task_rescheduled(abort)
    return D.run(time_out, wait) if wait.result is None else wait.result


async def drain(thread: ApcThread, parent: Drain | None) -> bool:
    """Run the queue in this task. Returns whether the task has yielded to others."""
    check_depth(thread)
    outer = inside.get()
    level = Drain(thread, parent)
    before = thread.ran
    rested = False
    try:
        thread.drains.append(level)
        inside.set(level)
        while thread.queue:
            unfinished = run_slice(thread)
            if unfinished is not None:
                await _drain_async(level, unfinished, before)
                return True
            if thread.queue:
                rested = True
                if await _breathe(level):
                    break
    finally:
        if not level.ended:
            D.run(leave_level, level)
        inside.set(outer)
    return rested


async def _drain_async(level: Drain, first: Unfinished, completed: int) -> None:
    """Go on with a drain that has come upon an async routine: one nursery owns whatever its routines start.

    `completed` is how many APCs of the thread had been run when others were last released.
    """
    thread = level.thread
    unfinished: Unfinished | None = first
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            level.nursery = nursery
            try:
                while True:
                    if unfinished is not None:
                        if thread.ran - 1 > completed:
                            # Whoever waits for what has run already must not have to wait for this routine.
                            completed = thread.ran - 1
                            D.run(release, thread, level)
                        await _run_async(thread, unfinished)
                    elif thread.queue and await _breathe(level):
                        break
                    if not thread.queue:
                        break
                    unfinished = run_slice(thread)
            except trio.Cancelled:
                raise
            except BaseException as error:  # noqa: BLE001 - raised below, without the nursery's wrapping
                failure = error
                nursery.cancel_scope.cancel()
            finally:
                # The queue is done with. Tasks that go on may wait alertably as what they now are: outside of a drain.
                D.run(leave_level, level)
    except BaseExceptionGroup as group:
        if failure is None:
            raise
        raise BaseExceptionGroup("an APC routine and tasks that it started failed", [failure, group]) from None
    if failure is not None:
        raise failure


async def _run_async(thread: ApcThread, unfinished: Unfinished) -> None:
    entry, coroutine = unfinished
    begun = time.monotonic()
    with trace.restored(entry.context):
        try:
            await coroutine
        except Exception:
            emit_failed(thread, entry)
            raise
    if trace.level <= trace.DEBUG:
        emit_run(thread, entry, begun)


async def _breathe(level: Drain) -> bool:
    """Let others live during a long drain. Returns whether this wait has been cancelled and should return."""
    thread = level.thread
    port = thread.port
    if port.armed:
        port.service(0)
    D.run(release, thread, level)
    await trio.lowlevel.cancel_shielded_checkpoint()
    return thread.cancels > 0 or trio.current_effective_deadline() == -math.inf

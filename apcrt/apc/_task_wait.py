"""Waiting in a trio task, and the running of APCs there.

What lives here: the sleep of a task, the drain that may await, levels of nesting. What must not: the checks of
arguments and the public names (`aio`); what decides a wait (`_dispatcher`, `_operations`).

How it works. `block` decides the wait under D like its blocking twin in `_wait`; while it is undecided the task is put
aside, and the pump goes on with it once the result is latched. Cancelling puts the task back without the lock ever
having been left with half a decision: either the wait is unlinked and has consumed nothing, or its result stands.
Ctrl-C in the main thread comes to a wait as cancelling does, at its checkpoints, and to APC routines at once.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

from apcrt import trace
from apcrt.apc._dispatcher import CANCELLED, IO_COMPLETION, D, Drain, Wait, Waitable, inside, release
from apcrt.apc._drain import Unfinished, check_depth, emit_failed, emit_run, run_slice, run_specials
from apcrt.apc._operations import begin, current_drain, give_up, leave_level, signal_and_begin, time_out, withdraw
from apcrt.apc._wait import kind
from apcrt.status import WAIT_FAILED

if TYPE_CHECKING:
    from apcrt.apc._thread import ApcThread

__all__ = ["block", "drain"]


@enable_ki_protection
async def block(wait: Wait, seconds: float | None, *, first: Waitable | None = None) -> int:
    """Have `wait` decided in a trio task; see `_wait.block`. Arguments are checked, the pump runs."""
    thread = wait.thread
    debug = trace.level <= trace.DEBUG
    begun = time.monotonic() if debug else 0.0
    if debug:
        trace.emit(trace.DEBUG, "wait.begin", thread=thread.name, wait=kind(wait))
    result = int(WAIT_FAILED)
    try:
        await trio.lowlevel.checkpoint_if_cancelled()
        run_specials(thread)
        result, rested = await _decide_and_drain(wait, seconds, first)
        run_specials(thread)
        if not rested:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return result
    except BaseException:
        # What it has taken nobody will get: Ctrl-C, or a special APC that raises, may come after the decision.
        D.run(give_up, wait)
        raise
    finally:
        if debug:
            taken = time.monotonic() - begun
            trace.emit(trace.DEBUG, "wait.end", thread=thread.name, wait=kind(wait), status=result, seconds=taken)


async def _decide_and_drain(wait: Wait, seconds: float | None, first: Waitable | None) -> tuple[int, bool]:
    """Returns the result, and whether the task has yielded to others on the way."""
    thread = wait.thread
    if thread.dirty:
        thread.flush_dirty()
    port = thread.port
    if port.armed:
        port.service(0)
    deadline = math.inf if seconds is None else trio.current_time() + seconds
    wait.deadline = math.inf if seconds is None else D.clock.now() + seconds
    poll = seconds == 0
    ran = thread.ran
    rested = False
    while True:
        wait.result = None
        wait.task = trio.lowlevel.current_task()
        inner = wait.drain = current_drain(thread)
        result = D.run(begin, wait, poll) if first is None else D.run(signal_and_begin, wait, poll, first)
        if result is None:
            rested = True
            if D.alarms:
                port.wake()  # so that the pump, which sleeps for all tasks, sleeps no longer than till the next alarm
            result = await _sleep(wait, deadline)
        if result == CANCELLED:
            thread.check_cancelled()
        if result != IO_COMPLETION:
            return result, rested
        first = None
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
        while thread.has_apcs():
            unfinished = run_slice(thread)
            if unfinished is not None:
                await _drain_async(level, unfinished, before)
                return True
            if thread.has_apcs():
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
                    elif thread.has_apcs() and await _breathe(level):
                        break
                    if not thread.has_apcs():
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


@disable_ki_protection
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

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

from typing import TYPE_CHECKING

from apcrt.apc._dispatcher import IO_COMPLETION, TIMEOUT, Waitable, inside
from apcrt.apc._pump import pumped_thread
from apcrt.apc._task_wait import block
from apcrt.apc._wait import RESULTS, check_objects, check_seconds
from apcrt.status import WAIT_OBJECT_0, ApcError, Status, WaitResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

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

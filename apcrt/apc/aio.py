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

from apcrt.apc._completion_port import (
    CLOSED,
    CompletionPacket,
    CompletionPort,
    PacketWait,
    check_port,
    closed_meanwhile,
)
from apcrt.apc._dispatcher import IO_COMPLETION, TIMEOUT, Wait, Waitable, inside
from apcrt.apc._pump import pumped_thread
from apcrt.apc._task_wait import block
from apcrt.apc._wait import RESULTS, check_objects, check_seconds
from apcrt.status import WAIT_OBJECT_0, ApcError, Status, WaitResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

__all__ = [
    "current_nursery",
    "get_queued_completion_status",
    "get_queued_completion_status_ex",
    "signal_object_and_wait",
    "sleep_ex",
    "test_alert",
    "wait_for_multiple_objects_ex",
    "wait_for_single_object_ex",
]


async def sleep_ex(seconds: float | None, *, alertable: bool = False) -> WaitResult:
    """Sleep (SleepEx); see `apcrt.apc.sleep_ex` for arguments, result and errors. Seconds of trio's clock."""
    check_seconds(seconds)
    thread = pumped_thread("sleep_ex")
    result = await block(Wait(thread, (), alertable=alertable), seconds)
    return WAIT_OBJECT_0 if result == TIMEOUT else RESULTS[result]


async def wait_for_single_object_ex(
    waitable: Waitable, seconds: float | None, *, alertable: bool = False
) -> WaitResult:
    """Wait for one object; see `apcrt.apc.wait_for_single_object_ex`. Cancelled, it has not taken the object."""
    check_objects((waitable,))
    check_seconds(seconds)
    thread = pumped_thread("wait_for_single_object_ex")
    return RESULTS[await block(Wait(thread, (waitable,), alertable=alertable), seconds)]


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
    return RESULTS[await block(Wait(thread, waitables, wait_all=wait_all, alertable=alertable), seconds)]


async def signal_object_and_wait(
    to_signal: Waitable, to_wait_on: Waitable, seconds: float | None, *, alertable: bool = False
) -> WaitResult:
    """Signal one object and wait for another; see `apcrt.apc.signal_object_and_wait`.

    Cancelled before it began, it has not signaled either; cancelled later, the signal stands and nothing was taken.
    """
    check_objects((to_signal,))
    check_objects((to_wait_on,))
    check_seconds(seconds)
    thread = pumped_thread("signal_object_and_wait")
    return RESULTS[await block(Wait(thread, (to_wait_on,), alertable=alertable), seconds, first=to_signal)]


async def get_queued_completion_status(
    port: CompletionPort, seconds: float | None
) -> tuple[WaitResult, CompletionPacket | None]:
    """Take the next packet; see `apcrt.apc.get_queued_completion_status`. Cancelled, it has taken none."""
    check_port(port, 1)
    check_seconds(seconds)
    wait = PacketWait(pumped_thread("get_queued_completion_status"), port, 1)
    result = await block(wait, seconds)
    if result == CLOSED:
        raise closed_meanwhile()
    return RESULTS[result], wait.packets[0] if wait.packets else None


async def get_queued_completion_status_ex(
    port: CompletionPort, most: int, seconds: float | None, *, alertable: bool = False
) -> tuple[WaitResult, list[CompletionPacket]]:
    """Take several packets; see `apcrt.apc.get_queued_completion_status_ex`. Cancelled, it has taken none."""
    check_port(port, most)
    check_seconds(seconds)
    wait = PacketWait(pumped_thread("get_queued_completion_status_ex"), port, most, alertable=alertable)
    result = await block(wait, seconds)
    if result == CLOSED:
        raise closed_meanwhile()
    return RESULTS[result], wait.packets


async def test_alert() -> bool:
    """Run the APCs that are queued, without waiting for more (NtTestAlert). Returns whether any ran. A checkpoint."""
    thread = pumped_thread("test_alert")
    return await block(Wait(thread, (), alertable=True), 0) == IO_COMPLETION


def current_nursery() -> trio.Nursery:
    """The nursery for tasks that an async APC routine starts; the wait that runs it returns when they have ended.

    Raises:
        ApcError: 87 not called in an async routine that is being awaited, or in a task that one started.
    """
    drain = inside.get()
    if drain is None or drain.nursery is None:
        raise ApcError(Status.ERROR_INVALID_PARAMETER, "only an async APC routine has a nursery of its wait")
    return drain.nursery

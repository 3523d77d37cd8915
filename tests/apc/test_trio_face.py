"""What only trio has: cancel scopes, several tasks that wait alertably, async routines, virtual time."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from apcrt import apc
from apcrt.apc import WAIT_IO_COMPLETION, WAIT_OBJECT_0, WAIT_TIMEOUT, ApcError, aio


async def test_every_wait_is_a_checkpoint() -> None:
    event = apc.Event(manual_reset=True, initial=True)
    waits: list[Callable[[], Awaitable[object]]] = [
        lambda: aio.sleep_ex(0),
        lambda: aio.sleep_ex(0, alertable=True),
        lambda: aio.wait_for_single_object_ex(event, None),
        lambda: aio.wait_for_multiple_objects_ex([event], 0),
        aio.test_alert,
    ]
    for wait in waits:
        with trio.testing.assert_checkpoints():
            await wait()
        apc.current_thread().queue_user_apc(bool)
        with trio.testing.assert_checkpoints():
            await wait()
        await aio.test_alert()


async def test_a_cancelled_wait_has_consumed_nothing() -> None:
    event = apc.Event(initial=True)
    got: list[int] = []
    apc.current_thread().queue_user_apc(got.append, 1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await aio.wait_for_single_object_ex(event, None, alertable=True)
    assert scope.cancelled_caught
    assert event.is_set()
    assert got == []
    assert await aio.test_alert()
    assert got == [1]


async def test_a_wait_cancelled_while_blocked_leaves_the_line(autojump_clock: trio.testing.MockClock) -> None:
    event = apc.Event()
    with trio.move_on_after(1) as scope:
        await aio.wait_for_single_object_ex(event, None, alertable=True)
    assert scope.cancelled_caught
    assert not event.waiters
    assert not apc.current_thread().waits
    event.set()
    assert event.is_set()
    apc.current_thread().queue_user_apc(bool)
    assert apc.current_thread().statistics().queued == 1
    assert await aio.test_alert()


async def test_time_outs_follow_the_clock_of_trio(autojump_clock: trio.testing.MockClock) -> None:
    begun = trio.current_time()
    assert await aio.sleep_ex(1000) == 0
    assert await aio.sleep_ex(1000, alertable=True) == 0
    assert await aio.wait_for_single_object_ex(apc.Event(), 1000) == WAIT_TIMEOUT
    assert trio.current_time() - begun == pytest.approx(3000)


async def test_every_task_that_waits_alertably_is_released_by_one_drain() -> None:
    results: list[apc.WaitResult] = []
    ran: list[int] = []

    async def waiter() -> None:
        results.append(await aio.sleep_ex(None, alertable=True))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(waiter)
        await trio.testing.wait_all_tasks_blocked()
        apc.current_thread().queue_user_apc(ran.append, 1)
    assert results == [WAIT_IO_COMPLETION] * 10
    assert ran == [1]


async def test_a_loop_over_a_wait_cannot_miss_its_completion() -> None:
    """Each task waits for a completion of its own; which task runs which is anybody's guess."""
    tasks = 20
    done: set[int] = set()

    async def waiter(number: int) -> None:
        while number not in done:
            assert await aio.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION

    thread = apc.current_thread()

    def complete() -> None:
        for number in range(tasks):
            thread.queue_user_apc(done.add, number)

    async with trio.open_nursery() as nursery:
        for number in range(tasks):
            nursery.start_soon(waiter, number)
        nursery.start_soon(trio.to_thread.run_sync, complete)


async def test_waits_that_are_not_alertable_take_no_part() -> None:
    event = apc.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(aio.wait_for_single_object_ex, event, None)
        nursery.start_soon(lambda: aio.sleep_ex(None, alertable=True))
        await trio.testing.wait_all_tasks_blocked()
        apc.current_thread().queue_user_apc(bool)
        await trio.testing.wait_all_tasks_blocked()
        assert len(apc.current_thread().waits) == 1
        event.set()


async def test_async_routines_run_one_after_the_other_in_order() -> None:
    got: list[str] = []
    gate = trio.Event()

    async def slow() -> None:
        got.append("slow {")
        await gate.wait()
        got.append("} slow")

    thread = apc.current_thread()
    thread.queue_user_apc(got.append, "first")
    thread.queue_user_apc(slow)
    thread.queue_user_apc(got.append, "last")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: aio.sleep_ex(None, alertable=True))
        await trio.testing.wait_all_tasks_blocked()
        assert got == ["first", "slow {"]
        gate.set()
    assert got == ["first", "slow {", "} slow", "last"]


async def test_outsiders_are_released_when_what_they_wait_for_has_run_though_the_drain_goes_on() -> None:
    gate = trio.Event()
    done: list[int] = []

    async def outsider() -> None:
        while not done:
            await aio.sleep_ex(None, alertable=True)
        gate.set()  # which the drain is waiting for

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(outsider)
        await trio.testing.wait_all_tasks_blocked()
        thread = apc.current_thread()
        thread.queue_user_apc(done.append, 1)
        thread.queue_user_apc(gate.wait)


async def test_an_endless_drain_starves_nobody() -> None:
    """A routine that queues itself for ever: other tasks run, and a cancel ends the wait with the rest still queued."""
    thread = apc.current_thread()
    seen: list[apc.WaitResult] = []

    def again() -> None:
        thread.queue_user_apc(again)

    async def outsider() -> None:
        seen.append(await aio.sleep_ex(None, alertable=True))
        scope.cancel()

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: aio.sleep_ex(None, alertable=True))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(outsider)
            await trio.testing.wait_all_tasks_blocked()
            thread.queue_user_apc(again)  # the one that blocked first drains
    assert seen == [WAIT_IO_COMPLETION]
    assert thread.statistics().queued == 1
    assert not thread.drains
    thread.queue.clear()


async def test_cancelling_the_wait_cancels_the_async_routine_and_leaves_the_rest_queued() -> None:
    got: list[str] = []
    thread = apc.current_thread()

    async def endless() -> None:
        try:
            await trio.sleep_forever()
        finally:
            got.append("cancelled")

    thread.queue_user_apc(got.append, "before")
    thread.queue_user_apc(endless)
    thread.queue_user_apc(got.append, "after")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: aio.sleep_ex(None, alertable=True))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert got == ["before", "cancelled"]
    assert await aio.test_alert()
    assert got == ["before", "cancelled", "after"]


async def test_when_a_draining_task_is_cancelled_another_that_waits_takes_over() -> None:
    got: list[str] = []
    thread = apc.current_thread()

    async def drainer(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await aio.sleep_ex(None, alertable=True)

    async def other() -> None:
        while "after" not in got:
            await aio.sleep_ex(None, alertable=True)

    async with trio.open_nursery() as nursery:
        scope = await nursery.start(drainer)
        await trio.testing.wait_all_tasks_blocked()
        thread.queue_user_apc(trio.sleep_forever)
        thread.queue_user_apc(got.append, "after")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(other)
        await trio.testing.wait_all_tasks_blocked()
        assert got == []
        scope.cancel()
    assert got == ["after"]


@pytest.mark.feature("APC-14")
async def test_tasks_that_a_routine_starts_wait_alertably_inside_its_drain() -> None:
    """They nest: without levels this deadlocks, for the drain waits for them and they for the drain."""
    got: list[str] = []
    thread = apc.current_thread()

    async def child(number: int) -> None:
        thread.queue_user_apc(got.append, f"apc of {number}")
        while f"apc of {number}" not in got:
            assert await aio.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
        got.append(f"child {number}")

    async def parent() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(child, number)
        got.append("parent")

    thread.queue_user_apc(parent)
    assert await aio.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
    assert got[-1] == "parent"
    assert {entry for entry in got if entry.startswith("child")} == {"child 0", "child 1", "child 2"}
    assert not thread.drains


async def test_the_nursery_of_the_drain_owns_what_routines_start() -> None:
    got: list[str] = []
    thread = apc.current_thread()
    gate = trio.Event()

    async def later() -> None:
        await gate.wait()
        # The drain is done with its queue by now, so this wait is as any other, and may run what comes.
        thread.queue_user_apc(got.append, "apc")
        assert await aio.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
        got.append("later")

    async def start() -> None:
        aio.current_nursery().start_soon(later)

    def refused() -> None:
        with pytest.raises(ApcError):
            aio.current_nursery()

    thread.queue_user_apc(refused)
    thread.queue_user_apc(start)
    thread.queue_user_apc(gate.set)
    assert await aio.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
    assert got == ["apc", "later"]


@pytest.mark.feature("APC-16")
async def test_errors_of_async_routines_leave_as_they_are_and_cancel_what_they_started() -> None:
    thread = apc.current_thread()
    got: list[str] = []

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            got.append("child cancelled")

    async def fail() -> None:
        aio.current_nursery().start_soon(child)
        await trio.testing.wait_all_tasks_blocked()
        raise LookupError

    thread.queue_user_apc(fail)
    thread.queue_user_apc(got.append, "rest")
    with pytest.raises(LookupError):
        await aio.sleep_ex(None, alertable=True)
    assert got == ["child cancelled"]
    assert await aio.test_alert()
    assert got == ["child cancelled", "rest"]


async def test_errors_of_a_routine_and_its_children_come_together() -> None:
    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError

    async def fail() -> None:
        aio.current_nursery().start_soon(child)
        await trio.testing.wait_all_tasks_blocked()
        raise LookupError

    apc.current_thread().queue_user_apc(fail)
    with pytest.raises(BaseExceptionGroup) as caught:
        await aio.sleep_ex(None, alertable=True)
    assert caught.value.subgroup(KeyError) is not None
    assert any(type(error) is LookupError for error in caught.value.exceptions)

    async def abandon() -> None:
        aio.current_nursery().start_soon(child)
        await trio.testing.wait_all_tasks_blocked()
        aio.current_nursery().cancel_scope.cancel()

    apc.current_thread().queue_user_apc(abandon)
    with pytest.raises(BaseExceptionGroup) as caught:
        await aio.sleep_ex(None, alertable=True)
    assert caught.value.subgroup(KeyError) is not None


async def test_a_task_that_outlives_the_drain_it_began_in_waits_like_any_other() -> None:
    got: list[apc.WaitResult] = []

    async def child() -> None:
        got.append(await aio.sleep_ex(None, alertable=True))

    async with trio.open_nursery() as outer:

        async def start() -> None:
            outer.start_soon(child)

        apc.current_thread().queue_user_apc(start)
        assert await aio.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
        await trio.testing.wait_all_tasks_blocked()
        apc.current_thread().queue_user_apc(bool)
    assert got == [WAIT_IO_COMPLETION]


def test_one_run_after_another_on_one_thread() -> None:
    async def once() -> None:
        thread = apc.current_thread()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, lambda: thread.queue_user_apc(bool))
            assert await aio.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION

    for _ in range(3):
        trio.run(once)
        assert apc.current_thread().pump is None
        apc.current_thread().queue_user_apc(bool)
        assert apc.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION


def test_a_trio_run_inside_an_apc_of_a_plain_thread() -> None:
    got: list[str] = []

    async def inside() -> None:
        assert await aio.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
        got.append("inside")

    def routine() -> None:
        trio.run(inside)

    apc.current_thread().queue_user_apc(routine)
    apc.current_thread().queue_user_apc(got.append, "second")
    assert apc.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
    assert got == ["second", "inside"]


async def test_objects_cross_between_loops_and_threads() -> None:
    """Ping-pong between a trio task and a plain thread over two events."""
    ping, pong = apc.Event(), apc.Event()
    rounds = 200

    def plain() -> None:
        for _ in range(rounds):
            assert apc.wait_for_single_object_ex(ping, None) == WAIT_OBJECT_0
            pong.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, plain)
        for _ in range(rounds):
            ping.set()
            assert await aio.wait_for_single_object_ex(pong, None) == WAIT_OBJECT_0


def test_a_ring_of_loops() -> None:
    """Three loops on three threads hand a number round by APCs."""
    laps = 100
    ready = threading.Barrier(3)
    threads: list[apc.ApcThread] = []

    async def main(place: int) -> None:
        got: list[int] = []

        def receive(number: int) -> None:
            got.append(number)
            if number < 3 * laps:
                threads[(place + 1) % 3].queue_user_apc(receivers[(place + 1) % 3], number + 1)

        receivers[place] = receive
        await trio.to_thread.run_sync(ready.wait)
        if place == 0:
            receive(1)
        while len(got) < laps:
            assert await aio.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
        assert got == list(range(place + 1, 3 * laps + 1, 3))

    receivers: dict[int, Callable[[int], None]] = {}
    with apc.open_apc_threads() as block:
        threads.extend(block.start(main, place, suspended=True) for place in range(3))
        for thread in threads:
            assert isinstance(thread, apc.StructuredThread)
            thread.resume()


async def test_outsiders_are_not_released_before_anything_has_run() -> None:
    gate = trio.Event()
    released: list[int] = []

    async def outsider() -> None:
        await aio.sleep_ex(None, alertable=True)
        released.append(1)

    thread = apc.current_thread()
    thread.queue_user_apc(bool)
    await aio.test_alert()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: aio.sleep_ex(None, alertable=True))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(outsider)
        await trio.testing.wait_all_tasks_blocked()
        thread.queue_user_apc(gate.wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not released
        gate.set()
    assert released

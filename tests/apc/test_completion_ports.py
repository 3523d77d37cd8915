"""Completion ports, on both faces: order, numbers, what goes first, closing, and what interrupted waits put back."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable, Coroutine

import pytest
import trio
import trio.testing

from apcrt import apc
from apcrt.apc import WAIT_IO_COMPLETION, WAIT_OBJECT_0, WAIT_TIMEOUT, CompletionPacket, WaitCancelled, aio
from apcrt.apc._completion_port import PacketWait
from apcrt.apc._operations import abandon, begin
from apcrt.apc.lowlevel import D
from tests.apc.faces import Face, PlainFace, Runner, Stage, refused, run, until_blocked


def packets(*numbers: int) -> list[CompletionPacket]:
    return [CompletionPacket(number) for number in numbers]


@pytest.mark.feature("IOCP-01")
def test_packets_are_any_three_values_first_in_first_out(face: Face) -> None:
    async def script() -> None:
        port, operation = apc.CompletionPort(), object()
        assert await face.get(port, 0) == (WAIT_TIMEOUT, None)
        assert not port.closed
        port.post(1, "key", operation)
        port.post()
        port.post(-5, None, "anything")
        assert await face.get(port, 0) == (WAIT_OBJECT_0, CompletionPacket(1, "key", operation))
        assert await face.get(port, None) == (WAIT_OBJECT_0, CompletionPacket(0, 0, None))
        assert await face.get(port, None) == (WAIT_OBJECT_0, CompletionPacket(-5, None, "anything"))
        assert await face.get(port, 0) == (WAIT_TIMEOUT, None)

    run(face, script)


@pytest.mark.feature("IOCP-01")
def test_a_wait_for_a_packet_ends_with_it_or_with_its_time(face: Face) -> None:
    with Stage(face) as stage:
        port = apc.CompletionPort()
        results: list[object] = []

        async def script() -> None:
            for _ in range(2):
                results.append(await face.get(port, 10))
                results.append(await face.get_ex(port, 3, 10))

        stage.start(script)
        assert repr(port) == "<CompletionPort queued=0 waiters=1>"
        stage.advance(9)
        assert results == []
        stage.advance(1)
        stage.advance(10)
        assert results == [(WAIT_TIMEOUT, None), (WAIT_TIMEOUT, [])]
        port.post(7)
        stage.settle()
        port.post(8)
        stage.settle()
        assert results[2:] == [(WAIT_OBJECT_0, CompletionPacket(7)), (WAIT_OBJECT_0, packets(8))]


def test_a_packet_does_not_end_by_an_apc(face: Face) -> None:
    with Stage(face) as stage:
        port = apc.CompletionPort()
        results: list[object] = []

        async def script() -> None:
            results.append(await face.get(port, None))
            results.append(await face.get_ex(port, 1, None))
            results.append(await face.test_alert())

        thread = stage.start(script)
        thread.queue_user_apc(bool)
        stage.settle()
        port.post(1)
        stage.settle()
        assert results == [(WAIT_OBJECT_0, CompletionPacket(1))]
        port.post(2)
        stage.settle()
        assert results[1:] == [(WAIT_OBJECT_0, packets(2)), True]


@pytest.mark.feature("IOCP-02")
def test_several_packets_at_once(face: Face) -> None:
    async def script() -> None:
        port = apc.CompletionPort()
        for number in range(5):
            port.post(number)
        assert port.queued == 5
        assert await face.get_ex(port, 2, None) == (WAIT_OBJECT_0, packets(0, 1))
        assert await face.get_ex(port, 100, 0) == (WAIT_OBJECT_0, packets(2, 3, 4))
        assert await face.get_ex(port, 100, 0) == (WAIT_TIMEOUT, [])
        assert port.statistics() == apc.CompletionPortStatistics(0, 5, 5, 0)

    run(face, script)


@pytest.mark.feature("IOCP-02")
def test_packets_go_before_apcs(face: Face) -> None:
    async def script() -> None:
        port, thread = apc.CompletionPort(), apc.current_thread()
        ran: list[int] = []
        port.post(1)
        port.post(2)
        thread.queue_user_apc(ran.append, 1)
        assert await face.get_ex(port, 1, None, alertable=True) == (WAIT_OBJECT_0, packets(1))
        assert await face.get_ex(port, 1, 0, alertable=True) == (WAIT_OBJECT_0, packets(2))
        assert ran == []
        assert await face.get_ex(port, 1, 0) == (WAIT_TIMEOUT, [])
        assert ran == []
        assert await face.get_ex(port, 1, 0, alertable=True) == (WAIT_IO_COMPLETION, [])
        assert ran == [1]
        assert await face.get_ex(port, 1, 0, alertable=True) == (WAIT_TIMEOUT, [])
        # What an APC posts is for the next wait.
        thread.queue_user_apc(port.post, 3)
        assert await face.get_ex(port, 1, None, alertable=True) == (WAIT_IO_COMPLETION, [])
        assert port.queued == 1

    run(face, script)


@pytest.mark.feature("IOCP-02")
def test_a_blocked_wait_ends_with_what_comes_first(face: Face) -> None:
    with Stage(face) as stage:
        port = apc.CompletionPort()
        results: list[object] = []

        async def script() -> None:
            while True:
                results.append(await face.get_ex(port, 8, None, alertable=True))

        thread = stage.start(script)
        thread.queue_user_apc(bool)
        stage.settle()
        assert results == [(WAIT_IO_COMPLETION, [])]
        port.post(1)
        stage.settle()
        assert results[1:] == [(WAIT_OBJECT_0, packets(1))]


@pytest.mark.feature("IOCP-01")
def test_the_last_to_come_is_served_first(face: Face) -> None:
    with Stage(face) as stage:
        port = apc.CompletionPort()
        served: list[tuple[int, object]] = []

        def waiter(number: int) -> Callable[[], Coroutine[object, None, None]]:
            async def script() -> None:
                served.append((number, await face.get(port, None)))

            return script

        for number in range(3):
            stage.start(waiter(number))
        assert port.statistics().waiters == 3
        for number in range(3):
            port.post(number)
            stage.settle()
        assert served == [(2 - number, (WAIT_OBJECT_0, CompletionPacket(number))) for number in range(3)]


def test_a_port_is_an_object_that_a_wait_takes_nothing_from(face: Face) -> None:
    async def script() -> None:
        port = apc.CompletionPort()
        assert await face.wait(port, 0) == WAIT_TIMEOUT
        port.post(1)
        for _ in range(2):
            assert await face.wait_many([apc.Event(), port], None) == WAIT_OBJECT_0 + 1
        assert port.queued == 1
        port.close()
        assert await face.wait(port, 0) == WAIT_OBJECT_0

    run(face, script)


@pytest.mark.feature("IOCP-01")
def test_closing_ends_the_waits_and_drops_the_packets(face: Face) -> None:
    with Stage(face) as stage:
        port = apc.CompletionPort()
        ended: list[str] = []

        async def one() -> None:
            with refused(735, "the completion port was closed"):
                await face.get(port, None)
            ended.append("one")

        async def several() -> None:
            with refused(735, "the completion port was closed"):
                await face.get_ex(port, 5, None, alertable=True)
            ended.append("several")

        async def as_an_object() -> None:
            assert await face.wait(port, None) == WAIT_OBJECT_0
            ended.append("object")

        for script in (one, several, as_an_object):
            stage.start(script)
        port.close()
        port.close()
        stage.settle()
        assert sorted(ended) == ["object", "one", "several"]
        assert port.closed
        assert repr(port) == "<CompletionPort closed waiters=0>"

        async def late() -> None:
            for call in (face.get(port, 0), face.get_ex(port, 1, None)):
                with refused(6, "the completion port is closed"):
                    await call
            with refused(6, "the completion port is closed"):
                port.post(1)
            ended.append("late")

        stage.start(late)
        assert ended[-1] == "late"


def test_a_port_that_is_closed_with_packets_has_none() -> None:
    port = apc.CompletionPort()
    port.post(1)
    port.close()
    assert port.statistics() == apc.CompletionPortStatistics(0, 1, 1, 0)


def test_what_cannot_be_taken_from(face: Face) -> None:
    async def script() -> None:
        port = apc.CompletionPort()
        apc.current_thread().queue_user_apc(bool)
        for most in (0, -1):
            with refused(87, f"at least 1 packet can be taken, not {most}"):
                await face.get_ex(port, most, 0, alertable=True)
        for wrong in (apc.Event(), None):
            with refused(6, "is not a completion port"):
                await face.get(wrong, 0)  # type: ignore[arg-type]
            with refused(6, "is not a completion port"):
                await face.get_ex(wrong, 1, 0)  # type: ignore[arg-type]
        with refused(87, "a time-out is seconds, or None for ever, not -1"):
            await face.get(port, -1)
        with refused(87, "a time-out is seconds, or None for ever, not nan"):
            await face.get_ex(port, 1, float("nan"))
        assert apc.current_thread().statistics().queued == 1

    run(face, script)


@pytest.mark.parametrize("most", [1, 3])
async def test_a_cancelled_wait_has_taken_no_packet(most: int) -> None:
    port = apc.CompletionPort()
    for number in range(5):
        port.post(number)
    with trio.CancelScope() as scope:
        scope.cancel()
        await aio.get_queued_completion_status_ex(port, most, None, alertable=True)
    assert scope.cancelled_caught
    with trio.CancelScope() as scope:
        scope.cancel()
        await aio.get_queued_completion_status(port, None)
    assert scope.cancelled_caught
    assert await aio.get_queued_completion_status_ex(port, 10, 0) == (WAIT_OBJECT_0, packets(0, 1, 2, 3, 4))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(aio.get_queued_completion_status, port, None)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    port.post(9)
    assert port.queued == 1
    assert not port.waiters


async def test_a_packet_that_came_before_the_cancel_is_delivered() -> None:
    port = apc.CompletionPort()
    got: list[object] = []

    async def wait() -> None:
        got.append(await aio.get_queued_completion_status(port, None))

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            port.post(1)
            scope.cancel()
    assert got == [(WAIT_OBJECT_0, CompletionPacket(1))]
    assert port.queued == 0


def test_a_wait_cancelled_with_its_block_has_taken_no_packet() -> None:
    port = apc.CompletionPort()

    def work() -> None:
        with pytest.raises(WaitCancelled):
            apc.get_queued_completion_status(port, None)
        port.post(1)
        with pytest.raises(WaitCancelled):
            apc.get_queued_completion_status_ex(port, 5, None, alertable=True)

    with apc.open_apc_threads() as threads:
        worker = threads.start(work)
        until_blocked(worker)
        threads.cancel()
    assert worker.exit_code == 0
    assert port.queued == 1


def interrupted_after(port: apc.CompletionPort, most: int, then: Callable[[], object]) -> None:
    """A wait of this thread takes packets, `then` something happens, and Ctrl-C keeps the wait from returning."""
    wait = PacketWait(apc.current_thread(), port, most)
    assert D.run(begin, wait, True) == WAIT_OBJECT_0
    then()
    D.run(abandon, wait)


@pytest.mark.parametrize("before", [0, 1, 300])
def test_packets_of_an_interrupted_wait_are_put_back_in_front(before: int) -> None:
    """Whatever number was taken before, and whatever came meanwhile."""
    port = apc.CompletionPort()
    for number in range(before):
        port.post(-number)
        apc.get_queued_completion_status(port, 0)
    for number in range(5):
        port.post(number)
    interrupted_after(port, 3, lambda: port.post(5))
    assert port.queued == 6
    assert apc.get_queued_completion_status_ex(port, 10, 0) == (WAIT_OBJECT_0, packets(0, 1, 2, 3, 4, 5))


def test_packets_that_are_put_back_go_to_who_waits(face: Face) -> None:
    port = apc.CompletionPort()
    runners: list[Runner[object]] = []

    async def script() -> object:
        return await face.get(port, None)

    def another_waits() -> None:
        runners.append(Runner(face, script))
        until_blocked(runners[0].thread)

    port.post(1)
    interrupted_after(port, 1, another_waits)
    assert runners[0].result() == (WAIT_OBJECT_0, CompletionPacket(1))


def test_nothing_is_put_back_into_a_closed_port() -> None:
    port = apc.CompletionPort()
    port.post(1)
    interrupted_after(port, 1, port.close)
    assert port.queued == 0


def test_finalizers_may_post() -> None:
    port = apc.CompletionPort()

    class Trap:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            port.post(1)

    def collect(_wakes: object) -> None:
        Trap()
        gc.collect()
        assert port.queued == 0  # put off until the dispatcher is left

    D.run(collect)
    assert port.queued == 1


def test_signal_handlers_may_post_to_the_thread_they_interrupt() -> None:
    port = apc.CompletionPort()
    main = apc.current_thread()

    def strike() -> None:
        until_blocked(main)
        os.kill(os.getpid(), signal.SIGUSR1)

    previous = signal.signal(signal.SIGUSR1, lambda *_: port.post(1))
    striker = threading.Thread(target=strike)
    try:
        striker.start()
        assert apc.get_queued_completion_status(port, None) == (WAIT_OBJECT_0, CompletionPacket(1))
    finally:
        striker.join()
        signal.signal(signal.SIGUSR1, previous)


def test_many_posters_and_many_takers_lose_nothing(face: Face) -> None:
    port = apc.CompletionPort()
    posters, each = 4, 2000
    taken: list[list[CompletionPacket]] = []

    async def take() -> None:
        mine: list[CompletionPacket] = []
        taken.append(mine)
        while True:
            _, got = await face.get_ex(port, 7, None)
            mine += got
            if got[-1].key is None:
                return

    def post(poster: int) -> None:
        for number in range(each):
            port.post(number, poster)

    takers = [Runner(face, take) for _ in range(3)]
    threads = [threading.Thread(target=post, args=(poster,)) for poster in range(posters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for taker in takers:
        while taker.is_alive():
            # One at a time, so that no taker gets another's.
            if not port.queued:
                port.post(0, None)
            os.sched_yield()
        taker.result()
    everything = [(packet.key, packet.bytes) for mine in taken for packet in mine if packet.key is not None]
    assert len(everything) == posters * each
    assert len(set(everything)) == posters * each
    for mine in taken:
        for poster in range(posters):
            numbers = [packet.bytes for packet in mine if packet.key == poster]
            assert numbers == sorted(numbers)


def test_a_port_in_steady_use_stays_small() -> None:
    port = apc.CompletionPort()
    for number in range(10_000):
        port.post(number)
        assert apc.get_queued_completion_status(port, 0)[1] == CompletionPacket(number)
    assert len(port._packets) < 1000
    assert port.statistics() == apc.CompletionPortStatistics(0, 10_000, 1, 0)


def test_a_closed_port_lets_its_packets_go() -> None:
    async def script() -> None:
        port = apc.CompletionPort()
        port.post(0, 0, Mark())
        port.close()
        gc.collect()
        assert Mark.alive == 0

    run(PlainFace(), script)


class Mark:
    alive = 0

    def __init__(self) -> None:
        Mark.alive += 1

    def __del__(self) -> None:
        Mark.alive -= 1

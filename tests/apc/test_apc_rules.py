"""The rules of the queue, on both faces: who runs what, when, in which order."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import trio

from apcrt import apc
from apcrt.apc import WAIT_IO_COMPLETION, WAIT_OBJECT_0, WAIT_TIMEOUT, ApcError
from tests.apc.faces import Face, PlainFace, Runner, complete, run, until_blocked


@pytest.mark.feature("APC-01")
def test_an_apc_runs_on_the_thread_it_was_queued_to(face: Face) -> None:
    async def script() -> tuple[apc.WaitResult, int]:
        result = await face.sleep_ex(None, alertable=True)
        return result, threading.get_ident()

    idents: list[int] = []
    runner = Runner(face, script)
    runner.thread.queue_user_apc(lambda: idents.append(threading.get_ident()))
    result, ident = runner.result()
    assert result == WAIT_IO_COMPLETION
    assert idents == [ident]
    assert ident != threading.get_ident()


@pytest.mark.feature("APC-02")
@pytest.mark.feature("APC-04")
def test_one_wait_drains_the_whole_queue_in_order(face: Face) -> None:
    async def script() -> None:
        got: list[int] = []
        for number in range(100):
            apc.current_thread().queue_user_apc(got.append, number)
        assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
        assert got == list(range(100))
        assert await face.sleep_ex(0, alertable=True) == 0

    run(face, script)


@pytest.mark.feature("APC-03")
def test_a_wait_that_is_not_alertable_runs_nothing(face: Face) -> None:
    async def script() -> None:
        got: list[int] = []
        event = apc.Event(initial=True)
        apc.current_thread().queue_user_apc(got.append, 1)
        assert await face.sleep_ex(0.001) == 0
        assert await face.wait(event, None) == WAIT_OBJECT_0
        assert await face.wait_many([event, apc.Event()], 0.001) == WAIT_TIMEOUT
        assert got == []
        assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
        assert got == [1]

    run(face, script)


@pytest.mark.feature("APC-03")
def test_an_apc_does_not_end_a_blocked_wait_that_is_not_alertable(face: Face) -> None:
    event = apc.Event()
    got: list[int] = []

    async def script() -> None:
        assert await face.wait(event, None) == WAIT_OBJECT_0
        assert got == []
        assert await face.sleep_ex(0, alertable=True) == WAIT_IO_COMPLETION
        assert got == [1]

    runner = Runner(face, script)
    until_blocked(runner.thread)
    runner.thread.queue_user_apc(got.append, 1)
    assert len(runner.thread.waits) == 1
    event.set()
    runner.result()


@pytest.mark.feature("APC-05")
def test_apcs_queued_by_an_apc_run_in_the_same_drain(face: Face) -> None:
    async def script() -> None:
        got: list[int] = []
        thread = apc.current_thread()

        def chain(number: int) -> None:
            got.append(number)
            if number < 5:
                thread.queue_user_apc(chain, number + 1)

        thread.queue_user_apc(chain, 0)
        assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
        assert got == [0, 1, 2, 3, 4, 5]
        assert await face.sleep_ex(0, alertable=True) == 0

    run(face, script)


@pytest.mark.feature("APC-08")
def test_an_apc_queued_to_oneself_waits_for_the_next_alertable_wait(face: Face) -> None:
    async def script() -> None:
        got: list[int] = []
        apc.current_thread().queue_user_apc(got.append, 1)
        assert got == []
        assert await face.sleep_ex(0) == 0
        assert got == []
        assert await face.test_alert()
        assert got == [1]

    run(face, script)


@pytest.mark.feature("APC-09")
def test_a_sleep_of_no_time_polls(face: Face) -> None:
    async def script() -> None:
        assert await face.sleep_ex(0, alertable=True) == 0
        apc.current_thread().queue_user_apc(bool)
        assert await face.sleep_ex(0, alertable=True) == WAIT_IO_COMPLETION
        assert await face.sleep_ex(0, alertable=True) == 0

    run(face, script)


@pytest.mark.feature("APC-10")
def test_a_sleep_is_cut_short_by_an_apc_only_if_alertable(face: Face) -> None:
    ready = threading.Event()

    async def script() -> None:
        assert await face.sleep_ex(0.002, alertable=True) == 0
        apc.current_thread().queue_user_apc(bool)
        assert await face.sleep_ex(0.002) == 0
        assert await face.sleep_ex(0, alertable=True) == WAIT_IO_COMPLETION
        ready.set()
        assert await face.sleep_ex(3600, alertable=True) == WAIT_IO_COMPLETION

    runner = Runner(face, script)
    ready.wait()
    until_blocked(runner.thread)
    runner.thread.queue_user_apc(bool)
    runner.result()


@pytest.mark.feature("APC-11")
def test_an_endless_wait_wakes_for_an_apc_of_another_thread(face: Face) -> None:
    async def script() -> object:
        return await face.sleep_ex(None, alertable=True)

    runner = Runner(face, script)
    until_blocked(runner.thread)
    runner.thread.queue_user_apc(bool)
    assert runner.result() == WAIT_IO_COMPLETION


@pytest.mark.feature("APC-12")
@pytest.mark.feature("WAIT-10")
@pytest.mark.parametrize("seconds", [None, 0])
def test_a_pending_apc_beats_signaled_objects_which_stay_untouched(face: Face, seconds: float | None) -> None:
    async def script() -> None:
        first, second = apc.Event(initial=True), apc.Event(initial=True)
        thread = apc.current_thread()
        thread.queue_user_apc(bool)
        assert await face.wait(first, seconds, alertable=True) == WAIT_IO_COMPLETION
        thread.queue_user_apc(bool)
        assert await face.wait_many([first, second], seconds, alertable=True) == WAIT_IO_COMPLETION
        thread.queue_user_apc(bool)
        assert await face.wait_many([first, second], seconds, wait_all=True, alertable=True) == WAIT_IO_COMPLETION
        assert first.is_set()
        assert second.is_set()
        assert await face.wait_many([first, second], seconds, wait_all=True, alertable=True) == WAIT_OBJECT_0
        assert not first.is_set()
        assert not second.is_set()

    run(face, script)


@pytest.mark.feature("WAIT-10")
@pytest.mark.parametrize("wait_all", [False, True])
def test_a_blocked_wait_that_an_apc_ends_takes_nothing(face: Face, wait_all: bool) -> None:
    first, second = apc.Event(), apc.Event()

    async def script() -> object:
        return await face.wait_many([first, second], None, wait_all=wait_all, alertable=True)

    def set_both() -> None:
        first.set()
        second.set()

    runner = Runner(face, script)
    until_blocked(runner.thread)
    runner.thread.queue_user_apc(set_both)
    assert runner.result() == WAIT_IO_COMPLETION
    assert first.is_set()
    assert second.is_set()


@pytest.mark.feature("APC-13")
def test_a_satisfied_wait_stays_satisfied_and_the_apc_stays_queued(face: Face) -> None:
    event = apc.Event()
    got: list[int] = []
    posted = threading.Event()

    async def script() -> None:
        assert await face.wait(event, None, alertable=True) == WAIT_OBJECT_0
        posted.wait()
        assert got == []
        assert await face.sleep_ex(0, alertable=True) == WAIT_IO_COMPLETION
        assert got == [1]

    runner = Runner(face, script)
    until_blocked(runner.thread)
    # Whether the thread wakes between these two or not, the result is the same.
    event.set()
    runner.thread.queue_user_apc(got.append, 1)
    posted.set()
    runner.result()


@pytest.mark.feature("APC-14")
def test_a_nested_alertable_wait_runs_the_rest(face: Face) -> None:
    async def script() -> None:
        got: list[str] = []
        thread = apc.current_thread()

        async def outer() -> None:
            got.append("outer {")
            assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
            got.append("} outer")

        async def nested() -> None:
            got.append("nested {")
            assert await face.sleep_ex(0, alertable=True) == WAIT_IO_COMPLETION
            assert await face.sleep_ex(0, alertable=True) == 0
            got.append("} nested")

        thread.queue_user_apc(face.routine(outer))
        thread.queue_user_apc(face.routine(nested))
        thread.queue_user_apc(got.append, "last")
        assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
        assert got == ["outer {", "nested {", "last", "} nested", "} outer"]

    run(face, script)


@pytest.mark.feature("APC-14")
def test_a_nested_wait_blocks_until_it_has_something_to_run(face: Face) -> None:
    got: list[str] = []
    ready = threading.Event()

    async def script() -> None:
        async def nested() -> None:
            assert await face.sleep_ex(0.001, alertable=True) == 0
            ready.set()
            assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
            got.append("nested")

        apc.current_thread().queue_user_apc(face.routine(nested))
        assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION

    runner = Runner(face, script)
    ready.wait()
    until_blocked(runner.thread)
    runner.thread.queue_user_apc(got.append, "second")
    runner.result()
    assert got == ["second", "nested"]


@pytest.mark.feature("APC-15")
def test_nesting_has_a_limit(face: Face) -> None:
    async def script() -> None:
        thread = apc.current_thread()
        depth = 0

        async def deeper() -> None:
            nonlocal depth
            depth += 1
            thread.queue_user_apc(face.routine(deeper))
            await face.sleep_ex(None, alertable=True)

        thread.queue_user_apc(face.routine(deeper))
        with pytest.raises(ApcError) as caught:
            await face.sleep_ex(None, alertable=True)
        assert caught.value.status == 1001
        assert depth == 32
        assert thread.statistics().queued == 1

    run(face, script)


@pytest.mark.feature("APC-16")
def test_an_error_leaves_through_the_wait_and_the_rest_stays_queued(face: Face) -> None:
    async def script() -> None:
        got: list[int] = []
        thread = apc.current_thread()

        def fail() -> None:
            raise LookupError("from an APC")

        async def fail_later() -> None:
            await face.sleep_ex(0)
            raise LookupError("from a waiting APC")

        for routine in (fail, face.routine(fail_later)):
            thread.queue_user_apc(got.append, 1)
            thread.queue_user_apc(routine)
            thread.queue_user_apc(got.append, 2)
            with pytest.raises(LookupError):
                await face.sleep_ex(None, alertable=True)
            assert got == [1]
            assert await face.sleep_ex(0, alertable=True) == WAIT_IO_COMPLETION
            assert got == [1, 2]
            got.clear()

    run(face, script)


@pytest.mark.feature("APC-19")
def test_many_producers_lose_nothing(face: Face) -> None:
    producers, each = 8, 12_500
    got: list[tuple[int, int]] = []

    async def script() -> None:
        while len(got) < producers * each:
            assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION

    def produce(thread: apc.ApcThread, producer: int) -> None:
        for number in range(each):
            thread.queue_user_apc(got.append, (producer, number))

    runner = Runner(face, script)
    workers = [threading.Thread(target=produce, args=(runner.thread, producer)) for producer in range(producers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    runner.result()
    for producer in range(producers):
        assert [number for who, number in got if who == producer] == list(range(each))
    assert runner.thread.statistics().run == producers * each


@pytest.mark.feature("APC-20")
def test_test_alert_drains_without_waiting(face: Face) -> None:
    async def script() -> None:
        got: list[int] = []
        assert await face.test_alert() is False
        apc.current_thread().queue_user_apc(got.append, 1)
        apc.current_thread().queue_user_apc(got.append, 2)
        assert await face.test_alert() is True
        assert got == [1, 2]

    run(face, script)


@pytest.mark.feature("APC-07")
def test_an_ended_thread_takes_no_apc_and_runs_none(face: Face) -> None:
    got: list[int] = []

    async def script() -> None:
        apc.current_thread().queue_user_apc(got.append, 1)

    runner = Runner(face, script)
    runner.result()
    assert apc.wait_for_single_object_ex(runner.thread, None) == WAIT_OBJECT_0
    with pytest.raises(ApcError) as caught:
        runner.thread.queue_user_apc(got.append, 2)
    assert caught.value.status == 31
    assert got == []
    assert runner.thread.statistics().dropped == 1
    assert "ended" in repr(runner.thread)


def test_the_wrong_face_names_its_twin() -> None:
    async def wrong(call: Callable[[], object]) -> None:
        with pytest.raises(ApcError, match=r"await apcrt\.apc\.aio\."):
            call()

    for call in (
        lambda: apc.sleep_ex(0),
        lambda: apc.wait_for_single_object_ex(apc.Event(), 0),
        lambda: apc.wait_for_multiple_objects_ex([apc.Event()], 0),
        apc.test_alert,
    ):
        trio.run(wrong, call)

    for twin in (apc.aio.sleep_ex(0), apc.aio.test_alert(), apc.aio.wait_for_single_object_ex(apc.Event(), 0)):
        with pytest.raises(ApcError, match="blocking twin"):
            complete(twin)


def test_an_async_routine_needs_a_trio_thread() -> None:
    async def routine() -> None:
        raise AssertionError

    async def script() -> None:
        apc.current_thread().queue_user_apc(routine)
        with pytest.raises(ApcError, match="async"):
            apc.sleep_ex(0, alertable=True)

    run(PlainFace(), script)

"""Special user APCs (QueueUserAPC2): when they run, before what, and what they leave alone.

What lives here: rows APC-17 and APC-18. What must not: regular APCs, except beside special ones.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

import apcrt
from apcrt import apc, testing
from apcrt.apc import ApcCallbackData, ApcFlags
from apcrt.status import Status
from tests.apc.faces import FACES, Face, Runner, run, until, until_blocked
from tests.rpc.sample import Plain, Sample

SPECIAL = ApcFlags.SPECIAL_USER_APC
both = pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)


def queue(thread: apc.ApcThread, routine: Callable[[object], object], parameter: object = None) -> None:
    thread.queue_user_apc2(routine, parameter, flags=SPECIAL)


@both
@pytest.mark.feature("APC-17")
@pytest.mark.parametrize("alertable", [False, True])
def test_runs_when_a_wait_begins_and_does_not_end_it(face: Face, alertable: bool) -> None:
    async def script() -> None:
        ran: list[object] = []
        event = apc.Event(initial=True)
        queue(apc.current_thread(), ran.append, 1)
        assert not ran
        assert await face.wait(event, 0, alertable=alertable) == apc.WAIT_OBJECT_0
        assert ran == [1]
        queue(apc.current_thread(), ran.append, 2)
        assert await face.sleep_ex(0, alertable=alertable) == 0
        assert ran == [1, 2]

    run(face, script)


@both
@pytest.mark.feature("APC-17")
def test_does_not_shorten_a_wait_that_is_not_alertable(face: Face) -> None:
    ran: list[object] = []
    event = apc.Event()

    async def script() -> tuple[int, list[object]]:
        result = await face.wait(event, None)
        return int(result), list(ran)

    runner = Runner(face, script)
    until_blocked(runner.thread)
    queue(runner.thread, ran.append, "special")
    assert runner.thread.statistics().queued == 1
    assert len(runner.thread.waits) == 1
    assert not ran
    event.set()
    assert runner.result() == (0, ["special"])


@both
@pytest.mark.feature("APC-17")
def test_ends_an_alertable_wait_and_leaves_its_object(face: Face) -> None:
    ran: list[object] = []
    event = apc.Event()

    async def script() -> int:
        return int(await face.wait(event, None, alertable=True))

    runner = Runner(face, script)
    until_blocked(runner.thread)
    queue(runner.thread, ran.append, "special")
    assert runner.result() == apc.WAIT_IO_COMPLETION
    assert ran == ["special"]


@both
@pytest.mark.feature("APC-17")
def test_goes_before_regular_ones_and_in_order(face: Face) -> None:
    async def script() -> list[object]:
        ran: list[object] = []
        thread = apc.current_thread()
        thread.queue_user_apc(ran.append, "regular")
        queue(thread, ran.append, 1)
        queue(thread, lambda _: queue(thread, ran.append, 3))
        queue(thread, ran.append, 2)
        assert await face.sleep_ex(0) == 0
        assert ran == [1, 2, 3]
        assert await face.sleep_ex(0, alertable=True) == apc.WAIT_IO_COMPLETION
        return ran

    assert run(face, script) == [1, 2, 3, "regular"]


@pytest.mark.feature("APC-17")
def test_nests() -> None:
    """One that waits lets those run that come meanwhile, also in the middle of regular ones."""

    def main() -> list[object]:
        ran: list[object] = []
        thread = apc.current_thread()

        def outer(_: object) -> None:
            ran.append("outer begins")
            queue(thread, ran.append, "inner")
            apc.sleep_ex(0)
            ran.append("outer ends")

        def regular() -> None:
            queue(thread, outer)
            ran.append("regular")

        thread.queue_user_apc(regular)
        thread.queue_user_apc(ran.append, "next")
        assert apc.test_alert()
        return ran

    async def script() -> list[object]:
        return main()

    assert run(FACES[0], script) == ["regular", "outer begins", "inner", "outer ends", "next"]


@pytest.mark.feature("APC-17")
def test_runs_at_calls_and_on_demand() -> None:
    ran: list[object] = []
    thread = apc.current_thread()
    with testing.in_process(Sample, Plain()) as client:
        queue(thread, ran.append, "begin")
        handle = apcrt.AsyncHandle[int]()
        client.add.begin(handle, 1, 2)
        assert ran == ["begin"]
        until(lambda: handle.get_call_status() == 0)
        assert handle.complete_call() == 3
        queue(thread, ran.append, "blocking")
        assert client.add(1, 2) == 3
        assert ran == ["begin", "blocking"]
    queue(thread, ran.append, "demand")
    assert apc.run_special_apcs()
    assert not apc.run_special_apcs()
    assert ran[-1] == "demand"


@both
def test_an_error_leaves_through_the_wait_and_gives_back_what_it_took(face: Face) -> None:
    event = apc.Event()

    async def script() -> int:
        def fail(_: object) -> None:
            raise ZeroDivisionError

        thread = apc.current_thread()
        queue(thread, fail)
        with pytest.raises(ZeroDivisionError):
            await face.sleep_ex(0)
        thread.queue_user_apc(queue, thread, fail)
        thread.queue_user_apc(event.set)
        with pytest.raises(ZeroDivisionError):
            await face.sleep_ex(0, alertable=True)
        assert thread.statistics().queued == 1
        await face.sleep_ex(0, alertable=True)
        return int(await face.wait(event, 0))

    assert run(face, script) == 0


@both
def test_an_error_after_a_satisfied_wait_gives_the_object_back(face: Face) -> None:
    event = apc.Event()

    def fail(_: object) -> None:
        raise ZeroDivisionError

    async def script() -> int:
        with pytest.raises(ZeroDivisionError):
            await face.wait(event, None)
        return int(await face.wait(event, 0))

    runner = Runner(face, script)
    until_blocked(runner.thread)
    queue(runner.thread, fail)
    event.set()
    assert runner.result() == 0


@pytest.mark.feature("APC-18")
@pytest.mark.parametrize("flags", [ApcFlags.CALLBACK_DATA_CONTEXT, ApcFlags.CALLBACK_DATA_CONTEXT | SPECIAL])
def test_callback_data(flags: ApcFlags) -> None:
    got: list[object] = []
    apc.current_thread().queue_user_apc2(got.append, "parameter", flags=flags)
    apc.sleep_ex(0, alertable=True)
    assert got == [ApcCallbackData("parameter")]


def test_without_flags_it_is_a_regular_one() -> None:
    got: list[object] = []
    apc.current_thread().queue_user_apc2(got.append, "parameter")
    apc.sleep_ex(0)
    assert not got
    apc.sleep_ex(0, alertable=True)
    assert got == ["parameter"]


def test_the_loop_of_a_thread_with_a_wake_up_hook_is_poked() -> None:
    pokes: list[int] = []
    got: list[object] = []
    thread = apc.current_thread()
    thread.set_wakeup(lambda: pokes.append(1))
    try:
        queue(thread, got.append, 1)
        assert pokes
        apc.test_alert()
        assert got == [1]
    finally:
        thread.set_wakeup(None)


def test_misuse() -> None:
    async def routine(_: object) -> None:
        raise AssertionError

    with pytest.raises(apc.ApcError) as caught:
        queue(apc.current_thread(), routine)
    assert caught.value.status == Status.ERROR_INVALID_PARAMETER
    with apc.open_apc_threads() as threads:
        ended = threads.start(lambda: None)
    with pytest.raises(apc.ApcError) as caught:
        queue(ended, print)
    assert caught.value.status == Status.ERROR_GEN_FAILURE


def test_those_of_a_thread_that_ends_are_dropped_and_counted() -> None:
    def main() -> None:
        queue(apc.current_thread(), print)

    with testing.capture_trace(), apc.open_apc_threads() as threads:
        thread = threads.start(main)
    assert thread.statistics().dropped == 1


def test_before_the_start_of_a_thread() -> None:
    ran: list[object] = []
    with apc.open_apc_threads() as threads:
        thread = threads.start(lambda: ran.append("main"), suspended=True)
        thread.queue_user_apc(ran.append, "regular")
        queue(thread, ran.append, "special")
        thread.resume()
    assert ran == ["special", "regular", "main"]

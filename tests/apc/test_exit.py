"""The ends of structured threads, on both faces: exit_thread from anywhere, exit codes, suspended starts."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from apcrt import apc
from apcrt.apc import WAIT_IO_COMPLETION, WAIT_OBJECT_0, aio
from tests.apc.faces import Face, Runner, Stage, refused, run, until_blocked

# Exit codes


@pytest.mark.parametrize(
    ("result", "code"),
    [(None, 0), (0, 0), (7, 7), (-1, 0xFFFFFFFF), (1 << 40 | 3, 3), (True, 1), ("text", 0), (2.5, 0)],
)
def test_the_result_of_the_function_is_the_exit_code(face: Face, result: object, code: int) -> None:
    with Stage(face) as stage:

        async def script() -> object:
            return result

        thread = stage.start(script, suspended=True)
        assert thread.exit_code is None
        thread.resume()
        stage.settle()
        assert thread.exit_code == code


@pytest.mark.parametrize("code", [0, 1, 259, 0xFFFFFFFF])
def test_exit_thread_ends_the_thread_with_its_code(face: Face, code: int) -> None:
    with Stage(face) as stage:
        left: list[str] = []

        async def script() -> None:
            apc.current_thread().queue_user_apc(left.append, "APC")
            try:
                apc.exit_thread(code)
            finally:
                left.append("finally")

        thread = stage.start(script)
        assert thread.exit_code == code
        assert left == ["finally"]
        assert thread.statistics().dropped == 1
        assert apc.wait_for_single_object_ex(thread, 0) == WAIT_OBJECT_0
        with refused(31, "has ended"):
            thread.queue_user_apc(bool)


def test_a_thread_that_is_alive_has_no_exit_code(face: Face) -> None:
    with Stage(face) as stage:

        async def script() -> None:
            await face.wait(apc.Event(), None)

        assert stage.start(script).exit_code is None


def test_the_exit_code_of_an_error(face: Face) -> None:
    async def script() -> None:
        raise LookupError

    threads: list[apc.StructuredThread] = []

    def stage() -> None:
        with Stage(face) as stage:
            threads.append(stage.start(script))

    with pytest.raises(ExceptionGroup) as caught:
        stage()
    assert [type(error) for error in caught.value.exceptions] == [LookupError]
    assert threads[0].exit_code == 1


def test_the_exit_code_of_a_cancelled_thread(face: Face) -> None:
    with Stage(face) as stage:

        async def script() -> None:
            await face.wait(apc.Event(), None)

        thread = stage.start(script)
        late = stage.start(script, suspended=True)
    assert thread.exit_code == 1223
    assert thread.cancelled
    assert late.exit_code == 1


def test_a_thread_that_lets_no_cancel_through_has_the_code_it_returns(face: Face) -> None:
    with Stage(face) as stage:

        async def script() -> int:
            try:
                await face.wait(apc.Event(), None)
            except (apc.WaitCancelled, trio.Cancelled):
                apc.exit_thread(9)
            return 0

        thread = stage.start(script)
    assert thread.exit_code == 9


# Errors


@pytest.mark.parametrize("code", [-1, 1 << 32])
def test_codes_that_cannot_be(face: Face, code: int) -> None:
    with Stage(face) as stage:
        leave: Callable[[int], object] = apc.exit_thread

        async def script() -> int:
            with refused(87, f"an exit code has 32 bits; {code} has not"):
                leave(code)
            return 5

        assert stage.start(script).exit_code == 5


def test_a_thread_that_apcrt_has_not_started_returns_from_its_function(face: Face) -> None:
    async def script() -> None:
        with refused(87, r"only threads that open_apc_threads\(\) has started .* return from the thread's function"):
            apc.exit_thread(0)

    run(face, script)


# From anywhere


@pytest.mark.feature("APC-07")
def test_exit_in_nested_apcs(face: Face) -> None:
    with Stage(face) as stage:
        left: list[str] = []
        mutex = apc.Mutex()

        async def outer() -> None:
            await face.wait(mutex, 0)
            try:
                await face.sleep_ex(None, alertable=True)
            finally:
                left.append("outer")

        async def inner() -> None:
            try:
                apc.exit_thread(3)
            finally:
                left.append("inner")

        async def script() -> None:
            thread = apc.current_thread()
            thread.queue_user_apc(face.routine(outer))
            thread.queue_user_apc(face.routine(inner))
            thread.queue_user_apc(left.append, "never")
            await face.sleep_ex(None, alertable=True)
            left.append("returned")

        thread = stage.start(script)
        assert thread.exit_code == 3
        assert left == ["inner", "outer"]
        assert thread.statistics().dropped == 1
        assert mutex.statistics().abandoned


def test_exit_in_a_block_of_threads_cancels_it_and_goes_on(face: Face) -> None:
    if face.name == "trio":
        waited: list[apc.StructuredThread] = []

        async def script() -> None:
            async with apc.open_apc_threads() as threads:
                waited.append(threads.start(apc.sleep_ex, None))
                apc.exit_thread(4)
    else:

        async def script() -> None:
            with apc.open_apc_threads() as threads:
                waited.append(threads.start(apc.sleep_ex, None))
                apc.exit_thread(4)

        waited = []
    with apc.open_apc_threads() as threads:
        thread = threads.start(face.function(script))
    assert thread.exit_code == 4
    assert waited[0].exit_code == 1223


class TestNurseries:
    """A trio thread may exit in any of its tasks; then the others are cancelled."""

    def test_exit_in_a_task_cancels_its_siblings(self) -> None:
        got: list[str] = []

        async def sibling() -> None:
            try:
                await aio.sleep_ex(None, alertable=True)
            finally:
                got.append("sibling")

        async def leave() -> None:
            await trio.testing.wait_all_tasks_blocked()
            apc.exit_thread(6)

        async def main() -> None:
            async with trio.open_nursery() as outer:
                outer.start_soon(sibling)
                async with trio.open_nursery() as inner:
                    inner.start_soon(leave)
            got.append("returned")

        with apc.open_apc_threads() as threads:
            thread = threads.start(main)
        assert thread.exit_code == 6
        assert got == ["sibling"]

    def test_an_error_of_a_sibling_is_not_lost(self) -> None:
        async def fail() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise LookupError

        async def leave() -> None:
            await trio.testing.wait_all_tasks_blocked()
            apc.exit_thread(6)

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                nursery.start_soon(leave)

        threads_made: list[apc.StructuredThread] = []

        def block() -> None:
            with apc.open_apc_threads() as threads:
                threads_made.append(threads.start(main))

        with pytest.raises(ExceptionGroup) as caught:
            block()
        assert caught.value.subgroup(LookupError) is not None
        assert caught.value.subgroup(lambda error: isinstance(error, apc.ThreadExit)) is None
        assert threads_made[0].exit_code == 1

    def test_exit_in_an_async_routine_cancels_what_it_started(self) -> None:
        got: list[str] = []

        async def child() -> None:
            try:
                await trio.sleep_forever()
            finally:
                got.append("child")

        async def routine() -> None:
            aio.current_nursery().start_soon(child)
            await trio.testing.wait_all_tasks_blocked()
            apc.exit_thread(8)

        async def main() -> None:
            apc.current_thread().queue_user_apc(routine)
            await aio.sleep_ex(None, alertable=True)

        with apc.open_apc_threads() as threads:
            thread = threads.start(main)
        assert thread.exit_code == 8
        assert got == ["child"]


# Before the start


@pytest.mark.feature("APC-06")
def test_apcs_before_the_start_may_block_and_nest(face: Face) -> None:
    with Stage(face) as stage:
        gate = apc.Event()
        got: list[str] = []

        async def blocking() -> None:
            got.append("blocking {")
            assert await face.wait(gate, None) == WAIT_OBJECT_0
            assert await face.sleep_ex(0, alertable=True) == WAIT_IO_COMPLETION
            got.append("} blocking")

        async def script() -> None:
            got.append("started")

        thread = stage.start(script, suspended=True)
        thread.queue_user_apc(face.routine(blocking))
        thread.queue_user_apc(got.append, "second")
        assert thread.resume() == 1
        assert thread.resume() == 0
        stage.settle()
        assert got == ["blocking {"]
        thread.queue_user_apc(got.append, "third")
        gate.set()
        stage.settle()
        assert got == ["blocking {", "second", "third", "} blocking", "started"]
        assert thread.exit_code == 0


@pytest.mark.feature("APC-06")
def test_an_exit_before_the_start(face: Face) -> None:
    with Stage(face) as stage:

        async def script() -> None:
            raise AssertionError

        thread = stage.start(script, suspended=True)
        thread.queue_user_apc(apc.exit_thread, 2)
        thread.queue_user_apc(script)
        thread.resume()
        stage.settle()
        assert thread.exit_code == 2
        assert thread.statistics().dropped == 1


def test_an_error_before_the_start(face: Face) -> None:
    def fail() -> None:
        raise LookupError

    async def script() -> None:
        raise AssertionError

    def stage() -> None:
        with Stage(face) as stage:
            thread = stage.start(script, suspended=True)
            thread.queue_user_apc(fail)
            thread.resume()
            stage.settle()
            assert thread.exit_code == 1

    with pytest.raises(ExceptionGroup) as caught:
        stage()
    assert [type(error) for error in caught.value.exceptions] == [LookupError]


def test_a_suspended_thread_is_a_thread_like_others() -> None:
    with apc.open_apc_threads() as threads:
        thread = threads.start(int, suspended=True)
        timer = apc.WaitableTimer()
        assert apc.wait_for_single_object_ex(thread, 0) == apc.WAIT_TIMEOUT
        assert thread.statistics() == apc.ThreadStatistics(0, 0, 0, 0, None)
        assert repr(thread) == "<ApcThread 'int-1' unstarted>"
        thread.queue_user_apc(timer.set, 0)
        thread.resume()
        assert apc.wait_for_single_object_ex(timer, None) == WAIT_OBJECT_0
    with refused(31, "has ended"):
        thread.queue_user_apc(bool)
    assert thread.resume() == 0
    assert repr(thread) == "<ApcThread 'int-1' ended>"


def test_a_thread_that_never_ran_cannot_be_resumed() -> None:
    with apc.open_apc_threads() as threads:
        thread = threads.start(int, suspended=True)
    with refused(31, "thread 'int-1' has ended without running"):
        thread.resume()
    assert thread.exit_code == 1


# Rows of the queue that need an ending thread


@pytest.mark.feature("APC-07")
@pytest.mark.feature("WAIT-09")
def test_whoever_waits_for_a_thread_sees_it_end_however_it_ends(face: Face) -> None:
    def returns() -> None:
        pass

    def leaves() -> None:
        apc.exit_thread(1)

    ends: list[Callable[[], None]] = [returns, leaves]
    for end in ends:
        go = apc.Event(manual_reset=True)

        def function(end: Callable[[], None] = end, go: apc.Event = go) -> None:
            apc.wait_for_single_object_ex(go, None)
            end()

        with apc.open_apc_threads() as threads:
            thread = threads.start(function)

            async def script(thread: apc.StructuredThread = thread) -> object:
                return await face.wait_many([thread, apc.Event(initial=True)], None, wait_all=True)

            runners = [Runner(face, script) for _ in range(2)]
            for runner in runners:
                until_blocked(runner.thread)
            go.set()
            assert [runner.result() for runner in runners] == [WAIT_OBJECT_0] * 2
            assert thread.exit_code is not None


def test_no_apc_is_accepted_and_forgotten_while_a_thread_ends() -> None:
    """Each one queued was run, or counted as dropped, or refused with 31."""
    for _ in range(50):
        ran: list[int] = []
        refusals: list[int] = []
        accepted = 0
        started = threading.Event()

        def function(started: threading.Event = started) -> None:
            started.set()
            apc.test_alert()

        with apc.open_apc_threads() as threads:
            thread = threads.start(function)
            started.wait()
            while not refusals:
                try:
                    thread.queue_user_apc(ran.append, 1)
                    accepted += 1
                except apc.ApcError as error:
                    refusals.append(error.status)
        assert refusals == [31]
        # The one that was refused may have come in just before the end, and be counted.
        assert accepted <= thread.statistics().dropped + len(ran) <= accepted + 1

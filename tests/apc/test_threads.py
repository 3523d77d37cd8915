"""Structured threads, the ends of threads, wake-up hooks, statistics, warnings, forks."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import trio

from apcrt import apc, trace
from apcrt.apc import WAIT_IO_COMPLETION, WAIT_OBJECT_0, WAIT_TIMEOUT, ApcError, WaitCancelled, aio, lowlevel
from tests.apc.faces import Face, PlainFace, Runner, until, until_blocked

ROOT = Path(__file__).parents[2]


def serve() -> None:
    while True:
        apc.sleep_ex(None, alertable=True)


async def serve_trio() -> None:
    while True:
        await aio.sleep_ex(None, alertable=True)


@pytest.fixture(params=[serve, serve_trio], ids=["plain", "trio"])
def server(request: pytest.FixtureRequest) -> Callable[[], object]:
    """A thread function that serves APCs until it is cancelled."""
    chosen: Callable[[], object] = request.param
    return chosen


class TestStructured:
    def test_a_block_ends_when_its_threads_have(self) -> None:
        got: list[int] = []
        with apc.open_apc_threads() as threads:
            workers = [threads.start(got.append, number, name=f"worker {number}") for number in range(5)]
            assert "open" in repr(threads)
        assert sorted(got) == [0, 1, 2, 3, 4]
        assert all(worker.ended for worker in workers)
        assert workers[3].name == "worker 3"
        assert "closed" in repr(threads)
        with pytest.raises(ApcError) as caught:
            threads.start(bool)
        assert caught.value.status == 87
        with pytest.raises(ApcError), threads:
            pass

    @pytest.mark.feature("APC-06")
    @pytest.mark.parametrize("trio_thread", [False, True])
    def test_apcs_queued_before_the_start_run_first_and_in_order(self, trio_thread: bool) -> None:
        got: list[str] = []
        idents: set[int] = set()

        def first() -> None:
            idents.add(threading.get_ident())
            got.append("first")
            worker.queue_user_apc(got.append, "from first")

        def plain() -> None:
            idents.add(threading.get_ident())
            got.append("started")

        async def asynchronous() -> None:
            plain()

        with apc.open_apc_threads() as threads:
            worker = threads.start(asynchronous if trio_thread else plain, suspended=True)
            assert "unstarted" in repr(worker)
            worker.queue_user_apc(first)
            worker.queue_user_apc(got.append, "second")
            assert got == []
            assert worker.resume() == 1
            assert worker.resume() == 0
        assert got == ["first", "second", "from first", "started"]
        assert len(idents) == 1
        assert threading.get_ident() not in idents

    @pytest.mark.feature("APC-07")
    def test_what_an_ended_thread_left_is_never_called(self) -> None:
        got: list[int] = []
        with apc.open_apc_threads() as threads:
            worker = threads.start(lambda: apc.current_thread().queue_user_apc(got.append, 1))
        assert got == []
        assert worker.statistics().dropped == 1
        with pytest.raises(ApcError) as caught:
            worker.queue_user_apc(got.append, 2)
        assert caught.value.status == 31
        with pytest.raises(ApcError):
            worker.set_wakeup(bool)
        with pytest.raises(ApcError):
            worker.port  # noqa: B018
        assert not lowlevel.post(worker, bool, (), source="io", wakes=[])

    def test_an_error_cancels_the_others_and_the_body(self, server: Callable[[], object]) -> None:
        def fail() -> None:
            raise LookupError

        workers: list[apc.ApcThread] = []

        def block() -> None:
            with apc.open_apc_threads() as threads:
                workers.extend(threads.start(server) for _ in range(3))
                threads.start(fail)
                serve()

        with pytest.raises(ExceptionGroup) as caught:
            block()
        assert [type(error) for error in caught.value.exceptions] == [LookupError]
        assert all(worker.ended for worker in workers)
        assert apc.sleep_ex(0) == 0  # the body's thread is its own again

    def test_an_error_of_the_body_cancels_the_threads_and_leaves_unwrapped(self, server: Callable[[], object]) -> None:
        def block() -> None:
            with apc.open_apc_threads() as threads:
                until_blocked(threads.start(server))
                raise LookupError

        with pytest.raises(LookupError):
            block()

    def test_errors_of_thread_and_body_come_together(self) -> None:
        def stubborn() -> None:
            try:
                serve()
            finally:
                raise KeyError

        def block() -> None:
            with apc.open_apc_threads() as threads:
                until_blocked(threads.start(stubborn))
                raise LookupError

        with pytest.raises(ExceptionGroup) as caught:
            block()
        assert [type(error) for error in caught.value.exceptions] == [LookupError, KeyError]

    def test_cancel_ends_the_block_quietly(self, server: Callable[[], object]) -> None:
        with apc.open_apc_threads() as threads:
            workers = [threads.start(server) for _ in range(3)]
            late = threads.start(server, suspended=True)
            workers[0].queue_user_apc(threads.cancel)
            serve()
        with pytest.raises(ApcError) as caught:
            late.resume()
        assert caught.value.status == 31
        assert apc.sleep_ex(0) == 0

    def test_a_thread_started_in_a_cancelled_block_is_cancelled(self, server: Callable[[], object]) -> None:
        with apc.open_apc_threads() as threads:
            threads.cancel()
            threads.start(server)
            assert threads.start(server, suspended=True).ended

    def test_every_wait_of_a_cancelled_thread_raises(self) -> None:
        raised: list[int] = []

        def work() -> None:
            event = apc.Event(initial=True)
            latch = lowlevel.Latch()
            with contextlib.suppress(WaitCancelled):
                serve()
            calls: list[Callable[[], object]] = [
                lambda: apc.sleep_ex(0),
                lambda: apc.wait_for_single_object_ex(event, 0),
                lambda: apc.wait_for_multiple_objects_ex([event], None),
                apc.test_alert,
                latch.wait,
                apc.current_thread().check_cancelled,
            ]
            for call in calls:
                with pytest.raises(WaitCancelled) as caught:
                    call()
                raised.append(caught.value.status)
            assert event.is_set()

        with apc.open_apc_threads() as threads:
            until_blocked(threads.start(work))
            threads.cancel()
        assert raised == [1223] * 6

    def test_a_cancel_ends_an_endless_drain(self) -> None:
        with apc.open_apc_threads() as threads:
            worker = threads.start(serve)

            def again() -> None:
                worker.queue_user_apc(again)

            worker.queue_user_apc(again)
            until(lambda: worker.ran > 10)
            threads.cancel()

    def test_cancelling_an_outer_block_crosses_an_inner_one(self) -> None:
        ended: list[str] = []

        def inner() -> None:
            try:
                with apc.open_apc_threads() as threads:
                    until_blocked(threads.start(serve))
                    nested.append(1)
                    serve()
            except WaitCancelled:
                ended.append("body")
                raise

        def joining() -> None:
            try:
                with apc.open_apc_threads() as threads:
                    until_blocked(threads.start(serve))
                    nested.append(2)
            except WaitCancelled:
                ended.append("join")
                raise

        nested: list[int] = []
        with apc.open_apc_threads() as threads:
            workers = [threads.start(inner), threads.start(joining)]
            until(lambda: len(nested) == 2)
            for worker in workers:
                until_blocked(worker)
            threads.cancel()
        assert sorted(ended) == ["body", "join"]

    def test_a_trio_run_on_a_cancelled_plain_thread_ends_too(self) -> None:
        ready = threading.Event()

        async def main() -> None:
            ready.set()
            await serve_trio()

        def work() -> None:
            trio.run(main)

        with apc.open_apc_threads() as threads:
            worker = threads.start(work)
            ready.wait()
            until_blocked(worker)
            threads.cancel()

    def test_a_latch_awaited_in_such_a_run_ends_too(self) -> None:
        ready = threading.Event()
        latch = lowlevel.Latch()

        async def main() -> None:
            ready.set()
            await latch.wait_async()

        def work() -> None:
            with pytest.raises(WaitCancelled):
                trio.run(main)
            with pytest.raises(WaitCancelled):
                trio.run(main)

        with apc.open_apc_threads() as threads:
            worker = threads.start(work)
            ready.wait()
            until(lambda: worker.direct)
            threads.cancel()
        assert "awaited" not in repr(latch)

    def test_threads_may_start_and_resume_others(self) -> None:
        got: list[int] = []

        def second() -> None:
            got.append(2)

        def first() -> None:
            got.append(1)
            late.resume()
            threads.start(got.append, 3)

        with apc.open_apc_threads() as threads:
            late = threads.start(second, suspended=True)
            threads.start(first)
        assert sorted(got) == [1, 2, 3]

    def test_a_thread_that_nobody_resumes_never_runs(self) -> None:
        with apc.open_apc_threads() as threads:
            late = threads.start(pytest.fail, "it ran", suspended=True)
            late.queue_user_apc(pytest.fail, "it ran")
        assert late.ended
        assert late.statistics().dropped == 1

    def test_an_os_thread_that_cannot_be_had(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with apc.open_apc_threads() as threads:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                with pytest.raises(ApcError) as caught:
                    threads.start(serve)
            assert caught.value.status == 164

    def test_the_faces_of_the_block(self) -> None:
        async def wrong() -> None:
            with pytest.raises(ApcError, match="async with"), apc.open_apc_threads():
                pass

        trio.run(wrong)


class TestStructuredInTrio:
    async def test_leaving_the_block_does_not_block_the_loop(self, server: Callable[[], object]) -> None:
        ticks = 0
        async with trio.open_nursery() as nursery:

            async def tick() -> None:
                nonlocal ticks
                while ticks < 10:
                    ticks += 1
                    await trio.lowlevel.checkpoint()
                threads.cancel()

            async with apc.open_apc_threads() as threads:
                threads.start(server)
                nursery.start_soon(tick)
        assert ticks == 10

    async def test_an_error_cancels_the_body(self, server: Callable[[], object]) -> None:
        def fail() -> None:
            raise LookupError

        async def block() -> None:
            async with apc.open_apc_threads() as threads:
                threads.start(server)
                threads.start(fail)
                await trio.sleep_forever()

        with pytest.raises(ExceptionGroup) as caught:
            await block()
        assert [type(error) for error in caught.value.exceptions] == [LookupError]

    async def test_an_error_of_the_body_cancels_the_threads(self, server: Callable[[], object]) -> None:
        async def block() -> None:
            async with apc.open_apc_threads() as threads:
                threads.start(server)
                raise LookupError

        with pytest.raises(LookupError):
            await block()

    async def test_a_cancel_scope_around_the_block_cancels_the_threads(self, server: Callable[[], object]) -> None:
        with trio.CancelScope() as scope:
            async with apc.open_apc_threads() as threads:
                worker = threads.start(server)
                scope.cancel()
        assert scope.cancelled_caught
        assert worker.ended

    async def test_the_body_may_cancel(self, server: Callable[[], object]) -> None:
        async with apc.open_apc_threads() as threads:
            threads.start(server)
            threads.cancel()
            await trio.sleep_forever()


CTRL_C = """
import os, signal, sys, threading
from apcrt import apc
from tests.apc.test_threads import serve, serve_trio
import trio

ready = apc.Event()

def strike():
    os.kill(os.getpid(), signal.SIGINT)

def plain():
    with apc.open_apc_threads() as threads:
        workers.append(threads.start(serve)); workers.append(threads.start(serve_trio))
        for worker in workers:
            worker.queue_user_apc(ready.set)
            apc.wait_for_single_object_ex(ready, None)
        threads.start(strike)
        if "body" in sys.argv:
            serve()

async def loop():
    async with apc.open_apc_threads() as threads:
        workers.append(threads.start(serve)); workers.append(threads.start(serve_trio))
        for worker in workers:
            worker.queue_user_apc(ready.set)
            await apc.aio.wait_for_single_object_ex(ready, None)
        threads.start(strike)
        if "body" in sys.argv:
            await serve_trio()

workers = []
try:
    trio.run(loop) if "trio" in sys.argv else plain()
except KeyboardInterrupt:
    print("KeyboardInterrupt", all(worker.ended for worker in workers))
except BaseExceptionGroup as group:
    print("KeyboardInterrupt" if group.subgroup(KeyboardInterrupt) else group, all(worker.ended for worker in workers))
"""


@pytest.mark.parametrize("body", ["body", "join"])
@pytest.mark.parametrize("kind", ["plain", "trio"])
def test_ctrl_c_crosses_the_block(kind: str, body: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CTRL_C, kind, body], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == "KeyboardInterrupt True\n", done.stdout + done.stderr


def test_a_signal_handler_may_queue_to_its_own_sleeping_thread_and_cancel_its_block() -> None:
    script = """
import os, signal
from apcrt import apc

def strike(number):
    os.kill(os.getpid(), number)

got = []
signal.signal(signal.SIGUSR1, lambda *_: apc.current_thread().queue_user_apc(got.append, 1))
with apc.open_apc_threads() as threads:
    threads.start(strike, signal.SIGUSR1)
    assert apc.sleep_ex(None, alertable=True) == apc.WAIT_IO_COMPLETION
    signal.signal(signal.SIGTERM, lambda *_: threads.cancel())
    threads.start(strike, signal.SIGTERM)
    apc.sleep_ex(None)
print(got)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == "[1]\n", done.stdout + done.stderr


class TestForeignThreads:
    def test_a_thread_is_known_by_one_object(self) -> None:
        assert apc.current_thread() is apc.current_thread()
        runner = Runner(PlainFace(), _nothing)
        assert runner.thread is not apc.current_thread()
        runner.result()

    @pytest.mark.feature("WAIT-09")
    def test_its_end_is_noticed(self) -> None:
        class Listener:
            ended: list[int] = []  # noqa: RUF012
            rehomed = 0

            def rehome(self) -> None:
                self.rehomed += 1

            def thread_ended(self) -> None:
                self.ended.append(threading.get_ident())

        listener = Listener()

        async def script() -> object:
            thread = apc.current_thread()
            thread.homed.add(listener)
            thread.set_wakeup(bool)
            thread.set_wakeup(None)
            thread.port.wake()
            return threading.get_ident()

        runner = Runner(PlainFace(), script)
        ident = runner.result()
        assert apc.wait_for_single_object_ex(runner.thread, None) == WAIT_OBJECT_0
        assert listener.ended == [ident]
        assert listener.rehomed == 2
        assert runner.thread.open_port is None
        assert not runner.thread.homed


async def _nothing() -> None:
    pass


class TestWakeup:
    def test_the_hook_is_called_when_the_queue_stops_being_empty(self) -> None:
        calls: list[int] = []
        got: list[int] = []
        runner_ready, stop = threading.Event(), threading.Event()

        def loop() -> None:
            thread = apc.current_thread()
            thread.set_wakeup(lambda: calls.append(threading.get_ident()))
            had_wakeup.append(thread.has_wakeup)
            threads.append(thread)
            runner_ready.set()
            stop.wait()
            assert apc.test_alert()
            assert got == [1, 2, 3]
            thread.queue_user_apc(got.append, 4)
            assert len(calls) == 2
            thread.set_wakeup(None)
            had_wakeup.append(thread.has_wakeup)
            thread.set_wakeup(lambda: calls.append(0))  # not empty: at once
            assert calls[-1] == 0

        threads: list[apc.ApcThread] = []
        had_wakeup: list[bool] = []
        worker = threading.Thread(target=loop)
        worker.start()
        runner_ready.wait()
        for number in (1, 2, 3):
            threads[0].queue_user_apc(got.append, number)
        assert calls == [threading.get_ident()]
        stop.set()
        worker.join()
        assert len(calls) == 3
        assert had_wakeup == [True, False]

    def test_what_an_exception_left_queued_pokes_again(self) -> None:
        calls: list[int] = []
        thread = apc.current_thread()

        def fail() -> None:
            raise LookupError

        thread.set_wakeup(lambda: calls.append(1))
        try:
            thread.queue_user_apc(fail)
            thread.queue_user_apc(bool)
            assert len(calls) == 1
            with pytest.raises(LookupError):
                apc.test_alert()
            assert len(calls) == 2
            assert apc.test_alert()
            assert len(calls) == 2
        finally:
            thread.set_wakeup(None)

    def test_a_hook_that_raises_is_reported_and_harms_nobody(self) -> None:
        thread = apc.current_thread()

        def fail() -> None:
            raise LookupError

        with tapped() as events:
            thread.set_wakeup(fail)
            thread.queue_user_apc(bool)
            thread.set_wakeup(None)
        assert events[0][0] == "thread.wakeup_failed"
        assert apc.test_alert()


@contextlib.contextmanager
def tapped(level: int = trace.WARNING) -> Iterator[list[tuple[str, Mapping[str, object]]]]:
    events: list[tuple[str, Mapping[str, object]]] = []

    def tap(_severity: int, event: str, keys: Mapping[str, object]) -> None:
        events.append((event, dict(keys)))

    trace.add_tap(tap, level)
    try:
        yield events
    finally:
        trace.remove_tap(tap)


def test_statistics_count(face: Face) -> None:
    async def script() -> None:
        thread = apc.current_thread()
        for _ in range(5):
            thread.queue_user_apc(bool)
        before = thread.statistics()
        assert (before.queued, before.run, before.dropped, before.high_water) == (5, 0, 0, 5)
        assert before.oldest is not None
        assert before.oldest >= 0
        assert "queued=5" in repr(thread)
        await face.test_alert()
        after = thread.statistics()
        assert (after.queued, after.run, after.high_water, after.oldest) == (0, 5, 5, None)

    Runner(face, script).result()


def test_the_story_of_an_apc_is_traced(face: Face) -> None:
    def fail() -> None:
        raise LookupError

    async def slow() -> None:
        await face.sleep_ex(0)

    async def script() -> None:
        thread = apc.current_thread()
        thread.queue_user_apc(bool)
        thread.queue_user_apc(face.routine(slow))
        await face.sleep_ex(0, alertable=True)
        for routine in (fail, face.routine(_fail_later)):
            thread.queue_user_apc(routine)
            with pytest.raises(LookupError):
                await face.wait(apc.Event(), 0, alertable=True)
        await face.wait_many([apc.Event(initial=True), apc.Event()], 0)

    async def _fail_later() -> None:
        await face.sleep_ex(0)
        raise LookupError

    with tapped(trace.DEBUG) as events:
        runner = Runner(face, script, name="traced")
        runner.result()
        apc.wait_for_single_object_ex(runner.thread, None)
    mine = [(event, keys) for event, keys in events if keys.get("thread") == "traced"]
    names = [event for event, _ in mine]
    assert names.count("apc.queued") == 4
    assert names.count("apc.run") == 2
    assert names.count("apc.failed") == 2
    assert names.count("wait.begin") == names.count("wait.end") == 6
    results = [keys["status"] for event, keys in mine if event == "wait.end"]
    assert WAIT_IO_COMPLETION in results
    kinds = {keys["wait"] for event, keys in mine if event == "wait.begin"}
    assert kinds == {"sleep", "sleep alertable", "Event alertable", "any of 2"}


def test_a_thread_that_owes_completions_is_warned_of_once() -> None:
    thread = apc.current_thread()
    now = time.monotonic()
    with tapped() as events:
        lowlevel.check_overdue(now + 100, 10)
        thread.queue_user_apc(bool)
        lowlevel.check_overdue(now + 1, 10)
        lowlevel.check_overdue(now + 20, 10)
        lowlevel.check_overdue(now + 40, 10)
        mine = [keys for event, keys in events if event == "thread.overdue" and keys["thread"] == thread.name]
        assert len(mine) == 1
        assert mine[0]["queued"] == 1
        assert isinstance(mine[0]["seconds"], float)
        apc.test_alert()
        lowlevel.check_overdue(now + 50, 10)
        thread.queue_user_apc(bool)
        lowlevel.check_overdue(now + 100, 10)
        assert (
            len([event for event, keys in events if event == "thread.overdue" and keys["thread"] == thread.name]) == 2
        )
        apc.test_alert()


def test_events_that_no_thread_has_discovered_are_owed_too() -> None:
    thread = apc.current_thread()
    receiver, sender = os.pipe()

    class Source:
        def owes(self) -> bool:
            return True

        def service(self, _fd: int, _events: int) -> None:
            os.read(receiver, 10)

    try:
        assert apc.sleep_ex(0.0001) == 0  # a stale wake, if any, is seen
        thread.port.arm(receiver, lowlevel.READ, Source())
        os.write(sender, b"x")
        with tapped() as events:
            lowlevel.check_overdue(1000.0, 10)
            lowlevel.check_overdue(1005.0, 10)
            assert not [keys for _, keys in events if keys["thread"] == thread.name]
            lowlevel.check_overdue(1010.0, 10)
            mine = [keys for _, keys in events if keys["thread"] == thread.name]
            assert [(keys["seconds"], keys["queued"]) for keys in mine] == [(10.0, 0)]
            apc.sleep_ex(0)
            lowlevel.check_overdue(1020.0, 10)
            assert len(events) == len(mine)
    finally:
        thread.port.disarm(receiver)
        os.close(receiver)
        os.close(sender)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork_everything_is_foreign_and_says_so() -> None:
    script = """
import os, threading
from apcrt import apc
from apcrt.apc import lowlevel

parent = apc.current_thread()
event = apc.Event()
parent.queue_user_apc(print, "the parent's APC")
port = parent.port
descriptors = len(os.listdir("/proc/self/fd"))
hold, held = threading.Event(), threading.Event()
def holder():
    def operation(wakes):
        held.set(); hold.wait()
    lowlevel.D.run(operation)
worker = threading.Thread(target=holder); worker.start(); held.wait()   # D is held at the fork
child = os.fork()
if child == 0:
    calls = [lambda: parent.queue_user_apc(bool), lambda: parent.set_wakeup(bool), lambda: parent.port, event.set,
             lambda: apc.wait_for_single_object_ex(event, 0), lambda: apc.wait_for_single_object_ex(parent, 0)]
    for call in calls:
        try:
            call()
        except apc.ApcError as error:
            assert error.status == 6 and "forked" in str(error), error
        else:
            os._exit(1)
    assert "foreign" in repr(parent)
    assert len(os.listdir("/proc/self/fd")) == descriptors - 2
    port.wake()
    mine = apc.current_thread()
    assert mine is not parent
    got = []
    mine.queue_user_apc(got.append, 1)
    assert apc.sleep_ex(0.001, alertable=True) == apc.WAIT_IO_COMPLETION and got == [1]
    fresh = apc.Event(initial=True)
    assert apc.wait_for_single_object_ex(fresh, 0) == 0
    os._exit(0)
hold.set(); worker.join()
_, status = os.waitpid(child, 0)
assert status == 0, status
event.set()
assert apc.wait_for_single_object_ex(event, 1) == 0
print(apc.sleep_ex(1, alertable=True))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == "the parent's APC\nWAIT_IO_COMPLETION\n", done.stdout + done.stderr


def test_a_thread_object_that_is_dropped_leaves_nothing() -> None:
    before = len(lowlevel.D.run(lambda _wakes: tuple(apc_threads())))
    for _ in range(10):
        Runner(PlainFace(), _nothing).result()
    gc.collect()
    until(lambda: len(lowlevel.D.run(lambda _wakes: tuple(apc_threads()))) <= before)


def apc_threads() -> list[apc.ApcThread]:
    from apcrt.apc._dispatcher import threads

    return list(threads)


def test_the_main_thread_is_interrupted_in_a_plain_wait() -> None:
    """Ctrl-C in the process of the tests themselves, at a known moment: inside the sleep."""

    def interrupt(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(number)

    previous = signal.signal(signal.SIGUSR1, interrupt)
    event = apc.Event()
    try:
        main = apc.current_thread()

        def strike() -> None:
            until_blocked(main)
            os.kill(os.getpid(), signal.SIGUSR1)

        striker = threading.Thread(target=strike)
        striker.start()
        with pytest.raises(KeyboardInterrupt):
            apc.wait_for_single_object_ex(event, None, alertable=True)
        striker.join()
        assert not main.waits
        assert not event.waiters
        event.set()
        assert apc.wait_for_single_object_ex(event, 0) == WAIT_OBJECT_0
        assert apc.wait_for_single_object_ex(event, 0) == WAIT_TIMEOUT
    finally:
        signal.signal(signal.SIGUSR1, previous)

"""The rules of waits and objects, on both faces: what ends a wait and what it takes."""

from __future__ import annotations

import gc
import math
import threading
from time import monotonic

import pytest

from apcrt import apc
from apcrt.apc import WAIT_IO_COMPLETION, WAIT_OBJECT_0, WAIT_TIMEOUT, ApcError
from apcrt.apc.lowlevel import D, Entry, Waitable, Wakes, signal, wake
from tests.apc.faces import Face, Runner, run, until, until_blocked


@pytest.mark.feature("WAIT-01")
def test_results_of_a_wait_for_one_object(face: Face) -> None:
    async def script() -> None:
        event = apc.Event(initial=True)
        assert await face.wait(event, None) == WAIT_OBJECT_0
        assert await face.wait(event, 0) == WAIT_TIMEOUT
        assert await face.wait(event, 0.002) == WAIT_TIMEOUT
        apc.current_thread().queue_user_apc(bool)
        assert await face.wait(event, 0, alertable=True) == WAIT_IO_COMPLETION
        assert repr(await face.wait(event, 0)) == "WAIT_TIMEOUT"

    run(face, script)


@pytest.mark.feature("WAIT-02")
def test_a_wait_for_any_takes_the_first_that_is_signaled(face: Face) -> None:
    async def script() -> None:
        events = [apc.Event(initial=number > 0) for number in range(4)]
        result = await face.wait_many(events, None)
        assert result == WAIT_OBJECT_0 + 1
        assert result.index == 1
        assert [event.is_set() for event in events] == [False, False, True, True]

    run(face, script)


@pytest.mark.feature("WAIT-03")
def test_a_wait_for_all_takes_nothing_until_it_can_take_all(face: Face) -> None:
    first, second = apc.Event(), apc.Event()

    async def script() -> object:
        return await face.wait_many([first, second], None, wait_all=True)

    runner = Runner(face, script)
    until_blocked(runner.thread)
    first.set()
    assert first.is_set()
    assert apc.wait_for_single_object_ex(first, 0) == WAIT_OBJECT_0  # a competitor takes one meanwhile
    second.set()
    assert second.is_set()
    assert len(runner.thread.waits) == 1
    first.set()
    assert runner.result() == WAIT_OBJECT_0
    assert not first.is_set()
    assert not second.is_set()


@pytest.mark.feature("WAIT-05")
def test_sets_of_objects_that_cannot_be_waited_for(face: Face) -> None:
    async def script() -> None:
        event = apc.Event(initial=True)
        many = [apc.Event(initial=True) for _ in range(65)]
        for objects in ([], many, [event, event]):
            for wait_all in (False, True):
                with pytest.raises(ApcError) as caught:
                    await face.wait_many(objects, 0, wait_all=wait_all)
                assert caught.value.status == 87
        assert await face.wait_many(many[:64], 0, wait_all=True) == WAIT_OBJECT_0
        for seconds in (-1.0, math.nan):
            with pytest.raises(ApcError) as caught:
                await face.sleep_ex(seconds)
            assert caught.value.status == 87
        with pytest.raises(ApcError) as caught:
            await face.wait(threading.Event(), 0)  # type: ignore[arg-type]
        assert caught.value.status == 6

    run(face, script)


@pytest.mark.feature("WAIT-05")
def test_a_wrong_argument_runs_no_apc(face: Face) -> None:
    async def script() -> None:
        apc.current_thread().queue_user_apc(bool)
        with pytest.raises(ApcError):
            await face.wait_many([], 0, alertable=True)
        assert apc.current_thread().statistics().queued == 1

    run(face, script)


@pytest.mark.feature("WAIT-06")
def test_an_auto_reset_event_serves_one_waiter_first_come_first_served(face: Face) -> None:
    event = apc.Event()
    served: list[int] = []
    done = threading.Semaphore(0)

    def waiter(number: int) -> Runner[None]:
        async def script() -> None:
            assert await face.wait(event, None) == WAIT_OBJECT_0
            served.append(number)
            done.release()

        runner = Runner(face, script)
        until_blocked(runner.thread)
        return runner

    runners = [waiter(number) for number in range(3)]
    for count in range(1, 4):
        event.set()
        done.acquire()
        assert served == list(range(count))
        assert not event.is_set()
        assert len(event.waiters) == 3 - count
    for runner in runners:
        runner.result()


@pytest.mark.feature("WAIT-06")
def test_a_manual_reset_event_serves_all_and_stays_set(face: Face) -> None:
    event = apc.Event(manual_reset=True)

    async def script() -> object:
        return await face.wait(event, None)

    runners = [Runner(face, script) for _ in range(3)]
    for runner in runners:
        until_blocked(runner.thread)
    event.set()
    assert [runner.result() for runner in runners] == [WAIT_OBJECT_0] * 3
    assert event.is_set()
    assert "manual set" in repr(event)
    event.reset()
    assert apc.wait_for_single_object_ex(event, 0) == WAIT_TIMEOUT


@pytest.mark.parametrize("manual", [False, True])
def test_a_pulse_serves_who_waits_and_leaves_the_event_unset(face: Face, manual: bool) -> None:
    event = apc.Event(manual_reset=manual)
    event.pulse()
    assert not event.is_set()

    async def script() -> object:
        return await face.wait(event, None)

    runners = [Runner(face, script) for _ in range(2)]
    for runner in runners:
        until_blocked(runner.thread)
    event.pulse()
    assert not event.is_set()
    assert len(event.waiters) == (0 if manual else 1)
    event.pulse()
    assert [runner.result() for runner in runners] == [WAIT_OBJECT_0] * 2


def test_a_thread_that_runs_apcs_misses_a_pulse(face: Face) -> None:
    async def script() -> None:
        event = apc.Event(manual_reset=True)
        apc.current_thread().queue_user_apc(event.pulse)
        assert await face.wait(event, None, alertable=True) == WAIT_IO_COMPLETION
        assert await face.wait(event, 0) == WAIT_TIMEOUT

    run(face, script)


@pytest.mark.feature("WAIT-09")
def test_a_thread_is_signaled_when_it_has_ended_and_stays_so(face: Face) -> None:
    stop = apc.Event()

    async def other() -> None:
        await face.wait(stop, None)

    runner = Runner(face, other)

    async def script() -> None:
        assert await face.wait(runner.thread, 0) == WAIT_TIMEOUT
        stop.set()
        assert await face.wait_many([apc.Event(), runner.thread], None) == WAIT_OBJECT_0 + 1
        assert await face.wait(runner.thread, 0) == WAIT_OBJECT_0

    run(face, script)
    runner.result()


@pytest.mark.feature("APC-21")
def test_an_apc_queued_before_a_time_out_is_noticed_wins(face: Face) -> None:
    """The last look. The alarm queues, without ending the wait, in the very operation that finds the time over."""

    class Late:
        def __init__(self, thread: apc.ApcThread) -> None:
            self.thread = thread

        def due(self, _wakes: Wakes, _when: float) -> None:
            self.thread.queue.append(Entry(got.append, (1,), "timer"))

    got: list[int] = []

    async def script() -> None:
        when = monotonic() + 0.005

        def arm(_wakes: Wakes) -> None:
            D.set_alarm(when, Late(apc.current_thread()))

        D.run(arm)
        assert await face.sleep_ex(0.005, alertable=True) == WAIT_IO_COMPLETION
        assert got == [1]

    run(face, script)


class Countdown(Waitable):
    """An object of a kind of its own, beside those that exist: a semaphore that also fires alarms."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def is_signaled_for(self, _thread: apc.ApcThread, /) -> bool:
        return self.count > 0

    def take(self, _thread: apc.ApcThread, /) -> bool:
        self.count -= 1
        return False

    def give_back(self, _thread: apc.ApcThread, /) -> None:
        self.count += 1

    def due(self, wakes: Wakes, _when: float) -> None:
        self.count += 1
        signal(wakes, self)


def test_an_alarm_is_fired_by_whoever_enters_the_dispatcher_next(face: Face) -> None:
    async def script() -> None:
        countdown = Countdown()

        def arm(_wakes: Wakes, after: float) -> None:
            D.set_alarm(after, countdown)

        D.run(arm, 0.0)
        assert await face.wait(countdown, 0) == WAIT_OBJECT_0  # due long ago: fired on entering
        assert countdown.count == 0
        D.run(arm, 0.0)
        D.run(arm, 0.0)
        assert await face.wait(countdown, None) == WAIT_OBJECT_0
        assert countdown.count == 1

    run(face, script)


def test_a_sleeper_wakes_for_an_alarm(face: Face) -> None:
    async def script() -> None:
        countdown = Countdown()

        def arm(_wakes: Wakes) -> None:
            D.set_alarm(monotonic() + 0.005, countdown)

        D.run(arm)
        assert await face.wait(countdown, None) == WAIT_OBJECT_0

    run(face, script)


def test_entries_that_are_taken_back_do_not_end_a_wait(face: Face) -> None:
    got: list[int] = []

    async def script() -> None:
        thread = apc.current_thread()
        wakes: Wakes = []
        dead, alive = Entry(got.append, (1,), "timer"), Entry(got.append, (2,), "timer")
        thread.post(dead, wakes)
        dead.live = False
        assert await face.sleep_ex(0.002, alertable=True) == 0
        dead.live = True
        thread.post(dead, wakes)
        thread.post(alive, wakes)
        dead.live = False
        assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
        assert got == [2]
        assert not thread.queue

    run(face, script)


def test_an_entry_taken_back_after_it_woke_the_wait_lets_it_wait_on(face: Face) -> None:
    async def script() -> None:
        assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION

    runner = Runner(face, script)
    thread = runner.thread
    until_blocked(thread)
    dead = Entry(bool, (), "timer")
    wakes: Wakes = []
    thread.post(dead, wakes)
    dead.live = False  # before the thread is woken
    wake(wakes)
    until(lambda: not thread.queue)
    until_blocked(thread)
    assert thread.ran == 0
    thread.queue_user_apc(bool)
    runner.result()


@pytest.mark.parametrize("operation", ["queue", "set"])
def test_finalizers_may_queue_and_set_in_the_middle_of_an_operation(operation: str) -> None:
    """Garbage collections are forced inside operations on D; their finalizers come back to D."""
    thread = apc.current_thread()
    event = apc.Event(manual_reset=True)
    expected = 0
    got: list[int] = []

    class Trap:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            if operation == "queue":
                thread.queue_user_apc(got.append, 1)
            else:
                event.set()

    def collect(_wakes: Wakes) -> bool:
        Trap()
        gc.collect()
        return D.busy

    for _ in range(50):
        expected += 1
        event.reset()
        assert D.run(collect)
        assert not D.busy
        assert not D.deferred
        if operation == "set":
            assert event.is_set()
    apc.test_alert()
    assert len(got) == (expected if operation == "queue" else 0)


def test_a_finalizer_under_the_dispatcher_cannot_wait() -> None:
    errors: list[ApcError] = []

    def interrupt(_wakes: Wakes) -> None:
        try:
            apc.sleep_ex(0)
        except ApcError as error:
            errors.append(error)

    D.run(interrupt)
    assert errors[0].status == 87
    assert not D.busy

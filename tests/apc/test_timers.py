"""Waitable timers: when they fire, what they queue and to whom, and what takes it back."""

from __future__ import annotations

import datetime
import gc
import math
import threading
import weakref
from collections.abc import Callable, Coroutine

import pytest
import trio
import trio.testing

from apcrt import apc, trace
from apcrt.apc import WAIT_IO_COMPLETION, WAIT_OBJECT_0, WAIT_TIMEOUT, aio, lowlevel
from apcrt.apc.lowlevel import D
from tests.apc.faces import Face, PlainFace, Runner, Stage, refused, run, until_blocked
from tests.conformance.apc.clock import EPOCH

UTC = datetime.UTC
START = datetime.datetime.fromtimestamp(EPOCH, UTC)
CHATHAM = datetime.timezone(datetime.timedelta(hours=12, minutes=45))


class Log:
    """A timer's routine that keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, datetime.datetime]] = []
        self.halves: list[tuple[int, int]] = []
        self.threads: set[int] = set()

    def __call__(self, argument: object, low: int, high: int) -> None:
        self.calls.append((argument, apc.filetime(low, high)))
        self.halves.append((low, high))
        self.threads.add(threading.get_ident())

    @property
    def seconds(self) -> list[float]:
        """When each was due, in seconds from the start of the stage."""
        return [(when - START).total_seconds() for _, when in self.calls]


# Firing


@pytest.mark.feature("TMR-01")
def test_a_relative_timer_fires_once(face: Face) -> None:
    with Stage(face) as stage:
        timer, log = apc.WaitableTimer(), Log()
        results: list[object] = []

        async def script() -> None:
            log_thread.append(threading.get_ident())
            timer.set(2.5, routine=log, argument="tick")
            results.append(await face.sleep_ex(None, alertable=True))
            results.append(await face.sleep_ex(100, alertable=True))

        log_thread: list[int] = []
        stage.start(script)
        assert timer.statistics() == apc.TimerStatistics(False, 2.5, 0, 0)
        assert repr(timer) == "<WaitableTimer auto unset due in 2.500 s waiters=0>"
        stage.advance(2.25)
        assert timer.statistics().due_in == 0.25
        assert log.calls == []
        stage.advance(0.25)
        assert results == [WAIT_IO_COMPLETION]
        assert log.calls == [("tick", START + datetime.timedelta(seconds=2.5))]
        assert log.threads == set(log_thread)
        assert timer.statistics() == apc.TimerStatistics(True, None, 1, 0)
        assert repr(timer) == "<WaitableTimer auto set idle waiters=0>"
        stage.advance(1000)
        assert results == [WAIT_IO_COMPLETION, 0]


@pytest.mark.feature("TMR-01")
def test_the_routine_needs_an_alertable_wait_of_any_kind(face: Face) -> None:
    async def script() -> None:
        timer, log = apc.WaitableTimer(manual_reset=True), Log()
        thread = apc.current_thread()
        waits: list[Callable[[], Coroutine[object, None, object]]] = [
            lambda: face.sleep_ex(None, alertable=True),
            lambda: face.wait(apc.Event(), None, alertable=True),
            lambda: face.wait_many([apc.Event(), apc.Event()], None, wait_all=True, alertable=True),
            lambda: face.signal_and_wait(apc.Event(), apc.Event(), None, alertable=True),
            lambda: face.get_ex(apc.CompletionPort(), 1, None, alertable=True),
            face.test_alert,
        ]
        for number, wait in enumerate(waits):
            timer.set(0, routine=log)
            assert timer.is_set()
            assert await face.sleep_ex(0) == 0
            assert await face.wait(timer, 0) == WAIT_OBJECT_0
            assert (await face.get(apc.CompletionPort(), 0))[0] == WAIT_TIMEOUT
            assert len(log.calls) == number
            assert thread.statistics().queued == 1
            await wait()
            assert len(log.calls) == number + 1
        assert {argument for argument, _ in log.calls} == {None}

    run(face, script)


@pytest.mark.feature("TMR-02")
@pytest.mark.parametrize("zone", [UTC, CHATHAM])
@pytest.mark.parametrize("microsecond", [0, 1, 123_457, 499_999, 500_001, 999_999])
def test_an_absolute_time_is_told_exactly(face: Face, zone: datetime.tzinfo, microsecond: int) -> None:
    due = (START + datetime.timedelta(seconds=3)).astimezone(zone).replace(microsecond=microsecond)
    ticks = (due - datetime.datetime(1601, 1, 1, tzinfo=UTC)) // datetime.timedelta(microseconds=1) * 10
    with Stage(face) as stage:
        log = Log()

        async def script() -> None:
            apc.WaitableTimer().set(due, routine=log, argument=7)
            await face.sleep_ex(None, alertable=True)

        stage.start(script)
        stage.advance(3)
        assert len(log.calls) == (microsecond == 0)
        stage.advance(1)
        assert log.calls == [(7, due)]
        assert log.halves == [(ticks & 0xFFFFFFFF, ticks >> 32)]


@pytest.mark.feature("TMR-02")
def test_an_absolute_time_is_told_exactly_whatever_the_clocks_say() -> None:
    """Seconds since 1970 as a float are exact to a quarter of a microsecond: not enough."""
    with Stage(PlainFace()) as stage:
        log = Log()
        stage.clock.offset = 12_345.6789
        dues = [START + datetime.timedelta(microseconds=4_999_999 * number) for number in range(200)]

        async def script() -> None:
            for due in dues:
                apc.WaitableTimer().set(due, routine=log)
            apc.test_alert()

        stage.advance(0.7)
        stage.start(script)
        assert [when for _, when in log.calls] == dues


@pytest.mark.feature("TMR-02")
def test_an_absolute_time_that_is_past_is_now(face: Face) -> None:
    with Stage(face) as stage:
        timer, log = apc.WaitableTimer(), Log()
        due = START - datetime.timedelta(days=365)

        async def script() -> None:
            timer.set(due, routine=log)
            assert timer.is_set()
            assert await face.sleep_ex(0, alertable=True) == WAIT_IO_COMPLETION

        stage.start(script)
        assert log.calls == [(None, due)]


@pytest.mark.feature("TMR-02")
@pytest.mark.parametrize("shift", [30.0, -30.0])
def test_an_absolute_time_follows_the_clock_and_a_relative_one_does_not(face: Face, shift: float) -> None:
    with Stage(face) as stage:
        absolute, relative = apc.WaitableTimer(manual_reset=True), apc.WaitableTimer(manual_reset=True)

        async def script() -> None:
            absolute.set(START + datetime.timedelta(seconds=100))
            relative.set(100)
            await face.wait_many([absolute, relative], None, wait_all=True)

        stage.start(script)
        stage.advance(50)
        stage.clock.offset = shift
        stage.advance(50 - max(0.0, shift) - 1)
        assert not absolute.is_set()
        if shift > 0:
            stage.advance(1)
            assert absolute.is_set()
            assert not relative.is_set()
            stage.advance(30)
            assert relative.is_set()
        else:
            stage.advance(1)
            assert relative.is_set()
            stage.advance(29)
            assert not absolute.is_set()
            assert absolute.statistics().due_in == pytest.approx(1)
            stage.advance(1)
            assert absolute.is_set()


def test_a_clock_set_beyond_the_due_time_is_noticed_within_a_second(face: Face) -> None:
    with Stage(face) as stage:
        timer = apc.WaitableTimer()
        results: list[object] = []

        async def script() -> None:
            timer.set(START + datetime.timedelta(days=1))
            results.append(await face.wait(timer, None))

        stage.start(script)
        stage.advance(10)
        stage.clock.offset = 3 * 86_400.0
        stage.advance(1)
        assert results == [WAIT_OBJECT_0]


@pytest.mark.parametrize(
    ("low", "high", "when"),
    [
        (0, 0, datetime.datetime(1601, 1, 1, tzinfo=UTC)),
        (0xD53E8000, 0x019DB1DE, datetime.datetime(1970, 1, 1, tzinfo=UTC)),
        (0xD53E8009, 0x019DB1DE, datetime.datetime(1970, 1, 1, tzinfo=UTC)),
        (0xD53E800A, 0x019DB1DE, datetime.datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
        (0x256D4000, 0x01BF53EB, datetime.datetime(2000, 1, 1, tzinfo=UTC)),
    ],
)
def test_filetime_reads_the_halves(low: int, high: int, when: datetime.datetime) -> None:
    assert apc.filetime(low, high) == when


@pytest.mark.feature("TMR-03")
def test_a_periodic_timer_repeats(face: Face) -> None:
    with Stage(face) as stage:
        timer, log = apc.WaitableTimer(), Log()

        async def script() -> None:
            timer.set(1, period=0.5, routine=log)
            while len(log.calls) < 4:
                assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
            timer.cancel()

        stage.start(script)
        stage.advance(10)
        assert log.seconds == [1, 1.5, 2, 2.5]
        assert timer.statistics() == apc.TimerStatistics(True, None, 4, 0)


@pytest.mark.feature("TMR-03")
def test_a_slow_consumer_gets_one_and_the_periods_keep_their_phase(face: Face) -> None:
    with Stage(face) as stage:
        timer, log = apc.WaitableTimer(), Log()
        queued: list[int] = []

        async def script() -> None:
            timer.set(1, period=1, routine=log)
            assert await face.sleep_ex(5.5) == 0  # not alertable
            queued.append(apc.current_thread().statistics().queued)
            assert await face.sleep_ex(0, alertable=True) == WAIT_IO_COMPLETION
            assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION

        stage.start(script)
        stage.advance(6)
        assert queued == [1]
        assert log.seconds == [1, 6]


@pytest.mark.feature("TMR-03")
def test_periods_that_nobody_looked_at_are_one() -> None:
    """A thread that runs code of its own, without entering the dispatcher, for many periods."""
    with Stage(PlainFace()) as stage:
        timer, log = apc.WaitableTimer(), Log()

        async def script() -> None:
            timer.set(1, period=1, routine=log)
            stage.clock._now = 7.25
            assert apc.sleep_ex(0, alertable=True) == WAIT_IO_COMPLETION
            assert timer.statistics() == apc.TimerStatistics(True, 0.75, 1, 0)

        stage.start(script)
        assert log.seconds == [1]


def test_an_absolute_timer_with_a_period(face: Face) -> None:
    with Stage(face) as stage:
        timer, log = apc.WaitableTimer(), Log()

        async def script() -> None:
            timer.set(START + datetime.timedelta(seconds=1), period=2, routine=log)
            while True:
                await face.sleep_ex(None, alertable=True)

        stage.start(script)
        stage.advance(6)
        assert log.seconds == [1, 3, 5]
        timer.cancel()


# Set again and cancelled


@pytest.mark.feature("TMR-04")
@pytest.mark.parametrize("manual", [False, True])
def test_set_again_stops_unsignals_and_takes_back(face: Face, manual: bool) -> None:
    with Stage(face) as stage:
        timer, first, second = apc.WaitableTimer(manual_reset=manual), Log(), Log()

        async def script() -> None:
            thread = apc.current_thread()
            timer.set(0, period=1, routine=first)
            assert timer.is_set()
            assert thread.statistics().queued == 1
            timer.set(10, routine=second)
            assert not timer.is_set()
            assert thread.statistics().queued == 0
            assert await face.sleep_ex(5, alertable=True) == 0
            assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION

        thread = stage.start(script)
        stage.advance(5)
        stage.advance(5)
        assert thread.exit_code == 0
        assert first.calls == []
        assert second.seconds == [10]


@pytest.mark.feature("TMR-04")
def test_set_again_by_another_thread_belongs_to_that_one(face: Face) -> None:
    with Stage(face) as stage:
        timer, log = apc.WaitableTimer(manual_reset=True), Log()
        go = apc.Event()
        results: list[object] = []

        async def first() -> None:
            timer.set(0, routine=log, argument="first")
            await face.wait(go, None)
            results.append(await face.sleep_ex(1, alertable=True))
            assert not apc.current_thread().queue

        async def second() -> None:
            timer.set(2, routine=log, argument="second")
            assert not timer.is_set()
            results.append(await face.sleep_ex(None, alertable=True))

        one = stage.start(first)
        assert one.statistics().queued == 1
        stage.start(second)
        assert one.statistics().queued == 0
        go.set()
        stage.advance(3)
        assert results == [0, WAIT_IO_COMPLETION]
        assert [argument for argument, _ in log.calls] == ["second"]
        assert one.ran == 0


def test_who_waits_stays_blocked_when_the_timer_is_set_again(face: Face) -> None:
    with Stage(face) as stage:
        timer = apc.WaitableTimer()
        results: list[object] = []

        async def script() -> None:
            results.append(await face.wait(timer, None))

        timer.set(100)
        stage.start(script)
        assert timer.statistics() == apc.TimerStatistics(False, 100, 0, 1)
        for due in (50, 5):
            timer.set(due)
            assert timer.statistics().waiters == 1
        stage.advance(4)
        assert results == []
        stage.advance(1)
        assert results == [WAIT_OBJECT_0]


@pytest.mark.feature("TMR-05")
@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_cancel_takes_back_and_keeps_the_signal(face: Face, manual: bool, elsewhere: bool) -> None:
    with Stage(face) as stage:
        timer, log = apc.WaitableTimer(manual_reset=manual), Log()
        go = apc.Event()
        results: list[object] = []

        async def script() -> None:
            timer.set(0, period=1, routine=log)
            if not elsewhere:
                timer.cancel()
            await face.wait(go, None)
            results.append(await face.sleep_ex(0, alertable=True))
            results.append(await face.wait(timer, 0))
            results.append(await face.wait(timer, 5, alertable=True))

        thread = stage.start(script)
        if elsewhere:
            timer.cancel()
        timer.cancel()
        assert timer.statistics() == apc.TimerStatistics(True, None, 1, 0)
        assert thread.statistics().queued == 0
        go.set()
        stage.advance(10)
        assert results == [0, WAIT_OBJECT_0, WAIT_OBJECT_0 if manual else WAIT_TIMEOUT]
        assert log.calls == []


def test_a_timer_that_is_not_due_is_cancelled(face: Face) -> None:
    with Stage(face) as stage:
        timer = apc.WaitableTimer()
        results: list[object] = []

        async def script() -> None:
            results.append(await face.wait(timer, 10))

        timer.set(5)
        stage.start(script)
        timer.cancel()
        stage.advance(10)
        assert results == [WAIT_TIMEOUT]
        assert timer.statistics() == apc.TimerStatistics(False, None, 0, 0)


def test_an_entry_that_was_taken_back_is_not_owed() -> None:
    """Not counted, not warned of, and what it refers to is let go once its thread has looked."""

    class Argument:
        pass

    thread = apc.current_thread()
    timer = apc.WaitableTimer()
    argument = Argument()
    timer.set(0, routine=Log(), argument=argument)
    held = weakref.ref(argument)
    del argument
    canceller = threading.Thread(target=timer.cancel)
    canceller.start()
    canceller.join()
    assert thread.statistics().queued == 0
    assert thread.statistics().oldest is None
    events: list[str] = []

    def tap(_severity: int, event: str, _keys: object) -> None:
        events.append(event)

    trace.add_tap(tap, trace.WARNING)
    try:
        lowlevel.check_overdue(D.clock.now() + 3600, 10)
    finally:
        trace.remove_tap(tap)
    assert events == []
    thread.queue_user_apc(bool)
    assert thread.statistics().queued == 1
    assert apc.test_alert()
    gc.collect()
    assert held() is None


# The thread that has set it


@pytest.mark.feature("TMR-06")
@pytest.mark.parametrize("with_routine", [False, True])
@pytest.mark.parametrize("period", [0, 3])
def test_the_end_of_the_setting_thread(face: Face, with_routine: bool, period: float) -> None:
    with Stage(face) as stage:
        timer, log = apc.WaitableTimer(), Log()
        results: list[object] = []

        async def setter() -> None:
            if with_routine:
                timer.set(5, period=period, routine=log)
            else:
                timer.set(5, period=period)

        async def waiter() -> None:
            results.append(await face.wait(timer, 20))

        stage.start(waiter)
        assert stage.start(setter).gone
        assert (timer.statistics().due_in is None) == with_routine
        stage.advance(25)
        assert results == [WAIT_TIMEOUT if with_routine else WAIT_OBJECT_0]
        assert log.calls == []
        timer.cancel()


@pytest.mark.feature("TMR-06")
def test_the_end_of_the_setting_thread_leaves_the_signal(face: Face) -> None:
    async def script() -> None:
        timer.set(0, period=1, routine=Log())

    timer = apc.WaitableTimer()
    runner = Runner(face, script)
    runner.result()
    apc.wait_for_single_object_ex(runner.thread, None)
    assert timer.statistics() == apc.TimerStatistics(True, None, 1, 0)
    assert runner.thread.statistics().dropped == 1
    assert apc.wait_for_single_object_ex(timer, 0) == WAIT_OBJECT_0


def test_a_thread_that_is_ending_sets_no_timer() -> None:
    refusals: list[apc.ApcError] = []

    class Listener:
        def rehome(self) -> None:
            raise AssertionError

        def thread_ended(self) -> None:
            try:
                apc.WaitableTimer().set(0)
            except apc.ApcError as error:
                refusals.append(error)

    with apc.open_apc_threads() as threads:
        threads.start(lambda: apc.current_thread().homed.add(Listener()), name="ending")
    assert [error.status for error in refusals] == [31]
    assert "thread 'ending' has ended" in str(refusals[0])


# Consumption


@pytest.mark.feature("TMR-07")
@pytest.mark.parametrize("manual", [False, True])
def test_who_is_served(face: Face, manual: bool) -> None:
    with Stage(face) as stage:
        timer = apc.WaitableTimer(manual_reset=manual)
        served: list[int] = []

        def waiter(number: int) -> Callable[[], Coroutine[object, None, None]]:
            async def script() -> None:
                if await face.wait(timer, 100) == WAIT_OBJECT_0:
                    served.append(number)

            return script

        for number in range(3):
            stage.start(waiter(number))
        timer.set(10)
        stage.advance(20)
        assert sorted(served) == ([0, 1, 2] if manual else [0])
        assert timer.is_set() == manual
        timer.set(10, period=10)
        assert not timer.is_set()
        stage.advance(30)
        assert sorted(served) == [0, 1, 2]
        assert timer.is_set()
        timer.cancel()
        assert timer.is_set()
        assert repr(timer) == f"<WaitableTimer {'manual' if manual else 'auto'} set idle waiters=0>"


# Errors


@pytest.mark.feature("TMR-08")
@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_times_that_cannot_be(seconds: float) -> None:
    """There is no resume from sleep to be asked for: `set` has no such parameter."""
    timer = apc.WaitableTimer()
    with refused(87, f"a period is a number of seconds of at least 0, not {seconds!r}"):
        timer.set(0, period=seconds)
    with refused(87, f"a due time is a number of seconds of at least 0, not {seconds!r}"):
        timer.set(seconds)
    assert timer.statistics() == apc.TimerStatistics(False, None, 0, 0)


def test_a_refused_set_leaves_the_timer_as_it_was() -> None:
    timer = apc.WaitableTimer(manual_reset=True)
    timer.set(0)
    timer.set(3600)
    with refused(87, "a period is"):
        timer.set(0, period=-1)
    assert timer.statistics().due_in is not None
    timer.cancel()


def test_a_point_in_time_needs_a_zone() -> None:
    with refused(87, r"2030-01-01 00:00:00 has no time zone; say datetime\(\.\.\., tzinfo=UTC\)"):
        apc.WaitableTimer().set(datetime.datetime(2030, 1, 1))  # noqa: DTZ001


# Many, and all at once


@pytest.mark.parametrize("due", [0.0, 3600.0])
def test_setting_again_and_again_grows_nothing(due: float) -> None:
    thread = apc.current_thread()
    timers = [apc.WaitableTimer() for _ in range(10)]
    alarms, dependents = len(D.alarms), len(thread.dependents)

    def rearm() -> None:
        for _ in range(500):
            for timer in timers:
                timer.set(due, period=7, routine=Log())

    rearm()
    others = [threading.Thread(target=rearm) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    rearm()
    assert len(thread.queue) <= len(timers)
    assert len(thread.dead) <= len(timers)
    assert len(thread.dependents) == dependents + len(timers)
    assert len(D.alarms) - alarms <= 100
    for timer in timers:
        timer.cancel()
    assert not thread.queue
    assert len(thread.dependents) == dependents


def test_a_due_timer_is_fired_while_everybody_sleeps(face: Face) -> None:
    """Real time: nobody has anything to do but this."""
    timer, log = apc.WaitableTimer(), Log()

    async def setter() -> None:
        timer.set(0.02, period=0.01, routine=log)
        while len(log.calls) < 3:
            await face.sleep_ex(None, alertable=True)
        timer.cancel()

    async def waiter() -> None:
        assert await face.wait(timer, None) == WAIT_OBJECT_0

    runners = [Runner(face, waiter), Runner(face, setter)]
    for runner in runners:
        runner.result()
    times = [when for _, when in log.calls]
    assert times == sorted(times)
    assert times[2] - times[0] >= datetime.timedelta(seconds=0.02) - datetime.timedelta(microseconds=10)


def test_a_timer_set_by_a_task_while_the_others_of_its_thread_wait() -> None:
    with Stage(PlainFace()) as stage:
        timer, log = apc.WaitableTimer(), Log()
        got: list[int] = []

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                nursery.start_soon(alert)
                await trio.testing.wait_all_tasks_blocked()
                timer.set(5, routine=log)

        async def wait() -> None:
            got.append(await aio.wait_for_single_object_ex(timer, None))

        async def alert() -> None:
            got.append(await aio.sleep_ex(None, alertable=True))

        thread = stage._block.start(main)
        stage.threads.append(thread)
        until_blocked(thread, 2)
        while timer.statistics().due_in is None:
            stage.settle()
        stage.advance(4)
        assert got == []
        stage.advance(1)
        assert sorted(got) == [WAIT_OBJECT_0, WAIT_IO_COMPLETION]
        assert log.seconds == [5]


async def test_tasks_do_not_wake_each_other_for_an_entry_that_was_taken_back() -> None:
    """Two alertable waits, and a timer that is cancelled between its firing and the drain."""
    thread = apc.current_thread()
    timer = apc.WaitableTimer()
    results: list[apc.WaitResult] = []

    async def alert() -> None:
        results.append(await aio.sleep_ex(None, alertable=True))

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(alert)
        await trio.testing.wait_all_tasks_blocked()
        timer.set(0, routine=Log())
        assert len(thread.waits) == 1
        timer.cancel()
        with trio.fail_after(5):
            await trio.testing.wait_all_tasks_blocked()
        assert results == []
        assert len(thread.waits) == 2
        thread.queue_user_apc(bool)
    assert results == [WAIT_IO_COMPLETION] * 2


def test_an_async_routine_of_a_timer() -> None:
    async def main() -> None:
        got: list[tuple[str, datetime.datetime]] = []

        async def routine(argument: str, low: int, high: int) -> None:
            await aio.sleep_ex(0)
            got.append((argument, apc.filetime(low, high)))

        before = datetime.datetime.now(UTC)
        apc.WaitableTimer().set(0, routine=routine, argument="tick")
        assert await aio.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
        assert got[0][0] == "tick"
        assert abs(got[0][1] - before) < datetime.timedelta(minutes=1)

    trio.run(main)

"""Calls that Ctrl-C strikes, at every place where it can: they have told everybody or nobody, and fire once.

What lives here: calls that signal, queue and fire. The waits that are struck are in `test_signals`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable

import pytest

from apcrt import apc
from apcrt.apc import WAIT_IO_COMPLETION, WAIT_OBJECT_0
from apcrt.apc.lowlevel import D
from tests.apc.faces import Face, PlainFace, Runner, SettableClock, struck, until_blocked


def held_elsewhere(mutex: apc.Mutex) -> Callable[[], None]:
    """Have another thread take a mutex. Returns what makes it release it."""
    let_go = apc.Event()

    async def hold() -> None:
        apc.wait_for_single_object_ex(mutex, None)
        apc.wait_for_single_object_ex(let_go, None)
        mutex.release()

    runner = Runner(PlainFace(), hold)
    until_blocked(runner.thread)

    def release() -> None:
        let_go.set()
        runner.result()

    return release


@pytest.mark.parametrize("period", [0.0, 10.0])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_timer_that_is_struck_as_it_fires_fires_once(absolute: bool, period: float) -> None:
    """Whoever enters the dispatcher fires it; struck, it leaves the rest to whoever comes next, a little later."""
    main, real = apc.current_thread(), D.clock
    place, struck_there = 0, True
    try:
        while struck_there:
            place += 1
            clock = D.clock = SettableClock()
            timer, queued = apc.WaitableTimer(), len(main.queue)
            due = datetime.datetime.fromtimestamp(clock.wall() + 1.1, datetime.UTC) if absolute else 1.1
            timer.set(due, period=period, routine=lambda *_: None)
            clock._now = 1.3
            struck_there = struck(place, lambda: apc.sleep_ex(0))
            clock._now = 1.6
            assert apc.sleep_ex(0) == 0
            assert timer.fired == 1, place
            assert timer.is_set()
            assert len(main.queue) == queued + 1
            due_in = timer.statistics().due_in
            assert due_in is None if not period else due_in == pytest.approx(9.5)
            timer.cancel()
    finally:
        D.clock = real
    assert place > 20


def test_a_mutex_whose_release_is_struck_is_free_or_still_owned() -> None:
    """Never half-way: its former owner's end would abandon what is another's by then."""
    place, struck_there = 0, True
    while struck_there:
        place += 1
        mutex = apc.Mutex(initially_owned=True)
        struck_there = struck(place, mutex.release)
        if mutex.statistics().owner is not None:
            mutex.release()
        release = held_elsewhere(mutex)
        assert mutex.statistics() == apc.MutexStatistics("script", 1, False, 0), place
        assert mutex not in apc.current_thread().dependents, place
        release()
        assert mutex.statistics() == apc.MutexStatistics(None, 0, False, 0), place
    assert place > 5


def timer_producer() -> tuple[apc.Waitable, Callable[[], object]]:
    timer = apc.WaitableTimer()
    return timer, lambda: timer.set(0)


def event_producer() -> tuple[apc.Waitable, Callable[[], object]]:
    event = apc.Event()
    return event, event.set


def pulse_producer() -> tuple[apc.Waitable, Callable[[], object]]:
    event = apc.Event()
    return event, event.pulse


def semaphore_producer() -> tuple[apc.Waitable, Callable[[], object]]:
    semaphore = apc.Semaphore(0, 1)
    return semaphore, semaphore.release


def mutex_producer() -> tuple[apc.Waitable, Callable[[], object]]:
    mutex = apc.Mutex(initially_owned=True)
    return mutex, mutex.release


def port_producer() -> tuple[apc.Waitable, Callable[[], object]]:
    port = apc.CompletionPort()
    return port, port.post


def signal_and_wait_producer() -> tuple[apc.Waitable, Callable[[], object]]:
    first = apc.Event()
    return first, lambda: apc.signal_object_and_wait(first, apc.Event(initial=True), None)


@pytest.mark.parametrize(
    "produce",
    [
        event_producer,
        pulse_producer,
        semaphore_producer,
        mutex_producer,
        timer_producer,
        port_producer,
        signal_and_wait_producer,
    ],
)
def test_a_call_that_signals_does_all_or_nothing(
    face: Face, produce: Callable[[], tuple[apc.Waitable, Callable[[], object]]]
) -> None:
    """Nobody sleeps on with his wait already satisfied."""
    place, struck_there = 0, True
    while struck_there:
        place += 1
        waitable, call = produce()

        async def script(waitable: apc.Waitable = waitable) -> object:
            return await face.wait(waitable, None)

        runner = Runner(face, script)
        until_blocked(runner.thread)
        struck_there = struck(place, call)
        if runner.thread.waits:
            call()
        runner.join(5)
        overslept = runner.is_alive()
        if overslept:
            runner.thread.wake()
        assert runner.result() == WAIT_OBJECT_0
        assert not overslept, place
    assert place > 5


def test_a_call_that_queues_does_all_or_nothing(face: Face) -> None:
    place, struck_there = 0, True
    while struck_there:
        place += 1

        async def script() -> object:
            return await face.sleep_ex(None, alertable=True)

        runner = Runner(face, script)
        until_blocked(runner.thread)
        struck_there = struck(place, lambda: runner.thread.queue_user_apc(bool))  # noqa: B023
        if runner.thread.waits:
            runner.thread.queue_user_apc(bool)
        runner.join(5)
        overslept = runner.is_alive()
        if overslept:
            runner.thread.wake()
        assert runner.result() == WAIT_IO_COMPLETION
        assert not overslept, place
    assert place > 5

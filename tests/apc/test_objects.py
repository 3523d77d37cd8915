"""Events, mutexes, semaphores, on both faces: states, errors, ownership, abandonment, what interrupted waits leave."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import trio
import trio.testing

from apcrt import apc
from apcrt.apc import WAIT_ABANDONED_0, WAIT_IO_COMPLETION, WAIT_OBJECT_0, WAIT_TIMEOUT, WaitCancelled, aio
from apcrt.apc._dispatcher import Wait
from apcrt.apc._operations import abandon, begin
from apcrt.apc.lowlevel import D, Waitable
from tests.apc.faces import Face, Runner, Stage, complete, refused, run, until_blocked

ROOT = Path(__file__).parents[2]


# States


def mutex_taken_twice() -> apc.Mutex:
    mutex = apc.Mutex(initially_owned=True)
    apc.wait_for_single_object_ex(mutex, 0)
    return mutex


def abandoned_mutex() -> apc.Mutex:
    made: list[apc.Mutex] = []
    worker = threading.Thread(target=lambda: made.append(apc.Mutex(initially_owned=True)))
    worker.start()
    worker.join()
    owner = made[0]._owner
    if owner is not None:
        apc.wait_for_single_object_ex(owner, None)
    return made[0]


STATES: list[tuple[Callable[[], apc.Event | apc.Mutex | apc.Semaphore], str, object]] = [
    (apc.Event, "<Event auto unset waiters=0>", apc.EventStatistics(False, 0)),
    (lambda: apc.Event(initial=True), "<Event auto set waiters=0>", apc.EventStatistics(True, 0)),
    (lambda: apc.Event(manual_reset=True), "<Event manual unset waiters=0>", apc.EventStatistics(False, 0)),
    (
        lambda: apc.Event(manual_reset=True, initial=True),
        "<Event manual set waiters=0>",
        apc.EventStatistics(True, 0),
    ),
    (apc.Mutex, "<Mutex free waiters=0>", apc.MutexStatistics(None, 0, False, 0)),
    (
        lambda: apc.Mutex(initially_owned=True),
        "<Mutex owned by 'MainThread' recursion=1 waiters=0>",
        apc.MutexStatistics("MainThread", 1, False, 0),
    ),
    (
        mutex_taken_twice,
        "<Mutex owned by 'MainThread' recursion=2 waiters=0>",
        apc.MutexStatistics("MainThread", 2, False, 0),
    ),
    (abandoned_mutex, "<Mutex abandoned waiters=0>", apc.MutexStatistics(None, 0, True, 0)),
    (lambda: apc.Semaphore(1, 3), "<Semaphore 1/3 waiters=0>", apc.SemaphoreStatistics(1, 3, 0)),
    (lambda: apc.Semaphore(0, 1), "<Semaphore 0/1 waiters=0>", apc.SemaphoreStatistics(0, 1, 0)),
]


@pytest.mark.parametrize(("make", "shown", "statistics"), STATES, ids=[shown for _, shown, _ in STATES])
def test_every_state_is_shown(
    make: Callable[[], apc.Event | apc.Mutex | apc.Semaphore], shown: str, statistics: object
) -> None:
    one = make()
    assert repr(one) == shown
    assert one.statistics() == statistics


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (apc.Event, "<Event auto unset waiters=1>"),
        (lambda: apc.Semaphore(0, 1), "<Semaphore 0/1 waiters=1>"),
        (lambda: apc.Mutex(initially_owned=True), "<Mutex owned by 'MainThread' recursion=1 waiters=1>"),
    ],
)
def test_who_waits_is_counted(
    face: Face, make: Callable[[], apc.Event | apc.Semaphore | apc.Mutex], shown: str
) -> None:
    with Stage(face) as stage:
        one = make()

        async def script() -> None:
            assert await face.wait(one, 10) == WAIT_TIMEOUT

        stage.start(script)
        assert repr(one) == shown
        assert one.statistics().waiters == 1
        stage.advance(10)
        assert one.statistics().waiters == 0


# Errors


@pytest.mark.parametrize(("initial", "maximum"), [(0, 0), (-1, 1), (2, 1), (0, -1)])
def test_semaphores_that_cannot_be(initial: int, maximum: int) -> None:
    with refused(87, f"from 0 to a maximum of at least 1; not from {initial} to {maximum}"):
        apc.Semaphore(initial, maximum)


@pytest.mark.feature("WAIT-06")
def test_a_semaphore_keeps_to_its_maximum() -> None:
    semaphore = apc.Semaphore(1, 3)
    assert semaphore.release() == 1
    for count in (2, 1000):
        with refused(298, rf"Semaphore 2/3 .*cannot be released by {count}"):
            semaphore.release(count)
    assert semaphore.statistics().count == 2
    for count in (0, -1):
        with refused(87, f"by 1 or more, not by {count}"):
            semaphore.release(count)
    assert semaphore.release(1) == 2
    assert semaphore.statistics().count == 3


def test_a_mutex_is_released_by_its_owner_only(face: Face) -> None:
    mutex = apc.Mutex()
    with refused(288, r"Mutex free .*cannot be released by thread 'MainThread'"):
        mutex.release()

    async def script() -> None:
        with refused(288, r"owned by 'MainThread' .*cannot be released by thread 'script'"):
            mutex.release()
        assert await face.wait(mutex, 0) == WAIT_TIMEOUT

    assert apc.wait_for_single_object_ex(mutex, 0) == WAIT_OBJECT_0
    run(face, script)
    assert mutex.statistics().owner == "MainThread"
    mutex.release()


NOT_IN_AN_OPERATION: dict[str, Callable[[], object]] = {
    "release of a mutex": lambda: apc.Mutex(initially_owned=True).release(),
    "release of a semaphore": apc.Semaphore(0, 1).release,
    "set of a timer": lambda: apc.WaitableTimer().set(0),
    "wait": lambda: apc.wait_for_single_object_ex(apc.Event(), 0),
    "signal and wait": lambda: apc.signal_object_and_wait(apc.Event(), apc.Event(), 0),
    "packet": lambda: apc.get_queued_completion_status(apc.CompletionPort(), 0),
    "packets": lambda: apc.get_queued_completion_status_ex(apc.CompletionPort(), 1, 0),
}


@pytest.mark.parametrize("call", NOT_IN_AN_OPERATION.values(), ids=NOT_IN_AN_OPERATION)
def test_what_a_finalizer_inside_the_dispatcher_cannot_do(call: Callable[[], object]) -> None:
    def interrupted(_wakes: object) -> None:
        with refused(87, "finalizer or signal handler"):
            call()

    D.run(interrupted)
    assert not D.busy


@pytest.mark.parametrize(
    "call",
    [apc.Event().set, apc.Event().pulse, apc.WaitableTimer().cancel, apc.CompletionPort().post],
    ids=lambda call: call.__qualname__,
)
def test_what_it_can_do_is_done_when_the_dispatcher_is_left(call: Callable[[], object]) -> None:
    def interrupted(_wakes: object) -> None:
        call()
        assert D.deferred

    D.run(interrupted)
    assert not D.deferred


def test_what_was_made_before_a_fork_says_so() -> None:
    script = """
import datetime, os
from apcrt import apc
mutex, semaphore = apc.Mutex(initially_owned=True), apc.Semaphore(1, 2)
timer, port, event = apc.WaitableTimer(), apc.CompletionPort(), apc.Event(initial=True)
child = os.fork()
if child == 0:
    calls = [event.set, event.reset, event.pulse, mutex.release, semaphore.release, lambda: timer.set(1), timer.cancel,
             port.post, port.close, lambda: apc.get_queued_completion_status(port, 0),
             lambda: apc.get_queued_completion_status_ex(port, 1, 0),
             lambda: apc.signal_object_and_wait(event, apc.Event(), 0),
             lambda: apc.signal_object_and_wait(apc.Event(), event, 0),
             *[lambda one=one: apc.wait_for_single_object_ex(one, 0) for one in (mutex, semaphore, timer, port)]]
    for call in calls:
        try:
            call()
        except apc.ApcError as error:
            assert error.status == 6 and "forked" in str(error), error
        else:
            os._exit(1)
    os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
mutex.release(); semaphore.release(); port.post(1)
print(apc.get_queued_completion_status(port, 0)[1].bytes)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == "1\n", done.stdout + done.stderr


# What a wait takes


@pytest.mark.feature("WAIT-01")
@pytest.mark.feature("WAIT-04")
def test_an_abandoned_mutex_is_granted_and_said_to_be_once(face: Face) -> None:
    async def script() -> None:
        mutex = abandoned_mutex()
        result = await face.wait(mutex, 0)
        assert result == WAIT_ABANDONED_0
        assert repr(result) == "WAIT_ABANDONED_0"
        assert mutex.statistics() == apc.MutexStatistics("script", 1, False, 0)
        assert await face.wait(mutex, 0) == WAIT_OBJECT_0  # recursion
        mutex.release()
        mutex.release()
        assert mutex.statistics() == apc.MutexStatistics(None, 0, False, 0)
        assert await face.wait(mutex, 0) == WAIT_OBJECT_0
        mutex.release()

    run(face, script)


@pytest.mark.feature("WAIT-04")
@pytest.mark.parametrize("blocked", [False, True])
def test_an_abandoned_mutex_in_a_wait_for_several(face: Face, blocked: bool) -> None:
    """Two mutexes and an event; the owner of both mutexes ends while others wait, or before."""
    with Stage(face) as stage:
        leave = apc.Event()
        first, second, event = apc.Mutex(), apc.Mutex(), apc.Event(manual_reset=True, initial=True)
        results: dict[str, apc.WaitResult] = {}

        async def own() -> None:
            assert await face.wait_many([first, second], 0, wait_all=True) == WAIT_OBJECT_0
            await face.wait(leave, None)

        async def wait_for_any() -> None:
            results["any"] = await face.wait_many([apc.Event(), second], None)

        async def wait_for_all() -> None:
            results["all"] = await face.wait_many([event, first, apc.Semaphore(1, 1)], None, wait_all=True)

        owner = stage.start(own)
        for script in (wait_for_any, wait_for_all):
            if blocked:
                stage.start(script)
        assert results == {}
        leave.set()
        stage.settle()
        assert owner.gone
        if not blocked:
            assert first.statistics().abandoned
            assert second.statistics().abandoned
            stage.start(wait_for_any)
            stage.start(wait_for_all)
        assert results == {"any": WAIT_ABANDONED_0 + 1, "all": WAIT_ABANDONED_0}
        assert results["any"].index == 1
        # Those who got them have ended without a release, too.
        assert first.statistics().abandoned
        assert second.statistics().abandoned


async def _return(_face: Face) -> None:
    pass


async def _exit_in_an_apc(face: Face) -> None:
    apc.current_thread().queue_user_apc(apc.exit_thread, 5)
    await face.sleep_ex(None, alertable=True)


async def _exit(_face: Face) -> None:
    apc.exit_thread(5)


@pytest.mark.feature("WAIT-04")
@pytest.mark.parametrize("leave", [_return, _exit, _exit_in_an_apc])
def test_every_end_of_a_thread_abandons_its_mutexes(
    face: Face, leave: Callable[[Face], Coroutine[object, None, None]]
) -> None:
    with Stage(face) as stage:
        mutexes = [apc.Mutex() for _ in range(3)]
        go = apc.Event()
        results: list[apc.WaitResult] = []

        async def own() -> None:
            for mutex in mutexes:
                assert await face.wait(mutex, 0) == WAIT_OBJECT_0
            assert await face.wait(mutexes[1], 0) == WAIT_OBJECT_0  # twice; one end is enough
            mutexes[2].release()
            await face.wait(go, None)
            await leave(face)

        async def wait() -> None:
            results.append(await face.wait_many(mutexes[:2], None, wait_all=True))
            results.append(await face.wait(mutexes[2], 0))

        stage.start(own)
        stage.start(wait)
        go.set()
        stage.settle()
        assert results == [WAIT_ABANDONED_0, WAIT_OBJECT_0]


@pytest.mark.feature("WAIT-04")
def test_a_thread_that_apcrt_has_not_started_abandons_too(face: Face) -> None:
    mutex = apc.Mutex()
    go = apc.Event()

    async def own() -> None:
        await face.wait(mutex, None)
        await face.wait(go, None)

    async def wait() -> object:
        return await face.wait(mutex, None)

    owner = Runner(face, own)
    until_blocked(owner.thread)
    waiter = Runner(face, wait)
    until_blocked(waiter.thread)
    assert mutex.statistics() == apc.MutexStatistics("script", 1, False, 1)
    go.set()
    owner.result()
    assert waiter.result() == WAIT_ABANDONED_0


def test_an_owner_that_was_and_is_not_abandons_nothing(face: Face) -> None:
    mutex = apc.Mutex()

    async def script() -> None:
        await face.wait(mutex, 0)
        mutex.release()

    runner = Runner(face, script)
    runner.result()
    apc.wait_for_single_object_ex(runner.thread, None)
    assert not mutex.statistics().abandoned
    assert apc.wait_for_single_object_ex(mutex, 0) == WAIT_OBJECT_0


@pytest.mark.feature("WAIT-06")
def test_a_mutex_is_handed_on_when_it_was_released_as_often_as_taken(face: Face) -> None:
    with Stage(face) as stage:
        mutex = apc.Mutex(initially_owned=True)
        assert apc.wait_for_single_object_ex(mutex, 0) == WAIT_OBJECT_0
        assert apc.wait_for_multiple_objects_ex([apc.Event(), mutex], 0) == WAIT_OBJECT_0 + 1
        order: list[int] = []

        def waiter(number: int) -> Callable[[], Coroutine[object, None, None]]:
            async def script() -> None:
                assert await face.wait(mutex, None) == WAIT_OBJECT_0
                order.append(number)
                mutex.release()

            return script

        for number in range(3):
            stage.start(waiter(number))
        for left in (2, 1):
            mutex.release()
            stage.settle()
            assert mutex.statistics() == apc.MutexStatistics("MainThread", left, False, 3)
        mutex.release()
        stage.settle()
        assert order == [0, 1, 2]


async def test_the_owner_of_a_mutex_is_the_thread_and_not_the_task() -> None:
    mutex = apc.Mutex()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(aio.wait_for_single_object_ex, mutex, None)
    assert mutex.statistics().recursion == 2
    mutex.release()
    mutex.release()


@pytest.mark.feature("WAIT-06")
def test_a_semaphore_serves_as_many_as_it_counts(face: Face) -> None:
    with Stage(face) as stage:
        semaphore = apc.Semaphore(0, 5)
        served: list[int] = []

        def waiter(number: int) -> Callable[[], Coroutine[object, None, None]]:
            async def script() -> None:
                assert await face.wait(semaphore, None) == WAIT_OBJECT_0
                served.append(number)

            return script

        for number in range(4):
            stage.start(waiter(number))
        assert semaphore.release(2) == 0
        stage.settle()
        assert sorted(served) == [0, 1]
        assert semaphore.release(5) == 0
        stage.settle()
        assert sorted(served) == [0, 1, 2, 3]
        assert semaphore.statistics() == apc.SemaphoreStatistics(3, 5, 0)


@pytest.mark.feature("WAIT-03")
def test_a_wait_for_all_takes_every_kind_at_one_moment(face: Face) -> None:
    with Stage(face) as stage:
        mutex, semaphore, event = apc.Mutex(), apc.Semaphore(1, 1), apc.Event()
        results: list[apc.WaitResult] = []

        async def script() -> None:
            results.append(await face.wait_many([mutex, semaphore, event], None, wait_all=True))
            results.append(await face.wait(apc.Event(), None))

        stage.start(script, name="taker")
        assert (mutex.statistics().owner, semaphore.statistics().count) == (None, 1)
        assert apc.wait_for_single_object_ex(mutex, 0) == WAIT_OBJECT_0
        event.set()
        stage.settle()
        assert results == []
        assert event.is_set()
        assert semaphore.statistics().count == 1
        mutex.release()
        stage.settle()
        assert results == [WAIT_OBJECT_0]
        assert mutex.statistics().owner == "taker"
        assert semaphore.statistics().count == 0
        assert not event.is_set()


@pytest.mark.parametrize("manual", [False, True])
def test_a_pulse_is_not_enough_for_a_wait_that_wants_more(face: Face, manual: bool) -> None:
    with Stage(face) as stage:
        event, other = apc.Event(manual_reset=manual), apc.Event()
        results: list[apc.WaitResult] = []

        async def script() -> None:
            results.append(await face.wait_many([event, other], None, wait_all=True))

        stage.start(script)
        event.pulse()
        other.set()
        stage.settle()
        assert results == []
        assert not event.is_set()
        event.pulse()
        stage.settle()
        assert results == [WAIT_OBJECT_0]


# A wait that is left has consumed nothing


def signaled_event() -> Waitable:
    return apc.Event(initial=True)


def signaled_timer() -> Waitable:
    timer = apc.WaitableTimer()
    timer.set(0)
    return timer


def full_port() -> Waitable:
    port = apc.CompletionPort()
    port.post(1)
    return port


TAKEN: list[Callable[[], Waitable]] = [
    signaled_event,
    signaled_timer,
    apc.Mutex,
    abandoned_mutex,
    lambda: apc.Semaphore(1, 1),
    full_port,
]


@pytest.mark.parametrize("make", TAKEN)
async def test_a_wait_cancelled_by_a_scope_has_consumed_nothing(make: Callable[[], Waitable]) -> None:
    one, never = make(), apc.Event()
    before = repr(one)
    with trio.CancelScope() as scope:
        scope.cancel()
        await aio.wait_for_single_object_ex(one, None)
    assert scope.cancelled_caught
    assert repr(one) == before
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: aio.wait_for_multiple_objects_ex([never, one], None, wait_all=True))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert repr(one) == before
    assert not never.waiters


@pytest.mark.parametrize("make", TAKEN)
def test_a_wait_cancelled_with_its_block_has_consumed_nothing(make: Callable[[], Waitable]) -> None:
    one, never = make(), apc.Event()
    before = repr(one)

    def work() -> None:
        with pytest.raises(WaitCancelled):
            apc.wait_for_multiple_objects_ex([never, one], None, wait_all=True)
        assert repr(one) == before
        with pytest.raises(WaitCancelled):
            apc.wait_for_single_object_ex(one, None)
        assert repr(one) == before

    with apc.open_apc_threads() as threads:
        worker = threads.start(work)
        until_blocked(worker)
        threads.cancel()
    assert worker.exit_code == 0


def interrupted_after(waitable: Waitable, then: Callable[[], object]) -> None:
    """A wait of this thread takes something, `then` something happens, and Ctrl-C keeps the wait from returning."""
    wait = Wait(apc.current_thread(), (waitable,))
    assert D.run(begin, wait, True) == WAIT_OBJECT_0
    then()
    D.run(abandon, wait)


def test_what_is_given_back_does_not_undo_what_others_did_meanwhile() -> None:
    event = apc.Event(manual_reset=True, initial=True)
    interrupted_after(event, event.reset)
    assert not event.is_set()

    semaphore = apc.Semaphore(1, 1)
    interrupted_after(semaphore, semaphore.release)
    assert semaphore.statistics().count == 1

    timer = apc.WaitableTimer(manual_reset=True)
    timer.set(0)
    interrupted_after(timer, lambda: timer.set(3600))
    assert not timer.is_set()
    timer.cancel()


def test_what_is_given_back_goes_to_the_next_in_line(face: Face) -> None:
    semaphore = apc.Semaphore(1, 1)
    runners: list[Runner[object]] = []

    async def script() -> object:
        return await face.wait(semaphore, None)

    def another_waits() -> None:
        runners.append(Runner(face, script))
        until_blocked(runners[0].thread)

    interrupted_after(semaphore, another_waits)
    assert runners[0].result() == WAIT_OBJECT_0
    assert semaphore.statistics().count == 0


def test_an_abandoned_mutex_that_is_given_back_is_abandoned_still() -> None:
    mutex = abandoned_mutex()
    wait = Wait(apc.current_thread(), (mutex,))
    assert D.run(begin, wait, True) == WAIT_ABANDONED_0
    D.run(abandon, wait)
    assert mutex.statistics() == apc.MutexStatistics(None, 0, True, 0)
    assert mutex not in apc.current_thread().dependents


def test_an_apc_ends_a_wait_for_each_kind_and_takes_nothing(face: Face) -> None:
    for make in TAKEN:
        one = make()
        before = repr(one)

        async def script(one: Waitable = one) -> None:
            apc.current_thread().queue_user_apc(bool)
            assert await face.wait(one, None, alertable=True) == WAIT_IO_COMPLETION

        run(face, script)
        assert repr(one) == before


# Signal and wait


@pytest.mark.feature("WAIT-07")
def test_signal_and_wait_signals_first(face: Face) -> None:
    async def script() -> None:
        event = apc.Event()
        assert await face.signal_and_wait(event, event, 0) == WAIT_OBJECT_0  # by its own signal
        assert not event.is_set()
        semaphore, mutex = apc.Semaphore(0, 1), apc.Mutex(initially_owned=True)
        assert await face.signal_and_wait(semaphore, apc.Event(), 0) == WAIT_TIMEOUT
        assert semaphore.statistics().count == 1
        assert await face.signal_and_wait(mutex, semaphore, None) == WAIT_OBJECT_0
        assert mutex.statistics().owner is None
        assert await face.signal_and_wait(event, abandoned_mutex(), 0) == WAIT_ABANDONED_0
        assert event.is_set()
        # The signal stands when an APC ends the wait, and what it waited for stays.
        apc.current_thread().queue_user_apc(bool)
        event.reset()
        other = apc.Event(initial=True)
        assert await face.signal_and_wait(event, other, None, alertable=True) == WAIT_IO_COMPLETION
        assert event.is_set()
        assert other.is_set()
        assert await face.signal_and_wait(event, other, 0, alertable=True) == WAIT_OBJECT_0

    run(face, script)


@pytest.mark.feature("WAIT-07")
def test_what_cannot_be_signaled_is_not_waited_for(face: Face) -> None:
    async def script() -> None:
        goal = apc.Event(initial=True)
        full, held = apc.Semaphore(1, 1), apc.Mutex()
        cases: list[tuple[int, str, object, object, float]] = [
            (6, "not a waitable object", "an event", goal, 0),
            (6, "not a waitable object", apc.Event(), None, 0),
            (6, "is not an event, a mutex or a semaphore", apc.WaitableTimer(), goal, 0),
            (6, "is not an event, a mutex or a semaphore", apc.CompletionPort(), goal, 0),
            (6, "is not an event, a mutex or a semaphore", apc.current_thread(), goal, 0),
            (288, "cannot be released by thread 'script'", held, goal, 0),
            (298, "cannot be released by 1", full, goal, 0),
            (87, "a time-out is seconds", apc.Event(), goal, -1),
        ]
        apc.current_thread().queue_user_apc(bool)
        for status, message, first, second, seconds in cases:
            with refused(status, message):
                await face.signal_and_wait(first, second, seconds, alertable=True)  # type: ignore[arg-type]
        assert goal.is_set()
        assert apc.current_thread().statistics().queued == 1

    run(face, script)


@pytest.mark.feature("WAIT-07")
def test_no_wake_up_is_lost_when_two_hand_over_to_each_other(face: Face) -> None:
    """Were there a gap between signal and wait, a pulse of the other would fall into it sooner or later."""
    rounds = 2000
    ping, pong = apc.Event(), apc.Event()
    turns: list[str] = []

    async def first() -> None:
        for _ in range(rounds):
            turns.append("first")
            assert await face.signal_and_wait(ping, pong, None) == WAIT_OBJECT_0

    async def second() -> None:
        assert await face.wait(ping, None) == WAIT_OBJECT_0
        for number in range(rounds):
            turns.append("second")
            if number < rounds - 1:
                assert await face.signal_and_wait(pong, ping, None) == WAIT_OBJECT_0
            else:
                pong.set()

    runners = [Runner(face, second), Runner(face, first)]
    for runner in runners:
        runner.result()
    assert turns == ["first", "second"] * rounds


@pytest.mark.feature("WAIT-07")
def test_whoever_the_signal_wakes_finds_the_other_waiting(face: Face) -> None:
    """A pulse reaches only who waits at that moment: with a gap between signal and wait it would reach nobody."""
    rounds = 500
    mutex, condition = apc.Mutex(), apc.Event(manual_reset=True)

    async def waiter() -> None:
        for _ in range(rounds):
            await face.wait(mutex, None)
            entered.release()
            assert await face.signal_and_wait(mutex, condition, None) == WAIT_OBJECT_0

    entered = threading.Semaphore(0)
    runner = Runner(face, waiter)
    for _ in range(rounds):
        entered.acquire()
        apc.wait_for_single_object_ex(mutex, None)  # had only when the other waits for the condition
        assert len(condition.waiters) == 1
        condition.pulse()
        mutex.release()
    runner.result()


async def test_a_cancelled_signal_and_wait() -> None:
    first, second = apc.Event(), apc.Event(initial=True)
    with trio.CancelScope() as scope:
        scope.cancel()
        await aio.signal_object_and_wait(first, second, None)
    assert not first.is_set()
    assert second.is_set()
    second.reset()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(aio.signal_object_and_wait, first, second, None)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert first.is_set()
    assert not second.waiters


def test_the_plain_functions_name_their_twins() -> None:
    async def wrong(name: str, call: Callable[[], object]) -> None:
        with refused(87, rf"would block the trio loop of this thread; use: await apcrt\.apc\.aio\.{name}\("):
            call()

    port, event = apc.CompletionPort(), apc.Event()
    calls: dict[str, Callable[[], object]] = {
        "signal_object_and_wait": lambda: apc.signal_object_and_wait(event, event, 0),
        "get_queued_completion_status": lambda: apc.get_queued_completion_status(port, 0),
        "get_queued_completion_status_ex": lambda: apc.get_queued_completion_status_ex(port, 1, 0),
    }
    for name, call in calls.items():
        trio.run(wrong, name, call)
    assert not event.is_set()
    twins: dict[str, Coroutine[object, None, object]] = {
        "signal_object_and_wait": aio.signal_object_and_wait(event, event, 0),
        "get_queued_completion_status": aio.get_queued_completion_status(port, 0),
        "get_queued_completion_status_ex": aio.get_queued_completion_status_ex(port, 1, 0),
    }
    for name, twin in twins.items():
        with refused(87, rf"apc\.aio\.{name} needs a trio loop on this thread; the blocking twin is apc\.{name}"):
            complete(twin)

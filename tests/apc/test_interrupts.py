"""Ctrl-C wherever it can strike: a wait that is left has consumed nothing, a call that is left has told all or none.

Every wait is called again and again, interrupted at its first, second, third place, until it gets through. Blocked ones
are ended by another thread meanwhile. What an interrupted wait leaves must look as if it had never begun.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

import pytest

from apcrt import apc
from apcrt.apc import WAIT_IO_COMPLETION, WAIT_OBJECT_0
from tests.apc.faces import Face, PlainFace, Runner, struck, until, until_blocked

PACKETS = [apc.CompletionPacket(number) for number in range(3)]


@dataclass(frozen=True)
class Case:
    """One wait, and what it is for."""

    waits: Callable[[Face], Coroutine[object, None, object]]
    make_ready: Callable[[], object]
    look: Callable[[], object]
    """A value that tells whether anything was taken."""


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


def abandoned_elsewhere(mutex: apc.Mutex) -> Callable[[], None]:
    """The same, and it ends without a release."""
    let_go = apc.Event()

    async def hold() -> None:
        apc.wait_for_single_object_ex(mutex, None)
        apc.wait_for_single_object_ex(let_go, None)

    runner = Runner(PlainFace(), hold)
    until_blocked(runner.thread)

    def leave() -> None:
        let_go.set()
        runner.result()

    return leave


def event_case(manual: bool) -> Case:
    event = apc.Event(manual_reset=manual)
    return Case(lambda face: face.wait(event, None), event.set, event.statistics)


def semaphore_case() -> Case:
    semaphore = apc.Semaphore(0, 2)
    return Case(lambda face: face.wait(semaphore, None), semaphore.release, semaphore.statistics)


def mutex_case(hold: Callable[[apc.Mutex], Callable[[], None]]) -> Case:
    mutex = apc.Mutex()
    return Case(lambda face: face.wait(mutex, None), hold(mutex), mutex.statistics)


def timer_case(manual: bool) -> Case:
    timer = apc.WaitableTimer(manual_reset=manual)
    return Case(lambda face: face.wait(timer, None), lambda: timer.set(0), timer.statistics)


def any_case() -> Case:
    never, semaphore, event = apc.Event(), apc.Semaphore(0, 2), apc.Event()

    def ready() -> None:
        semaphore.release()
        event.set()

    return Case(
        lambda face: face.wait_many([never, semaphore, event], None, alertable=True),
        ready,
        lambda: (never.statistics(), semaphore.statistics(), event.statistics()),
    )


def all_case() -> Case:
    mutex, semaphore, event = apc.Mutex(), apc.Semaphore(0, 2), apc.Event()
    leave = abandoned_elsewhere(mutex)

    def ready() -> None:
        semaphore.release()
        leave()
        event.set()

    return Case(
        lambda face: face.wait_many([mutex, semaphore, event], None, wait_all=True),
        ready,
        lambda: (mutex.statistics(), semaphore.statistics(), event.statistics()),
    )


def signal_and_wait_case() -> Case:
    first, second = apc.Event(manual_reset=True), apc.Event()
    return Case(lambda face: face.signal_and_wait(first, second, None), second.set, second.statistics)


def packet_case(most: int | None) -> Case:
    port = apc.CompletionPort()

    def post() -> None:
        for packet in PACKETS:
            port.post(packet.bytes)

    def wait(face: Face) -> Coroutine[object, None, object]:
        return face.get(port, None) if most is None else face.get_ex(port, most, None, alertable=True)

    return Case(wait, post, lambda: (port.queued, len(port.waiters)))


CASES: dict[str, Callable[[], Case]] = {
    "auto-reset event": lambda: event_case(False),
    "manual-reset event": lambda: event_case(True),
    "semaphore": semaphore_case,
    "mutex": lambda: mutex_case(held_elsewhere),
    "abandoned mutex": lambda: mutex_case(abandoned_elsewhere),
    "synchronization timer": lambda: timer_case(False),
    "manual-reset timer": lambda: timer_case(True),
    "any": any_case,
    "all": all_case,
    "signal and wait": signal_and_wait_case,
    "a packet": lambda: packet_case(None),
    "packets": lambda: packet_case(2),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Callable[[], Case]:
    """Makes a case of each kind in turn."""
    return CASES[request.param]


def wait_struck(face: Face, case: Case, place: int) -> tuple[bool, bool]:
    """Returns whether Ctrl-C came, and whether the wait has returned all the same."""
    returned: list[object] = []

    async def script() -> None:
        returned.append(await case.waits(face))

    struck_there = struck(place, lambda: face.run(script))
    assert not apc.current_thread().waits, place
    assert not apc.current_thread().drains, place
    return struck_there, bool(returned)


def test_a_wait_that_need_not_block(face: Face, case: Callable[[], Case]) -> None:
    place, struck_there = 0, True
    while struck_there:
        place += 1
        one = case()
        one.make_ready()
        before = one.look()
        struck_there, returned = wait_struck(face, one, place)
        assert returned or one.look() == before, place
    assert place > 5
    assert returned


def test_a_blocked_wait(face: Face, case: Callable[[], Case]) -> None:
    main = apc.current_thread()
    place, struck_there = 0, True
    while struck_there:
        place += 1
        one, untouched = case(), case()
        untouched.make_ready()
        left = threading.Event()

        def make_ready(one: Case = one, left: threading.Event = left) -> None:
            until(lambda: main.waits or left.is_set())
            one.make_ready()

        helper = threading.Thread(target=make_ready)
        helper.start()
        struck_there, returned = wait_struck(face, one, place)
        left.set()
        helper.join()
        assert returned or one.look() == untouched.look(), place
    assert place > 5
    assert returned


def test_a_wait_that_runs_apcs(face: Face) -> None:
    """What was called is not queued any more, what was not called is: nothing is lost, nothing comes twice."""
    main = apc.current_thread()
    place, struck_there = 0, True
    while struck_there:
        place += 1
        got: list[int] = []
        event = apc.Event(initial=True)
        for number in range(3):
            main.queue_user_apc(got.append, number)
        case = Case(lambda face: face.wait(event, None, alertable=True), bool, bool)  # noqa: B023
        struck_there, _ = wait_struck(face, case, place)
        assert event.is_set()
        apc.test_alert()
        assert got == [0, 1, 2], place
    assert place > 20


def test_routines_are_interrupted_at_once(face: Face) -> None:
    """Also on a trio thread, whose waits are interrupted at checkpoints only."""

    def plain() -> None:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        got.append("plain")

    async def waiting() -> None:
        await face.sleep_ex(0)
        plain()

    async def script() -> None:
        apc.current_thread().queue_user_apc(plain)
        apc.current_thread().queue_user_apc(face.routine(waiting))
        assert await face.sleep_ex(0, alertable=True) == WAIT_IO_COMPLETION

    got: list[str] = []
    face.run(script)
    assert got == ["plain", "plain"]


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

"""The Port, the Latch, and the rest of the seam that connections are driven through."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial

import pytest
import trio
import trio.testing

from apcrt import apc
from apcrt.apc import WAIT_IO_COMPLETION, WAIT_OBJECT_0, ApcError, aio, lowlevel
from apcrt.apc.lowlevel import HANGUP, READ, WRITE, Latch, Port
from tests.apc.faces import Face, PlainFace, Runner, run, until, until_blocked


class Recorder:
    """A source that notes its events, and does something with each."""

    def __init__(self, react: Callable[[int, int], object] = lambda _fd, _events: None) -> None:
        self.events: list[tuple[int, int]] = []
        self.threads: set[int] = set()
        self._react = react

    def owes(self) -> bool:
        return True

    def service(self, fd: int, events: int) -> None:
        self.events.append((fd, events))
        self.threads.add(threading.get_ident())
        self._react(fd, events)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        yield left, right


@pytest.fixture
def port() -> Iterator[Port]:
    port = Port(lambda: None)
    with contextlib.closing(port):
        yield port


Pair = tuple[socket.socket, socket.socket]


def test_an_armed_source_is_told_once(port: Port, pair: Pair) -> None:
    left, right = pair
    source = Recorder()
    port.arm(left.fileno(), READ, source)
    assert port.service(0) == 0
    right.send(b"x")
    assert port.service(None) == 1
    assert source.events == [(left.fileno(), READ)]
    assert port.service(0) == 0  # one-shot, though the byte is still there
    port.arm(left.fileno(), READ | WRITE, source)
    assert port.service(0) == 1
    assert source.events[-1] == (left.fileno(), READ | WRITE)


def test_arming_replaces_and_zero_reports_nothing(port: Port, pair: Pair) -> None:
    left, right = pair
    first, second = Recorder(), Recorder()
    port.arm(left.fileno(), WRITE, first)
    port.arm(left.fileno(), READ, second)
    assert port.service(0) == 0
    port.arm(left.fileno(), 0, first)
    right.send(b"x")
    right.close()
    assert port.service(0) == 0
    assert port.armed
    port.arm(left.fileno(), READ, second)
    assert port.service(0) == 1
    assert first.events == []


def test_hangup_is_told_with_all_that_was_asked(port: Port, pair: Pair) -> None:
    left, right = pair
    source = Recorder()
    port.arm(left.fileno(), HANGUP, source)
    right.send(b"x")
    assert port.service(0) == 0
    right.close()
    assert port.service(None) == 1
    assert source.events[-1][1] & HANGUP
    port.arm(left.fileno(), READ | WRITE, source)
    assert port.service(None) == 1
    assert source.events[-1][1] == READ | WRITE | HANGUP


def test_disarm_forgets_and_unknown_descriptors_are_ignored(port: Port, pair: Pair) -> None:
    left, right = pair
    source = Recorder()
    port.arm(left.fileno(), READ, source)
    right.send(b"x")
    port.disarm(left.fileno())
    port.disarm(left.fileno())
    port.disarm(99999)
    assert port.service(0) == 0
    assert not port.armed


def test_numbers_that_were_closed_and_used_again(port: Port, pair: Pair) -> None:
    left, right = pair
    source = Recorder()
    number = os.dup(left.fileno())
    port.arm(number, READ, source)
    os.close(number)
    again = os.dup(left.fileno())
    try:
        assert again == number
        port.arm(again, READ, source)  # known to us, forgotten by the kernel
        right.send(b"x")
        assert port.service(0) >= 1
    finally:
        port.disarm(again)
        os.close(again)


def test_what_cannot_be_polled_is_an_error_and_not_kept(port: Port) -> None:
    with open(__file__, "rb") as file, pytest.raises(OSError, match="not permitted"):
        port.arm(file.fileno(), READ, Recorder())
    assert not port.armed


def test_an_interrupt_loses_no_event(port: Port) -> None:
    """The kernel reports an event once; one that was torn from the poller's hands must come again."""
    pairs = [socket.socketpair() for _ in range(4)]
    struck = 0

    def react(_fd: int, _events: int) -> None:
        nonlocal struck
        struck += 1
        if struck == 2:
            raise KeyboardInterrupt

    source = Recorder(react)
    for left, right in pairs:
        port.arm(left.fileno(), READ, source)
        right.send(b"x")
    with pytest.raises(KeyboardInterrupt):
        port.service(0)
    port.service(0)
    assert {fd for fd, _ in source.events} == {left.fileno() for left, _ in pairs}
    for left, right in pairs:
        port.disarm(left.fileno())
        left.close()
        right.close()


def test_wakes_and_owing(pair: Pair) -> None:
    woken: list[int] = []
    port = Port(lambda: woken.append(1))
    left, right = pair
    assert not port.owes()
    port.wake()
    port.wake()
    assert not port.owes()
    assert port.service(None) == 0
    assert woken == [1]
    assert not port.owes()
    port.arm(left.fileno(), READ, Recorder())
    right.send(b"x")
    assert port.owes()
    assert "armed=1" in repr(port)
    assert port.service(0) == 1
    assert not port.owes()  # told, and not armed again
    port.arm(left.fileno(), READ, Recorder())
    assert port.owes()
    port.close()
    port.close()
    port.wake()
    port.arm(left.fileno(), READ, Recorder())
    port.disarm(left.fileno())
    assert not port.owes()
    assert not port.armed
    assert "closed" in repr(port)


def test_any_thread_arms_while_the_home_sleeps(face: Face, pair: Pair) -> None:
    left, right = pair
    got: list[bytes] = []

    def receive(_fd: int, _events: int) -> None:
        got.append(left.recv(10))
        wakes: list[apc.ApcThread] = []
        lowlevel.post(runner.thread, bool, (), source="io", wakes=wakes)
        lowlevel.wake(wakes)

    source = Recorder(receive)

    async def script() -> tuple[apc.WaitResult, int]:
        return await face.sleep_ex(None, alertable=True), threading.get_ident()

    runner: Runner[tuple[apc.WaitResult, int]] = Runner(face, script)
    until_blocked(runner.thread)
    runner.thread.port.arm(left.fileno(), READ, source)
    right.send(b"hello")
    result, ident = runner.result()
    assert result == WAIT_IO_COMPLETION
    assert got == [b"hello"]
    assert source.threads == {ident}


def test_closing_an_armed_descriptor_from_elsewhere_wakes_its_sleeper(face: Face, pair: Pair) -> None:
    """Not the closing does it: it posts first, then wakes."""
    left, _ = pair
    aborted: list[str] = []

    async def script() -> None:
        thread = apc.current_thread()
        thread.port.arm(left.fileno(), READ, Recorder())
        assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
        assert aborted == ["aborted"]

    runner = Runner(face, script)
    until_blocked(runner.thread)
    wakes: list[apc.ApcThread] = []
    runner.thread.port.disarm(left.fileno())
    lowlevel.post(runner.thread, aborted.append, ("aborted",), source="call", wakes=wakes)
    left.close()
    lowlevel.wake(wakes)
    assert wakes == []
    runner.result()


def test_a_queue_that_is_never_empty_does_not_starve_io(face: Face, pair: Pair) -> None:
    left, right = pair
    stop: list[int] = []

    async def script() -> None:
        thread = apc.current_thread()

        def again() -> None:
            if not stop:
                thread.queue_user_apc(again)

        thread.port.arm(left.fileno(), READ, Recorder(lambda _fd, _events: stop.append(1)))
        right.send(b"x")
        thread.queue_user_apc(again)
        assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION

    run(face, script)


def test_a_wait_of_no_time_sees_what_the_kernel_has(face: Face, pair: Pair) -> None:
    left, right = pair

    async def script() -> None:
        thread = apc.current_thread()

        def post(_fd: int, _events: int) -> None:
            wakes: list[apc.ApcThread] = []
            assert lowlevel.post(thread, bool, (), source="io", wakes=wakes)
            lowlevel.wake(wakes)

        thread.port.arm(left.fileno(), READ, Recorder(post))
        assert await face.sleep_ex(0, alertable=True) == 0
        right.send(b"x")
        assert await face.sleep_ex(0, alertable=True) == WAIT_IO_COMPLETION

    run(face, script)


def _latch_wait(face: Face) -> Callable[[Latch], Coroutine[object, None, object]]:
    async def blocking(latch: Latch) -> None:
        assert latch.wait()

    async def trio_face(latch: Latch) -> None:
        await latch.wait_async()

    return blocking if isinstance(face, PlainFace) else trio_face


def test_a_latch_is_set_from_another_thread(face: Face) -> None:
    wait = _latch_wait(face)
    latches = [Latch() for _ in range(100)]
    at = 0

    async def script() -> None:
        nonlocal at
        apc.current_thread().queue_user_apc(pytest.fail, "a latch is not alertable")
        for number, latch in enumerate(latches):
            at = number
            await wait(latch)
            await wait(latch)  # set already

    def reached(number: int) -> bool:
        return at == number

    runner = Runner(face, script)
    for number, latch in enumerate(latches):
        if number % 2:
            until(partial(reached, number))
        wakes: list[apc.ApcThread] = []
        latch.set(wakes)
        latch.set(wakes)
        lowlevel.wake(wakes)
        assert latch.is_set
    runner.result()
    assert "set" in repr(latches[0])


def test_a_latch_set_by_the_source_that_its_wait_services(face: Face, pair: Pair) -> None:
    left, right = pair
    wait = _latch_wait(face)

    async def script() -> None:
        for _ in range(50):
            latch = Latch()

            def receive(_fd: int, _events: int, latch: Latch = latch) -> None:
                left.recv(10)
                wakes: list[apc.ApcThread] = []
                latch.set(wakes)
                lowlevel.wake(wakes)

            apc.current_thread().port.arm(left.fileno(), READ, Recorder(receive))
            ready.release()
            await wait(latch)

    ready = threading.Semaphore(0)
    runner = Runner(face, script)
    for _ in range(50):
        ready.acquire()
        right.send(b"x")
    runner.result()


def test_a_latch_times_out() -> None:
    latch = Latch()
    assert latch.wait(0) is False
    assert latch.wait(0.001) is False
    latch.set([])
    assert latch.wait(0) is True


async def test_a_cancelled_latch_wait_changes_nothing() -> None:
    latch = Latch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(latch.wait_async)
        await trio.testing.wait_all_tasks_blocked()
        assert "awaited" in repr(latch)
        with pytest.raises(ApcError, match="already"):
            await latch.wait_async()
        nursery.cancel_scope.cancel()
    wakes: list[apc.ApcThread] = []
    latch.set(wakes)
    lowlevel.wake(wakes)
    with trio.testing.assert_checkpoints():
        await latch.wait_async()
    with pytest.raises(ApcError, match="wait_async"):
        latch.wait()


async def test_many_streams_do_not_wake_each_other() -> None:
    latches = [Latch() for _ in range(50)]
    ended: list[int] = []

    async def stream(number: int) -> None:
        await latches[number].wait_async()
        ended.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(stream, number)
        await trio.testing.wait_all_tasks_blocked()
        apc.current_thread().queue_user_apc(bool)
        await aio.sleep_ex(0, alertable=True)
        for number in reversed(range(50)):
            wakes: list[apc.ApcThread] = []
            latches[number].set(wakes)
            lowlevel.wake(wakes)
            await trio.testing.wait_all_tasks_blocked()
            assert ended == list(reversed(range(number, 50)))


def test_a_latch_belongs_to_its_thread() -> None:
    other = Runner(PlainFace(), _finish)
    latch = Latch(other.thread)
    other.result()
    with pytest.raises(ApcError, match="belongs to"):
        latch.wait()


async def _finish() -> None:
    pass


def test_every_wait_flushes_first(face: Face) -> None:
    wait = _latch_wait(face)

    class Dirty:
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    async def script() -> None:
        thread = apc.current_thread()
        dirty = Dirty()
        event = apc.Event(initial=True)
        latch = Latch()
        latch.set([])
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: face.sleep_ex(0),
            lambda: face.wait(event, None),
            face.test_alert,
            lambda: wait(latch),
        ]
        for number, call in enumerate(calls, start=1):
            thread.add_dirty(dirty)
            thread.add_dirty(dirty)
            await call()
            assert dirty.flushed == number

    run(face, script)


def test_drives_says_who_services_the_port(face: Face) -> None:
    stop = apc.Event()

    async def script() -> None:
        await face.wait(stop, None)

    runner = Runner(face, script)
    until_blocked(runner.thread)
    assert runner.thread.drives
    stop.set()
    runner.result()
    assert not runner.thread.drives


async def test_a_source_that_raises_in_the_pump_is_reported_and_survived(pair: Pair) -> None:
    from apcrt import trace

    left, right = pair
    seen: list[str] = []

    def tap(_severity: int, event: str, _keys: object) -> None:
        seen.append(event)

    def fail(_fd: int, _events: int) -> None:
        raise LookupError

    trace.add_tap(tap)
    try:
        lowlevel.ensure_pump()
        apc.current_thread().port.arm(left.fileno(), READ, Recorder(fail))
        right.send(b"x")
        with trio.fail_after(5):
            while "thread.service_failed" not in seen:
                await trio.testing.wait_all_tasks_blocked()
        apc.current_thread().port.disarm(left.fileno())
        event = apc.Event(initial=True)
        assert await aio.wait_for_single_object_ex(event, None) == WAIT_OBJECT_0
    finally:
        trace.remove_tap(tap)


def test_the_pump_needs_a_loop() -> None:
    assert not lowlevel.in_trio_run()
    with pytest.raises(ApcError):
        lowlevel.ensure_pump()

"""Signals in the middle of everything: handlers that queue, set and post.

Storms of real signals strike the main thread of a process of its own. And Ctrl-C is had, one after the other, at each
moment at which CPython lets it in.
"""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TypeVar
from unittest import mock

import pytest
import trio
from trio._core import _ki

from apcrt import apc
from apcrt.apc import _port, aio

T = TypeVar("T")

HEAD = """
import os, signal, sys, threading
import trio
from apcrt import apc
from apcrt.apc import aio

main, port, event = apc.current_thread(), apc.CompletionPort(), apc.Event()
over = False

def strike(number):
    while not over:
        signal.pthread_kill(threading.main_thread().ident, number)
        for _ in range(20): os.sched_yield()

def until(condition):
    while not condition(): os.sched_yield()
"""

HANDLER = """
ROUNDS = 3000
handled, ran, got, wakes = 0, [], [], 0

within = False

def handler(*_):
    global handled, within
    if within or handled >= ROUNDS: return  # handlers nest, and a nested one would come before its elder
    within = True
    main.queue_user_apc(ran.append, handled)
    port.post(handled)
    event.set()
    handled += 1
    within = False

def busy():
    # Entered again and again, so that handlers find D held by their own thread.
    other.set(); other.reset(); mine.release(); mine.release()

other, mine = apc.Event(manual_reset=True), apc.Semaphore(0, 10_000_000)
signal.signal(signal.SIGUSR1, handler)
striker = threading.Thread(target=strike, args=(signal.SIGUSR1,))
striker.start()

def plain():
    while handled < ROUNDS:
        apc.wait_for_single_object_ex(event, 5, alertable=True)
        got.extend(packet.bytes for packet in apc.get_queued_completion_status_ex(port, 64, 0)[1])
        busy()

async def task():
    while handled < ROUNDS:
        await aio.wait_for_single_object_ex(event, 5, alertable=True)
        got.extend(packet.bytes for packet in (await aio.get_queued_completion_status_ex(port, 64, 0))[1])
        busy()

plain() if sys.argv[1] == "plain" else trio.run(task)
over = True
striker.join()
apc.test_alert()
got.extend(packet.bytes for packet in apc.get_queued_completion_status_ex(port, ROUNDS, 0)[1])
assert ran == list(range(handled)), (len(ran), handled)
assert got == list(range(handled)), (len(got), handled)
assert not main.queue and not main.waits and not event.waiters
"""

CTRL_C = """
MOST = 4000
semaphore = apc.Semaphore(0, MOST)
ran, got, taken, strikes = [], [], 0, 0

def produce():
    for number in range(MOST):
        semaphore.release()
        port.post(number)
        main.queue_user_apc(ran.append, number)

armed = False

def handler(*_):
    # Disarmed by itself: no strike falls on what deals with the last one.
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, handler)
producer, striker = threading.Thread(target=produce), threading.Thread(target=strike, args=(signal.SIGINT,))
producer.start(); striker.start()
while True:
    try:
        armed = True
        while taken < MOST or len(got) < MOST:
            if taken < MOST:
                taken += apc.wait_for_single_object_ex(semaphore, 0, alertable=True) == 0
            if len(got) < MOST:
                got += apc.get_queued_completion_status_ex(port, 3, 0.001, alertable=True)[1]
            if not producer.is_alive() and not semaphore.statistics().count and not port.queued: break
        armed = False
        break
    except KeyboardInterrupt:
        strikes += 1
signal.signal(signal.SIGINT, signal.SIG_IGN)
over = True
producer.join(); striker.join()
apc.test_alert()
assert taken + semaphore.statistics().count == MOST, (taken, semaphore)
assert [packet.bytes for packet in got] == list(range(MOST)), (len(got), port, strikes)
assert main.ran == MOST and ran == sorted(set(ran)), (main.ran, len(ran))
assert not main.queue and not main.waits and not main.drains
"""


@pytest.mark.parametrize("face", ["plain", "trio"])
def test_a_handler_may_queue_set_and_post_at_any_moment(face: str) -> None:
    """Whatever it interrupts, the dispatcher's own operations included: all of it happens, once and in order."""
    _run(HANDLER, face)


def test_ctrl_c_loses_neither_counts_nor_packets() -> None:
    """What a struck wait had taken is given back; what it has returned is whole."""
    _run(CTRL_C)


def _run(script: str, *arguments: str) -> None:
    root = Path(__file__).parents[2]
    # Coverage, which would follow into the process, takes a lock that such a storm may find taken.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", HEAD + script, *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        env=plain,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# Ctrl-C after every call


class Struck:
    """A profile function that is Ctrl-C, the so many-th time that it could come.

    CPython looks for signals when a Python function starts and when a call into C has returned; these are the
    events of a profile function.
    """

    def __init__(self, moment: int, may: Callable[[FrameType], bool] = bool) -> None:
        self.left = moment
        self.may = may

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event in ("call", "c_return") and frame.f_code.co_filename != __file__ and self.may(frame):
            self.left -= 1
            if self.left == 0:
                sys.setprofile(None)
                raise KeyboardInterrupt


def strikes(function: Callable[[], T], check: Callable[[T | None], None]) -> int:
    """`check` is called after each try, with the result, or None when it was struck. Returns how often it was."""
    for moment in itertools.count(1):
        result = None
        struck = False
        gc.disable()  # its callbacks belong to others, and would be struck instead
        sys.setprofile(Struck(moment))
        try:
            result = function()
        except KeyboardInterrupt:
            struck = True
        finally:
            sys.setprofile(None)
            gc.enable()
        check(result)
        if not struck:
            return moment - 1
    raise AssertionError


@pytest.mark.parametrize("blocked", [False, True], ids=["at once", "blocked"])
@pytest.mark.parametrize("kind", ["wait", "wait any", "wait all", "signal and wait", "get", "get_ex"])
def test_a_struck_wait_has_taken_nothing(kind: str, blocked: bool) -> None:
    """Its object, count, ownership or packet is there for the next one; with a result they are the caller's."""
    first, semaphore, mutex, port = apc.Event(), apc.Semaphore(0, 1), apc.Mutex(), apc.CompletionPort()
    functions: dict[str, Callable[[], object]] = {
        "wait": lambda: apc.wait_for_single_object_ex(semaphore, None),
        "wait any": lambda: apc.wait_for_multiple_objects_ex((first, semaphore), None),
        "wait all": lambda: apc.wait_for_multiple_objects_ex((mutex, semaphore), None, wait_all=True),
        "signal and wait": lambda: apc.signal_object_and_wait(first, semaphore, None),
        "get": lambda: apc.get_queued_completion_status(port, None)[1],
        "get_ex": lambda: apc.get_queued_completion_status_ex(port, 2, None)[1],
    }
    packets = kind.startswith("get")

    def there() -> int:
        return port.queued if packets else semaphore.statistics().count

    def fill() -> None:
        profile = sys.getprofile()
        sys.setprofile(None)
        if packets and not there():
            port.post(1)
        elif not there():
            semaphore.release()
        filled[0] = 1
        sys.setprofile(profile)

    def check(result: object) -> None:
        thread = apc.current_thread()
        assert not thread.waits
        assert not thread.waiting
        assert not semaphore.statistics().waiters
        assert not port.statistics().waiters
        assert there() == (0 if result is not None else filled[0]), (kind, result)
        assert mutex.statistics().recursion == (kind == "wait all" and result is not None)
        if mutex.statistics().owner:
            mutex.release()
        first.reset()
        if not blocked:
            fill()
        elif there():
            functions[kind]()
            filled[0] = 0
            if kind == "wait all":
                mutex.release()

    def poll(_poller: object, _timeout: float | None) -> list[tuple[int, int]]:
        # Another thread does something while this one sleeps.
        fill()
        return [(-1, 1)]

    filled = [0]
    if not blocked:
        fill()
    with mock.patch.object(_port._Poller, "poll", poll):
        assert strikes(functions[kind], check) > 10 * blocked


def test_a_struck_drain_has_run_or_left_every_entry() -> None:
    """An entry that was begun is gone, and it was called; what was not begun is queued."""
    thread = apc.current_thread()
    ran: list[int] = []

    def check(_: object) -> None:
        assert len(thread.queue) + thread.ran == queued[0]
        assert not thread.drains
        assert len(ran) == thread.ran
        while len(thread.queue) < 3:
            thread.queue_user_apc(ran.append, 0)
            queued[0] += 1

    queued = [thread.ran]
    ran += [0] * thread.ran
    check(None)
    assert strikes(lambda: apc.sleep_ex(0, alertable=True), check) > 5


@pytest.mark.parametrize("kind", ["semaphore", "packet"])
def test_a_struck_wait_of_a_task_has_taken_nothing(kind: str) -> None:
    """In trio, which lets Ctrl-C into a task's own code only."""
    semaphore, port = apc.Semaphore(0, 1), apc.CompletionPort()

    def there() -> int:
        return semaphore.statistics().count + port.queued

    def fill() -> None:
        if not there():
            semaphore.release() if kind == "semaphore" else port.post(1)

    async def wait() -> object:
        if kind == "semaphore":
            return await aio.wait_for_single_object_ex(semaphore, None)
        return (await aio.get_queued_completion_status_ex(port, 1, None))[1]

    async def main() -> None:
        await aio.sleep_ex(0)  # there is a pump now
        for moment in itertools.count(1):
            fill()
            struck = Struck(moment, may=_unprotected)
            result = None
            gc.disable()
            sys.setprofile(struck)
            try:
                result = await wait()
            except KeyboardInterrupt:
                pass
            finally:
                sys.setprofile(None)
                gc.enable()
            assert there() == (result is None), (moment, result)
            assert not apc.current_thread().waits
            if result is not None and struck.left > 0:
                assert moment > 5
                return

    trio.run(main)


def _unprotected(frame: FrameType) -> bool:
    return not _ki.ki_protection_enabled(frame)

"""One wait, one result, whatever happens to it in whatever order."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio

from apcrt import apc
from apcrt.apc import WAIT_IO_COMPLETION, WAIT_OBJECT_0, WAIT_TIMEOUT, aio
from apcrt.apc._dispatcher import CANCELLED, Wait
from apcrt.apc._operations import abandon, begin, change_cancels, look
from apcrt.apc.lowlevel import D, Entry, Waitable, Wakes
from tests.apc.faces import Face, Runner, until_blocked

EVENTS = ("satisfy", "post", "time out", "cancel", "interrupt")
FIRST = {
    "satisfy": int(WAIT_OBJECT_0),
    "post": int(WAIT_IO_COMPLETION),
    "time out": int(WAIT_TIMEOUT),
    "cancel": CANCELLED,
    "interrupt": None,
}


@pytest.mark.feature("APC-13")
@pytest.mark.parametrize("order", list(itertools.permutations(EVENTS)), ids=",".join)
def test_the_first_event_decides(order: tuple[str, ...]) -> None:
    """All orders of everything that can happen to a blocked wait; nobody sleeps here, so there are no races."""
    thread = apc.ApcThread("latched", ident=threading.get_ident())
    event = apc.Event()
    wait = Wait(thread, (event,), alertable=True)
    assert D.run(begin, wait, False) is None

    for number, happening in enumerate(order):
        if happening == "satisfy":
            event.set()
        elif happening == "post":
            thread.queue_user_apc(bool)
        elif happening == "time out":
            D.run(look, wait, True)
        elif happening == "cancel":
            D.run(change_cancels, thread, 1)
            D.run(look, wait, False)
        else:
            D.run(abandon, wait)
            break
        assert wait.result == FIRST[order[0]]
        assert not wait.thread.waits
        assert not event.waiters
        assert event.is_set() == ("satisfy" in order[: number + 1] and order[0] != "satisfy")
        assert len(thread.queue) == ("post" in order[: number + 1])

    # The interrupt wins: what was taken is given back, and what is queued is still queued.
    so_far = order[: order.index("interrupt")]
    assert wait.result is None
    assert not thread.waits
    assert not event.waiters
    assert event.is_set() == ("satisfy" in so_far)
    assert len(thread.queue) == ("post" in so_far)


class TestRaces:
    """The same with real threads: what a wait took, and what is left, always adds up."""

    ROUNDS = 300

    def test_satisfy_against_post(self, face: Face) -> None:
        event = apc.Event()
        ran: list[int] = []

        async def script() -> None:
            for number in range(self.ROUNDS):
                start.wait()
                before = len(ran)
                result = await face.wait(event, None, alertable=True)
                if result == WAIT_OBJECT_0:
                    assert len(ran) == before
                    assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
                else:
                    assert result == WAIT_IO_COMPLETION
                    assert await face.wait(event, None) == WAIT_OBJECT_0
                assert ran[before:] == [number]
                assert not event.is_set()

        start = threading.Barrier(3)
        runner = Runner(face, script)
        thread = runner.thread

        def post() -> None:
            for number in range(self.ROUNDS):
                start.wait()
                thread.queue_user_apc(ran.append, number)

        poster = threading.Thread(target=post)
        poster.start()
        for _ in range(self.ROUNDS):
            start.wait()
            event.set()
        poster.join()
        runner.result()

    def test_satisfy_against_time_out(self, face: Face) -> None:
        event = apc.Event()
        taken = 0

        async def script() -> None:
            nonlocal taken
            for number in range(self.ROUNDS):
                start.wait()
                result = await face.wait(event, (0, 0.0001, 0.001)[number % 3], alertable=True)
                if result == WAIT_OBJECT_0:
                    taken += 1
                done.wait()
                if result == WAIT_TIMEOUT:
                    assert await face.wait(event, 0) == WAIT_OBJECT_0
                    taken += 1
                assert not event.is_set()

        start, done = threading.Barrier(2), threading.Barrier(2)
        runner = Runner(face, script)
        for _ in range(self.ROUNDS):
            start.wait()
            event.set()
            done.wait()
        runner.result()
        assert taken == self.ROUNDS

    def test_satisfy_against_trio_cancel(self) -> None:
        event = apc.Event()
        taken = 0

        async def script() -> None:
            nonlocal taken
            for _ in range(self.ROUNDS):
                before = taken
                start.wait()
                with trio.move_on_after(random.choice((0, 0.0001, 0.001))):
                    assert await aio.wait_for_single_object_ex(event, None) == WAIT_OBJECT_0
                    taken += 1
                done.wait()
                if taken == before:
                    assert await aio.wait_for_single_object_ex(event, 0) == WAIT_OBJECT_0
                    taken += 1

        start, done = threading.Barrier(2), threading.Barrier(2)
        thread = threading.Thread(target=trio.run, args=(script,))
        thread.start()
        for _ in range(self.ROUNDS):
            start.wait()
            event.set()
            done.wait()
        thread.join()
        assert taken == self.ROUNDS

    def test_a_wait_cancelled_by_its_block_has_taken_nothing(self) -> None:
        event = apc.Event()
        taken: list[int] = []

        def work() -> None:
            apc.wait_for_single_object_ex(event, None)
            taken.append(1)

        for _ in range(self.ROUNDS):
            taken.clear()
            with apc.open_apc_threads() as threads:
                worker = threads.start(work)
                until_blocked(worker)
                other = threading.Thread(target=event.set)
                other.start()
                threads.cancel()
            other.join()
            assert event.is_set() == (not taken)
            event.reset()


STORM = """
import os, signal, threading
from apcrt import apc
from apcrt.apc.lowlevel import D, Waitable, signal as signal_waiters

class Semaphore(Waitable):
    __slots__ = ("count",)
    def __init__(self):
        super().__init__()
        self.count = 0
    def is_signaled_for(self, thread, /): return self.count > 0
    def take(self, thread, /):
        self.count -= 1
        return False
    def give_back(self, thread, /): self.count += 1

def release(wakes, semaphore):
    semaphore.count += 1
    signal_waiters(wakes, semaphore)

MOST = 8000
main = apc.current_thread()
semaphore, got, released, queued, stop = Semaphore(), [], 0, 0, False

def produce():
    global released, queued
    for number in range(MOST):
        D.run(release, semaphore); released += 1
        main.queue_user_apc(got.append, number); queued += 1

def strike():
    while not stop:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        for _ in range(5): os.sched_yield()

armed, taken, strikes = False, 0, 0

def handler(*_):
    # Disarmed by itself: no strike falls on what deals with the last one.
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, handler)
producer, striker = threading.Thread(target=produce), threading.Thread(target=strike)
producer.start(); striker.start()
while True:
    try:
        armed = True
        while taken < MOST:
            result = apc.wait_for_single_object_ex(semaphore, 5, alertable=True)
            taken += result == 0
            if result == 258: break
        armed = False
        break
    except KeyboardInterrupt:
        strikes += 1
signal.signal(signal.SIGINT, signal.SIG_IGN)
stop = True
producer.join(); striker.join()
apc.test_alert()
assert taken + semaphore.count == released, (taken, semaphore.count, released)
assert got == sorted(set(got)), "twice or out of order"
assert len(main.queue) == 0 and not main.waits and not main.drains, main.drains
missing = queued - len(got)
print("strikes", strikes, "missing", missing, "ran", main.ran, queued)
assert main.ran == queued == MOST
"""


def test_ctrl_c_at_any_moment_loses_nothing() -> None:
    """A storm of real SIGINTs on a waiting main thread: every object taken is accounted for, every APC was called.

    One that was struck as it began may not have got to do its work; that is an error leaving an APC, and no loss.
    """
    root = Path(__file__).parents[2]
    # Coverage, which would follow into the process, takes a lock in a way that such a storm leaves locked for ever.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", STORM], cwd=root, capture_output=True, text=True, timeout=40, check=False, env=plain
    )
    assert done.returncode == 0, done.stdout + done.stderr


class TestRepair:
    """An operation that Ctrl-C has struck half-way is finished by the one that was struck: nothing is left hanging."""

    def test_an_apc_that_was_queued_but_nobody_was_told(self, face: Face) -> None:
        async def script() -> object:
            return await face.sleep_ex(None, alertable=True)

        runner = Runner(face, script)
        until_blocked(runner.thread)

        def struck(_wakes: Wakes) -> None:
            runner.thread.queue.append(Entry(bool, (), "user"))
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            D.run(struck)
        assert runner.result() == WAIT_IO_COMPLETION

    def test_an_object_that_was_set_but_nobody_was_served(self, face: Face) -> None:
        event = apc.Event()

        async def script() -> object:
            return await face.wait(event, None)

        runner = Runner(face, script)
        until_blocked(runner.thread)

        def struck(_wakes: Wakes) -> None:
            event.change(True)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            D.do(struck)
        assert runner.result() == WAIT_OBJECT_0

    @pytest.mark.parametrize("told", [False, True])
    def test_a_wait_that_has_its_result_but_was_not_woken(self, face: Face, told: bool) -> None:
        event = apc.Event()

        async def script() -> object:
            return await face.wait(event, None, alertable=True)

        runner = Runner(face, script)
        until_blocked(runner.thread)

        def struck(_wakes: Wakes) -> None:
            wait = next(iter(runner.thread.waits))
            wait.result = int(WAIT_OBJECT_0)
            if told and wait.task is not None:
                runner.thread.ready.append(wait)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            D.run(struck)
        assert runner.result() == WAIT_OBJECT_0
        assert not runner.thread.waits

    def test_a_hook_that_was_not_called(self) -> None:
        thread = apc.current_thread()
        calls: list[int] = []
        thread.set_wakeup(lambda: calls.append(1))

        def struck(_wakes: Wakes) -> None:
            thread.queue.append(Entry(bool, (), "user"))
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            D.run(struck)
        assert calls == [1]

    def test_a_wait_for_all_that_is_struck_while_it_takes_gives_back(self) -> None:
        class Striking(Waitable):
            __slots__ = ()

            def is_signaled_for(self, _thread: apc.ApcThread, /) -> bool:
                return True

            def take(self, _thread: apc.ApcThread, /) -> bool:
                raise KeyboardInterrupt

            def give_back(self, _thread: apc.ApcThread, /) -> None:
                raise AssertionError("it was not taken")

        events = [apc.Event(initial=True), apc.Event(initial=True)]
        with pytest.raises(KeyboardInterrupt):
            apc.wait_for_multiple_objects_ex([*events, Striking()], None, wait_all=True)
        assert all(event.is_set() for event in events)
        assert not apc.current_thread().waits

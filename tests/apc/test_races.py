"""Races: one wait has one result, and what it took and what is left add up, whoever was first.

First every order of everything that can happen to one wait, by hand. Then threads that take turns at lines of the
dispatcher, by seeds: `python -m tests.apc.test_races --seeds 5000` tries more of them, `--first 17 --seeds 1` repeats
one, which a failure names.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
import trio

from apcrt import apc, trace
from apcrt.apc import WAIT_IO_COMPLETION, WAIT_OBJECT_0, WAIT_TIMEOUT, aio
from apcrt.apc._completion_port import PacketWait
from apcrt.apc._dispatcher import CANCELLED, Wait
from apcrt.apc._drain import run_slice
from apcrt.apc._operations import abandon, begin, change_cancels, look, time_out, withdraw
from apcrt.apc.lowlevel import D
from tests.apc.faces import FACES, complete
from tests.apc.interleave import Turns

# Every order, by hand


class Thing:
    """An object of one kind, which can be signaled once, and tells how much of it is left."""

    def __init__(self, kind: str) -> None:
        self.other = apc.ApcThread("other", ident=1)
        self.event = apc.Event(manual_reset=kind == "manual event")
        self.mutex = apc.Mutex()
        self.mutex.take(self.other)
        self.semaphore = apc.Semaphore(0, 1)
        self.timer = apc.WaitableTimer()
        self.port = apc.CompletionPort()
        self.kind = kind
        self.waitable: apc.Waitable = {
            "mutex": self.mutex,
            "semaphore": self.semaphore,
            "timer": self.timer,
            "port": self.port,
        }.get(kind, self.event)

    def signal(self) -> None:
        match self.kind:
            case "mutex":
                D.run(self.mutex.signal_once, self.other)
            case "semaphore":
                self.semaphore.release()
            case "timer":
                self.timer.set(0.0)
            case "port":
                self.port.post(1)
            case _:
                self.event.set()

    def left(self) -> int:
        match self.kind:
            case "mutex":
                return self.mutex.statistics().owner is None
            case "semaphore":
                return self.semaphore.statistics().count
            case "timer":
                return self.timer.is_set()
            case "port":
                return self.port.queued
            case _:
                return self.event.is_set()


KINDS = ("event", "manual event", "mutex", "semaphore", "timer", "port")
PLAIN = ("begin", "satisfy", "post", "time out", "cancel", "interrupt")
TASK = ("begin", "satisfy", "post", "time out", "cancel", "scope")


def _expected(order: tuple[str, ...], kind: str) -> int | None:
    """The result: what was there at the beginning, by rank, else what came first after it. None: it was left."""
    at = order.index("begin")
    there, later = order[:at], order[at + 1 :]
    results = {"satisfy": 0, "post": int(WAIT_IO_COMPLETION), "time out": int(WAIT_TIMEOUT), "cancel": CANCELLED}
    ranks = ("cancel", "satisfy", "post") if kind == "port" else ("cancel", "post", "satisfy")
    for happening in ranks:
        if happening in there:
            return results[happening]
    return results.get(later[0])


@pytest.mark.feature("APC-13")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("events", [PLAIN, TASK], ids=["plain", "trio"])
def test_every_order_has_one_result(events: tuple[str, ...], kind: str) -> None:
    """What a wait got and what is left is what there was, and what was queued is run or still queued."""
    for order in itertools.permutations(events):
        # A wait that has not begun is in nobody's way, and one that has ended neither.
        if order.index("begin") < min(order.index("time out"), order.index(events[-1])):
            _one_order(order, kind, task=events is TASK)


def _one_order(order: tuple[str, ...], kind: str, *, task: bool) -> None:
    thing = Thing(kind)
    thread = apc.ApcThread("waiter", ident=threading.get_ident())
    if kind == "port":
        wait: Wait = PacketWait(thread, thing.port, 5, alertable=True)
    else:
        wait = Wait(thread, (thing.waitable,), alertable=True)
    if task:
        wait.task = cast("trio.lowlevel.Task", object())  # nobody resumes it here
    expected = _expected(order, kind)
    scope_won = False
    for happening in order:
        match happening:
            case "begin":
                D.run(begin, wait, False)
            case "satisfy":
                thing.signal()
            case "post":
                thread.queue_user_apc(bool)
            case "time out" if not task:
                D.run(look, wait, True)
            case "time out":
                if not scope_won and D.run(withdraw, wait):
                    D.run(time_out, wait)
            case "cancel":
                D.run(change_cancels, thread, 1)
                if not task:
                    D.run(look, wait, False)
            case "scope":
                scope_won = D.run(withdraw, wait)
            case "interrupt":
                D.run(abandon, wait)
                break
        if order.index(happening) > order.index("begin") and not scope_won:
            assert wait.result == expected, (order, wait.result)
    happened = order[: order.index("interrupt") + 1] if "interrupt" in order else order
    result = None if "interrupt" in happened else wait.result
    assert not thread.waits, order
    assert not thing.waitable.waiters, order
    assert thread.ready.count(wait) <= 1, order
    assert scope_won == (task and expected is None), order

    signaled = "satisfy" in happened
    takes_nothing = kind == "manual event"
    assert thing.left() == (signaled and (result != 0 or takes_nothing)), (order, result)
    if isinstance(wait, PacketWait):
        assert len(wait.packets if result == 0 else ()) + thing.left() == signaled, order
    posted = int("post" in happened)
    assert (len(thread.queue), thread.ran) == (posted, 0), order
    if result == WAIT_IO_COMPLETION:
        assert run_slice(thread) is None
        assert (len(thread.queue), thread.ran) == (0, 1), order
    thread.end()
    thing.other.end()


# Turns, by seeds


class Race:
    """A waiter, and three others that signal, post, send packets, take a mutex or cancel; all that is drawn."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.turns = Turns(seed, often=self.random.choice((1, 2, 4, 8, 20)))
        self.face = self.random.choice(FACES)
        self.nested = self.random.random() < 0.5
        self.waiter: apc.ApcThread | None = None
        self.ready = apc.Event(manual_reset=True)
        self.semaphore = apc.Semaphore(0, 100)
        self.mutex = apc.Mutex()
        self.port = apc.CompletionPort()
        actors = [self.release, self.post_one, self.post_two, self.send, self.lock]
        self.actors = self.random.sample(actors if self.face.name == "trio" else [*actors, self.cancel], 3)
        self.count = self.random.randrange(1, 8)
        self.time_outs = self.random.choice((0, 3, 30))
        self.taken = 0
        self.owners = 0
        self.ran: list[tuple[str, int]] = []
        self.got: list[int] = []

    def run(self) -> None:
        """Raises what went wrong."""
        main = self.wait_in_trio if self.face.name == "trio" else self.wait_plainly
        self.turns.run([main, *self.actors])
        numbers = list(range(self.count))
        assert self.taken == self.wanted(self.release)
        assert sorted(self.got) == (numbers if self.send in self.actors else [])
        for name, actor in (("one", self.post_one), ("two", self.post_two)):
            assert [number for who, number in self.ran if who == name] == (numbers if actor in self.actors else [])
        assert self.semaphore.statistics().count == 0
        assert self.mutex.statistics().owner is None
        assert self.port.queued == 0
        assert self.waiter is not None
        assert not self.waiter.waits
        assert self.waiter.dropped == 0

    def wanted(self, *actors: Callable[[], None]) -> int:
        return sum(self.count for actor in actors if actor in self.actors)

    # The others

    def _thread(self) -> apc.ApcThread:
        apc.wait_for_single_object_ex(self.ready, None)
        assert self.waiter is not None
        return self.waiter

    def release(self) -> None:
        for _ in range(self.count):
            self.semaphore.release()

    def post_one(self) -> None:
        self._post("one")

    def post_two(self) -> None:
        self._post("two")

    def _post(self, name: str) -> None:
        thread = self._thread()
        for number in range(self.count):
            thread.queue_user_apc(self.face.routine(self.routine), name, number)

    def send(self) -> None:
        for number in range(self.count):
            self.port.post(number)

    def lock(self) -> None:
        for _ in range(self.count):
            apc.wait_for_single_object_ex(self.mutex, None)
            self._own(1)
            self._own(-1)
            self.mutex.release()

    def cancel(self) -> None:
        D.do(change_cancels, self._thread(), 1)

    def _take(self, result: apc.WaitResult) -> None:
        self.taken += result == WAIT_OBJECT_0

    def _own(self, change: int) -> None:
        self.owners += change
        assert self.owners <= 1

    # The waiter

    async def routine(self, name: str, number: int) -> None:
        self.ran.append((name, number))
        if self.nested:
            self._take(await self.face.wait(self.semaphore, 0, alertable=True))

    def wait_plainly(self) -> None:
        self.waiter = apc.current_thread()
        self.ready.set()
        while not self.complete():
            try:
                complete(self.wait_once())
            except apc.WaitCancelled:
                D.run(change_cancels, self.waiter, -1)

    def wait_in_trio(self) -> None:
        async def main() -> None:
            self.waiter = apc.current_thread()
            self.ready.set()
            async with trio.open_nursery() as nursery:
                for _ in range(self.random.choice((1, 2))):
                    nursery.start_soon(task, nursery.cancel_scope)

        async def task(scope: trio.CancelScope) -> None:
            while not self.complete():
                with trio.move_on_after(self.time() or math.inf):
                    await self.wait_once()
            scope.cancel()  # another task may wait for what this one has got

        trio.run(main, clock=self.turns.clock)

    def complete(self) -> bool:
        return (
            self.taken == self.wanted(self.release)
            and len(self.ran) == self.wanted(self.post_one, self.post_two)
            and len(self.got) == self.wanted(self.send)
        )

    def time(self) -> float | None:
        """For ever, or one of the few that are allowed to end."""
        if self.time_outs and self.random.random() < 0.7:
            self.time_outs -= 1
            return self.random.choice((0.0, 1.0, 1.0, 2.0))
        return None

    async def wait_once(self) -> None:
        """One wait, for something that must come."""
        posted = len(self.ran) < self.wanted(self.post_one, self.post_two)
        choices: list[Callable[[], Awaitable[None]]] = [self.wait_mutex]
        if posted or self.taken < self.wanted(self.release):
            choices += [self.wait_semaphore] * 2
        if posted or len(self.got) < self.wanted(self.send):
            choices += [self.wait_packets] * 2
        await self.random.choice(choices)()

    async def wait_semaphore(self) -> None:
        if self.random.random() < 0.5:
            self._take(await self.face.wait(self.semaphore, self.time(), alertable=True))
        else:
            both = (self.semaphore, self.waiter or self.mutex)
            self._take(await self.face.wait_many(both, self.time(), alertable=True))

    async def wait_packets(self) -> None:
        if self.face.name == "trio":
            _, packets = await aio.get_queued_completion_status_ex(self.port, 2, self.time(), alertable=True)
        else:
            _, packets = apc.get_queued_completion_status_ex(self.port, 2, self.time(), alertable=True)
        self.got += [packet.bytes for packet in packets]

    async def wait_mutex(self) -> None:
        if await self.face.wait(self.mutex, self.time(), alertable=True) == WAIT_OBJECT_0:
            # Tasks of one thread do not exclude each other: no checkpoint before it is released.
            self._own(1)
            self._own(-1)
            self.mutex.release()


def race(seed: int) -> None:
    """One seed. Raises AssertionError, which names it."""
    try:
        Race(seed).run()
    except BaseException as error:
        raise AssertionError(f"python -m tests.apc.test_races --first {seed} --seeds 1") from error


@pytest.mark.feature("APC-13")
@pytest.mark.parametrize("first", range(0, 200, 25))
def test_turns_by_seeds(first: int) -> None:
    for seed in range(first, first + 25):
        race(seed)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.apc.test_races", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many seeds to try (default: 2000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    options = parser.parse_args()
    trace.configure(level="off")
    for seed in range(options.first, options.first + options.seeds):
        race(seed)
    print(f"{options.seeds} seeds, nothing lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())

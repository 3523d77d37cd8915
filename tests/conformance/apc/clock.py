"""A clock that stands still until it is moved, and knows when nothing more can happen before it is.

What lives here: `VirtualClock`, for apcrt's waits and timers and for trio's deadlines alike, and `settle`. What must
not: scenarios.

How it works. A thread that is waiting has its wait in a list that can be looked at under the dispatcher's lock. When
every thread has one there, none of whose times is over, and no timer is due, then nothing can happen until somebody
from outside does something: that is quiet, and it is exact. To move on, the clock goes to the next time at which
anything is due, wakes everybody, and lets them come to rest again.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable

import trio

from apcrt.apc import StructuredThread
from apcrt.apc.lowlevel import Clock, D, Wakes

__all__ = ["NotQuiet", "VirtualClock", "settle"]

PATIENCE = 20.0  # real seconds before a thread that does not come to rest is an error
EPOCH = 1_700_000_000.0


class NotQuiet(Exception):
    """Threads did not come to rest; says what they were doing."""


class _TrioClock(trio.abc.Clock):
    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._clock.now()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return 0 if deadline <= self._clock.now() else math.inf


class VirtualClock(Clock):
    """Stands still except in `advance`."""

    __slots__ = ("_now",)

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return EPOCH + self._now

    def real(self, seconds: float) -> float | None:
        return 0.0 if seconds <= 0 else None

    def for_trio(self) -> trio.abc.Clock | None:
        return _TrioClock(self)

    def advance(self, seconds: float, threads: Iterable[StructuredThread]) -> None:
        """Let time pass, and everything happen that is due meanwhile, in order."""
        threads = tuple(threads)
        target = self._now + seconds
        while (due := D.run(_next_due, threads)) <= target:
            self._go(max(due, self._now), threads)
        self._go(target, threads)

    def _go(self, when: float, threads: Iterable[StructuredThread]) -> None:
        self._now = when
        for thread in threads:
            if thread.started and not thread.gone and (port := thread.open_port) is not None:
                port.wake()
        settle(threads)


def settle(threads: Iterable[StructuredThread]) -> None:
    """Return when nothing more can happen without the outside, or time passing."""
    threads = tuple(threads)
    deadline = time.monotonic() + PATIENCE
    tries = 0
    while not D.run(_quiet, threads):
        tries += 1
        if tries < 200:
            os.sched_yield()
        else:
            time.sleep(0.0001)
            if time.monotonic() > deadline:
                raise NotQuiet("; ".join(f"{thread!r}" for thread in threads if not _rests(thread)))


def _rests(thread: StructuredThread) -> bool:
    if thread.gone or thread.suspended:
        return True
    now = D.clock.now()
    return thread.started and bool(thread.waits) and all(now < wait.deadline for wait in thread.waits)


def _quiet(_wakes: Wakes, threads: tuple[StructuredThread, ...]) -> bool:
    return all(map(_rests, threads))


def _next_due(_wakes: Wakes, threads: tuple[StructuredThread, ...]) -> float:
    times = [wait.deadline for thread in threads if not thread.gone for wait in thread.waits]
    alarm = D.next_alarm()
    return min([*times, math.inf if alarm is None else alarm])

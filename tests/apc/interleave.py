"""Threads that take turns: one runs at a time, and a seed says who. The same seed gives the same run.

What lives here: `Turns`, which starts threads, hands the turn on at lines of apcrt's thread code, and replaces what
they could block in: D's lock, the polling of Ports and of trio, and the clock. What must not: what the threads do.

How it works. A trace function is called for every line of `apcrt.apc`, and lets another thread go on there now and
then. A thread that would sleep gives its turn away and looks again after any wake-up; one that sleeps for a time may be
given a turn at any moment, and then its time is over. When nobody can go on, somebody's wake-up was lost: `Stuck`.
"""

from __future__ import annotations

import contextlib
import math
import random
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import trio
from trio._core import _run as trio_run

from apcrt import apc
from apcrt.apc import _drain, _port
from apcrt.apc.lowlevel import Clock, D

__all__ = ["Stuck", "Turns"]

# Not `_port`, which has a lock of its own and takes nobody's turn under it; the nursery has one too.
ROOM = Path(apc.__file__).parent
TRACED = {str(path) for path in ROOM.glob("*.py") if path.name not in ("_port.py", "_nursery.py")}
FOR_EVER = 80_000.0  # trio never sleeps longer than a day


class Stuck(Exception):
    """Nobody can go on. Says where everybody is."""


class _Strand(threading.Thread):
    """One of the threads."""

    def __init__(self, turns: Turns, function: Callable[[], object]) -> None:
        super().__init__(name=getattr(function, "__name__", "strand"), daemon=True)
        self.turns = turns
        self.function = function
        self.gate = threading.Lock()
        self.gate.acquire()
        self.can_run = True
        self.until = math.inf  # for one that cannot run: when its time is over
        self.error: BaseException | None = None

    def run(self) -> None:
        self.gate.acquire()
        sys.settrace(self.turns.trace)
        try:
            self.function()
        except BaseException as error:  # noqa: BLE001 - raised by Turns.run
            self.error = error
        finally:
            sys.settrace(None)
            apc.current_thread().end()  # now, and not when the thread's local storage goes, outside of its turn
            self.turns.leave(self)


class _Clock(Clock, trio.abc.Clock):
    """Time passes only when somebody who sleeps is given a turn. trio's clock too."""

    __slots__ = ("time",)

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def current_time(self) -> float:
        return self.time

    def start_clock(self) -> None:
        pass

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return max(0.0, deadline - self.time)

    def for_trio(self) -> trio.abc.Clock:
        return self


class _Lock:
    """A re-entrant lock for threads that take turns."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.owner: object = None
        self.count = 0

    def __enter__(self) -> None:
        me = threading.current_thread()
        while self.owner not in (None, me):
            self.turns.sleep(math.inf)
        self.owner = me
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1
        if not self.count:
            self.owner = None
            self.turns.wake()


class Turns:
    """One run.

    Args:
        seed: says who goes on when.
        often: lines between two turns, on the average.
    """

    def __init__(self, seed: object, often: int = 6) -> None:
        self.random = random.Random(str(seed))
        self.often = often
        self.clock = _Clock()
        self.strands: list[_Strand] = []
        self.over = threading.Event()
        self.stuck: str | None = None

    def run(self, functions: Sequence[Callable[[], object]]) -> None:
        """Run them all to their ends. Raises the first error, or `Stuck`."""
        self.strands = [_Strand(self, function) for function in functions]
        every = tuple(self.strands)
        with self._replaced():
            for strand in every:
                strand.start()
            self.random.choice(every).gate.release()
            self.over.wait()
            if self.stuck is not None:
                raise Stuck(self.stuck)
            for strand in every:
                strand.join()
        for strand in every:
            if strand.error is not None:
                raise strand.error

    def trace(self, frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        """For sys.settrace."""
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line" and self.random.randrange(self.often) == 0:
            self.turn()
        return self.trace

    def turn(self) -> None:
        """Let somebody else go on, perhaps."""
        me = threading.current_thread()
        assert isinstance(me, _Strand)
        awake = [strand for strand in self.strands if strand.can_run]
        timed = [strand for strand in self.strands if not strand.can_run and strand.until < math.inf]
        chosen = self.random.choice(awake * 2 + timed) if awake or timed else None
        if chosen is None:
            self.give_up()
        elif not chosen.can_run:
            self.clock.time = max(self.clock.time, chosen.until)
            chosen.can_run = True
        if chosen is not me:
            if chosen is not None:
                chosen.gate.release()
            if me in self.strands:
                me.gate.acquire()

    def sleep(self, seconds: float) -> None:
        """Until somebody wakes everybody, or the time is over."""
        me = threading.current_thread()
        assert isinstance(me, _Strand)
        me.can_run = False
        me.until = self.clock.time + seconds
        self.turn()

    def wake(self) -> None:
        """Everybody who sleeps shall look again."""
        for strand in self.strands:
            strand.can_run = True

    def leave(self, me: _Strand) -> None:
        self.strands.remove(me)
        self.wake()
        if self.strands:
            self.turn()
        else:
            self.over.set()

    def give_up(self) -> None:
        frames = sys._current_frames()
        self.stuck = "\n".join(
            f"{strand.name}:\n{''.join(traceback.format_stack(frames[strand.ident])[-6:])}"
            for strand in self.strands
            if strand.ident is not None
        )
        self.over.set()

    @contextlib.contextmanager
    def _replaced(self) -> Iterator[None]:
        poll, wake = _port._Poller.poll, _port._Poller.wake
        manager = trio_run.TheIOManager  # type: ignore[attr-defined]
        get_events = manager.get_events

        def take_turns(look: Callable[[], Any], timeout: float | None) -> Any:
            until = math.inf if timeout is None or timeout > FOR_EVER else self.clock.time + timeout
            while True:
                found = look()
                if found or until <= self.clock.time:
                    return found
                self.sleep(until - self.clock.time)

        def port_poll(poller: Any, timeout: float | None) -> Any:
            return take_turns(lambda: poll(poller, 0), timeout)

        def trio_poll(manager: Any, timeout: float) -> Any:
            return take_turns(lambda: get_events(manager, 0), timeout)

        def port_wake(poller: Any) -> None:
            wake(poller)
            self.wake()

        lock, clock = D.lock, D.clock
        try:
            with (
                mock.patch.object(_port._Poller, "poll", port_poll),
                mock.patch.object(_port._Poller, "wake", port_wake),
                mock.patch.object(manager, "get_events", trio_poll),
                mock.patch.object(trio_run, "_r", self.random),
                mock.patch.object(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
                # Real time must not decide when a drain lets others live: after each APC, or not at all.
                mock.patch.object(_drain, "SLICE", self.random.choice((0.0, math.inf))),
            ):
                D.lock = _Lock(self)  # type: ignore[assignment]
                D.clock = self.clock
                yield
        finally:
            D.lock, D.clock = lock, clock

"""Waitable timers: objects that become signaled at a time, and may queue an APC then.

What lives here: `WaitableTimer`, and the conversion of due times to the numbers that Windows gives a routine. What must
not: clocks and the heap of alarms, which are the dispatcher's.

How it works. Every `set` makes an `_Arming`, which is what stands in the dispatcher's heap; the timer knows its present
one, and one that is not it any more does nothing when it is due. There is no clock thread: whoever enters the
dispatcher next fires what is due, and sleeping threads sleep no longer than to the next alarm. For the routines of a
thread that never sleeps, since it has a wake-up hook, the driver does. A timer has one entry in a queue at the most,
however often it fires.

A due time on the calendar is a promise about a clock that may be set. So such an arming looks at that clock at least
once a second, and once more at the due time.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from apcrt import trace
from apcrt.apc._dispatcher import AlarmEntry, D, Entry, Waitable, Wakes, announce, notify, signal
from apcrt.apc._driver import ensure_driver
from apcrt.apc._operations import take_back
from apcrt.apc._thread import ApcThread, current_thread
from apcrt.status import ApcError, Status

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TimerStatistics", "WaitableTimer", "drive_timers", "filetime"]

T = TypeVar("T")

_BEGIN: Final = datetime.datetime(1601, 1, 1, tzinfo=datetime.UTC)  # of FILETIME
_EPOCH: Final = 116_444_736_000_000_000  # 1970 as a FILETIME: 100 ns since 1601
_TICKS: Final = 10_000_000  # FILETIME units in a second
_LOOK: Final = 1.0  # seconds between two looks at a clock that may be set


def filetime(low: int, high: int) -> datetime.datetime:
    """The point in time (UTC) that a timer's routine was given as two halves of a FILETIME; to the microsecond."""
    return _BEGIN + datetime.timedelta(microseconds=(high << 32 | low) // 10)


@dataclass(frozen=True, slots=True)
class TimerStatistics:
    """A timer at one moment.

    Attributes:
        is_set: whether it is signaled.
        due_in: seconds until it fires next; None when it is not running.
        fired: how often it has fired.
        waiters: waits that are blocked on it.
    """

    is_set: bool
    due_in: float | None
    fired: int
    waiters: int


class _Arming:
    """One `set` of a timer: when it is due, how often, and for whom."""

    __slots__ = (
        "alarm",
        "argument",
        "context",
        "entry",
        "owner",
        "period",
        "routine",
        "signaled_at",
        "ticks",
        "timer",
        "when",
    )

    def __init__(
        self,
        timer: WaitableTimer,
        owner: ApcThread,
        when: float,
        ticks: int | None,
        period: float,
        routine: Callable[..., object] | None,
        argument: object,
        context: trace.Snapshot | None,
    ) -> None:
        self.timer: WaitableTimer = timer
        self.owner: ApcThread = owner
        self.when: float = when
        self.ticks: int | None = ticks  # a FILETIME, for a float is not exact enough; None for a relative due time
        self.period: float = period
        self.routine: Callable[..., object] | None = routine
        self.argument: object = argument
        self.context: trace.Snapshot | None = context
        self.signaled_at: float | None = None  # `ticks` or `when` of the last time
        self.alarm: AlarmEntry | None = None
        self.entry: Entry | None = None

    def begin(self, wakes: Wakes) -> None:
        """Under D."""
        if self.routine is not None:
            self.owner.dependents[self] = None
        self.due(wakes, self.when)

    def due(self, wakes: Wakes, _when: float) -> None:
        """The alarm. Under D; begins anew when Ctrl-C has struck it."""
        timer = self.timer
        if timer.arming is not self:
            return
        clock = D.clock
        now, wall = clock.now(), clock.wall()
        if self.ticks is not None:
            self.when = now + ((self.ticks - _EPOCH) / _TICKS - wall)
        if self.when > now:
            self.alarm = D.set_alarm(self.when if self.ticks is None else min(self.when, now + _LOOK), self)
            return
        moment = self.when if self.ticks is None else self.ticks
        if self.signaled_at != moment:
            self.signaled_at = moment
            timer.signaled = True
            timer.fired += 1
        signal(wakes, timer)
        if self.routine is not None and (self.entry is None or not self.entry.live):
            ticks = self.ticks
            if ticks is None:
                ticks = round((wall - now + self.when) * _TICKS) + _EPOCH
            entry = Entry(self.routine, (self.argument, ticks & 0xFFFFFFFF, ticks >> 32), "timer", self.context)
            owner = self.owner
            if not owner.ended:
                # Ctrl-C must not fall between these two, or it would be queued twice: append ends before it strikes.
                self.entry = entry
                owner.queue.append(entry)
                announce(wakes, owner)
        if self.period:
            # Periods that nobody was there for are one.
            following = self.when + self.period * (math.floor((now - self.when) / self.period) + 1)
            alarm = D.set_alarm(following, self)
            # No call between these.
            self.alarm = alarm
            self.ticks = None
            self.when = following
        else:
            timer.arming, timer.last = None, self
            self.owner.dependents.pop(self, None)

    def end(self, wakes: Wakes) -> None:
        """Be due no more, and take back the entry that is queued. Under D."""
        if self.alarm is not None:
            D.take_back(self.alarm)
        self.owner.dependents.pop(self, None)
        if self.entry is not None:
            take_back(wakes, self.owner, self.entry)

    def owner_ended(self, wakes: Wakes, _thread: ApcThread) -> None:
        """Under D: the thread that has set it is gone, and the routine with it. The timer's signal stays as it is."""
        if self.timer.arming is self:
            self.timer.arming = None
        self.end(wakes)


class WaitableTimer(Waitable):
    """A waitable timer object, as CreateWaitableTimer makes it.

    Args:
        manual_reset: True: stays signaled until it is set again, and satisfies every wait. False (a synchronization
            timer): a satisfied wait unsignals it.

    `set` belongs to the thread that calls it; everything else may be called on any thread.
    """

    __slots__ = ("_manual", "arming", "fired", "last", "signaled")

    def __init__(self, *, manual_reset: bool = False) -> None:
        super().__init__()
        self._manual = manual_reset
        self.signaled: bool = False
        self.fired: int = 0
        self.arming: _Arming | None = None
        self.last: _Arming | None = None  # has fired for the last time, with a routine that may still be queued

    def __repr__(self) -> str:
        kind = "manual" if self._manual else "auto"
        due = self.statistics().due_in
        running = "idle" if due is None else f"due in {due:.3f} s"
        return f"<WaitableTimer {kind} {'set' if self.signaled else 'unset'} {running} waiters={len(self.waiters)}>"

    @overload
    def set(self, due: float | datetime.datetime, *, period: float = 0.0) -> None: ...

    @overload
    def set(
        self,
        due: float | datetime.datetime,
        *,
        period: float = 0.0,
        routine: Callable[[T, int, int], object],
        argument: T,
    ) -> None: ...

    @overload
    def set(
        self, due: float | datetime.datetime, *, period: float = 0.0, routine: Callable[[None, int, int], object]
    ) -> None: ...

    def set(
        self,
        due: float | datetime.datetime,
        *,
        period: float = 0.0,
        routine: Callable[[Any, int, int], object] | None = None,
        argument: object = None,
    ) -> None:
        """Start it, or start it anew (SetWaitableTimer). It is unsignaled, and what it has queued is taken back.

        When it is due it becomes signaled, and `routine(argument, low, high)` is queued as an APC to the thread that
        has called `set`: low and high are the halves of the due time as a FILETIME (see `filetime`). At most one is
        queued at a time, however often the timer fires. When that thread ends, a timer with a routine is cancelled.

        Args:
            due: seconds from now, 0 for at once; or a point in time with a time zone, which follows the system's clock
                when that is set (noticed within a second).
            period: seconds from one time to the next; 0 is once. Periods that pass while no thread looks count as one.
            routine: a plain function; on a trio thread it may be `async def`.
            argument: its first argument.

        Raises:
            ApcError: 87 a negative or infinite time, a point in time without a time zone, or a call from a finalizer or
                signal handler that has interrupted the dispatcher; 31 the thread is ending; 6 after a fork; 164 this
                thread has a wake-up hook, and no OS thread can be had that keeps the time for it.
        """
        self.check_process()
        thread = current_thread()
        now = D.clock.now()
        ticks: int | None = None
        if isinstance(due, datetime.datetime):
            if due.tzinfo is None:
                raise ApcError(Status.ERROR_INVALID_PARAMETER, f"{due} has no time zone; say datetime(..., tzinfo=UTC)")
            ticks = (due - _BEGIN) // datetime.timedelta(microseconds=1) * 10
            when = now
        else:
            when = now + _seconds("a due time", due)
        context = trace.snapshot() if routine is not None and trace.level <= trace.INFO else None
        arming = _Arming(self, thread, when, ticks, _seconds("a period", period), routine, argument, context)
        D.run(_set, self, arming)
        if thread.pump is not None:
            thread.port.wake()  # other tasks of this thread may wait: its pump must not sleep beyond the due time
        if routine is not None and thread.has_wakeup:
            # Looked at after the setting, as `set_wakeup` looks for timers after it has set the hook: one of them sees.
            ensure_driver()

    def cancel(self) -> None:
        """Stop it, and take back what it has queued (CancelWaitableTimer). Whether it is signaled does not change."""
        self.check_process()
        D.do(_cancel, self)

    def is_set(self) -> bool:
        """Whether it is signaled now."""
        return self.signaled

    def statistics(self) -> TimerStatistics:
        """Its state. Any thread."""
        arming = self.arming
        due_in = None if arming is None else max(0.0, arming.when - D.clock.now())
        return TimerStatistics(self.signaled, due_in, self.fired, len(self.waiters))

    def is_signaled_for(self, _thread: ApcThread, /) -> bool:
        """Under D."""
        return self.signaled

    def take(self, _thread: ApcThread, /) -> bool:
        """Under D: a wait unsignals a synchronization timer."""
        self.signaled = self._manual
        return False

    def give_back(self, _thread: ApcThread, /) -> None:
        """Under D. Nothing was taken from a manual-reset timer, which may have been set anew meanwhile."""
        self.signaled = self.signaled or not self._manual

    def disarm(self, wakes: Wakes) -> None:
        """Under D."""
        for arming in (self.arming, self.last):
            if arming is not None:
                arming.end(wakes)
        self.arming = self.last = None


def drive_timers(thread: ApcThread) -> None:
    """Have the driver fire the timers of `thread`, which has got a wake-up hook, if any has a routine for it."""
    if D.run(_has_timers, thread):
        ensure_driver()


def _has_timers(_wakes: Wakes, thread: ApcThread) -> bool:
    return any(isinstance(dependent, _Arming) for dependent in thread.dependents)


def _set(wakes: Wakes, timer: WaitableTimer, arming: _Arming) -> None:
    owner = arming.owner
    if owner.ended:
        raise ApcError(Status.ERROR_GEN_FAILURE, f"thread {owner.name!r} has ended")
    timer.disarm(wakes)
    timer.signaled = False
    timer.arming = arming
    arming.begin(wakes)
    for wait in timer.waiters:
        notify(wait.thread, wakes)  # it sleeps until the alarms that it knew


def _cancel(wakes: Wakes, timer: WaitableTimer) -> None:
    timer.disarm(wakes)


def _seconds(what: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ApcError(Status.ERROR_INVALID_PARAMETER, f"{what} is a number of seconds of at least 0, not {value!r}")
    return float(value)

"""The dispatcher: one lock, and the decisions that are taken under it.

What lives here: the lock D, waits, waitable objects, and every operation that changes them. What must not: user code,
trace events, system calls and other locks, because nothing may be done under D that could wait or come back; and
polling, which belongs to `_port`.

How it works. An *operation* is a function `operation(wakes, *args)` that `Dispatcher.run` calls under D. It changes
queues and objects, latches the results of the waits that this ends, and collects in `wakes` the threads to be woken;
`run` wakes them once D is free. A wait has one result, set once, under D: that is what "latched" means everywhere.

Finalizers and signal handlers run in the middle of whatever their thread is doing, these operations included. They
may queue and set: an operation that finds D held by its own thread is put off and run by the one that leaves D.

Ctrl-C may strike after any call (CPython 3.11 looks for signals after a call into C and at the start of a Python
function, not between plain statements). So what must not be torn apart is written without a call in between, D is
only ever taken with `with`, and an operation that was struck is followed by `_reexamine`, which decides every blocked
wait anew and finds whatever was left undone.
"""

from __future__ import annotations

import math
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, TypeVarTuple

from trio.lowlevel import enable_ki_protection

from apcrt import status
from apcrt.apc._clock import Clock
from apcrt.apc._entries import Drain, Entry, inside

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import trio

    from apcrt.apc._thread import ApcThread

__all__ = [
    "CANCELLED",
    "D",
    "Alarm",
    "AlarmEntry",
    "Dependent",
    "Dispatcher",
    "Drain",
    "Entry",
    "Wait",
    "Waitable",
    "Wakes",
    "inside",
    "threads",
]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Wakes = list["ApcThread"]

IO_COMPLETION = int(status.WAIT_IO_COMPLETION)
TIMEOUT = int(status.WAIT_TIMEOUT)
ABANDONED = int(status.WAIT_ABANDONED_0)
CANCELLED = -1
"""Result of a wait that ended because the structured scope of its thread was cancelled. No Win32 result is negative."""

threads: weakref.WeakSet[ApcThread] = weakref.WeakSet()
"""Every ApcThread of this process."""


class Wait:
    """One wait of one thread (or trio task) on `objects`, from its beginning until its result is latched.

    `result` is None while it is undecided, then the Win32 number, or a negative one for ends that Win32 has no number
    for. `deadline` is in seconds of D's clock; whoever waits sees to it, here it is for who looks on.
    """

    __slots__ = ("alertable", "deadline", "drain", "objects", "result", "shielded", "task", "thread", "wait_all")

    objects_first = False
    """Whether what the wait is for goes before a pending APC: completion ports are like that."""

    def __init__(
        self,
        thread: ApcThread,
        objects: Sequence[Waitable],
        *,
        wait_all: bool = False,
        alertable: bool = False,
        shielded: bool = False,
        deadline: float = math.inf,
        drain: Drain | None = None,
        task: trio.lowlevel.Task | None = None,
    ) -> None:
        self.thread: ApcThread = thread
        self.objects: Sequence[Waitable] = objects
        self.wait_all: bool = wait_all
        self.alertable: bool = alertable
        self.shielded: bool = shielded
        self.deadline: float = deadline
        self.drain: Drain | None = drain
        self.task: trio.lowlevel.Task | None = task
        self.result: int | None = None

    def may_drain(self) -> bool:
        """Whether this wait is inside the innermost level that is running, so that APCs are its to run. Under D."""
        drains = self.thread.drains
        return Drain.innermost(self.drain) is (drains[-1] if drains else None)

    def alerted(self) -> bool:
        """Whether an APC is waiting that this wait may run. Under D, on the thread of the wait."""
        queue = self.thread.queue
        while queue and not queue[0].live:
            del queue[0]
        return bool(queue or self.thread.specials) and self.alertable and self.may_drain()

    def satisfy(self) -> bool:
        """Take what the wait is for and set the result, if all of it can be had at this moment. Under D."""
        thread = self.thread
        if self.wait_all:
            for waitable in self.objects:
                if not waitable.is_signaled_for(thread):
                    return False
            result = taken = 0
            try:
                for waitable in self.objects:
                    result = ABANDONED if waitable.take(thread) else result
                    taken += 1
            except BaseException:
                for waitable in self.objects[:taken]:
                    waitable.give_back(thread)
                raise
            self.result = result
            return True
        for index, waitable in enumerate(self.objects):
            if waitable.is_signaled_for(thread):
                # No call between these two: Ctrl-C must not fall between taking and latching.
                abandoned = waitable.take(thread)
                self.result = ABANDONED + index if abandoned else index
                return True
        return False

    def link(self) -> None:
        """Join the end of every line. Under D."""
        self.thread.waits[self] = None
        for waitable in self.objects:
            waitable.waiters[self] = None

    def unlink(self) -> None:
        """Leave every line; harmless if not in one. Under D."""
        self.thread.waits.pop(self, None)
        self.thread.direct.pop(self, None)
        for waitable in self.objects:
            waitable.waiters.pop(self, None)

    def ended(self, wakes: Wakes) -> None:
        """Leave the lines with `result` set, and have the one who waits told. Under D."""
        if self.task is not None:
            self.thread.ready.append(self)
        self.unlink()
        notify(self.thread, wakes)

    def give_back(self, wakes: Wakes) -> None:
        """Undo a latched result that nobody will receive: the interrupt wins. Under D. Idempotent."""
        result = self.result
        self.result = None
        if result is not None and result >= 0 and result not in (IO_COMPLETION, TIMEOUT):
            self.undo(wakes, result)

    def undo(self, wakes: Wakes, result: int, /) -> None:
        """Put back what was taken with `result`, and serve others with it. Under D."""
        taken = self.objects if self.wait_all else (self.objects[result & 0x7F],)
        for waitable in taken:
            waitable.give_back(self.thread)
            signal(wakes, waitable)


class Waitable(ABC):
    """What a wait can be on. Kinds of objects derive from this and say when they are signaled and what a wait takes.

    The three hooks are called under D: they look at and change plain attributes only, and `take` makes no call at all
    (see the module's text on Ctrl-C). Changes go through `D.run` or `D.submit` with an operation that ends in
    `signal(wakes, self)`.
    """

    __slots__ = ("__weakref__", "epoch", "waiters")

    def __init__(self) -> None:
        self.waiters: dict[Wait, None] = {}
        self.epoch: int = D.epoch

    @abstractmethod
    def is_signaled_for(self, thread: ApcThread, /) -> bool:
        """Whether a wait of `thread` would be satisfied now."""

    @abstractmethod
    def take(self, thread: ApcThread, /) -> bool:
        """Let `thread` have it. Returns whether it was abandoned by an owner that ended."""

    @abstractmethod
    def give_back(self, thread: ApcThread, /) -> None:
        """Undo `take` for a wait that was interrupted before it could return."""

    def signal_once(self, wakes: Wakes, thread: ApcThread, /) -> None:  # noqa: ARG002 - for kinds that can
        """What `signal_object_and_wait` does with its first object, on behalf of `thread`. Under D.

        Raises:
            ApcError: 6, this kind of object cannot be signaled so; or why it cannot be now.
        """
        raise status.ApcError(
            status.Status.ERROR_INVALID_HANDLE, f"{self!r} is not an event, a mutex or a semaphore, and cannot be set"
        )

    def in_line(self) -> Sequence[Wait]:
        """Who waits for it, in the order in which they are served: first come, first served. Under D."""
        return tuple(self.waiters)

    def check_process(self) -> None:
        """Refuse an object that was made before a fork (ApcError 6)."""
        if self.epoch != D.epoch:
            raise foreign(self)


class Alarm(Protocol):
    """Something due at a time, such as a waitable timer."""

    def due(self, wakes: Wakes, when: float, /) -> None:
        """The time `when` (seconds of D's clock) has come. Called under D by whoever enters it next."""
        ...


class Dependent(Protocol):
    """Something that a thread leaves behind when it ends: a mutex that it owns, a timer, a pending operation."""

    def owner_ended(self, wakes: Wakes, thread: ApcThread, /) -> None:
        """`thread` has ended. Called under D, once; it has been removed from the thread's `dependents`."""
        ...


AlarmEntry = list[Any]
"""An entry of the heap of alarms: when, a serial number, and the `Alarm`, or None when it was taken back."""


class Dispatcher:
    """The lock D, what was put off while it was held, and the alarms. There is one per process, `D`."""

    __slots__ = ("alarms", "busy", "clock", "deferred", "epoch", "lock", "sequence", "stale")

    def __init__(self) -> None:
        self.lock: threading.RLock = threading.RLock()
        self.busy: bool = False
        self.deferred: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self.alarms: list[AlarmEntry] = []
        self.stale: int = 0  # alarms that were taken back and are in the heap still
        self.sequence: int = 0
        self.clock: Clock = Clock()
        self.epoch: int = 0

    @enable_ki_protection
    def run(self, operation: Callable[[Wakes, *Ts], T], /, *args: *Ts) -> T:
        """Do `operation` under D and wake whom it woke.

        Raises:
            ApcError: 87 when D is held by this very thread: a wait was called from a finalizer or a signal handler
                that ran in the middle of an operation. Use `submit` for what may be put off.
        """
        wakes: Wakes = []
        try:
            with self.lock:
                if self.busy:
                    raise status.ApcError(
                        status.Status.ERROR_INVALID_PARAMETER,
                        "a finalizer or signal handler that interrupted the dispatcher cannot wait; queue an APC there",
                    )
                self.busy = True
                try:
                    if self.deferred:
                        _do_deferred(wakes)
                    if self.alarms:
                        self.fire(wakes)
                    return operation(wakes, *args)
                finally:
                    self.busy = False
        except Exception:
            raise
        except BaseException:
            self.recover(struck=True)
            raise
        finally:
            try:
                if wakes:
                    wake(wakes)
                if self.deferred:
                    self.recover(struck=False)
            except KeyboardInterrupt:
                self.finish(wakes)
                raise

    @enable_ki_protection
    def submit(self, wakes: Wakes, operation: Callable[[Wakes, *Ts], object], /, *args: *Ts) -> None:
        """Do `operation` under D now, or when D is left if this thread holds it. The caller wakes."""
        try:
            with self.lock:
                if self.busy or self.deferred:  # behind what was put off, for the sake of the order
                    self.deferred.append((operation, args))
                    return
                self.busy = True
                try:
                    if self.alarms:
                        self.fire(wakes)
                    operation(wakes, *args)
                finally:
                    self.busy = False
        except Exception:
            raise
        except BaseException:
            self.recover(struck=True)
            raise
        finally:
            if self.deferred:
                self.recover(struck=False)

    def do(self, operation: Callable[[Wakes, *Ts], object], /, *args: *Ts) -> None:
        """`submit`, and wake whom it woke."""
        wakes: Wakes = []
        try:
            self.submit(wakes, operation, *args)
            if wakes:
                wake(wakes)
        except BaseException:
            self.finish(wakes)
            raise

    def finish(self, wakes: Wakes) -> None:
        """Do what Ctrl-C has kept from being done after an operation: nobody may sleep on whose wait has ended."""
        wake(wakes)
        if self.deferred:
            self.recover(struck=False)

    def recover(self, struck: bool) -> None:
        """Do what was put off, looking once more after D has been left; if the operation was `struck`, finish it."""
        if struck:
            wakes: Wakes = []
            self.submit(wakes, _reexamine)
            wake(wakes)
        # Not busy: else this is a finalizer inside an operation of this thread, which will look itself when it is done.
        while self.deferred and not self.busy:
            self.run(_do_deferred)

    def after_fork(self) -> None:
        """In the child: nothing that the parent's threads were doing goes on here."""
        self.lock = threading.RLock()
        self.busy = False
        self.deferred.clear()
        self.alarms.clear()
        self.stale = 0
        self.epoch += 1

    def set_alarm(self, when: float, alarm: Alarm) -> AlarmEntry:
        """Have `alarm.due` called at `when` (seconds of the clock) by whoever enters D then. Under D.

        Sleeping threads do not know of it: notify those that it concerns. Returns what `take_back` wants.
        """
        self.sequence += 1
        entry: AlarmEntry = [when, self.sequence, alarm]
        heappush(self.alarms, entry)
        return entry

    def take_back(self, entry: AlarmEntry) -> None:
        """Forget an alarm that has not been due yet. Under D. Idempotent."""
        if entry[2] is None:
            return
        entry[2] = None
        self.stale += 1
        if self.stale > 32 and self.stale * 2 > len(self.alarms):
            left = [one for one in self.alarms if one[2] is not None]
            heapify(left)
            self.alarms, self.stale = left, 0

    def fire(self, wakes: Wakes) -> None:
        """Fire every alarm that is due. Under D.

        An alarm leaves the heap after it was fired: one that Ctrl-C has struck is due again, and does not get lost.
        """
        now = self.clock.now()
        while self.alarms and self.alarms[0][0] <= now:
            entry = self.alarms[0]
            if entry[2] is None:
                self.stale -= 1
                heappop(self.alarms)
            else:
                entry[2].due(wakes, entry[0])
                entry[2] = None
                self.stale += 1

    def next_alarm(self) -> float | None:
        """When the first alarm is due (seconds of the clock), or None."""
        if not self.alarms:
            return None
        try:
            return float(self.alarms[0][0])
        except IndexError:  # fired meanwhile
            return None


D = Dispatcher()


# Operations. All of them run under D.


def deliver(wakes: Wakes, thread: ApcThread, entry: Entry) -> None:
    """Queue an APC. Does nothing when the thread has ended."""
    if thread.ended:
        return
    # Append first, look afterwards: before it, a consumer that pops meanwhile would lose the wake-up.
    thread.queue.append(entry)
    announce(wakes, thread)


def announce(wakes: Wakes, thread: ApcThread) -> None:
    """Let the wait that should run what has just been queued end, or the wake-up hook be called."""
    length = len(thread.queue)
    if length > thread.high_water:
        thread.high_water = length
    if thread.waits and alert(wakes, thread):
        return
    if length == 1 and thread.wakeup is not None:
        thread.hook_due = True
        wakes.append(thread)


def deliver_special(wakes: Wakes, thread: ApcThread, entry: Entry) -> None:
    """Queue a special APC, which goes before the others; refuse it when the thread has ended."""
    if thread.ended:
        entry.refused = True
        return
    thread.specials.append(entry)
    if not alert(wakes, thread) and thread.wakeup is not None:
        thread.hook_due = True
        wakes.append(thread)


def alert(wakes: Wakes, thread: ApcThread) -> bool:
    """End the wait that should run what is queued: the first that blocked, of the innermost level."""
    for wait in thread.waits:
        if wait.alertable and wait.result is None and wait.may_drain():
            wait.result = IO_COMPLETION
            wait.ended(wakes)
            return True
    return False


def release(wakes: Wakes, thread: ApcThread, drain: Drain | None) -> None:
    """End every alertable wait of the thread that is blocked, except those inside `drain`: the broadcast rule."""
    for wait in tuple(thread.waits):
        if wait.alertable and wait.result is None and (drain is None or Drain.innermost(wait.drain) is not drain):
            wait.result = IO_COMPLETION
            wait.ended(wakes)


def notify(thread: ApcThread, wakes: Wakes) -> None:
    """Have `thread` look again, if it sleeps or is about to."""
    if thread.asleep:
        thread.asleep = False
        wakes.append(thread)


def signal(wakes: Wakes, waitable: Waitable) -> None:
    """Serve those who wait for `waitable`, in its order."""
    for wait in waitable.in_line():
        if wait.result is None and waitable.is_signaled_for(wait.thread) and wait.satisfy():
            wait.ended(wakes)


def enroll(_wakes: Wakes, thread: ApcThread) -> None:
    """Add a thread to `threads`."""
    threads.add(thread)


def _do_deferred(wakes: Wakes) -> None:
    deferred = D.deferred
    while deferred:
        operation, args = deferred[0]
        del deferred[0]
        operation(wakes, *args)


def _reexamine(wakes: Wakes) -> None:
    """Finish whatever an interrupted operation left undone: decide every blocked wait as if it began now."""
    for thread in tuple(threads):
        for wait in tuple(thread.waits):
            if wait.result is not None:
                if wait.task is not None and wait in thread.ready:
                    wait.unlink()
                else:
                    wait.ended(wakes)
            elif not (thread.has_apcs() and wait.alertable and wait.may_drain()) and wait.satisfy():
                wait.ended(wakes)
        if thread.has_apcs() and not alert(wakes, thread) and thread.wakeup is not None:
            thread.hook_due = True
        thread.asleep = False
        wakes.append(thread)


def wake(wakes: Wakes) -> None:
    """Wake the collected threads and forget them. Under no lock.

    A plain thread is woken through its Port. A trio thread that wakes itself lets its ended waits run at once. A
    thread with a wake-up hook has it called.
    """
    while wakes:
        wakes[-1].wake()
        del wakes[-1]


def foreign(what: object) -> status.ApcError:
    """The error for using something of the parent process after a fork."""
    return status.ApcError(
        status.Status.ERROR_INVALID_HANDLE,
        f"{what!r} belongs to the process that this one was forked from; make a new one in the child",
    )

"""Waitable objects that programs signal: events, mutexes, semaphores.

What lives here: their state, and how waits and calls change it. What must not: decisions about waits, which
`_dispatcher` takes; timers (`_timer`) and completion ports (`_completion_port`).

How it works. Every change is an operation under D that ends by serving who waits for the object, first come first
served. The hooks that waits call (`is_signaled_for`, `take`, `give_back`) are plain statements without a call in them,
so that Ctrl-C cannot fall into the middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from apcrt.apc._dispatcher import D, Waitable, Wakes, signal
from apcrt.apc._thread import current_thread
from apcrt.status import ApcError, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from apcrt.apc._thread import ApcThread

__all__ = ["Event", "EventStatistics", "Mutex", "MutexStatistics", "Semaphore", "SemaphoreStatistics"]


@dataclass(frozen=True, slots=True)
class EventStatistics:
    """An event at one moment.

    Attributes:
        is_set: whether it is set.
        waiters: waits that are blocked on it.
    """

    is_set: bool
    waiters: int


class Event(Waitable):
    """An event object, as CreateEvent makes it.

    Args:
        manual_reset: True: stays set until `reset`, and satisfies every wait. False: a satisfied wait resets it, so
            each `set` releases one waiter, first come first served.
        initial: whether it is set from the start.

    Every method may be called on any thread, finalizers and signal handlers included, and never blocks. An Event used
    in a forked child raises ApcError (6).
    """

    __slots__ = ("_manual", "_set")

    def __init__(self, *, manual_reset: bool = False, initial: bool = False) -> None:
        super().__init__()
        self._manual = manual_reset
        self._set = initial

    def __repr__(self) -> str:
        kind = "manual" if self._manual else "auto"
        return f"<Event {kind} {'set' if self._set else 'unset'} waiters={len(self.waiters)}>"

    def statistics(self) -> EventStatistics:
        """Its state. Any thread."""
        return EventStatistics(self._set, len(self.waiters))

    def set(self) -> None:
        """Set the event (SetEvent) and release those who wait for it."""
        self._submit(_set)

    def reset(self) -> None:
        """Unset the event (ResetEvent)."""
        self._submit(_reset)

    def pulse(self) -> None:
        """Release who waits at this moment, all or one by its kind, and leave the event unset (PulseEvent).

        A thread that is running APCs is not waiting and misses it. Better use `set`.
        """
        self._submit(_pulse)

    def is_set(self) -> bool:
        """Whether it is set now."""
        return self._set

    def is_signaled_for(self, _thread: ApcThread, /) -> bool:
        """Under D."""
        return self._set

    def take(self, _thread: ApcThread, /) -> bool:
        """Under D: a wait resets an auto-reset event."""
        self._set = self._manual
        return False

    def give_back(self, _thread: ApcThread, /) -> None:
        """Under D. Nothing was taken from a manual-reset event, which may have been reset meanwhile."""
        self._set = self._set or not self._manual

    def signal_once(self, wakes: Wakes, _thread: ApcThread, /) -> None:
        """Under D."""
        _set(wakes, self)

    def change(self, value: bool) -> None:
        """Under D."""
        self._set = value

    def _submit(self, operation: Callable[[Wakes, Event], None]) -> None:
        self.check_process()
        D.do(operation, self)


def _set(wakes: Wakes, event: Event) -> None:
    event.change(True)
    if event.waiters:
        signal(wakes, event)


def _reset(_wakes: Wakes, event: Event) -> None:
    event.change(False)


def _pulse(wakes: Wakes, event: Event) -> None:
    event.change(True)
    signal(wakes, event)
    event.change(False)


@dataclass(frozen=True, slots=True)
class MutexStatistics:
    """A mutex at one moment.

    Attributes:
        owner: name of the thread that owns it; None when it is free.
        recursion: how often its owner has taken it.
        abandoned: whether its last owner ended without releasing it, and nobody has taken it since.
        waiters: waits that are blocked on it.
    """

    owner: str | None
    recursion: int
    abandoned: bool
    waiters: int


class Mutex(Waitable):
    """A mutex object, as CreateMutex makes it: owned by the thread whose wait took it.

    A thread may take it again, and owns it until it has released it as often.

    When its owner ends, the mutex is free and *abandoned*: the next wait that takes it, and only that one, returns
    WAIT_ABANDONED_0 (plus the index). What it guards may then be in any state.

    The owner is the thread: tasks of one trio thread do not exclude each other (use `trio.Lock` among them).

    Args:
        initially_owned: whether the thread that makes it owns it from the start.
    """

    __slots__ = ("_abandoned", "_owner", "_recursion", "_was_abandoned")

    def __init__(self, *, initially_owned: bool = False) -> None:
        super().__init__()
        self._owner: ApcThread | None = None
        self._recursion = 0
        self._abandoned = False
        self._was_abandoned = False  # when its owner took it
        if initially_owned:
            self.take(current_thread())

    def __repr__(self) -> str:
        owner = self._owner
        if owner is not None:
            state = f"owned by {owner.name!r} recursion={self._recursion}"
        else:
            state = "abandoned" if self._abandoned else "free"
        return f"<Mutex {state} waiters={len(self.waiters)}>"

    def release(self) -> None:
        """Release it once (ReleaseMutex).

        Raises:
            ApcError: 288 the calling thread does not own it; 6 after a fork; 87 from a finalizer or signal handler that
                has interrupted the dispatcher.
        """
        self.check_process()
        D.run(_release_mutex, self, current_thread())

    def statistics(self) -> MutexStatistics:
        """Its state. Any thread."""
        owner = self._owner
        return MutexStatistics(
            owner.name if owner is not None else None, self._recursion, self._abandoned, len(self.waiters)
        )

    def is_signaled_for(self, thread: ApcThread, /) -> bool:
        """Under D: free, or the thread's already."""
        return self._owner is None or self._owner is thread

    def take(self, thread: ApcThread, /) -> bool:
        """Under D."""
        if self._owner is None:
            self._owner = thread
            thread.dependents[self] = None
            self._was_abandoned = self._abandoned
            self._abandoned = False
            self._recursion = 1
            return self._was_abandoned
        self._recursion += 1
        return False

    def give_back(self, thread: ApcThread, /) -> None:
        """Under D."""
        self._recursion -= 1
        if not self._recursion:
            self._owner = None
            self._abandoned = self._was_abandoned
            thread.dependents.pop(self, None)

    def signal_once(self, wakes: Wakes, thread: ApcThread, /) -> None:
        """Under D: one release. Raises ApcError (288)."""
        if self._owner is not thread:
            raise ApcError(Status.ERROR_NOT_OWNER, f"{self!r} cannot be released by thread {thread.name!r}")
        self._was_abandoned = False
        self.give_back(thread)
        signal(wakes, self)

    def owner_ended(self, wakes: Wakes, _thread: ApcThread, /) -> None:
        """Under D: its owner is gone."""
        self._owner = None
        self._recursion = 0
        self._abandoned = True
        signal(wakes, self)


def _release_mutex(wakes: Wakes, mutex: Mutex, thread: ApcThread) -> None:
    mutex.signal_once(wakes, thread)


@dataclass(frozen=True, slots=True)
class SemaphoreStatistics:
    """A semaphore at one moment.

    Attributes:
        count: how many waits it would satisfy now.
        maximum: the most that `count` may be.
        waiters: waits that are blocked on it.
    """

    count: int
    maximum: int
    waiters: int


class Semaphore(Waitable):
    """A semaphore object, as CreateSemaphore makes it: signaled while its count is above 0; a wait takes 1.

    Args:
        initial: the count at the start, 0 to `maximum`.
        maximum: the most that the count may be, at least 1.

    Raises:
        ApcError: 87 for other numbers.
    """

    __slots__ = ("_count", "_maximum")

    def __init__(self, initial: int, maximum: int) -> None:
        super().__init__()
        if not (maximum >= 1 and 0 <= initial <= maximum):
            raise ApcError(
                Status.ERROR_INVALID_PARAMETER,
                f"a semaphore counts from 0 to a maximum of at least 1; not from {initial} to {maximum}",
            )
        self._count = initial
        self._maximum = maximum

    def __repr__(self) -> str:
        return f"<Semaphore {self._count}/{self._maximum} waiters={len(self.waiters)}>"

    def release(self, count: int = 1) -> int:
        """Add `count` (ReleaseSemaphore). Any thread.

        Returns:
            The count before.

        Raises:
            ApcError: 298 it would pass its maximum, and nothing was added; 87 `count` is not at least 1, or from a
                finalizer or signal handler that has interrupted the dispatcher; 6 after a fork.
        """
        self.check_process()
        if count < 1:
            raise ApcError(Status.ERROR_INVALID_PARAMETER, f"a semaphore is released by 1 or more, not by {count}")
        return D.run(_release_semaphore, self, count)

    def statistics(self) -> SemaphoreStatistics:
        """Its state. Any thread."""
        return SemaphoreStatistics(self._count, self._maximum, len(self.waiters))

    def is_signaled_for(self, _thread: ApcThread, /) -> bool:
        """Under D."""
        return self._count > 0

    def take(self, _thread: ApcThread, /) -> bool:
        """Under D."""
        self._count -= 1
        return False

    def give_back(self, _thread: ApcThread, /) -> None:
        """Under D. Others may have filled it up meanwhile."""
        if self._count < self._maximum:
            self._count += 1

    def signal_once(self, wakes: Wakes, _thread: ApcThread, /) -> None:
        """Under D: a release by one. Raises ApcError (298)."""
        self.add(wakes, 1)

    def add(self, wakes: Wakes, count: int) -> int:
        """Under D. Returns the count before; raises ApcError (298)."""
        before = self._count
        if before + count > self._maximum:
            raise ApcError(Status.ERROR_TOO_MANY_POSTS, f"{self!r} cannot be released by {count}")
        self._count = before + count
        signal(wakes, self)
        return before


def _release_semaphore(wakes: Wakes, semaphore: Semaphore, count: int) -> int:
    return semaphore.add(wakes, count)

"""Waitable objects: events.

What lives here: `Event`. Other kinds (mutexes, semaphores, timers) belong beside it, on the same hooks. What must not:
decisions about waits, which `_dispatcher` takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apcrt.apc._dispatcher import D, Waitable, Wakes, signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from apcrt.apc._thread import ApcThread

__all__ = ["Event"]


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
        """Under D."""
        self._set = True

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

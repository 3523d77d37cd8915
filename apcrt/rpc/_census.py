"""How many calls are under way, and the wait for none.

What lives here: `Census`, one for a runtime, which its bindings and servers keep. What must not: calls themselves.
"""

from __future__ import annotations

import threading

from apcrt.apc import ApcThread, lowlevel

__all__ = ["Census"]


class Census:
    """Counts calls from their beginning to their end. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._waiters: list[lowlevel.Latch] = []

    @property
    def count(self) -> int:
        """Calls under way."""
        return self._count

    def enter(self) -> None:
        """A call has begun."""
        with self._lock:
            self._count += 1

    def leave(self) -> None:
        """A call is over. No lock is held by the caller."""
        with self._lock:
            self._count -= 1
            if self._count or not self._waiters:
                return
            waiters, self._waiters = self._waiters, []
        wakes: list[ApcThread] = []
        for latch in waiters:
            latch.set(wakes)
        lowlevel.wake(wakes)

    def wait(self, seconds: float) -> bool:
        """Block until there are none, at most so long; services the thread's own connections meanwhile."""
        latch = self._latch()
        return latch is None or latch.wait(seconds)

    async def wait_async(self) -> None:
        """Await the same."""
        latch = self._latch()
        if latch is not None:
            await latch.wait_async()

    def _latch(self) -> lowlevel.Latch | None:
        with self._lock:
            if not self._count:
                return None
            latch = lowlevel.Latch()
            self._waiters.append(latch)
            return latch

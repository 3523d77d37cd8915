"""Time, as waits and timers see it.

What lives here: `Clock`, real time, and the seam at which a test puts one of its own. What must not: sleeping.

How it works. Due times of waits and timers are in seconds of `now()`, which never goes back. Absolute due times are in
seconds of `wall()`, which may be set. Whoever sleeps asks `real` how long to really sleep; a clock that only a test
moves answers "until you are woken".
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trio

__all__ = ["Clock"]


class Clock:
    """The system's clocks. Subclasses replace all of the methods; any thread may call them, under D too."""

    __slots__ = ()

    def now(self) -> float:
        """Seconds since an arbitrary point in the past; never goes back."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since 1970 (UTC); may be set forward and back."""
        return time.time()

    def real(self, seconds: float) -> float | None:
        """How many real seconds to sleep for `seconds` of this clock; None: until woken."""
        return seconds

    def for_trio(self) -> trio.abc.Clock | None:
        """The clock of trio runs that structured threads begin; None for trio's own, which keeps the system's time."""
        return None

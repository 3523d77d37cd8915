"""What stands in a queue, and the levels on which it is run.

What lives here: `Entry`, `Drain`, and the context variable that says which level one is in. What must not: the queues
themselves, which are their threads', and the decisions about them (`_dispatcher`).
"""

from __future__ import annotations

import contextvars
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from apcrt import trace
    from apcrt.apc._thread import ApcThread

__all__ = ["Drain", "Entry", "inside"]

inside: contextvars.ContextVar[Drain | None] = contextvars.ContextVar("apcrt_drain", default=None)
"""The level of running APCs that the current context is in; tasks that a routine starts inherit it."""


class Entry:
    """One queued APC.

    `live` is cleared when the entry is run, and by whoever takes it back (a timer that is set anew); only the thread
    itself may then remove it from the middle of its queue. `queued_at` is in seconds of the monotonic clock, `source`
    says where it came from ("user", ...), `context` is the trace context of the issuer, `refused` that its thread had
    ended.
    """

    __slots__ = ("args", "context", "live", "queued_at", "refused", "routine", "source")

    def __init__(
        self,
        routine: Callable[..., object],
        args: tuple[object, ...],
        source: str,
        context: trace.Snapshot | None = None,
    ) -> None:
        self.routine: Callable[..., object] = routine
        self.args: tuple[object, ...] = args
        self.source: str = source
        self.context: trace.Snapshot | None = context
        self.live: bool = True
        self.refused: bool = False
        self.queued_at: float = monotonic()


class Drain:
    """One level of running APCs on `thread`. Waits inside of it nest; when it has ended they count as in `parent`."""

    __slots__ = ("before", "ended", "nursery", "parent", "thread")

    def __init__(self, thread: ApcThread, parent: Drain | None) -> None:
        self.thread: ApcThread = thread
        self.parent: Drain | None = parent
        self.before: int = thread.ran
        self.nursery: trio.Nursery | None = None
        self.ended: bool = False

    @staticmethod
    def innermost(drain: Drain | None) -> Drain | None:
        """The first level, from `drain` outwards, that has not ended."""
        while drain is not None and drain.ended:
            drain = drain.parent
        return drain

"""The Latch: the direct wait of one operation for its own end.

What lives here: the wait of the typed faces, which take no part in APCs: not alertable, nothing is broadcast, a
thousand streams do not wake each other.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from apcrt.apc._dispatcher import CANCELLED, D, Wait, Wakes
from apcrt.apc._pump import pumped_thread
from apcrt.apc._wait import check_seconds, waiting_thread
from apcrt.status import ApcError, Status

if TYPE_CHECKING:
    from apcrt.apc._thread import ApcThread

__all__ = ["Latch"]


class Latch:
    """Something that happens once, and one thread or task that waits for it.

    Args:
        thread: the one that will wait; None is the calling thread.

    `is_set` may be read on any thread.
    """

    __slots__ = ("_thread", "_waiter", "is_set")

    def __init__(self, thread: ApcThread | None = None) -> None:
        self._thread = thread
        self._waiter: Wait | None = None
        self.is_set: bool = False

    def __repr__(self) -> str:
        return f"<Latch {'set' if self.is_set else 'unset'}{' awaited' if self._waiter else ''}>"

    def set(self, wakes: list[ApcThread]) -> None:
        """It has happened. Any thread; a connection's lock may be held; the caller wakes `wakes` later. Idempotent."""
        if not self.is_set:
            D.submit(wakes, _set, self)

    def wait(self, seconds: float | None = None) -> bool:
        """Block until it is set, servicing the Port meanwhile. Runs no APC.

        Args:
            seconds: how long at most; None is for ever.

        Returns:
            Whether it is set; False is the time-out.

        Raises:
            ApcError: 87 on a trio thread, on another thread than the latch's, or when somebody waits already.
            WaitCancelled: the structured scope of this thread was cancelled.
        """
        check_seconds(seconds)
        thread = self._own(waiting_thread("Latch.wait", "await latch.wait_async()"))
        if thread.dirty:
            thread.flush_dirty()
        if self.is_set:
            return True
        deadline = None if seconds is None else time.monotonic() + seconds
        port = thread.port  # made before anybody may be told that this thread sleeps
        wait = self._waiter = Wait(thread, ())
        thread.waiting += 1
        try:
            if seconds == 0:
                port.service(0)
                return self.is_set
            while D.run(_must_sleep, self, thread):
                thread.check_cancelled()
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                port.service(left)
            return self.is_set
        finally:
            thread.waiting -= 1
            thread.asleep = False
            if self._waiter is wait:
                self._waiter = None

    async def wait_async(self) -> None:
        """Wait in a trio task until it is set. A checkpoint; a cancelled wait has changed nothing.

        Raises:
            ApcError: 87 as `wait`.
            WaitCancelled: the loop runs on a plain thread whose block was cancelled.
        """
        thread = self._own(pumped_thread("Latch.wait_async"))
        await trio.lowlevel.checkpoint_if_cancelled()
        thread.check_cancelled()
        if thread.dirty:
            thread.flush_dirty()
        if not self.is_set:
            wait = Wait(thread, (), task=trio.lowlevel.current_task())
            if D.run(_link, self, wait):
                await trio.lowlevel.wait_task_rescheduled(self._abort)
                if wait.result == CANCELLED:
                    self._waiter = None
                    thread.check_cancelled()
                return
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _abort(self, _: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        return trio.lowlevel.Abort.SUCCEEDED if D.run(_unlink, self) else trio.lowlevel.Abort.FAILED

    def _own(self, thread: ApcThread) -> ApcThread:
        if self._waiter is not None:
            raise ApcError(Status.ERROR_INVALID_PARAMETER, "somebody waits on this latch already")
        if self._thread is not None and thread is not self._thread:
            raise ApcError(
                Status.ERROR_INVALID_PARAMETER,
                f"the latch belongs to thread {self._thread.name!r}, not to {thread.name!r}",
            )
        return thread

    # Under D.

    def happened(self, wakes: Wakes) -> None:
        """Set it and tell the waiter. Under D."""
        self.is_set = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and waiter.result is None:
            waiter.result = 0
            waiter.ended(wakes)

    def link(self, wait: Wait) -> bool:
        """Let `wait` be the one who waits, unless it is set. Under D."""
        if self.is_set:
            return False
        self._waiter = wait
        wait.thread.direct[wait] = None
        return True

    def unlink(self) -> bool:
        """Forget who waits, unless the wait has ended already. Under D."""
        waiter = self._waiter
        if waiter is None or waiter.result is not None:
            return False
        self._waiter = None
        waiter.unlink()
        return True


def _set(wakes: Wakes, latch: Latch) -> None:
    if not latch.is_set:
        latch.happened(wakes)


def _must_sleep(_wakes: Wakes, latch: Latch, thread: ApcThread) -> bool:
    thread.asleep = not latch.is_set
    return thread.asleep


def _link(_wakes: Wakes, latch: Latch, wait: Wait) -> bool:
    return latch.link(wait)


def _unlink(_wakes: Wakes, latch: Latch) -> bool:
    return latch.unlink()

"""Waiting for a call: what the blocking and the trio verbs of both sides do while nothing moves.

What lives here: `Awaited`, the part of a call that threads and tasks wait for. What must not: APCs, which these waits
take no part in, and what a verb does when it may go on (`_call.py`).

How it works. A verb waits for a condition of its call, by a latch. Whoever makes progress under the connection's lock
sets the latches of the call, and every waiting verb looks at its condition again, under the lock. The thread that waits
becomes the home of the connection, so it drives what it waits for.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING

from apcrt.apc import current_thread, lowlevel
from apcrt.engine.exchange import Exchange
from apcrt.rpc._states import StreamState
from apcrt.status import RpcUsageError, Status

if TYPE_CHECKING:
    from apcrt.engine.client import ClientConnection
    from apcrt.engine.server import ServerConnection
    from apcrt.rpc._streams import Input
    from apcrt.status import RpcError

__all__ = ["Awaited"]


class Awaited(Exchange):
    """What a call's verbs wait by."""

    error: RpcError | None

    def __init__(self) -> None:
        self._waiters: list[lowlevel.Latch] = []

    @abc.abstractmethod
    def room_for(self, size: int) -> bool:
        """Would a push of `size` bytes be taken now? Under the lock."""

    @abc.abstractmethod
    def pending_ready(self) -> bool:
        """Would a pull succeed now? Also when it would fail for good."""

    def wait_until(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Block until `condition`, evaluated under the lock, holds or the call is over; False after `seconds`."""
        if lowlevel.in_trio_run():
            raise RpcUsageError(
                Status.RPC_S_CANNOT_SUPPORT,
                "this would block a thread that runs trio; await the twin instead (send, send_eof, receive_into, "
                "async for, operation.call, async with operation.open)",
            )
        while True:
            latch = self._wait_latch(condition)
            if latch is None:
                return True
            try:
                if not latch.wait(seconds):
                    return False
            finally:
                self._forget(latch)

    async def wait_until_async(self, condition: Callable[[], bool]) -> None:
        """Await what `wait_until` blocks for. A cancelled wait has consumed nothing."""
        while True:
            latch = self._wait_latch(condition)
            if latch is None:
                return
            try:
                await latch.wait_async()
            finally:
                self._forget(latch)

    def wait_for_input(self, stream: Input) -> None:
        """Block until a pull of the stream would not be pending.

        Raises:
            RpcCancelled: 1818, the binding's call time-out has expired; the call was cancelled.
        """
        if not self.wait_until(lambda: self._input_settled(stream), self.silence_limit()):
            self.timed_out()

    async def wait_for_input_async(self, stream: Input) -> None:
        """Await what `wait_for_input` blocks for; there is no call time-out here, but there are cancel scopes."""
        await self.wait_until_async(lambda: self._input_settled(stream))

    def wait_for_room(self, size: int) -> None:
        """Block until a push of `size` bytes would be taken, or the call is over.

        Raises:
            RpcCancelled: 1818, the binding's call time-out has expired; the call was cancelled.
        """
        if not self.wait_until(lambda: self.room_for(size), self.silence_limit()):
            self.timed_out()

    async def wait_for_room_async(self, size: int) -> None:
        """Await what `wait_for_room` blocks for."""
        await self.wait_until_async(lambda: self.room_for(size))

    def _input_settled(self, stream: Input) -> bool:
        return self.error is not None or stream.state is not StreamState.OPEN or self.pending_ready()

    def silence_limit(self) -> float | None:
        """Seconds that the blocking face waits for a silent peer; None for ever."""
        return None

    def timed_out(self) -> None:
        """The blocking face has waited that long in vain."""

    def _wait_latch(self, condition: Callable[[], bool]) -> lowlevel.Latch | None:
        """A latch that is set when `condition` is worth another look; None when it holds, or the call is over."""
        while (connection := self.connection) is not None:
            latch = connection.run(self._link_latch, connection, condition)
            if latch is None or self.connection is connection:
                return latch
            # Another connection has begun to carry the call meanwhile, and may have missed the latch.
            self._forget(latch)
        return None

    def _link_latch(
        self, connection: ClientConnection | ServerConnection, condition: Callable[[], bool]
    ) -> lowlevel.Latch | None:
        latch = lowlevel.Latch(current_thread())
        if self.connection is connection:
            if condition():
                return None
            thread = current_thread()
            if connection.home is not thread and connection.closed is None:
                connection.set_home(thread)
            self._waiters.append(latch)
            connection.progress()
        return latch

    def _forget(self, latch: lowlevel.Latch) -> None:
        if latch in self._waiters:
            try:
                self._waiters.remove(latch)
            except ValueError:  # roused meanwhile
                return

    def _rouse(self) -> None:
        """Let every waiting verb look again. Under the lock."""
        connection = self.connection
        if self._waiters and connection is not None:
            waiters, self._waiters = self._waiters, []
            for latch in waiters:
                latch.set(connection.wakes)

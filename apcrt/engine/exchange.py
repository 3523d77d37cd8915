"""One call, as the engine sees it: the upcalls that `apcrt.rpc` fills.

What lives here: the abstract `Exchange`. What must not: values, pipes, notifications.

How it works. A connection moves stub bytes for one exchange at a time and tells it what happened through the upcalls
below. They run under the connection's lock, on whichever thread made the progress; they never wait, never run user
code and never log, but may append to `Connection.wakes` the threads that have to look, which are woken once the lock
is free, and to `Connection.after` what has to run then.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apcrt.engine.buffers import Inbox
    from apcrt.engine.client import ClientConnection
    from apcrt.engine.server import ServerConnection
    from apcrt.ndr import ByteOrder
    from apcrt.status import RpcError
    from apcrt.wire import OutgoingStub

__all__ = ["Exchange"]


class Exchange(abc.ABC):
    """A request and its response on one connection, both of them streams of stub bytes."""

    #: The connection that carries the exchange; None before one was found and after the exchange is over.
    connection: ClientConnection | ServerConnection | None
    #: The message that this side sends, once it may be sent.
    stub: OutgoingStub | None
    #: What has arrived and was not asked for yet.
    inbox: Inbox
    #: Has the whole of the peer's message arrived?
    peer_ended: bool
    #: True while pushed bytes are not yet with the transport.
    unsent: bool

    @abc.abstractmethod
    def arrived(self, order: ByteOrder) -> None:
        """More stub bytes stand in the inbox; `order` is the byte order of the peer."""

    @abc.abstractmethod
    def ended(self) -> None:
        """The peer's message is complete."""

    @abc.abstractmethod
    def drained(self, left: int) -> None:
        """More of what was pushed is with the transport; `left` bytes are not, and at 0 everything is."""

    @abc.abstractmethod
    def lost(self, error: RpcError) -> None:
        """The exchange is over because of its link; nothing more will arrive."""

    @abc.abstractmethod
    def reports_by_apc(self) -> bool:
        """Is its progress told by APCs? Called without the lock."""

    @abc.abstractmethod
    def wants_stub(self) -> bool:
        """Would more stub bytes get this exchange any further now?"""

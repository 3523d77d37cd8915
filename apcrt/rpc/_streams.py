"""One direction of one pipe on one side: where it stands, and how its elements become bytes and back.

What lives here: `Output` and `Input`, guarded by the lock of the connection. What must not: whose turn it is, windows
and notifications (`_call.py`).

How it works. An output turns elements into chunks. An input first takes from the inbox what has arrived; then it
receives, straight into the caller's memory when the next bytes on the wire are elements as they lie in memory, with a
small buffer behind for the headers that follow, else into a lent buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from apcrt import ndr
from apcrt.rpc._states import StreamState

if TYPE_CHECKING:
    from apcrt.engine.buffers import Inbox
    from apcrt.engine.client import ClientConnection
    from apcrt.engine.server import ServerConnection
    from apcrt.rpc._operation import PipeParameter

__all__ = ["Input", "Output", "Stream"]

DIRECT_FROM: Final = 4096  # bytes: smaller rests are received into a lent buffer, with whatever follows them
SCRATCH: Final = 512  # bytes received behind a direct one: the next headers


class Stream:
    """What both directions have."""

    __slots__ = ("element", "name", "state")

    def __init__(self, parameter: PipeParameter) -> None:
        self.name: str = parameter.name
        self.element: ndr.Element = parameter.element
        self.state: StreamState = StreamState.WAITING


class Output(Stream):
    """What this side pushes."""

    __slots__ = ("_writer",)

    def __init__(self, parameter: PipeParameter, order: ndr.ByteOrder) -> None:
        super().__init__(parameter)
        self._writer = ndr.PipeWriter(parameter.element, order)

    def chunk(self, offset: int, octets: bytes | memoryview, elements: int) -> list[memoryview | bytes]:
        """The pieces of a chunk at a stub position; the caller's memory is one of them."""
        return self._writer.chunk(offset, octets, elements)

    def end(self, offset: int) -> bytes:
        """The end of the stream at a stub position."""
        return self._writer.end(offset)


class Input(Stream):
    """What this side pulls."""

    __slots__ = ("reader",)

    def __init__(self, parameter: PipeParameter) -> None:
        super().__init__(parameter)
        #: None until the peer's byte order is known.
        self.reader: ndr.PipeReader | None = None

    def begin(self, order: ndr.ByteOrder | None, offset: int) -> None:
        """The stream's turn has come: it begins at a stub position, in the peer's byte order if that is known yet."""
        if self.reader is None and order is not None:
            self.reader = ndr.PipeReader(self.element, order, offset=offset)

    @property
    def ended(self) -> bool:
        """Has the terminator been read?"""
        return self.reader is not None and self.reader.ended

    def take(self, inbox: Inbox, target: ndr.Target, count: int) -> int:
        """Elements from the inbox into `target` from index `count` on; returns how many there are then."""
        reader = self.reader
        if reader is not None:
            while inbox.size and count < target.capacity and not reader.ended:
                used, got = reader.read(inbox.head, target, count)
                inbox.consume(used)
                count += got
        return count

    def receive(
        self, connection: ClientConnection | ServerConnection, inbox: Inbox, target: ndr.Target, count: int
    ) -> int | None:
        """Receive once; returns the elements that went straight into `target`, or None when nothing was there.

        May end the call: by what has arrived, or by the end of the connection.
        """
        stream, reader = connection.stream, self.reader
        if stream is None:
            return None  # still being opened
        pool = connection.io.buffers
        left = connection.wire.body_left()
        memory = reader.direct(target, count) if reader is not None and left >= DIRECT_FROM else None
        straight = memory is not None and len(memory) >= DIRECT_FROM
        if not straight and count and target.capacity - count < DIRECT_FROM:
            return None  # there is something to deliver; do not ask the system for little more
        buffer = pool.lend()
        kept = False
        try:
            views = (memory[:left], buffer[:SCRATCH]) if memory is not None and straight else (buffer,)
            received = stream.recv_into(views)
            if not received:
                if received == 0:
                    connection.at_end()
                return None
            done = 0
            if straight and reader is not None:
                direct = min(received, len(views[0]))
                done = reader.direct_done(target, count, direct)
                connection.body_taken(direct)
                received -= direct
            if received:
                connection.feed(buffer[:received])
                kept = inbox.settle(buffer)
            return done
        finally:
            if not kept:
                pool.give_back(buffer)

    def ready(self, inbox: Inbox) -> bool:
        """Would a pull find an element or the end in the inbox?"""
        reader = self.reader
        if reader is None or not inbox.size:
            return False
        return reader.ready(inbox.head) or reader.ready(inbox.join())

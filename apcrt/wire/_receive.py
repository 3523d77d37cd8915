"""Finding PDUs in a stream of bytes: what both ends share.

What lives here: framing. What must not: anything about a PDU that its header does not say.

How it works. A PDU that carries stub data (a request at the server, a response at the client) is never assembled: when
its header is complete the association says what is to become of the body, and the stub bytes are reported as they come,
as slices of the caller's memory. Other PDUs are small and are collected whole. So what is kept between two calls of
`receive` is either part of a header, 40 bytes at most, or part of one control PDU, 65535 bytes at most, of which no
byte is reserved before it has arrived.

An engine may receive a body straight into a buffer that somebody waits for: `body_left` says how many bytes may go
there, and `body_taken` accounts for them.
"""

from __future__ import annotations

import abc
from typing import Generic, TypeVar

from apcrt.ndr import ByteOrder
from apcrt.status import RpcUsageError, Status
from apcrt.wire._numbers import HEADER_SIZE, PacketType
from apcrt.wire._pdu import Header, HeaderFlaw, Octets, header_flaw, message_header_size, read_header

Event = TypeVar("Event")


class Receiver(abc.ABC, Generic[Event]):
    """The receiving half of an association. Not thread-safe.

    Args:
        streamed: the type of the PDUs whose bodies are reported as they come.
    """

    def __init__(self, streamed: PacketType) -> None:
        self._streamed = streamed
        self._partial = bytearray()
        self._need = HEADER_SIZE  # bytes of the PDU, from its beginning, that must be there to get further
        self._header: Header | None = None
        self._taken = 0  # bytes of the PDU that `_complete` has used
        self._body = 0  # stub bytes of the fragment under way that are still to come
        self._sink: int | None = None  # the call that the body is for; None: nobody's
        self._order = ByteOrder.LITTLE  # of the fragment under way
        self._deaf = False

    # For the engine -----------------------------------------------------------------------------------------------

    def receive(self, data: memoryview) -> list[Event]:
        """Take bytes that have arrived, cut anywhere, and report what they mean.

        Args:
            data: a contiguous view of bytes (format B). Events may hold slices of it.

        Never raises because of what the bytes are: a peer that breaks the protocol is an event, after which the
        association ignores whatever comes.
        """
        events: list[Event] = []
        at, end = 0, len(data)
        while at < end and not self._deaf:
            if self._body:
                size = min(self._body, end - at)
                if self._sink is not None:
                    events.append(self._data(self._sink, data[at : at + size]))
                at += size
                self._body_went(size, events)
            elif self._partial or end - at < self._need:
                size = min(self._need - len(self._partial), end - at)
                self._partial += data[at : at + size]
                at += size
                if len(self._partial) == self._need and self._complete(self._partial, events):
                    self._partial = bytearray()
            elif self._complete(data[at:], events):
                at += self._taken
        return events

    def body_left(self) -> int:
        """Stub bytes of the fragment under way that may be received elsewhere and accounted for with `body_taken`.

        0 inside of headers and control PDUs, and for a body that nobody wants.
        """
        return self._body if self._sink is not None else 0

    def body_taken(self, nbytes: int) -> list[Event]:
        """Account for stub bytes that were received elsewhere; the events are those of the fragment's end, if any.

        Raises:
            RpcUsageError: (87) more than `body_left`.
        """
        if not 0 <= nbytes <= self.body_left():
            raise RpcUsageError(
                Status.ERROR_INVALID_PARAMETER, f"{nbytes} bytes of a body with {self.body_left()} left"
            )
        events: list[Event] = []
        if nbytes:
            self._body_went(nbytes, events)
        return events

    def wanted(self) -> int:
        """Bytes that complete the header, the control PDU or the fragment under way; at least 1."""
        return self._body or self._need - len(self._partial)

    @property
    def at_boundary(self) -> bool:
        """Whether the stream stands between two PDUs, so that its end would cut none."""
        return not (self._body or self._partial)

    # For the two ends ---------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _admit(self, header: Header, flaw: HeaderFlaw | None, events: list[Event]) -> None:
        """Judge a header; calls `_stop` when it is not acceptable."""

    @abc.abstractmethod
    def _message(self, header: Header, pdu: Octets, events: list[Event], /) -> None:
        """The header of a streamed PDU is complete: set `_sink`. Its body follows."""

    @abc.abstractmethod
    def _control(self, header: Header, pdu: Octets, events: list[Event]) -> None:
        """A PDU of any other type is complete."""

    @abc.abstractmethod
    def _data(self, call_id: int, data: memoryview) -> Event:
        """The event for stub bytes."""

    @abc.abstractmethod
    def _fragment_end(self, events: list[Event]) -> None:
        """The body of a streamed PDU is complete."""

    def _stop(self) -> None:
        """Ignore whatever still comes."""
        self._deaf = True
        self._body = 0
        self._sink = None
        self._partial = bytearray()

    # Inside -------------------------------------------------------------------------------------------------------

    def _complete(self, pdu: Octets, events: list[Event]) -> bool:
        """`_need` bytes of a PDU are there. False when that was not enough, or the peer is not listened to any more."""
        header = self._header
        if header is None:
            header = read_header(pdu)
            self._admit(header, header_flaw(header), events)
            if self._deaf:
                return False
            self._header = header
            self._order = header.order
            if header.ptype == self._streamed:
                self._need = message_header_size(header)
            else:
                self._need = header.frag_length
            if len(pdu) < self._need:
                return False
        self._taken = self._need
        self._need = HEADER_SIZE
        self._header = None
        if header.ptype != self._streamed:
            self._control(header, pdu, events)
            return not self._deaf
        self._sink = None
        self._message(header, pdu, events)
        if self._deaf:
            return False
        self._body = header.frag_length - self._taken
        if not self._body:
            self._fragment_end(events)
        return not self._deaf

    def _body_went(self, size: int, events: list[Event]) -> None:
        self._body -= size
        if not self._body:
            self._fragment_end(events)

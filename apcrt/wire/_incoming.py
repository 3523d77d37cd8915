"""A request as the server's end keeps it: what is known of the call, and how much of it may still come.

What lives here: `IncomingCall`. What must not: the stub's bytes, which are never kept, and the order of the checks
(`_server`).
"""

from __future__ import annotations

from apcrt.ndr import ByteOrder
from apcrt.wire._contexts import AgreedContext
from apcrt.wire._numbers import WHOLE
from apcrt.wire._outgoing import OutgoingStub
from apcrt.wire._pdu import Header, message_header_size
from apcrt.wire._states import ServerCallState


class IncomingCall:
    """A request, from its first fragment on, and what is known of its answer."""

    __slots__ = (
        "call_id",
        "context",
        "context_id",
        "opnum",
        "order",
        "received",
        "reported",
        "state",
        "stub",
        "unlimited",
    )

    def __init__(self, call_id: int, context_id: int, opnum: int, order: ByteOrder) -> None:
        self.call_id = call_id
        self.context_id = context_id
        self.opnum = opnum
        self.order = order
        self.state = ServerCallState.RECEIVING
        self.context: AgreedContext | None = None
        #: The engine knows of the call.
        self.reported = False
        #: The operation takes pipes.
        self.unlimited = False
        #: Stub bytes announced by the fragments so far.
        self.received = 0
        self.stub: OutgoingStub | None = None

    def within(self, limit: int, header: Header, hint: int) -> bool:
        """Count a fragment in. False when the request is, or says it will be, longer than `limit` stub bytes.

        Streams have no total, and their hints no meaning. The hint of a single fragment says nothing that the
        fragment does not say better; Windows ignores it, and so it may be any number.
        """
        room = limit - self.received
        size = header.frag_length - message_header_size(header)
        self.received += size
        if self.unlimited:
            return True
        return size <= room and (header.flags & WHOLE == WHOLE or hint <= room)

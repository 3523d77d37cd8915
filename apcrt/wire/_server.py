"""The server's end of a connection.

What lives here: `ServerAssociation`: which PDU is welcome when, requests fragment by fragment, and what is answered to
everything that is not as it should be. What must not: framing (`_receive`), layouts (`_pdu`), the rules of contexts
(`_contexts`), the tables (`_states`).

How it works. Refusals are immediate and follow one pattern: the answer is an event, and unless the connection can go on
it is followed by `CloseConnection`, after which nothing is listened to. The order of the checks for a fragment is that
of Windows, because it decides which of several faults a peer gets to see: header, bound, size, place in the message,
context, verifier, limits, and the operation number last, when the request is complete.

Calls are kept by their identifier. As long as concurrent multiplexing is not agreed there are at most two: one that is
being received, and one before it that was answered meanwhile.

Sources: C706 10 and 12.6.4, MS-RPCE 3.3.3.
"""

from __future__ import annotations

from typing import Final

from apcrt.ndr import ByteOrder, decode_uuid
from apcrt.status import FaultStatus, RpcUsageError, Status
from apcrt.wire._contexts import AgreedContext, ContextConflict, InterfaceOffer, agree, grant
from apcrt.wire._events import (
    BoundByPeer,
    CallOrphaned,
    CancelRequested,
    CloseConnection,
    ReplyReady,
    RequestData,
    RequestEnd,
    RequestStarted,
    ServerEvent,
)
from apcrt.wire._groups import AssociationGroups
from apcrt.wire._incoming import IncomingCall
from apcrt.wire._numbers import (
    APCRT_RECEIVED,
    CANCEL_PENDING,
    FIRST,
    HEADER_SIGN,
    LAST,
    MAX_CONTEXTS,
    MAX_REQUEST,
    STRANGER_FRAGMENT,
    NakReason,
    PacketType,
    offers_features,
)
from apcrt.wire._outgoing import OutgoingStub
from apcrt.wire._pdu import (
    Acknowledgement,
    ContextResult,
    Header,
    HeaderFlaw,
    Malformed,
    Octets,
    Offer,
    build_acknowledgement,
    build_bind_nak,
    build_fault,
    message_header_size,
    message_tail,
    read_message,
    read_offer,
    read_sec_trailer,
)
from apcrt.wire._receive import Receiver
from apcrt.wire._states import (
    SERVER,
    SERVER_CALL,
    ServerCallInput,
    ServerCallState,
    ServerState,
    nak_for,
    nak_for_verifier,
)

_PROTO_ERROR: Final = FaultStatus.NCA_S_PROTO_ERROR
_PENDING: Final = (ServerCallState.RECEIVING, ServerCallState.DISPATCHED)  # in which a call wants an answer
_STALE: Final = 150  # identifiers: fragments of a call this little older than the newest are late, not wrong


class ServerAssociation(Receiver[ServerEvent]):
    """The server's end of one connection. Not thread-safe; `receive` and its companions are in `Receiver`.

    Args:
        offer: what is served.
        groups: the association groups of the server; `receive` and `closed` use it, so the engine guards both.
        secondary_address: what a bind_ack names as the endpoint: a port number, a pipe's name, a path.
        max_request: stub bytes of a request without pipes that are taken at most.
        order: the byte order we send.
        max_contexts: presentation contexts kept at most.
    """

    def __init__(
        self,
        offer: InterfaceOffer,
        groups: AssociationGroups,
        *,
        secondary_address: str,
        max_request: int = MAX_REQUEST,
        order: ByteOrder | None = None,
        max_contexts: int = MAX_CONTEXTS,
    ) -> None:
        super().__init__(PacketType.REQUEST)
        self.state: ServerState = ServerState.START
        #: The association group of the client; 0 before the bind.
        self.group_id: int = 0
        #: Bytes of the largest fragment that we may send.
        self.peer_fragment: int = STRANGER_FRAGMENT
        #: Is the client an end of this runtime?
        self.knows_peer: bool = False
        self._received_fragment = STRANGER_FRAGMENT
        self._offer = offer
        self._groups = groups
        self._secondary = secondary_address.encode("ascii", "replace")[:0x7FFF] + b"\0"
        self._max_request = max_request
        self._own_order = order if order is not None else ByteOrder.native()
        self._max_contexts = max_contexts
        self._contexts: dict[int, AgreedContext] = {}
        self._calls: dict[int, IncomingCall] = {}
        self._receiving: IncomingCall | None = None  # the call whose request is not complete
        self._fragment_call: IncomingCall | None = None
        self._fragment_last = False
        self._newest: int | None = None
        self._sign = 0

    # Commands -----------------------------------------------------------------------------------------------------

    def respond(self, call_id: int, *, streams: bool) -> OutgoingStub:
        """Begin the response of a call: the message to fill and send (C706 12.6.4.10).

        Args:
            call_id: a call that was reported and neither answered nor orphaned.
            streams: does the response carry pipes?

        Raises:
            RpcUsageError: (1725) no such call; (1791) its response was begun already.
        """
        call = self._unanswered(call_id)
        if call.stub is not None:
            raise RpcUsageError(Status.RPC_S_CALL_IN_PROGRESS, f"call {call_id} has a response already")
        # Windows and Samba echo eight bits of the context here, and all sixteen in a fault.
        tail = message_tail(call.context_id & 0xFF, 0, self._own_order)
        call.stub = OutgoingStub(
            PacketType.RESPONSE,
            call_id,
            fragment=self.peer_fragment,
            aligned=not self.knows_peer,
            order=self._own_order,
            tail=tail,
            streams=streams,
        )
        return call.stub

    def fault(self, call_id: int, code: int, *, did_not_execute: bool = False) -> bytes:
        """Answer a call with a fault: the PDU to send. What is still to come of its request is dropped.

        Args:
            call_id: a call that was reported and neither answered nor orphaned. A response that was begun ends here.
            code: an nca_s code or a Win32 status; forbidden ones are replaced.
            did_not_execute: the manager routine was not entered, and the client may rely on it.

        Returns:
            The PDU; nothing if the connection is being closed and the last word was said.

        Raises:
            RpcUsageError: (1725) no such call.
        """
        if self.state is ServerState.CLOSING:
            return b""
        call = self._unanswered(call_id)
        if call.stub is not None:
            call.stub.give_up()
        self._step(call, ServerCallInput.ANSWERED)
        if self._fragment_call is call:
            self._sink = None
        return build_fault(call_id, call.context_id, code, self._own_order, did_not_execute=did_not_execute)

    def closed(self) -> None:
        """The connection is gone: leave the association group. Idempotent."""
        self.state = ServerState.CLOSING
        self._stop()
        if self.group_id:
            self._groups.leave(self.group_id, self)
            self.group_id = 0

    def eof(self) -> list[ServerEvent]:
        """The client has closed its sending direction: nothing comes now. Calls under way can still be answered."""
        where = "" if self.at_boundary else " in the middle of a PDU"
        self._stop()
        return [CloseConnection(f"the client has closed the connection{where}")]

    # Headers ------------------------------------------------------------------------------------------------------

    def _admit(self, header: Header, flaw: HeaderFlaw | None, events: list[ServerEvent]) -> None:
        ptype = header.ptype
        if flaw is HeaderFlaw.LENGTH:
            self._close("a PDU shorter than its type can be", events)
        elif flaw is not None or (self.state, ptype) not in SERVER:
            reason = nak_for(self.state, ptype)
            what = f"a PDU of type {ptype} " + (f"with an impossible {flaw.name.lower()}" if flaw else "out of place")
            if reason is None or (flaw is not None and self.state is not ServerState.START):
                self._refuse(header, _PROTO_ERROR, what, events, did_not_execute=True)
            else:
                self._nak(header, reason, what, events)
        elif ptype == PacketType.REQUEST and header.frag_length > max(self._received_fragment, STRANGER_FRAGMENT):
            self._refuse(header, _PROTO_ERROR, f"a fragment of {header.frag_length} bytes", events)

    # Requests -----------------------------------------------------------------------------------------------------

    def _message(self, header: Header, pdu: Octets, events: list[ServerEvent], /) -> None:
        self._settle()
        hint, context_id, opnum = read_message(pdu, header.order)
        self._fragment_last = bool(header.flags & LAST)
        self._fragment_call = None
        if header.flags & FIRST:
            call = self._first(header, context_id, opnum, events)
        else:
            call = self._later(header, events)
        if call is None:
            return
        self._fragment_call = call
        if call.state is not ServerCallState.RECEIVING:
            return
        if header.auth_length:
            self._refuse(header, Status.ERROR_ACCESS_DENIED, "a verifier without authentication", events, call=call)
            return
        if not call.within(self._max_request, header, hint):
            self._refuse(header, Status.ERROR_ACCESS_DENIED, "a request beyond the limit", events, call=call)
            return
        context = call.context
        if header.flags & FIRST and context is not None and opnum < context.shape.operations:
            call.reported = True
            size = message_header_size(header)
            events.append(
                RequestStarted(
                    call.call_id,
                    context_id,
                    context.abstract,
                    context.transfer,
                    opnum,
                    decode_uuid(pdu[24:40], header.order) if size == 40 else None,
                    header.order,
                    hint,
                )
            )
        if call.reported:
            self._sink = call.call_id

    def _first(self, header: Header, context_id: int, opnum: int, events: list[ServerEvent]) -> IncomingCall | None:
        """Judge a first fragment; None when the connection was refused."""
        before = self._receiving
        if before is not None and before.state is ServerCallState.DISCARDING:
            self._step(before, ServerCallInput.OVERTAKEN)
        elif before is not None:
            self._refuse(header, _PROTO_ERROR, "a request inside of another", events, call=before)
            return None
        if self._calls:
            self._refuse(header, _PROTO_ERROR, "a request before the last one was answered", events)
            return None
        if header.flags & CANCEL_PENDING:
            code = Status.RPC_S_NO_CALL_ACTIVE
            self._refuse(header, code, "a request that was cancelled before", events, did_not_execute=True)
            return None
        call = IncomingCall(header.call_id, context_id, opnum, header.order)
        self._calls[call.call_id] = self._receiving = call
        self._newest = max(header.call_id, self._newest or 0)
        call.context = self._contexts.get(context_id)
        if call.context is None:
            call.context_id = 0
            self._answer(call, FaultStatus.NCA_S_UNK_IF, events)
        elif opnum < call.context.shape.operations:
            call.unlimited = call.context.shape.streams_in(opnum)
        return call

    def _later(self, header: Header, events: list[ServerEvent]) -> IncomingCall | None:
        """Judge a fragment that is not a first one; None when it belongs to nothing, or the connection was refused."""
        call = self._receiving
        if call is None:
            if self._newest is not None and 0 < self._newest - header.call_id < _STALE:
                return None  # MS-RPCE 3.3.3.5.8: what is late of a call that was answered early
            self._refuse(header, _PROTO_ERROR, "a fragment of no request", events)
            return None
        if header.call_id != call.call_id:
            self._refuse(header, _PROTO_ERROR, "a fragment inside of another request", events, call=call)
            return None
        if header.order is not call.order:
            self._refuse(
                header, _PROTO_ERROR, "fragments in different byte orders", events, call=call, did_not_execute=True
            )
            return None
        return call

    def _data(self, call_id: int, data: memoryview) -> ServerEvent:
        return RequestData(call_id, data, self._order)

    def _fragment_end(self, events: list[ServerEvent]) -> None:
        call = self._fragment_call
        self._fragment_call = None
        if call is None or not self._fragment_last:
            return
        wanted = call.state is ServerCallState.RECEIVING
        self._step(call, ServerCallInput.LAST)
        if not wanted:
            return
        if call.reported:
            events.append(RequestEnd(call.call_id))
        else:
            self._answer(call, FaultStatus.NCA_S_OP_RNG_ERROR, events)

    # Everything else ----------------------------------------------------------------------------------------------

    def _control(self, header: Header, pdu: Octets, events: list[ServerEvent]) -> None:
        ptype = PacketType(header.ptype)
        if ptype is PacketType.BIND:
            self._bind(header, pdu, events)
        elif ptype is PacketType.ALTER_CONTEXT:
            self._alter(header, pdu, events)
        else:
            self._signal(header, ptype, events)

    def _signal(self, header: Header, ptype: PacketType, events: list[ServerEvent]) -> None:
        """co_cancel or orphaned (C706 12.6.4.9); without an effect for calls that are over."""
        self._settle()
        call = self._calls.get(header.call_id)
        if call is None:
            return
        pending = call.reported and call.state in _PENDING
        if ptype is PacketType.CO_CANCEL:
            if pending:
                events.append(CancelRequested(call.call_id))
        elif call.state is ServerCallState.RECEIVING and not call.unlimited:
            return  # Windows goes on waiting for the rest of it (MS-RPCE 3.3.3.5.10)
        else:
            if call.stub is not None:
                call.stub.give_up()
            self._step(call, ServerCallInput.ORPHANED)
            if pending:
                events.append(CallOrphaned(call.call_id))

    def _bind(self, header: Header, pdu: Octets, events: list[ServerEvent]) -> None:
        agreed: dict[int, AgreedContext] = {}
        try:
            offer = read_offer(pdu, header)
            if not offer.contexts:
                raise Malformed("no context")
        except Malformed as error:
            self._nak(header, NakReason.PROTOCOL_VERSION_NOT_SUPPORTED, f"a bind with {error}", events)
            return
        if not all(context.transfers for context in offer.contexts):
            self._nak(header, NakReason.NOT_SPECIFIED, "a context without a transfer syntax", events)
            return
        if header.auth_length:
            self._nak(
                header, nak_for_verifier(read_sec_trailer(pdu, header)), "authentication, which is not offered", events
            )
            return
        if sum(offers_features(context.transfers[0]) for context in offer.contexts) > 1:
            self._nak(header, NakReason.NOT_SPECIFIED, "two offers of features", events)
            return
        try:
            results = self._agree(agreed, offer, binding=True)
        except ContextConflict:
            self._nak(header, NakReason.NOT_SPECIFIED, "one context with two meanings", events)
            return
        group_id = self._groups.join(offer.group_id, self)
        if group_id is None:
            self._nak(header, NakReason.NOT_SPECIFIED, "an unknown association group", events)
            return
        self.state = SERVER[self.state, PacketType.BIND]
        self.group_id = group_id
        self.peer_fragment, self._received_fragment = grant(offer.max_xmit, offer.max_recv)
        self.knows_peer = self._received_fragment == APCRT_RECEIVED
        self._contexts = agreed
        self._sign = header.flags & HEADER_SIGN
        self._acknowledge(PacketType.BIND_ACK, header, self._secondary, results, events)
        events.append(BoundByPeer(group_id, tuple((one, context.abstract) for one, context in agreed.items())))

    def _alter(self, header: Header, pdu: Octets, events: list[ServerEvent]) -> None:
        agreed = dict(self._contexts)
        try:
            offer = read_offer(pdu, header)
            if not offer.contexts or not all(context.transfers for context in offer.contexts):
                raise Malformed("nothing to agree on")
            if header.auth_length:
                trailer = read_sec_trailer(pdu, header)
                if trailer.pad_length or not trailer.aligned:
                    raise Malformed("a misplaced verifier")
                what = "authentication, which is not offered"
                self._refuse(header, Status.ERROR_ACCESS_DENIED, what, events, did_not_execute=True)
                return
            results = self._agree(agreed, offer, binding=False)
        except (Malformed, ContextConflict) as error:
            what = f"an alter_context with {error}"
            self._refuse(header, _PROTO_ERROR, what, events, did_not_execute=True)
            return
        self._contexts = agreed
        self._acknowledge(PacketType.ALTER_CONTEXT_RESP, header, b"", results, events)

    # Inside -------------------------------------------------------------------------------------------------------

    def _agree(self, agreed: dict[int, AgreedContext], offer: Offer, *, binding: bool) -> tuple[ContextResult, ...]:
        return tuple(
            agree(agreed, self._offer, wanted, limit=self._max_contexts, binding=binding) for wanted in offer.contexts
        )

    def _acknowledge(
        self,
        ptype: PacketType,
        header: Header,
        secondary: bytes,
        results: tuple[ContextResult, ...],
        events: list[ServerEvent],
    ) -> None:
        answer = Acknowledgement(self.peer_fragment, self._received_fragment, self.group_id, secondary, results)
        flags = self._sign & header.flags
        events.append(ReplyReady(build_acknowledgement(ptype, flags, header.call_id, answer, self._own_order)))

    def _settle(self) -> None:
        """Note which responses were taken to their end since the last look."""
        for call in list(self._calls.values()):
            if call.stub is not None and call.stub.finished and call.state in _PENDING:
                self._step(call, ServerCallInput.ANSWERED)

    def _unanswered(self, call_id: int) -> IncomingCall:
        self._settle()
        call = self._calls.get(call_id)
        if call is None or not call.reported or call.state not in _PENDING:
            raise RpcUsageError(Status.RPC_S_NO_CALL_ACTIVE, f"call {call_id} is over, or never was")
        return call

    def _answer(self, call: IncomingCall, code: int, events: list[ServerEvent]) -> None:
        """Fault a call that was not executed; the connection goes on."""
        self._step(call, ServerCallInput.ANSWERED)
        fault = build_fault(call.call_id, call.context_id, code, self._own_order, did_not_execute=True)
        events.append(ReplyReady(fault))

    def _refuse(
        self,
        header: Header,
        code: int,
        reason: str,
        events: list[ServerEvent],
        *,
        call: IncomingCall | None = None,
        did_not_execute: bool = False,
    ) -> None:
        """Fault and close: `call` with its context, or the PDU's call identifier with context 0."""
        call_id, context_id = (header.call_id, 0) if call is None else (call.call_id, call.context_id)
        fault = build_fault(call_id, context_id, code, self._own_order, did_not_execute=did_not_execute)
        events.append(ReplyReady(fault))
        self._close(reason, events)

    def _nak(self, header: Header, reason: NakReason, what: str, events: list[ServerEvent]) -> None:
        events.append(ReplyReady(build_bind_nak(reason, header.call_id, self._own_order)))
        self._close(what, events)

    def _close(self, reason: str, events: list[ServerEvent]) -> None:
        self.state = ServerState.CLOSING
        self._stop()
        events.append(CloseConnection(reason))

    def _step(self, call: IncomingCall, what: ServerCallInput) -> None:
        call.state = SERVER_CALL[call.state, what]
        if call.state in (ServerCallState.DISPATCHED, ServerCallState.OVER) and self._receiving is call:
            self._receiving = None
        if call.state is ServerCallState.OVER:
            del self._calls[call.call_id]

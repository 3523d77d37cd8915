"""The client's end of a connection.

What lives here: `ClientAssociation`: binding, calls, and what the server's PDUs mean to them. What must not: framing
(`_receive`), layouts (`_pdu`), the tables (`_states`).

How it works. Calls are kept by their identifier. Today a connection carries one call at a time, because concurrent
multiplexing is not proposed; the only place that knows is `request`.

Two ways lead out of a call whose request is not complete. After an early answer the connection may go on if the request
is ended properly, which `abandon` knows how to do; a call that is given up (`orphan`) costs the connection, because
servers may answer it whenever they like and hold the line meanwhile (MS-RPCE 3.3.2.4.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from apcrt.ndr import ByteOrder, encode_uuid
from apcrt.status import RpcUsageError, Status, win32_from_fault
from apcrt.wire._events import (
    BindRefused,
    Bound,
    ClientEvent,
    FaultReceived,
    ProtocolViolation,
    ResponseData,
    ResponseEnd,
    ShutdownRequested,
)
from apcrt.wire._numbers import (
    APCRT_FRAGMENT,
    APCRT_RECEIVED,
    DID_NOT_EXECUTE,
    FIRST,
    LAST,
    MAX_CALL_ID,
    SMALLEST_FRAGMENT,
    STRANGER_FRAGMENT,
    NakReason,
    PacketType,
    SyntaxId,
)
from apcrt.wire._outgoing import OutgoingStub
from apcrt.wire._pdu import (
    Header,
    HeaderFlaw,
    Malformed,
    Octets,
    Offer,
    PresentationContext,
    build_offer,
    build_signal,
    message_tail,
    read_acknowledgement,
    read_bind_nak,
    read_fault,
)
from apcrt.wire._receive import Receiver
from apcrt.wire._states import CLIENT, CLIENT_CALL, ClientCallInput, ClientCallState, ClientCommand, ClientState

#: What the caller of a refused bind is told (MS-RPCE 3.3.2.5.3); everything else is "failed, did not execute".
_STATUS_OF_NAK: Final[Mapping[NakReason, Status]] = {
    NakReason.TEMPORARY_CONGESTION: Status.RPC_S_SERVER_TOO_BUSY,
    NakReason.LOCAL_LIMIT_EXCEEDED: Status.RPC_S_SERVER_TOO_BUSY,
    NakReason.PROTOCOL_VERSION_NOT_SUPPORTED: Status.RPC_S_PROTOCOL_ERROR,
    NakReason.AUTHENTICATION_TYPE_NOT_RECOGNIZED: Status.RPC_S_UNKNOWN_AUTHN_SERVICE,
    NakReason.INVALID_CHECKSUM: Status.ERROR_ACCESS_DENIED,
}


@dataclass(slots=True)
class _Call:
    stub: OutgoingStub
    state: ClientCallState = ClientCallState.OPEN
    order: ByteOrder | None = None  # of the response, from its first fragment on


class ClientAssociation(Receiver[ClientEvent]):
    """The client's end of one connection. Not thread-safe; `receive` and its companions are in `Receiver`.

    Args:
        max_fragment: bytes of the largest fragment proposed, in both directions. Another end of this runtime recognises
            the default and grants it; everybody else answers with what it can take.
        order: the byte order we send.
    """

    def __init__(self, *, max_fragment: int = APCRT_FRAGMENT, order: ByteOrder | None = None) -> None:
        super().__init__(PacketType.RESPONSE)
        if not SMALLEST_FRAGMENT <= max_fragment <= 0xFFFF:
            raise RpcUsageError(Status.ERROR_INVALID_PARAMETER, f"fragments cannot have {max_fragment} bytes")
        self.state: ClientState = ClientState.START
        #: The association group that the server has put us in; 0 before.
        self.group_id: int = 0
        #: Bytes of the largest fragment that we may send.
        self.peer_fragment: int = SMALLEST_FRAGMENT
        #: Is the server an end of this runtime?
        self.knows_peer: bool = False
        #: The agreed transfer syntax of every context that the server has accepted.
        self.accepted: dict[int, SyntaxId] = {}
        #: False once a call was given up that the server may still answer, or the server wants to be left alone.
        self.reusable: bool = True
        self._own_order = order if order is not None else ByteOrder.native()
        self._max_fragment = max_fragment
        self._offered: tuple[PresentationContext, ...] = ()
        self._next_id = 1
        self._bind_id = 0
        self._calls: dict[int, _Call] = {}
        self._fragment_last = False
        self._fragment_call = 0

    # Commands -----------------------------------------------------------------------------------------------------

    def bind(self, contexts: Sequence[PresentationContext], group_id: int = 0) -> bytes:
        """The bind to send first (C706 12.6.4.3).

        Args:
            contexts: 1 to 255 of them, with identifiers below 256 and 1 to 255 transfer syntaxes each.
            group_id: the association group to join; 0 for a new one.

        Raises:
            RpcUsageError: (1702) not the first command; (87) contexts that no bind can carry.
        """
        state = self._command(ClientCommand.BIND)
        identifiers = {context.context_id for context in contexts}
        if not 0 < len(identifiers) == len(contexts) < 256 or not all(0 <= one < 256 for one in identifiers):
            raise RpcUsageError(Status.ERROR_INVALID_PARAMETER, "1 to 255 contexts with identifiers below 256")
        if not all(0 < len(context.transfers) < 256 for context in contexts):
            raise RpcUsageError(Status.ERROR_INVALID_PARAMETER, "1 to 255 transfer syntaxes for each context")
        self.state = state
        self._offered = tuple(contexts)
        self._bind_id = self._new_id()
        offer = Offer(self._max_fragment, self._max_fragment, group_id, self._offered)
        return build_offer(PacketType.BIND, self._bind_id, offer, self._own_order)

    def request(self, context_id: int, opnum: int, *, streams: bool, object_uuid: UUID | None = None) -> OutgoingStub:
        """Begin a call: the message to fill and send (C706 12.6.4.9).

        Args:
            context_id: an accepted context.
            opnum: number of the operation, 0 to 65535.
            streams: does the request carry pipes?
            object_uuid: the object the call is for; None and the nil UUID mean none.

        Raises:
            RpcUsageError: (1702) not bound, or the server wants no more calls; (1791) another call is under way;
                (87) no such context.
        """
        state = self._command(ClientCommand.REQUEST)
        if context_id not in self.accepted or not 0 <= opnum <= 0xFFFF:
            raise RpcUsageError(Status.ERROR_INVALID_PARAMETER, f"no operation {opnum} in context {context_id}")
        if any(self._occupies(call) for call in list(self._calls.values())):
            raise RpcUsageError(Status.RPC_S_CALL_IN_PROGRESS, "the connection carries one call at a time")
        self.state = state
        tail = message_tail(context_id, opnum, self._own_order)
        if object_uuid is not None and object_uuid.int:
            tail += encode_uuid(object_uuid, self._own_order)
        stub = OutgoingStub(
            PacketType.REQUEST,
            self._new_id(),
            fragment=self.peer_fragment,
            aligned=not self.knows_peer,
            order=self._own_order,
            tail=tail,
            streams=streams,
        )
        self._calls[stub.call_id] = _Call(stub)
        return stub

    def cancel(self, call_id: int) -> bytes:
        """The co_cancel to send for a call; nothing if it was answered, or nothing of it has been taken yet."""
        call = self._calls.get(call_id)
        if call is None or call.state is not ClientCallState.OPEN or not call.stub.begun:
            return b""
        return build_signal(PacketType.CO_CANCEL, call_id, self._own_order)

    def orphan(self, call_id: int) -> bytes:
        """Give a call up: the orphaned PDU to send; nothing if the call is over, or nothing of it has been taken yet.

        An answer that still comes is ignored. Close the connection afterwards (`reusable` says so), unless nothing was
        sent.
        """
        call = self._calls.get(call_id)
        if call is None or call.state is ClientCallState.GIVEN_UP:
            return b""
        call.stub.give_up()
        if not call.stub.begun:
            del self._calls[call_id]
            return b""
        self.reusable = False
        self._step(call, ClientCallInput.ORPHAN)
        if self._sink == call_id:
            self._sink = None
        return build_signal(PacketType.ORPHANED, call_id, self._own_order)

    def abandon(self, call_id: int) -> bytes:
        """End the request of a call that was answered before the request was complete.

        Returns:
            An empty last fragment, to be sent after everything that was taken from the stub: the connection can then go
            on. Nothing if the request has ended meanwhile, or if the server is not known to bear such an end; then
            `reusable` is False: close the connection, after `orphan` if one likes.

        Raises:
            RpcUsageError: (1725) the call is not in that state.
        """
        call = self._calls.get(call_id)
        if call is None or call.state is not ClientCallState.ANSWERED:
            raise RpcUsageError(Status.RPC_S_NO_CALL_ACTIVE, "only a request whose answer has come early can be ended")
        if call.stub.finished:
            self._step(call, ClientCallInput.ENDED)
            return b""
        if not self.knows_peer:
            self.reusable = False
            return b""
        call.stub.give_up()
        self._step(call, ClientCallInput.ENDED)
        return call.stub.empty_last()

    def eof(self) -> list[ClientEvent]:
        """The server has closed its sending direction: nothing comes now. Calls under way are for the engine to end."""
        self.state = ClientState.CLOSED
        self.reusable = False
        self._stop()
        return []

    # What the server says -----------------------------------------------------------------------------------------

    def _admit(self, header: Header, flaw: HeaderFlaw | None, events: list[ClientEvent]) -> None:
        if flaw is not None:
            self._violated(f"a header with an impossible {flaw.name.lower()}", events)
            return
        if (self.state, header.ptype) not in CLIENT:
            self._violated(f"a PDU of type {header.ptype} in state {self.state.name}", events)
        elif header.ptype == PacketType.RESPONSE and header.auth_length:
            self._violated("a verifier on a connection without authentication", events)

    def _message(self, header: Header, _pdu: Octets, events: list[ClientEvent], /) -> None:
        call = self._under_way(header.call_id)
        if call is None:
            self._violated(f"a response to call {header.call_id}, which is not under way", events)
            return
        first = bool(header.flags & FIRST)
        if first != (call.order is None):
            self._violated("a response whose first fragment is missing, or comes twice", events)
            return
        if call.order is not None and call.order is not header.order:
            self._violated("fragments of one response in different byte orders", events)
            return
        call.order = header.order
        self._fragment_call = header.call_id
        self._fragment_last = bool(header.flags & LAST)
        if call.state is ClientCallState.OPEN:
            self._sink = header.call_id

    def _data(self, call_id: int, data: memoryview) -> ClientEvent:
        return ResponseData(call_id, data, self._order)

    def _fragment_end(self, events: list[ClientEvent]) -> None:
        call = self._calls.get(self._fragment_call)
        if not self._fragment_last or call is None:
            return
        wanted = call.state is ClientCallState.OPEN
        self._answered(call)
        if wanted:
            events.append(ResponseEnd(self._fragment_call))

    def _control(self, header: Header, pdu: Octets, events: list[ClientEvent]) -> None:
        ptype = PacketType(header.ptype)
        if ptype is PacketType.FAULT and self.state is not ClientState.BINDING:
            self._fault(header, pdu, events)
            return
        if ptype is not PacketType.SHUTDOWN and header.call_id != self._bind_id:
            self._violated(f"an answer to a bind with call identifier {header.call_id}", events)
            return
        following = CLIENT[self.state, ptype]
        if ptype is PacketType.BIND_ACK:
            self._bound(header, pdu, following, events)
            return
        self.state = following
        self.reusable = False
        if ptype is PacketType.SHUTDOWN:
            events.append(ShutdownRequested())
            return
        reason, status = NakReason.NOT_SPECIFIED, int(Status.RPC_S_CALL_FAILED_DNE)
        if ptype is PacketType.BIND_NAK:
            reason = read_bind_nak(pdu, header)
            status = _STATUS_OF_NAK.get(reason, Status.RPC_S_CALL_FAILED_DNE)
        else:
            code = read_fault(pdu, header)
            status = win32_from_fault(code) if code else status
        self._stop()
        events.append(BindRefused(reason, status))

    def _bound(self, header: Header, pdu: Octets, following: ClientState, events: list[ClientEvent]) -> None:
        try:
            answer = read_acknowledgement(pdu, header)
        except Malformed as error:
            self._violated(f"a bind_ack in which {error}", events)
            return
        if len(answer.results) != len(self._offered):
            self._violated(f"{len(answer.results)} results for {len(self._offered)} contexts", events)
            return
        if answer.max_recv < SMALLEST_FRAGMENT or answer.max_xmit < SMALLEST_FRAGMENT:
            self._violated(f"fragments of {answer.max_xmit} and {answer.max_recv} bytes", events)
            return
        accepted: dict[int, SyntaxId] = {}
        for context, result in zip(self._offered, answer.results, strict=True):
            if result.accepted:
                if result.transfer not in context.transfers:
                    self._violated(f"transfer syntax {result.transfer}, which was not offered", events)
                    return
                accepted[context.context_id] = result.transfer
        self.accepted = accepted
        self.knows_peer = (answer.max_xmit, answer.max_recv) == (APCRT_FRAGMENT, APCRT_RECEIVED)
        self.peer_fragment = min(
            self._max_fragment, answer.max_recv, APCRT_RECEIVED if self.knows_peer else STRANGER_FRAGMENT
        )
        self.group_id = answer.group_id
        self.state = following
        events.append(Bound(answer.group_id, answer.results))

    def _fault(self, header: Header, pdu: Octets, events: list[ClientEvent]) -> None:
        call = self._under_way(header.call_id)
        if call is None:
            self._violated(f"a fault for call {header.call_id}, which is not under way", events)
            return
        wanted = call.state is ClientCallState.OPEN
        self._answered(call)
        if wanted:
            code = read_fault(pdu, header)
            status = win32_from_fault(code) if code else int(Status.RPC_S_CALL_FAILED)
            events.append(FaultReceived(header.call_id, code, status, bool(header.flags & DID_NOT_EXECUTE)))

    # Inside -------------------------------------------------------------------------------------------------------

    def _command(self, command: ClientCommand) -> ClientState:
        following = CLIENT.get((self.state, command))
        if following is None:
            raise RpcUsageError(Status.RPC_S_INVALID_BINDING, f"{command.name.lower()} in state {self.state.name}")
        return following

    def _new_id(self) -> int:
        call_id = self._next_id
        self._next_id = call_id % MAX_CALL_ID + 1
        return call_id

    def _under_way(self, call_id: int) -> _Call | None:
        """The call that the server may answer now: something of it was sent, and it was not answered yet."""
        call = self._calls.get(call_id)
        return call if call is not None and call.stub.begun and call.state is not ClientCallState.ANSWERED else None

    def _occupies(self, call: _Call) -> bool:
        """Whether a call keeps the connection from carrying the next one."""
        if call.state is ClientCallState.ANSWERED and call.stub.finished:
            self._step(call, ClientCallInput.ENDED)
        return call.state in (ClientCallState.OPEN, ClientCallState.ANSWERED)

    def _answered(self, call: _Call) -> None:
        early = call.state is ClientCallState.OPEN and not call.stub.finished
        self._step(call, ClientCallInput.EARLY_ANSWER if early else ClientCallInput.ANSWER)

    def _step(self, call: _Call, what: ClientCallInput) -> None:
        call.state = CLIENT_CALL[call.state, what]
        if call.state is ClientCallState.OVER:
            del self._calls[call.stub.call_id]

    def _violated(self, detail: str, events: list[ClientEvent]) -> None:
        self.state = ClientState.CLOSED
        self.reusable = False
        self._stop()
        events.append(ProtocolViolation(Status.RPC_S_PROTOCOL_ERROR, b"", detail))

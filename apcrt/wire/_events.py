"""What an association reports: one frozen class for each thing that can happen.

What lives here: data. What must not: behaviour.

Views in events (`ResponseData.data`, `RequestData.data`) alias the memory given to `receive` and are valid until the
caller uses that memory again; they are never empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from apcrt.ndr import ByteOrder
from apcrt.wire._numbers import NakReason, SyntaxId
from apcrt.wire._pdu import ContextResult

# Of a client's association --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bound:
    """The server has answered the bind. `results` has one entry for each offered context, in the same order."""

    group_id: int
    results: tuple[ContextResult, ...]


@dataclass(frozen=True, slots=True)
class BindRefused:
    """The server has refused the bind and will close. `status` is the Win32 number for the caller."""

    reason: NakReason
    status: int


@dataclass(frozen=True, slots=True)
class ResponseData:
    """Stub bytes of a response, in the server's byte order."""

    call_id: int
    data: memoryview
    order: ByteOrder


@dataclass(frozen=True, slots=True)
class ResponseEnd:
    """The response is complete. If the request is not, `ClientAssociation.abandon` says how to end it."""

    call_id: int


@dataclass(frozen=True, slots=True)
class FaultReceived:
    """The server has answered with a fault. If the request is not complete, see `ClientAssociation.abandon`.

    `fault_code` is the number on the wire, 0 if there was none; `status` the Win32 number for the caller;
    `did_not_execute` the server's word that the manager routine was not entered.
    """

    call_id: int
    fault_code: int
    status: int
    did_not_execute: bool


@dataclass(frozen=True, slots=True)
class ProtocolViolation:
    """The server broke the protocol: send `reply`, if there is any, and close; calls end with `status` (1728)."""

    status: int
    reply: bytes
    detail: str


@dataclass(frozen=True, slots=True)
class ShutdownRequested:
    """The server asks for the connection to be closed once the calls under way are over (C706 12.6.4.11)."""


ClientEvent = Bound | BindRefused | ResponseData | ResponseEnd | FaultReceived | ProtocolViolation | ShutdownRequested

# Of a server's association --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplyReady:
    """Bytes that the association wants sent: bind_ack, bind_nak, alter_context_resp, faults of the runtime."""

    data: bytes


@dataclass(frozen=True, slots=True)
class BoundByPeer:
    """The client has bound. `contexts` are the accepted ones: identifier and interface."""

    group_id: int
    contexts: tuple[tuple[int, SyntaxId], ...]


@dataclass(frozen=True, slots=True)
class RequestStarted:
    """The first fragment of a request has begun.

    `order` is that of its stub; `alloc_hint` is the client's guess of the stub's length in bytes, never to be trusted.
    `interface` is what the client asked for when it bound; its minor version may be lower than the one offered.
    """

    call_id: int
    context_id: int
    interface: SyntaxId
    transfer: SyntaxId
    opnum: int
    object_uuid: UUID | None
    order: ByteOrder
    alloc_hint: int


@dataclass(frozen=True, slots=True)
class RequestData:
    """Stub bytes of a request, in the client's byte order."""

    call_id: int
    data: memoryview
    order: ByteOrder


@dataclass(frozen=True, slots=True)
class RequestEnd:
    """The request is complete."""

    call_id: int


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The client asks for the call to be cancelled and goes on waiting for its answer."""

    call_id: int


@dataclass(frozen=True, slots=True)
class CallOrphaned:
    """The client has given the call up. The association has forgotten it: there is nothing to answer."""

    call_id: int


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """Close, once every `ReplyReady` has been sent. Nothing that still arrives means anything."""

    reason: str


ServerEvent = (
    ReplyReady
    | BoundByPeer
    | RequestStarted
    | RequestData
    | RequestEnd
    | CancelRequested
    | CallOrphaned
    | CloseConnection
)

"""Connection-oriented DCE/RPC as state machines: bytes and commands in, bytes and events out.

Sans-IO: no clock, lock, thread, socket or logger. An engine gives received bytes to `receive`, sends what commands and
events hand it, and decides when.

- `ClientAssociation`, `ServerAssociation`: the two ends of one connection.
- `OutgoingStub`: one request or response being cut into fragments.
- `Bound` to `CloseConnection`: the events.
- `InterfaceOffer`, `InterfaceShape`, `AssociationGroups`: what a server's associations ask the server.

A peer that breaks the protocol is an event, never an exception; a command that is not possible raises `RpcUsageError`.

Two limits are stated once: a machine keeps at most one header or one control PDU between two calls of `receive`
(65535 bytes), and never allocates by a number from the wire.
"""

from __future__ import annotations

from apcrt.wire._client import ClientAssociation
from apcrt.wire._contexts import InterfaceOffer, InterfaceShape
from apcrt.wire._events import (
    BindRefused,
    Bound,
    BoundByPeer,
    CallOrphaned,
    CancelRequested,
    ClientEvent,
    CloseConnection,
    FaultReceived,
    ProtocolViolation,
    ReplyReady,
    RequestData,
    RequestEnd,
    RequestStarted,
    ResponseData,
    ResponseEnd,
    ServerEvent,
    ShutdownRequested,
)
from apcrt.wire._groups import AssociationGroups
from apcrt.wire._numbers import (
    APCRT_FRAGMENT,
    MAX_CONTEXTS,
    MAX_REQUEST,
    NDR20,
    STRANGER_FRAGMENT,
    ContextOutcome,
    ContextReason,
    NakReason,
    PacketFlags,
    PacketType,
    SyntaxId,
)
from apcrt.wire._outgoing import OutgoingStub
from apcrt.wire._pdu import ContextResult, PresentationContext
from apcrt.wire._server import ServerAssociation
from apcrt.wire._states import ClientState, ServerState

__all__ = [
    "APCRT_FRAGMENT",
    "MAX_CONTEXTS",
    "MAX_REQUEST",
    "NDR20",
    "STRANGER_FRAGMENT",
    "AssociationGroups",
    "BindRefused",
    "Bound",
    "BoundByPeer",
    "CallOrphaned",
    "CancelRequested",
    "ClientAssociation",
    "ClientEvent",
    "ClientState",
    "CloseConnection",
    "ContextOutcome",
    "ContextReason",
    "ContextResult",
    "FaultReceived",
    "InterfaceOffer",
    "InterfaceShape",
    "NakReason",
    "OutgoingStub",
    "PacketFlags",
    "PacketType",
    "PresentationContext",
    "ProtocolViolation",
    "ReplyReady",
    "RequestData",
    "RequestEnd",
    "RequestStarted",
    "ResponseData",
    "ResponseEnd",
    "ServerAssociation",
    "ServerEvent",
    "ServerState",
    "ShutdownRequested",
    "SyntaxId",
]

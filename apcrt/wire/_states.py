"""The state machines of both ends, as tables.

What lives here: enums, and for each machine the next state of every pair that may happen. What must not: anything that
acts. The associations look transitions up here and nowhere else, and the tests walk every cell.

A pair that is missing from a table is refused. For a PDU that means the documented refusal (a bind_nak, a fault, a
closed connection); for a command of our own program, `RpcUsageError`.

Sources: C706 10 (connection-oriented state machines), MS-RPCE 3.3.1, 3.3.2, 3.3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from apcrt.wire._numbers import NakReason, PacketType
from apcrt.wire._pdu import SecTrailer

_AUTH_NONE: Final = 0
_AUTH_SPNEGO: Final = 9
_LEVELS: Final = range(2, 7)  # connect to privacy (MS-RPCE 2.2.1.1.8)

# The client's end -----------------------------------------------------------------------------------------------------


class ClientState(Enum):
    """Where the client's end of a connection stands."""

    START = auto()  #: connected, nothing was said
    BINDING = auto()  #: the bind is out
    BOUND = auto()  #: calls can be made
    LEAVING = auto()  #: the server has asked for an end: calls under way go on, new ones do not begin
    CLOSED = auto()  #: refused, broken, or at the end of file


class ClientCommand(Enum):
    """What our own program asks of the client's end."""

    BIND = auto()
    REQUEST = auto()


CLIENT: Final[Mapping[tuple[ClientState, ClientCommand | int], ClientState]] = {
    (ClientState.START, ClientCommand.BIND): ClientState.BINDING,
    (ClientState.BINDING, PacketType.BIND_ACK): ClientState.BOUND,
    (ClientState.BINDING, PacketType.BIND_NAK): ClientState.CLOSED,
    (ClientState.BINDING, PacketType.FAULT): ClientState.CLOSED,
    (ClientState.BOUND, ClientCommand.REQUEST): ClientState.BOUND,
    (ClientState.BOUND, PacketType.RESPONSE): ClientState.BOUND,
    (ClientState.BOUND, PacketType.FAULT): ClientState.BOUND,
    (ClientState.BOUND, PacketType.SHUTDOWN): ClientState.LEAVING,
    (ClientState.LEAVING, PacketType.RESPONSE): ClientState.LEAVING,
    (ClientState.LEAVING, PacketType.FAULT): ClientState.LEAVING,
    (ClientState.LEAVING, PacketType.SHUTDOWN): ClientState.LEAVING,
}


class ClientCallState(Enum):
    """Where a call stands at the client's end."""

    OPEN = auto()  #: begun; the answer is not complete
    ANSWERED = auto()  #: answered before the request was complete: the request has to be ended
    GIVEN_UP = auto()  #: orphaned: an answer that still comes is ignored
    OVER = auto()  #: forgotten


class ClientCallInput(Enum):
    """What happens to a call at the client's end."""

    ANSWER = auto()  #: a fault or the end of the response, after the end of the request
    EARLY_ANSWER = auto()  #: the same, before the end of the request
    ENDED = auto()  #: the request was ended with an empty last fragment
    ORPHAN = auto()  #: the call was given up


CLIENT_CALL: Final[Mapping[tuple[ClientCallState, ClientCallInput], ClientCallState]] = {
    (ClientCallState.OPEN, ClientCallInput.ANSWER): ClientCallState.OVER,
    (ClientCallState.OPEN, ClientCallInput.EARLY_ANSWER): ClientCallState.ANSWERED,
    (ClientCallState.OPEN, ClientCallInput.ORPHAN): ClientCallState.GIVEN_UP,
    (ClientCallState.ANSWERED, ClientCallInput.ENDED): ClientCallState.OVER,
    (ClientCallState.ANSWERED, ClientCallInput.ORPHAN): ClientCallState.OVER,
    (ClientCallState.GIVEN_UP, ClientCallInput.ANSWER): ClientCallState.OVER,
}

# The server's end -----------------------------------------------------------------------------------------------------


class ServerState(Enum):
    """Where the server's end of a connection stands."""

    START = auto()  #: accepted, nothing was said
    BOUND = auto()  #: calls are taken
    CLOSING = auto()  #: the last word is said; what still arrives is ignored


SERVER: Final[Mapping[tuple[ServerState, int], ServerState]] = {
    (ServerState.START, PacketType.BIND): ServerState.BOUND,
    (ServerState.BOUND, PacketType.REQUEST): ServerState.BOUND,
    (ServerState.BOUND, PacketType.ALTER_CONTEXT): ServerState.BOUND,
    (ServerState.BOUND, PacketType.CO_CANCEL): ServerState.BOUND,
    (ServerState.BOUND, PacketType.ORPHANED): ServerState.BOUND,
}


def nak_for(state: ServerState, ptype: int) -> NakReason | None:
    """How a PDU that has no place in `SERVER` is refused: with this bind_nak, or with a fault (None)."""
    if state is ServerState.START:
        return NakReason.PROTOCOL_VERSION_NOT_SUPPORTED
    return NakReason.NOT_SPECIFIED if ptype == PacketType.BIND else None


def nak_for_verifier(trailer: SecTrailer) -> NakReason:
    """How a bind that asks for authentication is refused: no security provider is offered (MS-RPCE 3.3.3.5.4)."""
    if not trailer.aligned:
        return NakReason.NOT_SPECIFIED
    if trailer.pad_length:
        return NakReason.PROTOCOL_VERSION_NOT_SUPPORTED
    if trailer.auth_type in (_AUTH_NONE, _AUTH_SPNEGO) and trailer.level not in _LEVELS:
        return NakReason.NOT_SPECIFIED
    return NakReason.AUTHENTICATION_TYPE_NOT_RECOGNIZED


class ServerCallState(Enum):
    """Where a call stands at the server's end."""

    RECEIVING = auto()  #: the request is not complete, and was not answered
    DISPATCHED = auto()  #: complete, and not answered
    DISCARDING = auto()  #: answered or orphaned before it was complete: what is left of it is dropped
    OVER = auto()  #: forgotten


class ServerCallInput(Enum):
    """What happens to a call at the server's end."""

    LAST = auto()  #: the request is complete
    ANSWERED = auto()  #: a fault or the last fragment of the response was made
    ORPHANED = auto()  #: the client has given the call up
    OVERTAKEN = auto()  #: the first fragment of another request has come


SERVER_CALL: Final[Mapping[tuple[ServerCallState, ServerCallInput], ServerCallState]] = {
    (ServerCallState.RECEIVING, ServerCallInput.LAST): ServerCallState.DISPATCHED,
    (ServerCallState.RECEIVING, ServerCallInput.ANSWERED): ServerCallState.DISCARDING,
    (ServerCallState.RECEIVING, ServerCallInput.ORPHANED): ServerCallState.DISCARDING,
    (ServerCallState.DISPATCHED, ServerCallInput.ANSWERED): ServerCallState.OVER,
    (ServerCallState.DISPATCHED, ServerCallInput.ORPHANED): ServerCallState.OVER,
    (ServerCallState.DISCARDING, ServerCallInput.LAST): ServerCallState.OVER,
    (ServerCallState.DISCARDING, ServerCallInput.ORPHANED): ServerCallState.OVER,
    (ServerCallState.DISCARDING, ServerCallInput.OVERTAKEN): ServerCallState.OVER,
}

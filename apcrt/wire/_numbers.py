"""The numbers of connection-oriented DCE/RPC: packet types, flags, reasons, sizes, and syntax identifiers.

What lives here: enums and constants that more than one module of the room needs, with their names in the published
specifications. What must not: layouts (`_pdu`) and rules (`_states`, `_client`, `_server`).

Sources: C706 chapter 12.6, MS-RPCE 2.2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final
from uuid import UUID

HEADER_SIZE: Final = 16
"""Bytes of the common header (C706 12.6.3.1)."""

STRANGER_FRAGMENT: Final = 5840
"""Bytes: the largest fragment that Windows sends and takes over TCP, and so the largest that strangers get from us."""

APCRT_FRAGMENT: Final = 65528
"""Bytes: the largest fragment between two ends of this runtime.

The field ends at 65535 and a payload must be a multiple of 8. Exactly this number, in both directions of a bind, is
also how a server knows a client of this runtime.
"""

APCRT_RECEIVED: Final = APCRT_FRAGMENT - 8
"""Bytes: the largest fragment that a server of this runtime says it receives from such a client.

It is how the client knows the server: others that take large fragments grant what they were asked.
"""

SMALLEST_FRAGMENT: Final = 1432
"""Bytes that every implementation must be able to receive (C706 12.6.3.1, MustRecvFragSize)."""

MAX_REQUEST: Final = 4 * 1024 * 1024
"""Stub bytes of a request without pipes that a server takes by default: the limit of Windows."""

MAX_CONTEXTS: Final = 256
"""Presentation contexts that a server keeps for one connection; clients use identifiers below this number."""

MAX_CALL_ID: Final = 0x7FFFFFFF
"""The largest call identifier that Windows accepts (MS-RPCE 3.3.2.4.1)."""


class PacketType(IntEnum):
    """PTYPE of a PDU (C706 12.6.4, MS-RPCE 2.2.2.2). The numbers left out belong to the connectionless protocol."""

    REQUEST = 0
    RESPONSE = 2
    FAULT = 3
    BIND = 11
    BIND_ACK = 12
    BIND_NAK = 13
    ALTER_CONTEXT = 14
    ALTER_CONTEXT_RESP = 15
    AUTH3 = 16
    SHUTDOWN = 17
    CO_CANCEL = 18
    ORPHANED = 19


class PacketFlags(IntFlag):
    """PFC flags of a PDU (C706 12.6.3.1, MS-RPCE 2.2.2.3)."""

    FIRST_FRAG = 0x01
    LAST_FRAG = 0x02
    #: In request, response and fault: a cancel was pending at the sender.
    PENDING_CANCEL = 0x04
    #: The same bit in PDUs of the bind family: headers can be signed.
    SUPPORT_HEADER_SIGN = 0x04
    CONC_MPX = 0x10
    #: In a fault: the manager routine was not entered.
    DID_NOT_EXECUTE = 0x20
    MAYBE = 0x40
    #: In a request: an object UUID follows the header.
    OBJECT_UUID = 0x80


# The members as plain integers: operations of IntFlag build objects, and these are needed for every fragment.
FIRST: Final = 0x01
LAST: Final = 0x02
WHOLE: Final = FIRST | LAST
CANCEL_PENDING: Final = 0x04
HEADER_SIGN: Final = 0x04
DID_NOT_EXECUTE: Final = 0x20
OBJECT: Final = 0x80


class NakReason(IntEnum):
    """Why a bind was refused (C706 12.6.3.1 p_reject_reason_t, MS-RPCE 2.2.2.5). Unknown numbers read as the first."""

    NOT_SPECIFIED = 0
    TEMPORARY_CONGESTION = 1
    LOCAL_LIMIT_EXCEEDED = 2
    CALLED_PADDR_UNKNOWN = 3
    PROTOCOL_VERSION_NOT_SUPPORTED = 4
    DEFAULT_CONTEXT_NOT_SUPPORTED = 5
    USER_DATA_NOT_READABLE = 6
    NO_PSAP_AVAILABLE = 7
    AUTHENTICATION_TYPE_NOT_RECOGNIZED = 8
    INVALID_CHECKSUM = 9

    @classmethod
    def _missing_(cls, value: object) -> NakReason | None:
        return cls.NOT_SPECIFIED if isinstance(value, int) else None


class ContextOutcome(IntEnum):
    """What became of an offered presentation context (C706 12.6.3.1 p_cont_def_result_t, MS-RPCE 2.2.2.4)."""

    ACCEPTANCE = 0
    USER_REJECTION = 1
    PROVIDER_REJECTION = 2
    NEGOTIATE_ACK = 3


class ContextReason(IntEnum):
    """Why a presentation context was not accepted (C706 12.6.3.1 p_provider_reason_t)."""

    NOT_SPECIFIED = 0
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 1
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 2
    LOCAL_LIMIT_EXCEEDED = 3


@dataclass(frozen=True, slots=True)
class SyntaxId:
    """An interface or a transfer syntax, with its version (C706 12.6.3.1 p_syntax_id_t)."""

    uuid: UUID
    major: int
    minor: int = 0

    def __str__(self) -> str:
        return f"{self.uuid} v{self.major}.{self.minor}"


NDR20: Final = SyntaxId(UUID("8a885d04-1ceb-11c9-9fe8-08002b104860"), 2)
"""The transfer syntax that everybody speaks (C706 14, MS-RPCE 2.2.4.12)."""

NO_SYNTAX: Final = SyntaxId(UUID(int=0), 0)
"""What stands in place of the transfer syntax of a context that was not accepted."""

# Bind time feature negotiation: the UUID's last eight octets are a bit mask (MS-RPCE 2.2.2.14).
_FEATURES: Final = UUID("6cb71c2c-9812-4540-0000-000000000000").int >> 64


def offers_features(syntax: SyntaxId) -> bool:
    """Whether a transfer syntax is none, but an offer of bind time features (MS-RPCE 2.2.2.14)."""
    return syntax.uuid.int >> 64 == _FEATURES and (syntax.major, syntax.minor) == (1, 0)

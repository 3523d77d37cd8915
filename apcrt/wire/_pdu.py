"""Layouts: every PDU of the connection-oriented protocol, built and parsed.

What lives here: bytes of one whole PDU to fields and back, in both byte orders, and the checks that need nothing but
the PDU itself. What must not: whether the PDU is welcome (`_states`, `_client`, `_server`), and the headers of the
fragments that we send (`_outgoing`, which is on the fast path).

How it works. A reader takes the order from each PDU's own data representation; a builder is told ours. Parsers get
complete PDUs, whose length was checked against `MINIMUM_SIZE`, and raise `Malformed` when a count inside leads beyond
the end. Nothing is allocated by a number from the wire: lists grow as their elements are found.

Sources: C706 12.6, MS-RPCE 2.2.2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple

from apcrt.ndr import ByteOrder, decode_uuid, encode_uuid
from apcrt.status import fault_from_win32
from apcrt.wire._numbers import (
    DID_NOT_EXECUTE,
    HEADER_SIZE,
    NO_SYNTAX,
    OBJECT,
    WHOLE,
    ContextOutcome,
    ContextReason,
    NakReason,
    PacketType,
    SyntaxId,
)

Octets = bytes | bytearray | memoryview


class _Layouts:
    """The precompiled layouts of one byte order."""

    def __init__(self, order: ByteOrder) -> None:
        self.header = struct.Struct(order.prefix + "BBBB4sHHI")
        self.negotiation = struct.Struct(order.prefix + "HHI")
        self.context = struct.Struct(order.prefix + "HBx")
        self.version = struct.Struct(order.prefix + "I")
        self.result = struct.Struct(order.prefix + "HH")
        self.short = struct.Struct(order.prefix + "H")
        self.long = struct.Struct(order.prefix + "I")
        self.message = struct.Struct(order.prefix + "IHH")
        self.fault = struct.Struct(order.prefix + "IHBBII")


_COUNT: Final = struct.Struct("Bxxx")
_LAYOUTS: Final = (_Layouts(ByteOrder.LITTLE), _Layouts(ByteOrder.BIG))

DREP: Final = (b"\x10\x00\x00\x00", b"\x00\x00\x00\x00")
"""Data representation of each order: ASCII, IEEE floating point (C706 14.1)."""

#: Bytes that a PDU of each type has at least (a fault may be cut after its cancel count: some servers do).
MINIMUM_SIZE: Final[dict[int, int]] = {
    PacketType.REQUEST: 24,
    PacketType.RESPONSE: 24,
    PacketType.FAULT: 24,
    PacketType.BIND: 28,
    PacketType.BIND_ACK: 32,
    PacketType.BIND_NAK: 18,
    PacketType.ALTER_CONTEXT: 28,
    PacketType.ALTER_CONTEXT_RESP: 32,
    PacketType.AUTH3: 28,
    PacketType.SHUTDOWN: 16,
    PacketType.CO_CANCEL: 16,
    PacketType.ORPHANED: 16,
}

SEC_TRAILER_SIZE: Final = 8


class Malformed(Exception):
    """A PDU contradicts itself. Never leaves the room."""


class Header(NamedTuple):
    """The common header (C706 12.6.3.1); sizes in bytes."""

    version: int
    version_minor: int
    ptype: int
    flags: int
    drep: bytes
    frag_length: int
    auth_length: int
    call_id: int

    @property
    def order(self) -> ByteOrder:
        """Byte order of everything in the PDU, the stub included."""
        return ByteOrder.LITTLE if self.drep[0] & 0x10 else ByteOrder.BIG

    @property
    def body_end(self) -> int:
        """Where the body ends and the authentication trailer, if there is one, begins."""
        return self.frag_length - (self.auth_length + SEC_TRAILER_SIZE if self.auth_length else 0)


class HeaderFlaw(Enum):
    """What is wrong with a header by itself."""

    LENGTH = auto()  #: shorter than its type can be: nothing behind it can be found
    VERSION = auto()  #: not version 5.0 or 5.1
    REPRESENTATION = auto()  #: neither ASCII nor IEEE
    TRAILER = auto()  #: no room for the authentication trailer that it announces


def read_header(data: Octets) -> Header:
    """Parse the first 16 bytes of a PDU, in the order that its octet 4 names."""
    return Header._make(_LAYOUTS[0 if data[4] & 0x10 else 1].header.unpack_from(data))


def header_flaw(header: Header) -> HeaderFlaw | None:
    """Check what can be checked without knowing the connection; an unknown type counts as 16 bytes."""
    minimum = (
        message_header_size(header)
        if header.ptype == PacketType.REQUEST
        else MINIMUM_SIZE.get(header.ptype, HEADER_SIZE)
    )
    if header.version != 5 or header.version_minor > 1:
        return HeaderFlaw.VERSION
    if header.drep not in DREP:
        return HeaderFlaw.REPRESENTATION
    if header.frag_length < minimum:
        return HeaderFlaw.LENGTH
    if header.auth_length and header.frag_length - header.auth_length - SEC_TRAILER_SIZE < minimum:
        return HeaderFlaw.TRAILER
    return None


def message_header_size(header: Header) -> int:
    """Bytes of a request or a response before its stub: 24, and 16 more for the object UUID of a request."""
    return 40 if header.flags & OBJECT and header.ptype == PacketType.REQUEST else 24


def read_message(data: Octets, order: ByteOrder) -> tuple[int, int, int]:
    """Allocation hint, context and operation number of a request (for a response the last is not a number)."""
    hint, context_id, opnum = _LAYOUTS[order.index].message.unpack_from(data, HEADER_SIZE)
    return hint, context_id, opnum


# Bind, alter_context and their answers --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PresentationContext:
    """An interface, and the transfer syntaxes that the client can speak for it (C706 12.6.3.1 p_cont_elem_t).

    `context_id` is chosen by the client and names the agreed pair on this connection; 0 to 255, because servers echo no
    more than eight bits of it in a response.
    """

    context_id: int
    abstract: SyntaxId
    transfers: tuple[SyntaxId, ...]


@dataclass(frozen=True, slots=True)
class ContextResult:
    """What the server answers to one offered context (C706 12.6.3.1 p_result_t).

    `result` is a `ContextOutcome` and `reason` a `ContextReason` where the number is a published one.
    """

    result: int
    reason: int = ContextReason.NOT_SPECIFIED
    transfer: SyntaxId = NO_SYNTAX

    @property
    def accepted(self) -> bool:
        """Whether calls can be made in the context."""
        return self.result == ContextOutcome.ACCEPTANCE


class Offer(NamedTuple):
    """The body of a bind or an alter_context (C706 12.6.4.1, 12.6.4.3; MS-RPCE 2.2.2.13). Fragment sizes in bytes."""

    max_xmit: int
    max_recv: int
    group_id: int
    contexts: tuple[PresentationContext, ...]


class Acknowledgement(NamedTuple):
    """The body of a bind_ack or an alter_context_resp (C706 12.6.4.2, 12.6.4.4). Fragment sizes in bytes."""

    max_xmit: int
    max_recv: int
    group_id: int
    secondary_address: bytes
    results: tuple[ContextResult, ...]


def _syntax(syntax: SyntaxId, order: ByteOrder) -> bytes:
    version = (syntax.major & 0xFFFF) | (syntax.minor & 0xFFFF) << 16
    return encode_uuid(syntax.uuid, order) + _LAYOUTS[order.index].version.pack(version)


def _read_syntax(data: Octets, at: int, end: int, order: ByteOrder) -> SyntaxId:
    if at + 20 > end:
        raise Malformed("a syntax identifier leads beyond the end")
    (version,) = _LAYOUTS[order.index].version.unpack_from(data, at + 16)
    return SyntaxId(decode_uuid(data[at : at + 16], order), version & 0xFFFF, version >> 16)


def _pdu(ptype: int, flags: int, call_id: int, order: ByteOrder, body: bytes) -> bytes:
    header = _LAYOUTS[order.index].header
    return header.pack(5, 0, ptype, flags, DREP[order.index], HEADER_SIZE + len(body), 0, call_id) + body


def build_offer(ptype: PacketType, call_id: int, offer: Offer, order: ByteOrder) -> bytes:
    """Build a bind or an alter_context."""
    layouts = _LAYOUTS[order.index]
    body = bytearray(layouts.negotiation.pack(offer.max_xmit, offer.max_recv, offer.group_id))
    body += bytes((len(offer.contexts), 0, 0, 0))
    for context in offer.contexts:
        body += layouts.context.pack(context.context_id, len(context.transfers))
        body += _syntax(context.abstract, order)
        for transfer in context.transfers:
            body += _syntax(transfer, order)
    return _pdu(ptype, WHOLE, call_id, order, bytes(body))


def read_offer(data: Octets, header: Header) -> Offer:
    """Parse a bind or an alter_context.

    Raises:
        Malformed: a count leads beyond the end.
    """
    order, end = header.order, header.body_end
    layouts = _LAYOUTS[order.index]
    max_xmit, max_recv, group_id = layouts.negotiation.unpack_from(data, HEADER_SIZE)
    contexts: list[PresentationContext] = []
    at = 28
    (count,) = _COUNT.unpack_from(data, 24)
    for _ in range(int(count)):
        if at + 4 > end:
            raise Malformed("fewer contexts than announced")
        context_id, syntaxes = layouts.context.unpack_from(data, at)
        abstract = _read_syntax(data, at + 4, end, order)
        at += 24
        transfers: list[SyntaxId] = []
        for _ in range(syntaxes):
            transfers.append(_read_syntax(data, at, end, order))
            at += 20
        contexts.append(PresentationContext(context_id, abstract, tuple(transfers)))
    return Offer(max_xmit, max_recv, group_id, tuple(contexts))


def build_acknowledgement(
    ptype: PacketType, flags: int, call_id: int, answer: Acknowledgement, order: ByteOrder
) -> bytes:
    """Build a bind_ack or an alter_context_resp."""
    layouts = _LAYOUTS[order.index]
    body = bytearray(layouts.negotiation.pack(answer.max_xmit, answer.max_recv, answer.group_id))
    body += layouts.short.pack(len(answer.secondary_address)) + answer.secondary_address
    body += bytes(-len(body) % 4)  # the header is 16 bytes long: aligned in the body is aligned in the PDU
    body += bytes((len(answer.results), 0, 0, 0))
    for result in answer.results:
        body += layouts.result.pack(result.result, result.reason) + _syntax(result.transfer, order)
    return _pdu(ptype, WHOLE | flags, call_id, order, bytes(body))


def read_acknowledgement(data: Octets, header: Header) -> Acknowledgement:
    """Parse a bind_ack or an alter_context_resp.

    Raises:
        Malformed: a count leads beyond the end.
    """
    order, end = header.order, header.body_end
    layouts = _LAYOUTS[order.index]
    max_xmit, max_recv, group_id = layouts.negotiation.unpack_from(data, HEADER_SIZE)
    (length,) = layouts.short.unpack_from(data, 24)
    at = 26 + length + -(26 + length) % 4
    if at + 4 > end:
        raise Malformed("the secondary address leads beyond the end")
    secondary = bytes(data[26 : 26 + length])
    results: list[ContextResult] = []
    (count,) = _COUNT.unpack_from(data, at)
    at += 4
    for _ in range(int(count)):
        if at + 4 > end:
            raise Malformed("fewer results than announced")
        result, reason = layouts.result.unpack_from(data, at)
        results.append(ContextResult(result, reason, _read_syntax(data, at + 4, end, order)))
        at += 24
    return Acknowledgement(max_xmit, max_recv, group_id, secondary, tuple(results))


def build_bind_nak(reason: NakReason, call_id: int, order: ByteOrder) -> bytes:
    """Build a bind_nak that names protocol version 5.0, padded to a multiple of 4 as Windows does (MS-RPCE 2.2.2.9)."""
    body = _LAYOUTS[order.index].short.pack(reason) + b"\x01\x05\x00\x00\x00\x00"
    return _pdu(PacketType.BIND_NAK, WHOLE, call_id, order, body)


def read_bind_nak(data: Octets, header: Header) -> NakReason:
    """Parse a bind_nak; whatever stands behind the reason is ignored."""
    (reason,) = _LAYOUTS[header.order.index].short.unpack_from(data, HEADER_SIZE)
    return NakReason(reason)


class SecTrailer(NamedTuple):
    """The authentication trailer without its token (MS-RPCE 2.2.2.11)."""

    auth_type: int
    level: int
    pad_length: int
    aligned: bool


def read_sec_trailer(data: Octets, header: Header) -> SecTrailer:
    """Parse the trailer of a PDU whose `auth_length` is not 0."""
    at = header.body_end
    return SecTrailer(data[at], data[at + 1], data[at + 2], at % 4 == 0)


# Faults and the PDUs that are a header only ---------------------------------------------------------------------------

_FAULT_SIZE: Final = 32


def build_fault(call_id: int, context_id: int, code: int, order: ByteOrder, *, did_not_execute: bool = False) -> bytes:
    """Build a fault of 32 bytes (C706 12.6.4.7, MS-RPCE 2.2.2.12).

    `code` is an nca_s code or a Win32 status; it passes `fault_from_win32`, so that no forbidden number gets out. The
    hint is not 0, because some clients insist, and the cancel count is, as Windows and Samba have it.
    """
    body = _LAYOUTS[order.index].fault.pack(_FAULT_SIZE, context_id, 0, 0, fault_from_win32(code), 0)
    return _pdu(PacketType.FAULT, WHOLE | (DID_NOT_EXECUTE if did_not_execute else 0), call_id, order, body)


def read_fault(data: Octets, header: Header) -> int:
    """The code of a fault, 0 if it carries none.

    Servers of OSF descent put 0 into the status field and the code, which the manager's stub raised, into the stub
    data; others cut the PDU after the status, or before it.
    """
    long = _LAYOUTS[header.order.index].long
    for at in (24, _FAULT_SIZE):
        if at + 4 > header.body_end:
            return 0
        (code,) = long.unpack_from(data, at)
        if code:
            return int(code)
    return 0


def build_signal(ptype: PacketType, call_id: int, order: ByteOrder) -> bytes:
    """Build a PDU that is a header only: co_cancel, orphaned, shutdown (C706 12.6.4.9 to 12.6.4.11)."""
    return _pdu(ptype, WHOLE, call_id, order, b"")


def message_tail(context_id: int, last: int, order: ByteOrder) -> bytes:
    """What follows the allocation hint in a request (context, operation) or a response (context, 0)."""
    return _LAYOUTS[order.index].result.pack(context_id, last)

"""What the tests of this room share: a served interface, PDUs made by hand, and two ends joined without a network.

`Joined` lets what one end sends be what the other receives, in pieces of any size, and keeps the books: every byte of
a stub that one end put in has to come out at the other, in order, and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from apcrt.ndr import ByteOrder
from apcrt.wire import (
    NDR20,
    AssociationGroups,
    Bound,
    ClientAssociation,
    ClientEvent,
    PacketFlags,
    PacketType,
    PresentationContext,
    ReplyReady,
    RequestData,
    ResponseData,
    ServerAssociation,
    ServerEvent,
    SyntaxId,
)

ECHO = SyntaxId(UUID("60a15ec5-4de8-11d7-a637-005056a20182"), 1)
STRANGE = SyntaxId(UUID("01234567-89ab-cdef-0123-456789abcdef"), 1)
NDR64 = SyntaxId(UUID("71710533-beba-4937-8319-b5dbef9ccc36"), 1)
FEATURES = SyntaxId(UUID("6cb71c2c-9812-4540-0300-000000000000"), 1)
OBJECT = UUID("8d9f4e40-a03d-11ce-8f69-08003e30051b")
GROUP = 0x53F0

OPERATIONS = 10
STREAMING = 9  # the operation of ECHO whose request carries pipes

FIRST = int(PacketFlags.FIRST_FRAG)
LAST = int(PacketFlags.LAST_FRAG)
WHOLE = FIRST | LAST
DNE = int(PacketFlags.DID_NOT_EXECUTE)


class EchoShape:
    operations = OPERATIONS

    def streams_in(self, opnum: int) -> bool:
        return opnum == STREAMING


class EchoOffer:
    def find(self, abstract: SyntaxId) -> EchoShape | None:
        same = (abstract.uuid, abstract.major) == (ECHO.uuid, ECHO.major)
        return EchoShape() if same and abstract.minor <= ECHO.minor else None


def new_server(
    *, max_request: int = 4096, order: ByteOrder = ByteOrder.LITTLE, groups: AssociationGroups | None = None
) -> ServerAssociation:
    if groups is None:
        groups = AssociationGroups(iter(range(GROUP, 0xFFFF)).__next__)
    return ServerAssociation(EchoOffer(), groups, secondary_address="49152", max_request=max_request, order=order)


def new_client(*, max_fragment: int = 5840, order: ByteOrder = ByteOrder.LITTLE) -> ClientAssociation:
    return ClientAssociation(max_fragment=max_fragment, order=order)


def echo_context(context_id: int = 0, *transfers: SyntaxId) -> PresentationContext:
    return PresentationContext(context_id, ECHO, transfers or (NDR20,))


def view(data: bytes | bytearray) -> memoryview:
    return memoryview(data)


def joined_bytes(pieces: Iterable[bytes | bytearray | memoryview]) -> bytes:
    return b"".join(bytes(piece) for piece in pieces)


# PDUs made by hand ----------------------------------------------------------------------------------------------------


def pdu(
    ptype: int,
    body: bytes = b"",
    *,
    flags: int = WHOLE,
    call_id: int = 1,
    order: str = "<",
    drep: bytes | None = None,
    version: tuple[int, int] = (5, 0),
    frag_length: int | None = None,
    auth_length: int = 0,
) -> bytes:
    if drep is None:
        drep = b"\x10\0\0\0" if order == "<" else bytes(4)
    length = 16 + len(body) if frag_length is None else frag_length
    return struct.pack(order + "BBBB4sHHI", *version, ptype, flags, drep, length, auth_length, call_id) + body


def syntax(one: SyntaxId, order: str = "<") -> bytes:
    raw = one.uuid.bytes_le if order == "<" else one.uuid.bytes
    return raw + struct.pack(order + "I", one.major | one.minor << 16)


def offer(
    contexts: Sequence[tuple[int, SyntaxId, Sequence[SyntaxId]]],
    *,
    sizes: tuple[int, int] = (5840, 5840),
    group: int = 0,
    count: int | None = None,
    order: str = "<",
) -> bytes:
    body = struct.pack(order + "HHI", *sizes, group) + bytes((len(contexts) if count is None else count, 0, 0, 0))
    for context_id, abstract, transfers in contexts:
        body += struct.pack(order + "HBx", context_id, len(transfers)) + syntax(abstract, order)
        body += b"".join(syntax(transfer, order) for transfer in transfers)
    return body


PLAIN_OFFER = offer([(0, ECHO, [NDR20])])
BIND = pdu(PacketType.BIND, PLAIN_OFFER)


def request(
    stub: bytes = b"",
    *,
    flags: int = WHOLE,
    call_id: int = 2,
    context: int = 0,
    opnum: int = 0,
    hint: int | None = None,
    order: str = "<",
    target: bytes = b"",
    auth: bytes = b"",
) -> bytes:
    body = struct.pack(order + "IHH", len(stub) if hint is None else hint, context, opnum) + target + stub + auth
    return pdu(PacketType.REQUEST, body, flags=flags, call_id=call_id, order=order, auth_length=max(0, len(auth) - 8))


def response(stub: bytes = b"", *, flags: int = WHOLE, call_id: int = 2, order: str = "<") -> bytes:
    return pdu(
        PacketType.RESPONSE,
        struct.pack(order + "IHH", len(stub), 0, 0) + stub,
        flags=flags,
        call_id=call_id,
        order=order,
    )


def fault(code: int, *, call_id: int = 2, flags: int = WHOLE, context: int = 0) -> bytes:
    return pdu(PacketType.FAULT, struct.pack("<IHBBII", 32, context, 0, 0, code, 0), flags=flags, call_id=call_id)


def nak(reason: int, *, call_id: int = 1) -> bytes:
    return pdu(PacketType.BIND_NAK, struct.pack("<HBBB3x", reason, 1, 5, 0), call_id=call_id)


def sec_trailer(auth_type: int = 10, level: int = 5, *, pad: int = 0, token: bytes = bytes(16)) -> bytes:
    return struct.pack("<BBBBI", auth_type, level, pad, 0, 1) + token


def bound_server(*, max_request: int = 4096) -> ServerAssociation:
    server = new_server(max_request=max_request)
    server.receive(view(BIND))
    return server


# Two ends, joined -----------------------------------------------------------------------------------------------------


@dataclass
class Joined:
    """A client and a server whose bytes go to each other, cut by `cut`."""

    client: ClientAssociation
    server: ServerAssociation
    cut: Callable[[bytes], Iterator[bytes]]
    client_events: list[ClientEvent] = field(default_factory=list)
    server_events: list[ServerEvent] = field(default_factory=list)
    request: bytearray = field(default_factory=bytearray)
    response: bytearray = field(default_factory=bytearray)

    def to_server(self, data: bytes) -> None:
        for piece in self.cut(data):
            events = self.server.receive(view(piece))
            for event in events:
                if isinstance(event, RequestData):
                    self.request += event.data
                elif isinstance(event, ReplyReady):
                    self.to_client(event.data)
                else:
                    self.server_events.append(event)
            assert self.server.wanted() >= 1

    def to_client(self, data: bytes) -> None:
        for piece in self.cut(data):
            for event in self.client.receive(view(piece)):
                if isinstance(event, ResponseData):
                    self.response += event.data
                else:
                    self.client_events.append(event)
            assert self.client.wanted() >= 1


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def by_size(size: int) -> Callable[[bytes], Iterator[bytes]]:
    def cut(data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), size):
            yield data[at : at + size]

    return cut


def joined(
    cut: Callable[[bytes], Iterator[bytes]] = whole,
    *,
    max_fragment: int = 5840,
    max_request: int = 1 << 22,
    client_order: ByteOrder = ByteOrder.LITTLE,
    server_order: ByteOrder = ByteOrder.LITTLE,
) -> Joined:
    """Return two ends that are bound to each other."""
    pair = Joined(
        new_client(max_fragment=max_fragment, order=client_order),
        new_server(max_request=max_request, order=server_order),
        cut,
    )
    pair.to_server(pair.client.bind([echo_context()]))
    bound = pair.client_events.pop()
    assert isinstance(bound, Bound)
    assert bound.group_id == pair.client.group_id == pair.server.group_id
    pair.server_events.clear()
    return pair


# What may be seen on the wire -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fragment:
    """A PDU taken apart by nothing but its own lengths."""

    ptype: int
    flags: int
    call_id: int
    hint: int
    payload: bytes
    size: int


def fragments(data: bytes) -> list[Fragment]:
    """Take a stream of messages apart, independently of the room's own framing."""
    found: list[Fragment] = []
    while data:
        assert data[0] == 5
        assert data[1] == 0
        order = "<" if data[4] == 0x10 else ">"
        length, auth, call_id, hint = struct.unpack_from(order + "HHII", data, 8)
        assert auth == 0
        assert 24 <= length <= len(data)
        start = 40 if data[3] & int(PacketFlags.OBJECT_UUID) and data[2] == PacketType.REQUEST else 24
        found.append(Fragment(data[2], data[3] & WHOLE, call_id, hint, data[start:length], length))
        data = data[length:]
    return found

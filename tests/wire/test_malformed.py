"""What is answered to input that is not as it should be: one row for each rule, with the bytes that are expected.

Rules without a public text are those of Windows as recorded by its interoperability test suites. A row says what the
server was told before, what it is told now, and its whole answer; `closes` is whether the connection ends with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from apcrt.status import FaultStatus, Status
from apcrt.wire import NDR20, CloseConnection, PacketType, ReplyReady, RequestStarted, ServerAssociation

from .helpers import (
    BIND,
    DNE,
    ECHO,
    FEATURES,
    FIRST,
    GROUP,
    LAST,
    NDR64,
    OPERATIONS,
    PLAIN_OFFER,
    STRANGE,
    STREAMING,
    WHOLE,
    fault,
    nak,
    new_server,
    offer,
    pdu,
    request,
    sec_trailer,
    syntax,
    view,
)

PE = FaultStatus.NCA_S_PROTO_ERROR
UNK_IF = FaultStatus.NCA_S_UNK_IF
OP_RNG = FaultStatus.NCA_S_OP_RNG_ERROR
DENIED = Status.ERROR_ACCESS_DENIED

CAP = 4096  # bytes of a request without pipes that the server under test takes
PENDING_CANCEL = 0x04


def refused(code: int, *, call_id: int = 2, context: int = 0, dne: bool = False) -> bytes:
    return fault(code, call_id=call_id, context=context, flags=WHOLE | (DNE if dne else 0))


def bind(
    body: bytes = PLAIN_OFFER,
    *,
    flags: int = WHOLE,
    version: tuple[int, int] = (5, 0),
    drep: bytes | None = None,
    frag_length: int | None = None,
    auth_length: int = 0,
) -> bytes:
    return pdu(
        PacketType.BIND,
        body,
        flags=flags,
        version=version,
        drep=drep,
        frag_length=frag_length,
        auth_length=auth_length,
    )


def alter(body: bytes = PLAIN_OFFER, *, auth_length: int = 0) -> bytes:
    return pdu(PacketType.ALTER_CONTEXT, body, call_id=2, auth_length=auth_length)


def results(ptype: PacketType, *entries: tuple[int, int], call_id: int = 1) -> bytes:
    """Return the whole answer to an offer of so many contexts."""
    body = b"\xd0\x16\xd0\x16" + GROUP.to_bytes(4, "little")
    body += b"\x06\x0049152\0" if ptype is PacketType.BIND_ACK else bytes(4)
    body += bytes((len(entries), 0, 0, 0))
    for result, reason in entries:
        body += bytes((result, 0, reason, 0)) + (syntax(NDR20) if result == 0 else bytes(20))
    return pdu(ptype, body, call_id=call_id)


ACK = PacketType.BIND_ACK
RESP = PacketType.ALTER_CONTEXT_RESP


@dataclass(frozen=True)
class Row:
    rule: str
    told: bytes
    answer: bytes
    closes: bool = True
    before: list[bytes] = field(default_factory=lambda: [BIND])


AT_START: list[bytes] = []
ONE = [(0, ECHO, [NDR20])]

ROWS: list[Row] = [
    # Before and at the bind (C706 12.6.4.3, MS-RPCE 3.3.3.5.1)
    *(
        Row(f"first PDU is not a bind: {ptype}", pdu(ptype, bytes(32)), nak(4), before=AT_START)
        for ptype in (0, 2, 3, 12, 13, 14, 15, 16, 17, 18, 19, 20, 1, 99)
    ),
    Row("bind of another version", bind(version=(4, 0)), nak(4), before=AT_START),
    Row("bind with EBCDIC", bind(drep=b"\x11\0\0\0"), nak(4), before=AT_START),
    Row("bind with VAX numbers", bind(drep=b"\x10\1\0\0"), nak(4), before=AT_START),
    Row("bind without contexts", bind(offer([])), nak(4), before=AT_START),
    Row("context without transfer syntaxes", bind(offer([(0, ECHO, [])])), nak(0), before=AT_START),
    Row("fewer contexts than announced", bind(offer(ONE, count=2)), nak(4), before=AT_START),
    Row("cut inside of a syntax", bind(PLAIN_OFFER[:-1]), nak(4), before=AT_START),
    Row("auth_length beyond the PDU", bind(auth_length=100), nak(4), before=AT_START),
    Row("second bind", bind(), nak(0)),
    Row("unknown association group", bind(offer(ONE, group=4711)), nak(0), before=AT_START),
    Row(
        "two offers of features",
        bind(offer([(0, ECHO, [FEATURES]), (1, ECHO, [FEATURES])])),
        nak(0),
        before=AT_START,
    ),
    Row("one context, two meanings", bind(offer([*ONE, (0, STRANGE, [NDR20])])), nak(0), before=AT_START),
    Row("unknown interface", bind(offer([(0, STRANGE, [NDR20])])), results(ACK, (2, 1)), False, AT_START),
    Row("no common transfer syntax", bind(offer([(0, ECHO, [NDR64])])), results(ACK, (2, 2)), False, AT_START),
    Row(
        "an offer of features beside the interface",
        bind(offer([*ONE, (1, ECHO, [FEATURES])])),
        results(ACK, (0, 0), (2, 2)),
        False,
        AT_START,
    ),
    Row(
        "an offer of features in second place",
        bind(offer([(0, ECHO, [NDR64, FEATURES])])),
        results(ACK, (2, 2)),
        False,
        AT_START,
    ),
    Row(
        "several contexts and syntaxes",
        bind(offer([(0, ECHO, [NDR64, NDR20]), (7, ECHO, [NDR20]), (8, STRANGE, [NDR20])])),
        results(ACK, (0, 0), (0, 0), (2, 1)),
        False,
        AT_START,
    ),
    *(
        Row(
            f"bind with a verifier of type {kind}, level {level}",
            bind(PLAIN_OFFER + sec_trailer(kind, level), auth_length=16),
            nak(reason),
            before=AT_START,
        )
        for kind, level, reason in [
            (10, 5, 8),
            (16, 6, 8),
            (77, 2, 8),
            *((0, level, 8) for level in range(2, 7)),
            *((kind, level, 0) for kind in (0, 9) for level in (0, 1, 7, 255)),
            (9, 6, 8),
        ]
    ),
    Row(
        "misaligned verifier in a bind",
        bind(PLAIN_OFFER + b"\0\0" + sec_trailer(), auth_length=16),
        nak(0),
        before=AT_START,
    ),
    Row(
        "padding before the verifier of a bind",
        bind(PLAIN_OFFER + bytes(4) + sec_trailer(pad=4), auth_length=16),
        nak(4),
        before=AT_START,
    ),
    # alter_context and auth3 (C706 12.6.4.1, MS-RPCE 3.3.3.5.6)
    Row("alter_context without contexts", alter(offer([])), refused(PE, dne=True)),
    Row("alter_context without transfer syntaxes", alter(offer([(1, ECHO, [])])), refused(PE, dne=True)),
    Row("alter_context: another interface for a context", alter(offer([(0, STRANGE, [NDR20])])), refused(PE, dne=True)),
    Row(
        "alter_context: only unknown transfer syntaxes for a context",
        alter(offer([(0, ECHO, [NDR64])])),
        results(RESP, (2, 2), call_id=2),
        False,
    ),
    Row("alter_context: the same again", alter(), results(RESP, (0, 0), call_id=2), False),
    Row(
        "alter_context: more contexts",
        alter(offer([(1, ECHO, [NDR20]), (2, STRANGE, [NDR20]), (3, ECHO, [FEATURES])])),
        results(RESP, (0, 0), (2, 1), (2, 2), call_id=2),
        False,
    ),
    Row(
        "alter_context with a misaligned verifier",
        alter(PLAIN_OFFER + b"\0\0" + sec_trailer(), auth_length=16),
        refused(PE, dne=True),
    ),
    Row(
        "alter_context with padding before the verifier",
        alter(PLAIN_OFFER + bytes(4) + sec_trailer(pad=4), auth_length=16),
        refused(PE, dne=True),
    ),
    Row(
        "alter_context with a verifier",
        alter(PLAIN_OFFER + sec_trailer(), auth_length=16),
        refused(DENIED, dne=True),
    ),
    Row(
        "auth3 without authentication",
        pdu(PacketType.AUTH3, bytes(4) + sec_trailer(), call_id=2, auth_length=16),
        refused(PE, dne=True),
    ),
    # Requests (C706 12.6.4.9, MS-RPCE 3.3.3.5.8)
    Row("unknown context", request(context=3), refused(UNK_IF, dne=True), False),
    Row("unknown context, longer", request(bytes(100), context=3), refused(UNK_IF, dne=True), False),
    Row("operation out of range", request(opnum=OPERATIONS), refused(OP_RNG, dne=True), False),
    Row(
        "operation out of range, known once the request is complete",
        request(bytes(8), opnum=99, flags=FIRST) + request(bytes(8), opnum=99, flags=LAST),
        refused(OP_RNG, dne=True),
        False,
    ),
    Row("fragment larger than the transport's", request(bytes(5840 - 23)), refused(PE)),
    Row("hint beyond the limit", request(bytes(8), flags=FIRST, hint=CAP + 1), refused(DENIED)),
    Row(
        "hint beyond what is left",
        request(bytes(8), flags=LAST, hint=CAP - 15),
        refused(DENIED),
        before=[BIND, request(bytes(16), flags=FIRST)],
    ),
    Row(
        "more than the limit",
        request(bytes(CAP // 2 + 8), flags=LAST, hint=0),
        refused(DENIED),
        before=[BIND, request(bytes(CAP // 2), flags=FIRST)],
    ),
    Row("fragment of no request", request(bytes(8), flags=0), refused(PE)),
    Row("last fragment of no request", request(bytes(8), flags=LAST), refused(PE)),
    Row("first fragment again", request(flags=FIRST), refused(PE), before=[BIND, request(flags=FIRST)]),
    Row(
        "first fragment again, in another context",
        request(flags=FIRST, call_id=50),
        refused(PE, call_id=50, context=1),
        before=[bind(offer([*ONE, (1, ECHO, [NDR20])])), request(flags=FIRST, call_id=50, context=1)],
    ),
    Row(
        "request inside of another",
        request(call_id=51),
        refused(PE, call_id=50, context=1),
        before=[bind(offer([*ONE, (1, ECHO, [NDR20])])), request(flags=FIRST, call_id=50, context=1)],
    ),
    Row(
        "request before the last one was answered",
        request(call_id=51),
        refused(PE, call_id=51),
        before=[BIND, request(call_id=50)],
    ),
    Row(
        "fragment of an unknown call inside of a request",
        request(call_id=51, flags=LAST),
        refused(PE, call_id=50),
        before=[BIND, request(flags=FIRST, call_id=50)],
    ),
    Row(
        "cancelled before it came",
        request(flags=WHOLE | PENDING_CANCEL),
        refused(Status.RPC_S_NO_CALL_ACTIVE, dne=True),
    ),
    Row(
        "fragments in different byte orders",
        request(flags=LAST, order=">"),
        refused(PE, dne=True),
        before=[BIND, request(flags=FIRST)],
    ),
    Row("verifier without authentication", request(bytes(8), auth=sec_trailer()), refused(DENIED)),
    Row(
        "verifier on a later fragment only",
        request(bytes(8), flags=LAST, auth=sec_trailer()),
        refused(DENIED),
        before=[BIND, request(flags=FIRST)],
    ),
    Row("auth_length beyond the PDU", pdu(0, bytes(20), call_id=2, auth_length=40), refused(PE, dne=True)),
    Row("request of another version", pdu(0, bytes(8), call_id=2, version=(5, 2)), refused(PE, dne=True)),
    Row("request with IBM numbers", pdu(0, bytes(8), call_id=2, drep=b"\x10\3\0\0"), refused(PE, dne=True)),
    # Everything else
    *(
        Row(f"a PDU that only servers send: {ptype}", pdu(ptype, bytes(32), call_id=2), refused(PE, dne=True))
        for ptype in (2, 3, 12, 13, 15, 17, 20, 1, 4, 10, 77)
    ),
    Row("cancel of an unknown call", pdu(PacketType.CO_CANCEL, call_id=9), b"", False),
    Row("orphaned for an unknown call", pdu(PacketType.ORPHANED, call_id=9, flags=LAST), b"", False),
    Row("frag_length below a header", pdu(0, bytes(8), frag_length=15), b""),
    Row("frag_length below the type's minimum", pdu(0, bytes(4)), b""),
    Row("no room for the object UUID", request(bytes(8), flags=WHOLE | 0x80), b""),
    Row("frag_length below the minimum, at the start", bind(b"", frag_length=27), b"", before=AT_START),
    Row("frag_length 0", pdu(11, frag_length=0), b"", before=AT_START),
]


def told(server: ServerAssociation, data: bytes, step: int) -> tuple[bytes, bool]:
    answer, closed = b"", False
    for at in range(0, len(data), step):
        for event in server.receive(view(data[at : at + step])):
            if isinstance(event, ReplyReady):
                assert not closed
                answer += event.data
            closed = closed or isinstance(event, CloseConnection)
    return answer, closed


@pytest.mark.parametrize("step", [1 << 16, 1], ids=["whole", "by_byte"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.rule))
def test_answer(row: Row, step: int) -> None:
    server = new_server(max_request=CAP)
    for data in row.before:
        _, closed = told(server, data, step)
        assert not closed
    answer, closed = told(server, row.told, step)
    assert answer.hex() == row.answer.hex()
    assert closed == row.closes
    if not closed and server.group_id:  # the connection is as good as new
        told(server, alter(offer([(200, ECHO, [NDR20])])), step)
        events = server.receive(view(request(call_id=77, context=200)))
        assert any(isinstance(event, RequestStarted) for event in events)


@pytest.mark.parametrize("step", [1 << 16, 1], ids=["whole", "by_byte"])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(request(hint=0xFFFFFFFF), id="any hint on a single fragment"),
        pytest.param(request(bytes(8), hint=1), id="hint that is too small"),
        pytest.param(request(bytes(5840 - 24), opnum=STREAMING), id="the largest fragment"),
        pytest.param(request(flags=WHOLE | 0x40), id="maybe semantics are ignored"),
        pytest.param(request(flags=WHOLE | 0x08), id="reserved flag"),
        pytest.param(request(flags=FIRST) + request(flags=0) + request(flags=LAST), id="empty fragments"),
        pytest.param(
            request(bytes(3), flags=FIRST) + request(bytes(5), flags=LAST | PENDING_CANCEL), id="odd fragments"
        ),
        pytest.param(
            request(bytes(8), flags=FIRST) + request(bytes(8), flags=LAST, opnum=77, context=9),
            id="context and operation count in the first fragment only",
        ),
        pytest.param(
            request(bytes(8), flags=FIRST) + request(bytes(8), flags=LAST | 0x80, target=bytes(16)),
            id="object UUID in a later fragment only",
        ),
        pytest.param(
            request(bytes(4000), flags=FIRST, hint=0xFFFF261D, opnum=STREAMING)
            + request(bytes(4000), flags=LAST, hint=0xFFFF261D, opnum=STREAMING),
            id="streams have no limit, and no use for hints",
        ),
        pytest.param(pdu(0, bytes(8), call_id=2, version=(5, 1)), id="minor version 1"),
    ],
)
def test_accepted(data: bytes, step: int) -> None:
    server = new_server(max_request=CAP)
    told(server, BIND, step)
    assert told(server, data, step) == (b"", False)
    assert server.respond(2, streams=False).call_id == 2


@pytest.mark.parametrize("flags", range(256))
def test_every_flag_of_a_bind(flags: int) -> None:
    """Answered with the agreed header signing, and never with multiplexing, which is not offered."""
    answer, closed = told(new_server(), bind(flags=flags), 1 << 16)
    assert answer[3] == WHOLE | flags & 0x04
    assert not closed


@pytest.mark.parametrize(
    ("proposed", "granted"),
    [
        ((5840, 5840), 5840),
        ((4280, 5840), 4280),
        ((5840, 4281), 4280),
        ((0xFFFF, 0xFFFF), 5840),
        ((0, 0), 2048),
        ((1432, 65535), 2048),
        ((65528, 65535), 5840),
        ((65527, 65528), 5840),
    ],
)
def test_fragments_granted(proposed: tuple[int, int], granted: int) -> None:
    answer, _ = told(new_server(), bind(offer(ONE, sizes=proposed)), 1 << 16)
    assert int.from_bytes(answer[16:18], "little") == int.from_bytes(answer[18:20], "little") == granted


def test_large_fragments_where_they_were_granted() -> None:
    """Only another end of this runtime asks for exactly that, and it knows us by the answer."""
    server = new_server(max_request=1 << 20)
    answer, _ = told(server, bind(offer(ONE, sizes=(65528, 65528))), 1 << 16)
    assert answer[16:20] == (65528).to_bytes(2, "little") + (65520).to_bytes(2, "little")
    assert told(server, request(bytes(65520 - 24)), 1 << 16) == (b"", False)
    server.fault(2, 5)
    assert told(server, request(bytes(65520 - 23), call_id=3), 1 << 16) == (refused(PE, call_id=3), True)


def test_contexts_are_limited() -> None:
    server = new_server()
    many = [(number, ECHO, [NDR20]) for number in range(255)]
    told(server, bind(offer(many)), 1 << 16)
    answer, closed = told(server, alter(offer([(number, ECHO, [NDR20]) for number in (255, 256, 3)])), 1 << 16)
    assert not closed
    assert answer.hex() == results(RESP, (0, 0), (2, 3), (0, 0), call_id=2).hex()

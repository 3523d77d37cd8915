"""Bytes of published and captured exchanges: ours are the same, and theirs mean the same wherever they are cut."""

from __future__ import annotations

import struct

import pytest

from apcrt.ndr import ByteOrder
from apcrt.status import Status
from apcrt.wire import (
    NDR20,
    BindRefused,
    Bound,
    BoundByPeer,
    ClientAssociation,
    ClientEvent,
    ContextResult,
    FaultReceived,
    NakReason,
    ReplyReady,
    RequestData,
    RequestEnd,
    RequestStarted,
    ResponseData,
    ResponseEnd,
    ServerEvent,
)

from .helpers import ECHO, GROUP, OPERATIONS, bound_server, echo_context, joined_bytes, new_client, new_server, view

BIND = bytes.fromhex(
    "05000b03 10000000 4800 0000 01000000"
    "d016 d016 00000000 01000000"
    "0000 0100 c55ea160e84dd711a637005056a20182 01000000"
    "045d888aeb1cc9119fe808002b104860 02000000"
)
BIND_ACK = bytes.fromhex(
    "05000c03 10000000 3c00 0000 01000000"
    "d016 d016 f0530000"
    "0600 343931353200"
    "01000000 00000000"
    "045d888aeb1cc9119fe808002b104860 02000000"
)
REQUEST = bytes.fromhex("05000003 10000000 1c00 0000 02000000 04000000 0000 0000 29000000")
RESPONSE = bytes.fromhex("05000203 10000000 1c00 0000 02000000 04000000 0000 0000 2a000000")
REQUEST_BIG = bytes.fromhex("05000003 00000000 001c 0000 00000002 00000004 0000 0000 00000029")
BIND_NAK = bytes.fromhex("05000d03 10000000 1800 0000 01000000 0400 0105 00000000")
UNKNOWN_OPNUM = bytes.fromhex("05000003 10000000 1800 0000 03000000 00000000 0000 6300")
OP_RNG = bytes.fromhex("05000323 10000000 2000 0000 03000000 20000000 0000 0000 0200011c 00000000")
# A call of an OSF descended runtime, whose first call has identifier 0, and a fault as it sends them: status 0, and
# the code as stub data.
OSF_REQUEST = bytes.fromhex(
    "05000003 10000000 3400 0000 00000000 1c000000 0000 0000"
    "04000000 030a1118 04000000 1f262d34 02000000 3b420000 00000000"
)
OSF_FAULT = bytes.fromhex("05000303 10000000 2400 0000 02000000 04000000 0000 0000 00000000 00000000 1600001c")


def test_bind_is_what_windows_sends() -> None:
    assert new_client().bind([echo_context()]).hex() == BIND.hex()


def test_bind_ack_is_what_windows_answers() -> None:
    ack, bound = new_server().receive(view(BIND))
    assert isinstance(ack, ReplyReady)
    assert ack.data.hex() == BIND_ACK.hex()
    assert bound == BoundByPeer(GROUP, ((0, ECHO),))


def bound_client() -> ClientAssociation:
    client = new_client()
    client.bind([echo_context()])
    client.receive(view(BIND_ACK))
    return client


def test_call() -> None:
    client, server = bound_client(), bound_server()
    call = client.request(0, 0, streams=False)
    call.add(bytes.fromhex("29000000"))
    sent = joined_bytes(call.take(last=True))
    assert sent.hex() == REQUEST.hex()
    server.receive(view(sent))
    answer = server.respond(2, streams=False)
    answer.add(bytes.fromhex("2a000000"))
    assert joined_bytes(answer.take(last=True)).hex() == RESPONSE.hex()


def test_request_of_a_big_endian_peer() -> None:
    events = bound_server().receive(view(REQUEST_BIG))
    assert events == [
        RequestStarted(2, 0, ECHO, NDR20, 0, None, ByteOrder.BIG, 4),
        RequestData(2, view(bytes.fromhex("00000029")), ByteOrder.BIG),
        RequestEnd(2),
    ]


def test_we_can_be_a_big_endian_peer() -> None:
    client = new_client(order=ByteOrder.BIG)
    server = new_server()
    bind = client.bind([echo_context()])
    assert bind[:16] == bytes.fromhex("05000b03 00000000 0048 0000 00000001")
    (ack, _) = server.receive(view(bind))
    assert isinstance(ack, ReplyReady)
    assert ack.data.hex() == BIND_ACK.hex()
    client.receive(view(ack.data))
    call = client.request(0, 0, streams=False)
    assert joined_bytes(call.take([bytes.fromhex("00000029")], last=True)).hex() == REQUEST_BIG.hex()


@pytest.mark.feature("SRV-09")
def test_operation_out_of_range() -> None:
    assert UNKNOWN_OPNUM[22] >= OPERATIONS
    assert bound_server().receive(view(UNKNOWN_OPNUM)) == [ReplyReady(OP_RNG)]


def test_bind_nak() -> None:
    (answer, _) = new_server().receive(view(REQUEST[:12] + b"\x01\0\0\0" + REQUEST[16:]))
    assert isinstance(answer, ReplyReady)
    assert answer.data.hex() == BIND_NAK.hex()


def test_request_of_an_osf_client() -> None:
    events = bound_server().receive(view(OSF_REQUEST))
    assert [type(event) for event in events] == [RequestStarted, RequestData, RequestEnd]
    assert events[1] == RequestData(0, view(OSF_REQUEST[24:]), ByteOrder.LITTLE)


# Every cut ------------------------------------------------------------------------------------------------------------


def told_client(pieces: list[bytes], *, calls: int = 0) -> list[object]:
    client = new_client()
    client.bind([echo_context()])
    if calls:
        client.receive(view(BIND_ACK))
        client.request(0, 0, streams=False).take(last=True)
    return merged([event for piece in pieces for event in client.receive(view(piece))])


def told_server(pieces: list[bytes], *, bound: bool) -> list[object]:
    server = bound_server() if bound else new_server()
    return merged([event for piece in pieces for event in server.receive(view(piece))])


def merged(events: list[ClientEvent] | list[ServerEvent]) -> list[object]:
    """Give the events with neighbouring data joined: how the bytes were cut is the only thing that may differ."""
    out: list[object] = []
    data = b""
    for event in events:
        if isinstance(event, ResponseData | RequestData):
            assert event.data
            data += bytes(event.data)
            continue
        if data:
            out.append(data)
            data = b""
        out.append(event)
    return [*out, data] if data else out


CLIENT_CASES: dict[str, tuple[bytes, int, list[object]]] = {
    "bind_ack": (BIND_ACK, 0, [Bound(GROUP, (ContextResult(0, 0, NDR20),))]),
    "bind_nak": (
        BIND_NAK,
        0,
        [BindRefused(NakReason.PROTOCOL_VERSION_NOT_SUPPORTED, Status.RPC_S_PROTOCOL_ERROR)],
    ),
    "response": (RESPONSE, 1, [bytes.fromhex("2a000000"), ResponseEnd(2)]),
    "fault": (
        OP_RNG[:12] + b"\x02\0\0\0" + OP_RNG[16:],
        1,
        [FaultReceived(2, 0x1C010002, Status.RPC_S_PROCNUM_OUT_OF_RANGE, did_not_execute=True)],
    ),
    "osf_fault": (
        OSF_FAULT,
        1,
        [FaultReceived(2, 0x1C000016, Status.RPC_X_WRONG_PIPE_ORDER, did_not_execute=False)],
    ),
    "two_fragments": (
        bytes.fromhex(
            "05000201 10000000 2800 0000 02000000 2c000000 0000 0000 18000000000102030405060708090a0b"
            "05000202 10000000 3400 0000 02000000 1c000000 0000 0000"
            "0c0d0e0f10111213141516170300000078797a000000000000000000"
        ),
        1,
        [
            struct.pack("<I", 24) + bytes(range(24)) + bytes.fromhex("0300000078797a000000000000000000"),
            ResponseEnd(2),
        ],
    ),
}


@pytest.mark.parametrize("name", CLIENT_CASES)
def test_client_at_every_cut(name: str) -> None:
    data, calls, expected = CLIENT_CASES[name]
    assert told_client([data], calls=calls) == expected
    assert told_client([data[at : at + 1] for at in range(len(data))], calls=calls) == expected
    for first in range(1, len(data)):
        assert told_client([data[:first], data[first:]], calls=calls) == expected


SERVER_CASES: dict[str, tuple[bytes, bool, list[object]]] = {
    "bind": (BIND, False, [ReplyReady(BIND_ACK), BoundByPeer(GROUP, ((0, ECHO),))]),
    "request": (
        REQUEST,
        True,
        [RequestStarted(2, 0, ECHO, NDR20, 0, None, ByteOrder.LITTLE, 4), REQUEST[24:], RequestEnd(2)],
    ),
    "big_endian": (
        REQUEST_BIG,
        True,
        [RequestStarted(2, 0, ECHO, NDR20, 0, None, ByteOrder.BIG, 4), REQUEST_BIG[24:], RequestEnd(2)],
    ),
    "osf": (
        OSF_REQUEST,
        True,
        [RequestStarted(0, 0, ECHO, NDR20, 0, None, ByteOrder.LITTLE, 28), OSF_REQUEST[24:], RequestEnd(0)],
    ),
    "out_of_range": (UNKNOWN_OPNUM, True, [ReplyReady(OP_RNG)]),
}


@pytest.mark.parametrize("name", SERVER_CASES)
def test_server_at_every_cut(name: str) -> None:
    data, bound, expected = SERVER_CASES[name]
    assert told_server([data], bound=bound) == expected
    assert told_server([data[at : at + 1] for at in range(len(data))], bound=bound) == expected
    for first in range(1, len(data)):
        assert told_server([data[:first], data[first:]], bound=bound) == expected

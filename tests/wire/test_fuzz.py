"""Any bytes: events or the documented refusal, bounded memory, and never an exception."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from apcrt.wire import (
    ClientAssociation,
    ClientEvent,
    ClientState,
    CloseConnection,
    PacketType,
    ProtocolViolation,
    ReplyReady,
    RequestData,
    RequestEnd,
    RequestStarted,
    ResponseData,
    ServerAssociation,
    ServerEvent,
    ServerState,
)

from .helpers import (
    BIND,
    FIRST,
    LAST,
    STREAMING,
    WHOLE,
    bound_server,
    echo_context,
    fault,
    joined_bytes,
    nak,
    new_client,
    new_server,
    pdu,
    request,
    response,
    sec_trailer,
    view,
)
from .test_client import ACCEPTED, ack

LARGEST_PDU = 65535

#: PDUs that make sense somewhere, for the fuzzer to put where they do not, and to damage.
SEEDS = [
    BIND,
    pdu(PacketType.ALTER_CONTEXT, BIND[16:]),
    pdu(PacketType.AUTH3, bytes(4) + sec_trailer(), auth_length=16),
    request(bytes(50)),
    request(bytes(50), flags=FIRST, opnum=STREAMING),
    request(bytes(50), flags=0, opnum=STREAMING),
    request(bytes(50), flags=LAST, opnum=STREAMING),
    request(bytes(50), flags=FIRST),
    request(bytes(50), flags=WHOLE | 0x80, target=bytes(16), order=">"),
    request(bytes(8), opnum=99),
    request(bytes(8), context=99),
    request(bytes(8), call_id=3),
    response(b"answer"),
    response(b"one", flags=FIRST),
    response(b"two", flags=LAST),
    response(b"big", order=">"),
    fault(5),
    nak(4),
    ack(ACCEPTED),
    pdu(PacketType.ALTER_CONTEXT_RESP, ack(ACCEPTED)[16:]),
    pdu(PacketType.SHUTDOWN),
    pdu(PacketType.CO_CANCEL, call_id=2),
    pdu(PacketType.ORPHANED, call_id=2, flags=LAST),
]


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Draw a few PDUs one after the other, some of them damaged, some of it noise."""
    out = bytearray()
    for _ in range(draw(st.integers(1, 6))):
        data = bytearray(draw(st.sampled_from(SEEDS)))
        for _ in range(draw(st.integers(0, 2))):
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
        if draw(st.integers(0, 9)) == 0:
            del data[draw(st.integers(0, len(data) - 1)) :]
        out += data
    if draw(st.integers(0, 4)) == 0:
        out += draw(st.binary(max_size=100))
    return bytes(out)


def cuts(data: bytes, random: Random) -> list[bytes]:
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        size = random.choice((1, 3, 16, 40, 1000))
        pieces.append(data[at : at + size])
        at += size
    return pieces


def outline(events: list[ServerEvent] | list[ClientEvent]) -> list[object]:
    """Give the events with the data of each message as one piece."""
    out: list[object] = []
    for event in events:
        if isinstance(event, RequestData | ResponseData):
            assert event.data
            key = (type(event), event.call_id, event.order)
            if out and isinstance(out[-1], list) and out[-1][0] == key:
                out[-1][1] += bytes(event.data)
            else:
                out.append([key, bytes(event.data)])
        else:
            out.append(event)
    return out


def assert_replies_are_sound(events: list[ServerEvent]) -> None:
    closed = False
    for event in events:
        assert not closed, "nothing after the end"
        if isinstance(event, ReplyReady):
            assert event.data[2] in (
                PacketType.BIND_ACK,
                PacketType.BIND_NAK,
                PacketType.ALTER_CONTEXT_RESP,
                PacketType.FAULT,
            )
            assert int.from_bytes(event.data[8:10], "little") == len(event.data)
        closed = isinstance(event, CloseConnection)


def serve(server: ServerAssociation, pieces: list[bytes], *, answers: bool) -> list[ServerEvent]:
    seen: list[ServerEvent] = []
    for piece in pieces:
        events = server.receive(view(piece))
        seen += events
        assert len(server._partial) <= LARGEST_PDU
        assert len(server._partial) <= sum(map(len, pieces)), "nothing is reserved"
        assert len(server._calls) <= 2
        assert server.wanted() >= 1
        assert 0 <= server.body_left() <= LARGEST_PDU
        for event in events if answers else ():
            if isinstance(event, RequestEnd) and server.state is ServerState.BOUND and event.call_id in server._calls:
                joined_bytes(server.respond(event.call_id, streams=True).take([b"answer"], last=True))
    return seen


@given(data=streams(), random=st.builds(Random, st.integers(0, 1 << 32)), bound=st.booleans(), answers=st.booleans())
@example(data=BIND, random=Random(0), bound=True, answers=True)
def test_server(data: bytes, random: Random, bound: bool, answers: bool) -> None:
    server = bound_server() if bound else new_server()
    events = serve(server, cuts(data, random), answers=answers)
    assert_replies_are_sound(events)
    if not answers:  # when answers go out, what is allowed depends on when bytes arrive
        again = bound_server() if bound else new_server()
        assert outline(again.receive(view(data))) == outline(events)


@given(data=st.binary(max_size=200), random=st.builds(Random, st.integers(0, 1 << 32)), bound=st.booleans())
def test_server_and_noise(data: bytes, random: Random, bound: bool) -> None:
    server = bound_server() if bound else new_server()
    assert_replies_are_sound(serve(server, cuts(data, random), answers=True))


def client_that_waits(*, bound: bool, finished: bool) -> ClientAssociation:
    client = new_client()
    client.bind([echo_context()])
    if bound:
        client.receive(view(ack(ACCEPTED)))
        call = client.request(0, STREAMING, streams=True)
        call.take([bytes(8)], flush=True, last=finished)
    return client


@given(
    data=st.one_of(streams(), st.binary(max_size=200)),
    random=st.builds(Random, st.integers(0, 1 << 32)),
    bound=st.booleans(),
    finished=st.booleans(),
)
def test_client(data: bytes, random: Random, bound: bool, finished: bool) -> None:
    client = client_that_waits(bound=bound, finished=finished)
    events: list[ClientEvent] = []
    for piece in cuts(data, random):
        assert not any(isinstance(event, ProtocolViolation) for event in events[:-1])
        events += client.receive(view(piece))
        assert len(client._partial) <= LARGEST_PDU
        assert len(client._calls) <= 1
        assert client.wanted() >= 1
    if any(isinstance(event, ProtocolViolation) for event in events):
        assert client.state is ClientState.CLOSED
        assert isinstance(events[-1], ProtocolViolation)
    again = client_that_waits(bound=bound, finished=finished)
    assert outline(again.receive(view(data))) == outline(events)


@pytest.mark.parametrize("size", [16, 40, 1000])
def test_a_promise_of_much_costs_nothing(size: int) -> None:
    """A bind that announces 65535 bytes and stops: what is kept is what has come."""
    server = new_server()
    server.receive(view(pdu(PacketType.BIND, bytes(size - 16), frag_length=65535)))
    assert len(server._partial) == size
    assert server.wanted() == 65535 - size


def test_many_small_requests_leave_nothing() -> None:
    server = bound_server()
    for call_id in range(2, 500):
        kinds = [type(event) for event in server.receive(view(request(b"x" * 8, call_id=call_id)))]
        assert kinds == [RequestStarted, RequestData, RequestEnd]
        server.respond(call_id, streams=False).take(last=True)
        assert len(server._calls) == 1

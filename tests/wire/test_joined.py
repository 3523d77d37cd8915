"""Both ends joined: what one sends is what the other gets, however the bytes are cut on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apcrt.ndr import ByteOrder
from apcrt.wire import (
    APCRT_FRAGMENT,
    NDR20,
    STRANGER_FRAGMENT,
    OutgoingStub,
    RequestData,
    RequestEnd,
    RequestStarted,
    ResponseData,
    ResponseEnd,
)

from .helpers import ECHO, OBJECT, STREAMING, Joined, by_size, fragments, joined, joined_bytes, view, whole


def at_random(random: Random) -> Callable[[bytes], Iterator[bytes]]:
    def cut(data: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(data):
            size = random.choice((1, 2, 7, 16, 24, 100, 5000, 70000))
            yield data[at : at + size]
            at += size

    return cut


def send(stub: OutgoingStub, data: bytes, random: Random) -> Iterator[bytes]:
    """Send a message in a way that an engine might, each yield something for the wire."""
    at = 0
    while at < len(data):
        size = random.choice((1, 5, 8, 300, 20000))
        piece = data[at : at + size]
        at += size
        if random.random() < 0.5:
            stub.add(piece)
            piece = b""
        yield joined_bytes(stub.take([piece] if piece else [], flush=random.random() < 0.5))
    yield joined_bytes(stub.take(last=True))


@given(
    random=st.builds(Random, st.integers(0, 1 << 32)),
    sizes=st.lists(st.tuples(st.integers(0, 30_000), st.integers(0, 30_000)), min_size=1, max_size=3),
    fragment=st.sampled_from([1432, STRANGER_FRAGMENT, APCRT_FRAGMENT]),
    client_order=st.sampled_from(ByteOrder),
    server_order=st.sampled_from(ByteOrder),
    target=st.sampled_from([None, OBJECT]),
)
def test_calls(
    random: Random,
    sizes: list[tuple[int, int]],
    fragment: int,
    client_order: ByteOrder,
    server_order: ByteOrder,
    target: UUID | None,
) -> None:
    pair = joined(at_random(random), max_fragment=fragment, client_order=client_order, server_order=server_order)
    for number, (there, back) in enumerate(sizes):
        question, answer = random.randbytes(there), random.randbytes(back)
        pair.request.clear()
        pair.response.clear()
        streams = random.random() < 0.5
        opnum = STREAMING if streams else 0
        call = pair.client.request(0, opnum, streams=streams, object_uuid=target)
        for data in send(call, question, random):
            pair.to_server(data)
        started, end = pair.server_events
        assert isinstance(started, RequestStarted)
        assert (started.call_id, started.opnum, started.interface, started.transfer) == (number + 2, opnum, ECHO, NDR20)
        assert (started.object_uuid, started.order) == (target, client_order)
        assert end == RequestEnd(call.call_id)
        assert pair.request == question
        pair.server_events.clear()
        reply = pair.server.respond(call.call_id, streams=True)
        for data in send(reply, answer, random):
            pair.to_client(data)
        assert pair.response == answer
        assert pair.client_events == [ResponseEnd(call.call_id)]
        pair.client_events.clear()
    assert pair.client.at_boundary
    assert pair.server.at_boundary


def test_views_are_of_the_memory_that_was_received() -> None:
    pair = joined()
    call = pair.client.request(0, STREAMING, streams=True)
    received = bytearray(joined_bytes(call.take([b"abcdefgh"], flush=True)))
    events = pair.server.receive(view(received))
    assert isinstance(events[1], RequestData)
    received[-1] = ord("!")
    assert bytes(events[1].data) == b"abcdefg!"


@pytest.mark.feature("PIPE-14")
@pytest.mark.parametrize("ahead", [0, 1, 100, 5000])
def test_bodies_received_elsewhere(ahead: int) -> None:
    """The engine reads stub bytes straight to where they are wanted, and never more than `body_left`."""
    pair = joined(max_fragment=1432)
    payload = Random(1).randbytes(10_000)
    call = pair.client.request(0, STREAMING, streams=True)
    wire = joined_bytes(call.take([payload], last=True))
    got = bytearray()
    ended = False
    at = 0
    while at < len(wire):
        left = pair.server.body_left()
        if left:
            assert left <= pair.server.wanted()
            size = min(left, 333)
            got += wire[at : at + size]
            events = pair.server.body_taken(size)
        else:
            size = min(pair.server.wanted() + ahead, len(wire) - at)
            events = pair.server.receive(view(wire[at : at + size]))
        at += size
        for event in events:
            if isinstance(event, RequestData):
                got += event.data
            ended = ended or isinstance(event, RequestEnd)
    assert bytes(got) == payload
    assert ended
    assert pair.server.body_left() == 0


def test_wanted_leads_from_pdu_to_pdu() -> None:
    """An engine that reads exactly what is wanted never reads into the next PDU."""
    pair = joined(max_fragment=1432)
    call = pair.client.request(0, STREAMING, streams=True)
    wire = joined_bytes(call.take([bytes(5000)], last=True))
    borders = [0]
    for one in fragments(wire):
        borders.append(borders[-1] + one.size)
    reached = [0]
    at = 0
    while at < len(wire):
        size = pair.server.wanted()
        pair.server.receive(view(wire[at : at + size]))
        at += size
        if pair.server.at_boundary:
            reached.append(at)
    assert reached == borders


def test_full_duplex() -> None:
    """A response may begin before the request is complete; both go on."""
    pair = joined()
    call = pair.client.request(0, STREAMING, streams=True)
    pair.to_server(joined_bytes(call.take([bytes(16)], flush=True)))
    reply = pair.server.respond(call.call_id, streams=True)
    pair.to_client(joined_bytes(reply.take([b"12345678"], flush=True)))
    pair.to_server(joined_bytes(call.take([bytes(16)], last=True)))
    pair.to_client(joined_bytes(reply.take([b"9"], last=True)))
    assert pair.response == b"123456789"
    assert len(pair.request) == 32
    assert pair.client_events == [ResponseEnd(call.call_id)]


def test_what_is_kept_between_two_receives() -> None:
    """Bodies pass through; of a stream nothing stays but a cut header."""
    pair: Joined = joined(by_size(1000), max_fragment=APCRT_FRAGMENT)
    call = pair.client.request(0, STREAMING, streams=True, object_uuid=OBJECT)
    wire = joined_bytes(call.take([bytes(300_000)], last=True))
    kept = 0
    for piece in pair.cut(wire):
        pair.server.receive(view(piece))
        kept = max(kept, len(pair.server._partial))
    assert kept <= 40


def test_orders_of_data() -> None:
    pair = joined(whole, client_order=ByteOrder.BIG, server_order=ByteOrder.LITTLE)
    call = pair.client.request(0, 0, streams=False)
    (_, data, _) = pair.server.receive(view(joined_bytes(call.take([b"x"], last=True))))
    assert isinstance(data, RequestData)
    assert data.order is ByteOrder.BIG
    reply = pair.server.respond(call.call_id, streams=False)
    (back, _) = pair.client.receive(view(joined_bytes(reply.take([b"y"], last=True))))
    assert isinstance(back, ResponseData)
    assert back.order is ByteOrder.LITTLE

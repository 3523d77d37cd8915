"""Messages cut into fragments: nothing lost, nothing copied that need not be, and the rules of fragments hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apcrt.ndr import ByteOrder
from apcrt.status import RpcUsageError, Status
from apcrt.wire import APCRT_FRAGMENT, NDR20, STRANGER_FRAGMENT, OutgoingStub, PacketType

from .helpers import FIRST, LAST, OBJECT, WHOLE, fragments, joined, joined_bytes


def new_stub(
    *, fragment: int = STRANGER_FRAGMENT, streams: bool = True, ptype: PacketType = PacketType.REQUEST
) -> OutgoingStub:
    return OutgoingStub(ptype, 7, fragment=fragment, order=ByteOrder.LITTLE, tail=bytes(4), streams=streams)


@dataclass(frozen=True)
class Step:
    adds: Sequence[bytes]
    buffers: Sequence[bytes]
    flush: bool


pieces = st.lists(st.binary(max_size=3000), max_size=4)
steps = st.lists(st.builds(Step, pieces, pieces, st.booleans()), max_size=6)


@given(
    steps=steps,
    fragment=st.integers(1432, 6000),
    streams=st.booleans(),
    order=st.sampled_from(ByteOrder),
    tail=st.sampled_from([bytes(4), bytes(20)]),
)
def test_rules_of_fragments(steps: list[Step], fragment: int, streams: bool, order: ByteOrder, tail: bytes) -> None:
    stub = OutgoingStub(PacketType.REQUEST, 7, fragment=fragment, order=order, tail=tail, streams=streams)
    taken: list[bytes | bytearray | memoryview] = []
    expected = bytearray()
    for number, step in enumerate(steps):
        for data in step.adds:
            stub.add(data)
            expected += data
        assert stub.offset == len(expected)
        last = number == len(steps) - 1
        own = [bytearray(buffer) for buffer in step.buffers]
        expected += b"".join(own)
        taken += stub.take(own, flush=step.flush, last=last)
        sent = sum(len(one.payload) for one in fragments(joined_bytes(taken)))
        assert stub.offset == len(expected)
        assert stub.pending == len(expected) - sent
        assert stub.finished == last
        if step.flush and not last:
            assert stub.pending < 8
        elif not last:
            assert stub.pending < stub.budget
    found = fragments(joined_bytes(taken))
    assert b"".join(one.payload for one in found) == bytes(expected)
    if not steps:
        return
    assert [bool(one.flags & FIRST) for one in found] == [index == 0 for index in range(len(found))]
    assert [bool(one.flags & LAST) for one in found] == [index == len(found) - 1 for index in range(len(found))]
    assert all(one.size <= fragment and one.call_id == 7 for one in found)
    for one in found[:-1]:
        assert one.payload
        assert len(one.payload) % 8 == 0
        assert one.hint > len(one.payload)
    assert found[-1].hint == len(found[-1].payload)
    if len(found) > 1 and not found[-1].payload:
        assert not any([*steps[-1].adds, *steps[-1].buffers]), "an empty end only when nothing was left"


def test_large_buffers_are_not_copied() -> None:
    stub = new_stub(fragment=APCRT_FRAGMENT)
    source = bytearray(65536)
    out = stub.take([b"\0\0\1\0", source], flush=True)
    header, count, payload, _, rest = out
    assert (len(header), len(count), len(payload), len(rest)) == (24, 4, 65500, 32)
    source[0] = source[65500] = 0xEE
    assert payload[0] == rest[0] == 0xEE
    assert stub.pending == 4


def test_what_stays_behind_is_copied() -> None:
    stub = new_stub()
    source = bytearray(b"abcdefghij")
    stub.take([source], flush=True)
    source[8:] = b"XX"
    assert fragments(joined_bytes(stub.take(last=True)))[0].payload == b"ij"


def test_fragments_stay_valid_after_the_next_push() -> None:
    stub = new_stub()
    stub.add(b"12345678")
    taken = stub.take(flush=True)
    before = joined_bytes(taken)
    stub.add(b"abcdefgh")
    stub.take(flush=True)
    assert joined_bytes(taken) == before


def test_nothing_leaves_without_need() -> None:
    stub = new_stub()
    stub.add(b"1234567")
    assert stub.take() == []
    assert stub.take(flush=True) == [], "seven bytes wait for the eighth"
    assert stub.take([b"8"]) == [], "a fragment that is not full waits to be flushed"
    assert stub.pending == 8
    assert not stub.begun


def test_empty_messages() -> None:
    (only,) = fragments(joined_bytes(new_stub().take(last=True)))
    assert (only.flags, only.payload, only.hint) == (WHOLE, b"", 0)
    stub = new_stub()
    first, second = fragments(joined_bytes(stub.take([bytes(8)], flush=True) + stub.take(last=True)))
    assert (first.flags, second.flags, second.payload) == (FIRST, LAST, b"")


@pytest.mark.parametrize("streams", [True, False])
def test_allocation_hints(streams: bool) -> None:
    stub = new_stub(fragment=1432, streams=streams)
    stub.add(bytes(3000))
    sizes = [1408, 1408, 184]
    found = fragments(joined_bytes(stub.take(last=True)))
    assert [len(one.payload) for one in found] == sizes
    expected = [1412, 1412, 184] if streams else [3000, 1592, 184]
    assert [one.hint for one in found] == expected


@pytest.mark.parametrize("fragment", [2050, STRANGER_FRAGMENT, APCRT_FRAGMENT, 65535])
def test_full_fragments_are_multiples_of_eight(fragment: int) -> None:
    stub = new_stub(fragment=fragment)
    found = fragments(joined_bytes(stub.take([bytes(200_000)], last=True)))
    assert {len(one.payload) for one in found[:-1]} == {(fragment - 24) // 8 * 8}


def test_object_uuid_stands_in_every_fragment() -> None:
    pair = joined(max_fragment=1432)
    call = pair.client.request(0, 0, streams=False, object_uuid=OBJECT)
    data = joined_bytes(call.take([bytes(range(250)) * 12], last=True))
    assert data.count(OBJECT.bytes_le) == len(fragments(data)) == 3
    pair.to_server(data)
    assert pair.request == bytes(range(250)) * 12
    assert NDR20 in pair.client.accepted.values()


def test_an_ended_message_takes_nothing() -> None:
    stub = new_stub()
    stub.take(last=True)
    for attempt in (lambda: stub.add(b"x"), stub.take, lambda: stub.take(last=True)):
        with pytest.raises(RpcUsageError) as caught:
            attempt()
        assert caught.value.status == Status.RPC_S_INVALID_ASYNC_HANDLE

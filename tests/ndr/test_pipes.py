"""Chunks of pipes: our writer against a slow reader written from the specification, our reader at any cut."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apcrt import ndr

from .captures import Rec, Wide
from .helpers import ORDERS, pipe_bytes, reference_pipe

LITTLE, BIG = ndr.ByteOrder.LITTLE, ndr.ByteOrder.BIG


@dataclass(frozen=True)
class Nested:
    head: Rec
    level: ndr.Int8
    ratio: ndr.Double
    codes: Annotated[Sequence[int], ndr.Array(ndr.Int16, count=2)]


@dataclass(frozen=True)
class Kind:
    """An element for the tests: annotation, members as (struct character, alignment), values and their members."""

    annotation: object
    members: Sequence[tuple[str, int]]
    values: st.SearchStrategy[object]
    flat: Callable[[object], tuple[object, ...]]


def unsigned(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << bits) - 1)


def signed(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1)


def scalar(annotation: object, code: str, values: st.SearchStrategy[object]) -> Kind:
    return Kind(annotation, [(code, struct.calcsize("<" + code))], values, lambda value: (value,))


def flat_nested(value: object) -> tuple[object, ...]:
    assert isinstance(value, Nested)
    head = value.head
    return (head.id, head.kind, head.tag, value.level, value.ratio, *value.codes)


recs = st.builds(Rec, unsigned(32), unsigned(16), unsigned(8))
KINDS = {
    "Byte": scalar(ndr.Byte, "B", unsigned(8)),
    "Int8": scalar(ndr.Int8, "b", signed(8)),
    "Boolean": scalar(ndr.Boolean, "?", st.booleans()),
    "Int16": scalar(ndr.Int16, "h", signed(16)),
    "UInt32": scalar(ndr.UInt32, "I", unsigned(32)),
    "Float": scalar(ndr.Float, "f", st.floats(width=32, allow_nan=False)),
    "UInt64": scalar(ndr.UInt64, "Q", unsigned(64)),
    "Double": scalar(ndr.Double, "d", st.floats(allow_nan=False)),
    "Rec": Kind(Rec, [("I", 4), ("H", 2), ("B", 1)], recs, lambda v: (v.id, v.kind, v.tag)),  # type: ignore[attr-defined]
    "Wide": Kind(Wide, [("B", 1), ("Q", 8)], st.builds(Wide, unsigned(8), unsigned(64)), lambda v: (v.tag, v.stamp)),  # type: ignore[attr-defined]
    "Nested": Kind(
        Nested,
        [("I", 4), ("H", 2), ("B", 1), ("b", 1), ("d", 8), ("h", 2), ("h", 2)],
        st.builds(Nested, recs, signed(8), st.floats(allow_nan=False), st.lists(signed(16), min_size=2, max_size=2)),
        flat_nested,
    ),
}
orders = st.sampled_from(ORDERS)


def chunks_of(kind: Kind) -> st.SearchStrategy[list[list[object]]]:
    return st.lists(st.lists(kind.values, min_size=1, max_size=6), max_size=4)


@pytest.mark.feature("PIPE-19")
@pytest.mark.parametrize("name", KINDS)
@given(order=orders, offset=st.integers(0, 17), data=st.data())
def test_writer_against_the_specification(name: str, order: ndr.ByteOrder, offset: int, data: st.DataObject) -> None:
    kind = KINDS[name]
    chunks = data.draw(chunks_of(kind))
    octets = pipe_bytes(kind.annotation, chunks, order, offset)
    found, end = reference_pipe(octets, offset, order, kind.members)
    assert found == [[kind.flat(value) for value in chunk] for chunk in chunks]
    assert end == offset + len(octets)


def into_new(element: ndr.Element, room: int) -> tuple[ndr.Target, Callable[[int], list[object]]]:
    target = element.new_target(room)
    return target, lambda count: list(element.chunk(target, count))


def into_list(element: ndr.Element, room: int) -> tuple[ndr.Target, Callable[[int], list[object]]]:
    objects: list[object] = [None] * room
    return element.target(objects), lambda count: objects[:count]


@pytest.mark.feature("PIPE-19")
@pytest.mark.parametrize("name", KINDS)
@given(
    order=orders,
    offset=st.integers(0, 17),
    rooms=st.lists(st.integers(1, 7), min_size=1),
    cuts=st.lists(st.integers(1, 30), min_size=1),
    make=st.sampled_from([into_new, into_list]),
    data=st.data(),
)
def test_reader_at_random_cuts(
    name: str,
    order: ndr.ByteOrder,
    offset: int,
    rooms: list[int],
    cuts: list[int],
    make: Callable[[ndr.Element, int], tuple[ndr.Target, Callable[[int], list[object]]]],
    data: st.DataObject,
) -> None:
    kind = KINDS[name]
    chunks = data.draw(chunks_of(kind))
    octets = pipe_bytes(kind.annotation, chunks, order, offset)
    tail = b"\xff\xfe\xfd"
    wire = octets + tail
    element = ndr.pipe_element(kind.annotation)
    reader = ndr.PipeReader(element, order, offset=offset)
    found: list[object] = []
    position, turn = 0, 0
    target, taken = make(element, rooms[0])
    start = 0
    while True:
        piece = memoryview(wire)[position : position + cuts[turn % len(cuts)]]
        ready = reader.ready(piece)
        consumed, stored = reader.read(piece, target, start)
        assert ready == (stored > 0 or reader.ended)
        position += consumed
        start += stored
        assert reader.offset == offset + position
        assert consumed == len(piece) or start == target.capacity or reader.ended
        turn += 1
        if reader.ended:
            found += taken(start)
            break
        if start == target.capacity or turn % 3 == 0:
            found += taken(start)
            target, taken = make(element, rooms[turn % len(rooms)])
            start = 0
    assert found == [value for chunk in chunks for value in chunk]
    # The end takes nothing of what follows, and nothing more can be read.
    assert position == len(octets)
    assert reader.ready(memoryview(b""))
    assert reader.read(memoryview(tail), element.new_target(1), 0) == (0, 0)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if len(kind.members) == 1 and name != "Boolean"])
@given(
    offset=st.integers(0, 17),
    room=st.integers(1, 9),
    cuts=st.lists(st.integers(1, 20), min_size=1),
    through=st.lists(st.booleans(), min_size=1),
    data=st.data(),
)
def test_direct_is_the_same_as_read(
    name: str, offset: int, room: int, cuts: list[int], through: list[bool], data: st.DataObject
) -> None:
    kind = KINDS[name]
    order = ndr.ByteOrder.native()
    chunks = data.draw(chunks_of(kind))
    wire = memoryview(pipe_bytes(kind.annotation, chunks, order, offset))
    element = ndr.pipe_element(kind.annotation)
    reader = ndr.PipeReader(element, order, offset=offset)
    found: list[object] = []
    position, turn, start = 0, 0, 0
    target = element.new_target(room)
    while not reader.ended:
        cut = cuts[turn % len(cuts)]
        memory = reader.direct(target, start) if through[turn % len(through)] else None
        if memory is not None:
            # As much as a receive into that memory would give.
            nbytes = min(len(memory), cut, len(wire) - position)
            memory[:nbytes] = wire[position : position + nbytes]
            start += reader.direct_done(target, start, nbytes)
            position += nbytes
        else:
            consumed, stored = reader.read(wire[position : position + cut], target, start)
            position += consumed
            start += stored
        turn += 1
        assert reader.offset == offset + position
        if start == target.capacity or reader.ended:
            found += element.chunk(target, start)
            target = element.new_target(room)
            start = 0
    assert found == [value for chunk in chunks for value in chunk]
    assert position == len(wire)


def test_direct_is_the_callers_own_memory() -> None:
    into = np.zeros(10, dtype=np.uint32)
    element = ndr.pipe_element(ndr.UInt32)
    order = ndr.ByteOrder.native()
    reader = ndr.PipeReader(element, order, offset=0)
    target = element.target(into)
    assert reader.direct(target, 0) is None, "a count comes first"
    assert reader.read(memoryview(struct.pack(order.prefix + "I", 4)), target, 2) == (4, 0)
    memory = reader.direct(target, 2)
    assert memory is not None
    assert len(memory) == 16, "the rest of the chunk"
    memory[:6] = array("I", [7, 8]).tobytes()[:6]
    assert reader.direct_done(target, 2, 6) == 1
    rest = reader.direct(target, 3)
    assert rest is not None
    assert len(rest) == 10, "behind the half element that is there"
    rest[:2] = array("I", [8]).tobytes()[2:]
    assert reader.direct_done(target, 3, 2) == 1
    assert into.tolist() == [0, 0, 7, 8, 0, 0, 0, 0, 0, 0]
    capped = reader.direct(target, 9)
    assert capped is not None
    assert len(capped) == 4, "no further than the target"
    assert reader.direct(target, 10) is None


def test_direct_is_refused_where_bytes_are_not_memory() -> None:
    native = ndr.ByteOrder.native()
    foreign = BIG if native is LITTLE else LITTLE
    for annotation, order, into in (
        (ndr.UInt32, foreign, None),
        (ndr.Boolean, native, None),
        (Rec, native, None),
        (ndr.UInt32, native, [0] * 4),
        (ndr.UInt64, native, None),
    ):
        element = ndr.pipe_element(annotation)
        target = element.new_target(4) if into is None else element.target(into)
        reader = ndr.PipeReader(element, order, offset=0)
        reader.read(memoryview(struct.pack(order.prefix + "I", 4)), target, 0)
        assert reader.direct(target, 0) is None, annotation
    # The last was refused for its gap only.
    reader.read(memoryview(bytes(4)), target, 0)
    assert reader.direct(target, 0) is not None


@pytest.mark.feature("PIPE-12")
@pytest.mark.parametrize("offset", range(9))
def test_an_empty_pipe(offset: int) -> None:
    writer = ndr.PipeWriter(ndr.pipe_element(ndr.UInt64), LITTLE)
    end = writer.end(offset)
    assert end == bytes(-offset % 4 + 4)
    reader = ndr.PipeReader(ndr.pipe_element(ndr.UInt64), LITTLE, offset=offset)
    assert not reader.ready(memoryview(end)[:-1])
    assert reader.ready(memoryview(end))
    assert reader.read(memoryview(end), ndr.pipe_element(ndr.UInt64).new_target(1), 0) == (len(end), 0)
    assert reader.ended


def test_payload_is_the_callers_own_memory() -> None:
    data = bytearray(b"some bytes")
    element = ndr.pipe_element(ndr.Byte)
    writer = ndr.PipeWriter(element, LITTLE)
    source, elements = element.source(data)
    prefix, payload = writer.chunk(2, source, elements)
    assert prefix == b"\0\0\x0a\0\0\0"
    assert payload is source


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", KINDS)
def test_swapping_leaves_the_callers_memory_alone(name: str, order: ndr.ByteOrder) -> None:
    kind = KINDS[name]
    element = ndr.pipe_element(kind.annotation)
    size = 2 * element.stride + element.size
    # Three elements; no byte pattern of small integers is a strange value in any of the kinds.
    zeros = bytearray(size)
    zeros[0] = 1
    before = bytes(zeros)
    ndr.PipeWriter(element, order).chunk(0, memoryview(zeros), 3)
    assert zeros == before


def test_booleans_are_normalised() -> None:
    element = ndr.pipe_element(ndr.Boolean)
    reader = ndr.PipeReader(element, LITTLE, offset=0)
    into = bytearray(4)
    assert reader.read(memoryview(b"\4\0\0\0\0\1\2\xff"), element.target(into), 0) == (8, 4)
    assert into == b"\0\1\1\1"


def test_values_of_a_peer_that_are_no_members() -> None:
    class_ = ndr.pipe_element(Wide)
    with pytest.raises(ndr.ValueRefused, match="1 to 4294967295 elements, not 0"):
        ndr.PipeWriter(class_, LITTLE).chunk(0, b"", 0)
    with pytest.raises(ndr.ValueRefused, match="2 elements of Wide are not 16 bytes"):
        ndr.PipeWriter(class_, LITTLE).chunk(0, bytes(16), 2)


@pytest.mark.parametrize("piecewise", [False, True])
def test_the_limit_of_a_chunk(piecewise: bool) -> None:
    element = ndr.pipe_element(ndr.Byte)
    for count in (100, 101):
        reader = ndr.PipeReader(element, LITTLE, offset=0, max_chunk=100)
        octets = memoryview(struct.pack("<I", count) + b"x")
        pieces = [octets[at : at + 1] for at in range(5)] if piecewise else [octets]
        target = element.new_target(5)
        if count == 100:
            assert sum(reader.read(piece, target, 0)[1] for piece in pieces) == 1
        else:
            assert piecewise or reader.ready(octets)
            for piece in pieces[:3]:
                if piecewise:
                    assert reader.read(piece, target, 0) == (1, 0)
            with pytest.raises(ndr.NdrError, match="a chunk of 101 elements of Byte, the limit is 100") as caught:
                reader.read(pieces[3 if piecewise else 0], target, 0)
            assert caught.value.status == 1783


def test_a_huge_count_costs_nothing() -> None:
    for annotation in (ndr.UInt64, Rec):
        element = ndr.pipe_element(annotation)
        reader = ndr.PipeReader(element, LITTLE, offset=0)
        target = element.new_target(2)
        assert (
            reader.read(memoryview(b"\xff\xff\xff\xff" + bytes(4 + element.stride + element.size)), target, 0)[1] >= 1
        )
        assert not reader.ended


def test_a_full_target_takes_nothing() -> None:
    element = ndr.pipe_element(ndr.UInt16)
    reader = ndr.PipeReader(element, LITTLE, offset=0)
    octets = memoryview(pipe_bytes(ndr.UInt16, [[1, 2]], LITTLE, 0))
    target = element.new_target(2)
    assert reader.read(octets, target, 2) == (0, 0)
    assert reader.read(octets, target, 1) == (6, 1)
    assert reader.read(octets[6:], target, 2) == (0, 0)
    assert reader.read(octets[6:], target, 0) == (6, 1)
    assert reader.ended
    assert repr(reader) == "<PipeReader of UInt16 at 12, ended>"


@given(data=st.binary(max_size=100), order=orders, cut=st.integers(1, 9), name=st.sampled_from(sorted(KINDS)))
def test_any_bytes_are_read_or_refused(data: bytes, order: ndr.ByteOrder, cut: int, name: str) -> None:
    element = ndr.pipe_element(KINDS[name].annotation)
    reader = ndr.PipeReader(element, order, offset=0, max_chunk=1 << 16)
    position = 0
    while position < len(data) and not reader.ended:
        try:
            consumed, _ = reader.read(memoryview(data)[position : position + cut], element.new_target(3), 0)
        except ndr.NdrError:
            break
        assert consumed
        position += consumed

"""Structures, pointers and parameter lists: order of members, hoisted counts, deferred pointees, agreeing sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apcrt import ndr

from .captures import OptionalText
from .helpers import ORDERS, decoded, encoded

LITTLE = ndr.ByteOrder.LITTLE
orders = st.sampled_from(ORDERS)
longs = st.integers(0, 0xFFFFFFFF)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)


@dataclass(frozen=True)
class Point:
    x: ndr.Int16
    y: ndr.Int64
    on: ndr.Boolean


@dataclass
class Shape:
    """Fixed through and through: nested structures, arrays of them, octets, a UUID."""

    tag: ndr.Byte
    corners: Annotated[Sequence[Point], ndr.Array(Point, count=2)]
    key: ndr.Guid
    digest: Annotated[bytes, ndr.Bytes(count=3)]
    weights: Annotated[Sequence[int], ndr.Array(ndr.UInt16, count=2)]
    _: KW_ONLY
    last: ndr.UInt8 = 0


@dataclass(frozen=True)
class Pair:
    first: ndr.Unique[ndr.UInt16]
    second: ndr.Unique[ndr.UInt16]


@dataclass(frozen=True)
class Outer:
    a: Pair
    b: ndr.Unique[Pair]
    c: ndr.UInt32


@dataclass(frozen=True)
class Node:
    value: ndr.UInt32
    next: ndr.Unique[Node]


@dataclass(frozen=True)
class Tree:
    name: ndr.Unique[ndr.WString]
    count: ndr.UInt32
    children: ndr.Unique[Annotated[Sequence[Tree], ndr.Array(Tree, size_is="count")]]


@dataclass(frozen=True)
class Inner:
    n: ndr.UInt16
    values: Annotated[Sequence[int], ndr.Array(ndr.UInt64, size_is="n")]


@dataclass(frozen=True)
class Hoisting:
    tag: ndr.Byte
    inner: Inner


@dataclass(frozen=True)
class Named:
    id: ndr.UInt64
    name: ndr.WString


@dataclass(frozen=True)
class Checked:
    percent: ndr.Byte

    def __post_init__(self) -> None:
        if self.percent > 100:
            raise ValueError(f"{self.percent} %")


points = st.builds(Point, st.integers(-(1 << 15), (1 << 15) - 1), st.integers(-(1 << 63), (1 << 63) - 1), st.booleans())
shapes = st.builds(
    Shape,
    st.integers(0, 255),
    st.lists(points, min_size=2, max_size=2),
    st.uuids(),
    st.binary(min_size=3, max_size=3),
    st.lists(st.integers(0, 65535), min_size=2, max_size=2),
    last=st.integers(0, 255),
)
pairs = st.builds(Pair, st.none() | st.integers(0, 65535), st.none() | st.integers(0, 65535))
outers = st.builds(Outer, pairs, st.none() | pairs, longs)
nodes = st.recursive(st.builds(Node, longs, st.none()), lambda inner: st.builds(Node, longs, inner), max_leaves=8)
leaves = st.builds(Tree, st.none() | texts, st.just(0), st.none() | st.just([]))
trees = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda name, children: Tree(name, len(children), children), st.none() | texts, st.lists(inner, max_size=4)
    ),
    max_leaves=10,
)
hoistings = st.builds(
    lambda tag, values: Hoisting(tag, Inner(len(values), values)),
    st.integers(0, 255),
    st.lists(st.integers(0, (1 << 64) - 1), max_size=5),
)
SAMPLES = {
    "Point": (Point, points),
    "Shape": (Shape, shapes),
    "Outer": (Outer, outers),
    "Node": (Node, nodes),
    "Tree": (Tree, trees),
    "Hoisting": (Hoisting, hoistings),
    "Named": (Named, st.builds(Named, st.integers(0, (1 << 64) - 1), texts)),
    "Shapes": (Annotated[Sequence[Shape], ndr.Array(Shape)], st.lists(shapes, max_size=4)),
    "Outers": (Annotated[Sequence[Outer], ndr.Array(Outer, count=2)], st.lists(outers, min_size=2, max_size=2)),
    "names": (
        Annotated[Sequence[str | None], ndr.Array(OptionalText)],
        st.lists(st.none() | texts, max_size=4),
    ),
}


@pytest.mark.parametrize("name", SAMPLES)
@given(order=orders, offset=st.integers(0, 15), data=st.data())
def test_round_trips(name: str, order: ndr.ByteOrder, offset: int, data: st.DataObject) -> None:
    kind, values = SAMPLES[name]
    value = data.draw(values)
    octets = encoded(kind, value, order, offset=offset)
    assert decoded(kind, octets, order, offset=offset) == value


def test_members_are_aligned_one_by_one() -> None:
    assert encoded(Point, Point(1, 2, on=True), LITTLE).hex() == "0100" + "00" * 6 + "0200000000000000" + "01"
    # Between elements the structure's own alignment, after the last one nothing.
    two = encoded(Annotated[Sequence[Point], ndr.Array(Point, count=2)], [Point(1, 2, on=True)] * 2, LITTLE)
    assert len(two) == 24 + 17


def test_pointees_follow_the_outermost_structure_in_order() -> None:
    value = Outer(Pair(1, None), Pair(2, 3), 4)
    assert encoded(Outer, value, LITTLE).hex(" ", 4) == (
        "00000200 00000000 04000200 04000000"  # a.first, a.second (null), b, c
        " 01000000"  # 1; gap
        " 08000200 0c000200 02000300"  # b's own structure and then b's own pointees
    )


def test_pointees_of_an_array_of_pointers_follow_all_pointers() -> None:
    kind = Annotated[Sequence[int | None], ndr.Array(ndr.Unique[ndr.UInt16])]
    assert encoded(kind, [5, None, 6], LITTLE).hex(" ", 4) == "03000000 00000200 00000000 04000200 05000600"


def test_any_nonzero_referent_is_a_pointer() -> None:
    octets = bytes.fromhex("01000000 01000000 0700 0800")
    assert decoded(Pair, octets, LITTLE) == Pair(7, 8)


def test_counts_are_hoisted_before_the_outermost_structure() -> None:
    octets = encoded(Hoisting, Hoisting(9, Inner(1, [0x0102])), LITTLE)
    #                 count      gap to 8   tag, gap             n, gap               value
    assert octets.hex() == "01000000" + "00000000" + "0900000000000000" + "0100000000000000" + "0201000000000000"
    octets = encoded(Named, Named(1, "a"), LITTLE)
    assert octets.hex() == "02000000" + "00000000" + "0100000000000000" + "00000000" + "02000000" + "61000000"


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        (
            Point,
            Point(1 << 15, 0, on=True),
            r"^x: 32768 does not fit Int16, which takes -32768 to 32767: ERROR_INVALID",
        ),
        (Point, (1, 2, True), r"^expected Point, not \(1, 2, True\)"),
        (
            Shape,
            Shape(0, [Point(0, 0, on=True), Point(0, 1 << 63, on=True)], UUID(int=0), b"abc", [1, 2]),
            r"^corners\[1\]\.y: 9223372036854775808 does not fit Int64",
        ),
        (
            Shape,
            Shape(0, [Point(0, 0, on=True)], UUID(int=0), b"abc", [1, 2]),
            r"^corners: .* exactly 2 elements, not 1",
        ),
        (
            Shape,
            Shape(0, [Point(0, 0, on=True)] * 2, UUID(int=0), b"ab", [1, 2]),
            r"^digest: .* exactly 3 bytes, not 2",
        ),
        (Inner, Inner(3, [1, 2]), r"^values: it has 2 elements, but n is 3; they must be equal"),
        (Inner, Inner(1, [-1]), r"^values\[0\]: -1 does not fit UInt64"),
        (Hoisting, Hoisting(0, Inner(3, [1, 2])), r"^inner\.values: it has 2 elements, but n is 3"),
        (Tree, Tree("x", 2, []), r"it has 0 elements, but count is 2"),
    ],
)
def test_refusals_name_the_member(kind: object, value: object, reason: str) -> None:
    with pytest.raises(ndr.ValueRefused, match=reason):
        encoded(kind, value, LITTLE)


def test_a_structure_may_refuse_what_arrived() -> None:
    assert decoded(Checked, b"\x64", LITTLE) == Checked(100)
    with pytest.raises(ndr.NdrError, match=r"Checked refuses what the peer sent: 101 %"):
        decoded(Checked, b"\x65", LITTLE)


def test_sizes_that_disagree_are_refused() -> None:
    good = encoded(Inner, Inner(1, [7]), LITTLE)
    bad = bytearray(good)
    bad[8] = 2
    with pytest.raises(
        ndr.NdrError, match=r"^values: the array has 1 elements, n says 2: RPC_X_BAD_STUB_DATA \(1783\)"
    ):
        decoded(Inner, bytes(bad), LITTLE)


Ids = Annotated[Sequence[int], ndr.Array(ndr.UInt32, size_is="count")]


class TestFields:
    def test_size_before_and_after_the_array(self) -> None:
        for fields in ([("count", ndr.UInt32), ("ids", Ids)], [("ids", Ids), ("count", ndr.UInt32)]):
            parameters = ndr.Fields(fields)
            assert not parameters.required
            encoder = ndr.Encoder(LITTLE)
            parameters.encode(encoder, {"count": 2, "ids": [4, 5]})
            decoder = ndr.Decoder(memoryview(encoder.data), LITTLE, final=True)
            assert parameters.decode(decoder) == {"count": 2, "ids": [4, 5]}
            at = encoder.data.index(b"\2\0\0\0", 0 if fields[0][0] == "count" else 4)
            encoder.data[at] = 3
            decoder = ndr.Decoder(memoryview(encoder.data), LITTLE, final=True)
            with pytest.raises(ndr.NdrError, match=r"^ids: the array has 2 elements, count says 3"):
                parameters.decode(decoder)

    def test_size_from_the_environment(self) -> None:
        parameters = ndr.Fields([("ids", Ids)])
        assert parameters.required == {"count"}
        encoder = ndr.Encoder(LITTLE)
        parameters.encode(encoder, {"ids": [4]}, {"count": 1})
        for size in (1, 2):
            decoder = ndr.Decoder(memoryview(encoder.data), LITTLE, final=True)
            if size == 1:
                assert parameters.decode(decoder, {"count": 1}) == {"ids": [4]}
            else:
                with pytest.raises(ndr.NdrError, match="count says 2"):
                    parameters.decode(decoder, {"count": 2})
        with pytest.raises(ndr.ValueRefused, match=r"^ids: its size parameter count is missing"):
            parameters.encode(ndr.Encoder(LITTLE), {"ids": [4]})

    def test_the_size_that_travels_counts_and_not_the_older_one(self) -> None:
        parameters = ndr.Fields([("ids", Ids), ("count", ndr.UInt32)])
        encoder = ndr.Encoder(LITTLE)
        parameters.encode(encoder, {"ids": [4], "count": 1}, {"count": 9})
        decoder = ndr.Decoder(memoryview(encoder.data), LITTLE, final=True)
        assert parameters.decode(decoder, {"count": 9}) == {"ids": [4], "count": 1}

    def test_errors_name_the_parameter(self) -> None:
        parameters = ndr.Fields([("a", ndr.UInt16), ("b", Point)])
        with pytest.raises(ndr.ValueRefused, match=r"^b\.x: 40000 does not fit Int16"):
            parameters.encode(ndr.Encoder(LITTLE), {"a": 1, "b": Point(40000, 0, on=False)})
        with pytest.raises(ndr.ValueRefused, match=r"^no value for b"):
            parameters.encode(ndr.Encoder(LITTLE), {"a": 1})
        with pytest.raises(ndr.NdrError, match=r"^b: the stub ends at byte 8, 17 bytes are missing"):
            parameters.decode(ndr.Decoder(memoryview(bytes(8)), LITTLE, final=True))

    def test_fixed_size_known(self) -> None:
        assert ndr.Fields([("a", ndr.UInt16), ("b", Point), ("c", Shape)]).fixed_size_known
        assert not ndr.Fields([("a", ndr.UInt16), ("name", ndr.WString)]).fixed_size_known

    def test_no_parameters(self) -> None:
        encoder = ndr.Encoder(LITTLE)
        ndr.Fields([]).encode(encoder, {})
        assert encoder.offset == 0
        assert ndr.Fields([]).decode(ndr.Decoder(memoryview(b""), LITTLE, final=False)) == {}

"""What a peer cannot make us do: truncated, lying and nested input ends with 1783 or asks for more, and gets on."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apcrt import ndr

from .captures import PLAIN, Stub
from .helpers import ORDERS, decoded, encoded
from .test_constructed import Hoisting, Inner, Named, Node, Outer, Pair, Shape, Tree, trees

LITTLE = ndr.ByteOrder.LITTLE
Longs = Annotated[Sequence[int], ndr.Array(ndr.UInt32)]
Pointers = Annotated[Sequence[str | None], ndr.Array(ndr.Unique[ndr.WString])]

SAMPLES: list[tuple[object, object]] = [
    (Outer, Outer(Pair(1, None), Pair(2, 3), 4)),
    (Tree, Tree("root", 2, [Tree("left", 0, None), Tree(None, 1, [Tree("leaf", 0, [])])])),
    (Hoisting, Hoisting(9, Inner(2, [1, 2]))),
    (Named, Named(1, "name")),
    (Longs, [1, 2, 3]),
    (Pointers, ["a", None, "b"]),
]


def chain(length: int) -> Node | None:
    node = None
    for value in range(length):
        node = Node(value, node)
    return node


@pytest.mark.parametrize(("kind", "value"), SAMPLES)
def test_truncated_at_every_byte(kind: object, value: object) -> None:
    data = encoded(kind, value, LITTLE)
    for length in range(len(data)):
        with pytest.raises(ndr.NdrError, match="bytes are missing") as caught:
            decoded(kind, data[:length], LITTLE)
        assert caught.value.status == 1783


def decode_streaming(codec: ndr.Codec, data: bytes, order: ndr.ByteOrder) -> tuple[object, list[int]]:
    """Decode with exactly what was asked for each time; return the value and what was asked."""
    asked: list[int] = []
    have = 0
    while True:
        try:
            value = codec.decode(ndr.Decoder(memoryview(data)[:have], order, final=False), {})
        except ndr.NeedMoreData as more:
            needed = more.needed
        else:
            return value, asked
        assert have < needed <= len(data)
        have = needed
        asked.append(have)


@pytest.mark.parametrize("order", ORDERS)
@given(value=trees)
def test_asks_for_more_and_gets_on(order: ndr.ByteOrder, value: Tree) -> None:
    back, asked = decode_streaming(ndr.compile_type(Tree), encoded(Tree, value, order), order)
    assert back == value
    assert asked == sorted(set(asked))


@pytest.mark.parametrize("stub", PLAIN, ids=str)
def test_needs_no_byte_more_than_the_stub(stub: Stub) -> None:
    fields = ndr.Fields([(name, kind) for name, kind, _ in stub.fields])
    have = 0
    while True:
        try:
            fields.decode(ndr.Decoder(memoryview(stub.data)[:have], stub.order, final=False), stub.env)
        except ndr.NeedMoreData as more:
            needed = more.needed
        else:
            assert have == len(stub.data)
            return
        assert have < needed <= len(stub.data)
        have = needed


def test_an_array_asks_for_all_of_its_elements_at_once() -> None:
    data = encoded(Longs, list(range(1000)), LITTLE)
    _, asked = decode_streaming(ndr.compile_type(Longs), data, LITTLE)
    assert asked == [4, 4004]


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize(
    "kind", [Longs, Pointers, Annotated[bytes, ndr.Bytes()], Annotated[list[Shape], ndr.Array(Shape)]]
)
@pytest.mark.parametrize("count", [0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 24])
def test_a_lying_count_allocates_nothing(kind: object, count: int, final: bool) -> None:
    data = memoryview(struct.pack("<I", count) + bytes(64))
    codec = ndr.compile_type(kind)
    tracemalloc.start()
    try:
        with pytest.raises(ndr.NdrError) as caught:
            codec.decode(ndr.Decoder(data, LITTLE, final=final), {})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.status == 1783
    assert peak < 100_000


def test_streaming_budget() -> None:
    limits = ndr.Limits(max_bytes=100)
    octets = ndr.compile_type(Annotated[bytes, ndr.Bytes()])
    for count in (96, 97):
        decoder = ndr.Decoder(memoryview(struct.pack("<I", count)), LITTLE, final=False, limits=limits)
        expected = ndr.NeedMoreData if count == 96 else ndr.NdrError
        with pytest.raises(expected):
            octets.decode(decoder, {})
    # Final data is there already: what it costs was decided by whoever collected it.
    whole = struct.pack("<I", 200) + bytes(200)
    assert octets.decode(ndr.Decoder(memoryview(whole), LITTLE, final=True, limits=limits), {}) == bytes(200)


def test_elements_are_counted_together() -> None:
    limits = ndr.Limits(max_elements=5)
    fields = ndr.Fields([("a", Longs), ("b", Longs)])
    encoder = ndr.Encoder(LITTLE)
    fields.encode(encoder, {"a": [1, 2, 3], "b": [1, 2, 3]})
    with pytest.raises(ndr.NdrError, match=r"^b: arrays have more than 5 elements together"):
        fields.decode(ndr.Decoder(memoryview(encoder.data), LITTLE, final=True, limits=limits))


def test_depth() -> None:
    value = chain(32)
    assert decoded(Node, encoded(Node, value, LITTLE), LITTLE) == value
    with pytest.raises(ndr.ValueRefused, match="nested deeper than 64"):
        encoded(Node, chain(1000), LITTLE)
    endless = struct.pack("<II", 1, 1) * 10_000
    with pytest.raises(ndr.NdrError, match="nested deeper than 64"):
        decoded(Node, endless, LITTLE)
    decoder = ndr.Decoder(memoryview(endless), LITTLE, final=True, limits=ndr.Limits(max_depth=3))
    with pytest.raises(ndr.NdrError, match="nested deeper than 3"):
        ndr.compile_type(Node).decode(decoder, {})


def test_what_we_write_we_also_read_at_the_depth_limit() -> None:
    deepest = 0
    for length in range(1, 80):
        value = chain(length)
        try:
            data = encoded(Node, value, LITTLE)
        except ndr.ValueRefused:
            break
        assert decoded(Node, data, LITTLE) == value
        deepest = length
    assert deepest == 64


@given(data=st.binary(max_size=200), order=st.sampled_from(ORDERS), final=st.booleans())
def test_any_bytes_end_in_a_value_or_in_a_documented_way(data: bytes, order: ndr.ByteOrder, final: bool) -> None:
    for kind in (Tree, Outer, Shape, Hoisting, Named, Pointers):
        decoder = ndr.Decoder(memoryview(data), order, final=final)
        refusal: ndr.NdrError | ndr.NeedMoreData | None = None
        try:
            ndr.compile_type(kind).decode(decoder, {})
        except (ndr.NdrError, ndr.NeedMoreData) as error:
            refusal = error
        if isinstance(refusal, ndr.NdrError):
            assert refusal.status == 1783
        elif isinstance(refusal, ndr.NeedMoreData):
            assert not final
            assert refusal.needed > len(data)


@dataclass(frozen=True)
class Counted:
    """Remembers how often an instance was made: how much work decoding was."""

    name: ndr.Unique[ndr.WString]

    def __post_init__(self) -> None:
        made.append(self)


made: list[Counted] = []
OptionalCounted: TypeAlias = ndr.Unique[Counted]
Many = Annotated[Sequence[Counted | None], ndr.Array(OptionalCounted, size_is="count")]


def test_work_is_linear_with_progress() -> None:
    """Each arrival of a few bytes goes on where the last one stopped, also inside nested pointees."""
    fields = ndr.Fields([("tree", Tree), ("many", Many), ("count", ndr.UInt32)])
    tree = Tree("root", 2, [Tree("left", 0, None), Tree(None, 1, [Tree("leaf", 0, [])])])
    many = [Counted(str(index)) for index in range(200)]
    encoder = ndr.Encoder(LITTLE)
    fields.encode(encoder, {"tree": tree, "many": many, "count": 200})
    data = memoryview(encoder.data)
    for limits in (ndr.Limits(max_elements=203), ndr.Limits(max_elements=202)):
        progress = ndr.Progress()
        values: dict[str, object] = {}
        refusal = ""
        made.clear()
        for have in range(len(data) + 1):
            decoder = ndr.Decoder(data[:have], LITTLE, final=False, limits=limits, progress=progress)
            try:
                values = fields.decode(decoder)
            except ndr.NeedMoreData:
                continue
            except ndr.NdrError as error:
                refusal = error.detail
                break
            assert have == len(data)
        if limits.max_elements == 203:
            # The two children of the root, the child of the second, and the 200: no element is charged twice.
            assert values == {"tree": tree, "many": many, "count": 200}
            assert len(made) == 200
        else:
            assert refusal == "many: arrays have more than 202 elements together"


@given(value=trees, cuts=st.lists(st.integers(1, 9), min_size=1))
def test_progress_changes_no_value(value: Tree, cuts: list[int]) -> None:
    data = encoded(Tree, value, LITTLE)
    codec = ndr.compile_type(Tree)
    progress = ndr.Progress()
    have, turn = 0, 0
    while True:
        decoder = ndr.Decoder(memoryview(data)[:have], LITTLE, final=have >= len(data), progress=progress)
        try:
            back = codec.decode(decoder, {})
        except ndr.NeedMoreData:
            have += cuts[turn % len(cuts)]
            turn += 1
        else:
            assert back == value
            return


def test_a_late_size_is_checked_after_a_pause_too() -> None:
    fields = ndr.Fields([("many", Many), ("count", ndr.UInt32)])
    encoder = ndr.Encoder(LITTLE)
    fields.encode(encoder, {"many": [None, Counted("x")], "count": 2})
    encoder.data[-4] = 3
    progress = ndr.Progress()
    data = memoryview(encoder.data)
    for have in range(len(data)):
        with pytest.raises(ndr.NeedMoreData):
            fields.decode(ndr.Decoder(data[:have], LITTLE, final=False, progress=progress))
    with pytest.raises(ndr.NdrError, match=r"^many: the array has 2 elements, count says 3"):
        fields.decode(ndr.Decoder(data, LITTLE, final=False, progress=progress))

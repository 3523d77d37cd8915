"""Single types: round trips in both byte orders at every alignment, and refusals that say what would be right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import Annotated
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apcrt import ndr
from apcrt.status import RpcUsageError

from .helpers import ORDERS, decoded, encoded


class Colour(IntEnum):
    RED = 0
    GREEN = 7
    BLUE = 0x7FFF


class Rights(IntFlag):
    READ = 1
    WRITE = 0x80000000


orders = st.sampled_from(ORDERS)
offsets = st.integers(0, 15)

INTEGERS = {
    "Byte": (ndr.Byte, 1, False),
    "Char": (ndr.Char, 1, False),
    "Int8": (ndr.Int8, 1, True),
    "UInt8": (ndr.UInt8, 1, False),
    "Int16": (ndr.Int16, 2, True),
    "UInt16": (ndr.UInt16, 2, False),
    "Int32": (ndr.Int32, 4, True),
    "UInt32": (ndr.UInt32, 4, False),
    "Int64": (ndr.Int64, 8, True),
    "UInt64": (ndr.UInt64, 8, False),
}


@pytest.mark.parametrize("name", INTEGERS)
@given(order=orders, offset=offsets, data=st.data())
def test_integers(name: str, order: ndr.ByteOrder, offset: int, data: st.DataObject) -> None:
    kind, size, signed = INTEGERS[name]
    low = -(1 << (8 * size - 1)) if signed else 0
    value = data.draw(st.integers(low, low + (1 << 8 * size) - 1))
    octets = encoded(kind, value, order, offset=offset)
    gap = -offset % size
    assert octets == bytes(gap) + value.to_bytes(size, order.value, signed=signed)
    assert decoded(kind, octets, order, offset=offset) == value


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_out_of_range(name: str) -> None:
    kind, size, signed = INTEGERS[name]
    low = -(1 << (8 * size - 1)) if signed else 0
    for value in (low - 1, low + (1 << 8 * size)):
        with pytest.raises(RpcUsageError, match=rf"{value} does not fit {name}, which takes {low} to") as caught:
            encoded(kind, value, ndr.ByteOrder.LITTLE)
        assert caught.value.status == 87
    with pytest.raises(ndr.ValueRefused, match=f"{name} takes an integer from .*, not 'one'"):
        encoded(kind, "one", ndr.ByteOrder.LITTLE)


@given(value=st.floats(), order=orders, offset=offsets)
def test_double(value: float, order: ndr.ByteOrder, offset: int) -> None:
    back = decoded(ndr.Double, encoded(ndr.Double, value, order, offset=offset), order, offset=offset)
    assert isinstance(back, float)
    assert back == value or (math.isnan(back) and math.isnan(value))


@given(value=st.floats(width=32, allow_nan=False), order=orders)
def test_float(value: float, order: ndr.ByteOrder) -> None:
    assert decoded(ndr.Float, encoded(ndr.Float, value, order), order) == value


def test_floats_refused() -> None:
    with pytest.raises(ndr.ValueRefused, match="too large for Float"):
        encoded(ndr.Float, 1e300, ndr.ByteOrder.LITTLE)
    with pytest.raises(ndr.ValueRefused, match="Double takes a number, not 'x'"):
        encoded(ndr.Double, "x", ndr.ByteOrder.LITTLE)


def test_boolean() -> None:
    little = ndr.ByteOrder.LITTLE
    assert [encoded(ndr.Boolean, value, little) for value in (False, True, 0, 1)] == [b"\0", b"\1", b"\0", b"\1"]
    for octet in range(256):
        assert decoded(ndr.Boolean, bytes([octet]), little) is (octet != 0)
    for value in (2, "", "yes", None, [], [True]):
        with pytest.raises(ndr.ValueRefused, match="Boolean takes True or False"):
            encoded(ndr.Boolean, value, little)


@given(value=st.uuids(), order=orders, offset=offsets)
def test_guid(value: UUID, order: ndr.ByteOrder, offset: int) -> None:
    octets = encoded(ndr.Guid, value, order, offset=offset)
    assert octets[-offset % 4 :] == ndr.encode_uuid(value, order)
    assert ndr.decode_uuid(octets[-16:], order) == value
    assert decoded(ndr.Guid, octets, order, offset=offset) == value


def test_guid_refused() -> None:
    with pytest.raises(ndr.ValueRefused, match=r"expected a uuid\.UUID"):
        encoded(ndr.Guid, "00112233-4455-6677-8899-aabbccddeeff", ndr.ByteOrder.LITTLE)


@pytest.mark.parametrize("order", ORDERS)
def test_enumerations(order: ndr.ByteOrder) -> None:
    short, long = Annotated[Colour, ndr.Enum16], Annotated[Colour, ndr.Enum32]
    for member in Colour:
        assert encoded(short, member, order) == int(member).to_bytes(2, order.value)
        assert encoded(long, member, order) == int(member).to_bytes(4, order.value)
        assert decoded(short, encoded(short, int(member), order), order) is member
        assert decoded(long, encoded(long, member, order), order) is member
    flags = Annotated[Rights, ndr.Enum32]
    assert decoded(flags, encoded(flags, Rights.READ | Rights.WRITE, order), order) == Rights.READ | Rights.WRITE


def test_enumerations_refused() -> None:
    short = Annotated[Colour, ndr.Enum16]
    with pytest.raises(ndr.ValueRefused, match="8 is no member of Colour"):
        encoded(short, 8, ndr.ByteOrder.LITTLE)
    with pytest.raises(ndr.ValueRefused, match="expected a member of Colour, not 'RED'"):
        encoded(short, "RED", ndr.ByteOrder.LITTLE)
    with pytest.raises(ndr.NdrError, match="8 is no member of Colour") as caught:
        decoded(short, b"\x08\0", ndr.ByteOrder.LITTLE)
    assert caught.value.status == 1783


any_text = st.text(st.characters(exclude_characters="\0"))
scalar_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(value=scalar_text, order=orders, offset=offsets)
def test_wide_strings(value: str, order: ndr.ByteOrder, offset: int) -> None:
    octets = encoded(ndr.WString, value, order, offset=offset)
    units = (value + "\0").encode("utf-16-le" if order is ndr.ByteOrder.LITTLE else "utf-16-be")
    count = (len(units) // 2).to_bytes(4, order.value)
    assert octets == bytes(-offset % 4) + count + bytes(4) + count + units
    assert decoded(ndr.WString, octets, order, offset=offset) == value


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("value", ["\ud83d", "a\udc00b", "\U0001f600", "\ud83d\ud83d\ude00"[:2]])
def test_surrogates_survive(value: str, order: ndr.ByteOrder) -> None:
    assert decoded(ndr.WString, encoded(ndr.WString, value, order), order) == value


@given(value=st.text(st.characters(min_codepoint=1, max_codepoint=255)), order=orders)
def test_narrow_strings(value: str, order: ndr.ByteOrder) -> None:
    octets = encoded(ndr.String, value, order)
    assert octets[12:] == value.encode("latin-1") + b"\0"
    assert decoded(ndr.String, octets, order) == value


def test_strings_refused() -> None:
    little = ndr.ByteOrder.LITTLE
    with pytest.raises(ndr.ValueRefused, match="NUL inside"):
        encoded(ndr.WString, "a\0b", little)
    with pytest.raises(ndr.ValueRefused, match="WString takes a str, not b'a'"):
        encoded(ndr.WString, b"a", little)
    with pytest.raises(ndr.ValueRefused, match=r"characters that String cannot carry; use ndr\.WString"):
        encoded(ndr.String, "\u20ac", little)


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        ("02000000 01000000 02000000 61000000", "begins at character 1"),
        ("02000000 00000000 03000000 6100 6200 0000", "3 characters, its NUL included, of at most 2"),
        ("02000000 00000000 00000000", "0 characters"),
        ("02000000 00000000 02000000 6100 6200", "no NUL at its end"),
        ("03000000 00000000 03000000 6100 0000 0000", "or one before it"),
        ("ffffffff 00000000 ffffffff 6100", "bytes are missing"),
        ("02000000 00000000 02000000 6100 00", "1 bytes are missing"),
    ],
)
def test_bad_strings(octets: str, reason: str) -> None:
    with pytest.raises(ndr.NdrError, match=reason) as caught:
        decoded(ndr.WString, bytes.fromhex(octets), ndr.ByteOrder.LITTLE)
    assert caught.value.status == 1783


def test_a_larger_maximum_count_is_fine() -> None:
    octets = bytes.fromhex("10000000 00000000 02000000 6100 0000")
    assert decoded(ndr.WString, octets, ndr.ByteOrder.LITTLE) == "a"


Longs = Annotated[Sequence[int], ndr.Array(ndr.UInt32)]
Hypers = Annotated[Sequence[int], ndr.Array(ndr.Int64)]
Octets = Annotated[bytes, ndr.Bytes()]
Doubles = Annotated[Sequence[float], ndr.Array(ndr.Double, count=3)]
Digest = Annotated[bytes, ndr.Bytes(count=5)]
Truths = Annotated[Sequence[bool], ndr.Array(ndr.Boolean)]


@given(value=st.lists(st.integers(-(1 << 63), (1 << 63) - 1)), order=orders, offset=offsets)
def test_conformant_arrays(value: list[int], order: ndr.ByteOrder, offset: int) -> None:
    octets = encoded(Hypers, value, order, offset=offset)
    head = -offset % 4 + 4
    gap = -(offset + head) % 8 if value else 0
    assert len(octets) == head + gap + 8 * len(value)
    assert decoded(Hypers, octets, order, offset=offset) == value


@given(value=st.binary(), order=orders)
def test_octets(value: bytes, order: ndr.ByteOrder) -> None:
    octets = encoded(Octets, value, order)
    assert octets == len(value).to_bytes(4, order.value) + value
    for same in (bytearray(value), memoryview(value), list(value)):
        assert encoded(Octets, same, order) == octets
    assert decoded(Octets, octets, order) == value


@given(value=st.lists(st.floats(allow_nan=False), min_size=3, max_size=3), order=orders, offset=offsets)
def test_fixed_arrays(value: list[float], order: ndr.ByteOrder, offset: int) -> None:
    octets = encoded(Doubles, value, order, offset=offset)
    assert len(octets) == -offset % 8 + 24
    assert decoded(Doubles, octets, order, offset=offset) == value


@given(value=st.lists(st.booleans()), order=orders)
def test_arrays_of_booleans(value: list[bool], order: ndr.ByteOrder) -> None:
    assert decoded(Truths, encoded(Truths, value, order), order) == value


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        (Longs, [1, 2, -3], r"\[2\]: -3 does not fit UInt32"),
        (Longs, "abc", "takes a sequence, not 'abc'"),
        (Longs, 5, "takes a sequence, not 5"),
        (Octets, [1, 256], "integers from 0 to 255"),
        (Octets, memoryview(b"abcd").cast("I"), "items of 4 bytes"),
        (Digest, b"four", r"Byte\[5\] takes exactly 5 bytes, not 4"),
        (Doubles, [1.0], r"Double\[3\] takes exactly 3 elements, not 1"),
        (Truths, [True, "no"], r"\[1\]: Boolean takes True or False"),
    ],
)
def test_arrays_refused(kind: object, value: object, reason: str) -> None:
    with pytest.raises(ndr.ValueRefused, match=reason):
        encoded(kind, value, ndr.ByteOrder.LITTLE)


def test_encoder_limit() -> None:
    encoder = ndr.Encoder(ndr.ByteOrder.LITTLE, limit=8)
    with pytest.raises(ndr.ValueRefused, match="limit of 8 bytes"):
        ndr.compile_type(Octets).encode(encoder, bytes(5), {})

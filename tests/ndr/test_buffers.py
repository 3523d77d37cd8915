"""The caller's memory: taken where it lies, copied or refused, with advice."""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections import deque
from collections.abc import Callable

import numpy as np
import pytest

from apcrt import ndr
from apcrt.status import RpcUsageError

from .captures import Rec

BYTE = ndr.pipe_element(ndr.Byte)
INT8 = ndr.pipe_element(ndr.Int8)
INT16 = ndr.pipe_element(ndr.Int16)
UINT32 = ndr.pipe_element(ndr.UInt32)
INT64 = ndr.pipe_element(ndr.Int64)
DOUBLE = ndr.pipe_element(ndr.Double)
BOOLEAN = ndr.pipe_element(ndr.Boolean)
REC = ndr.pipe_element(Rec)

MATRIX = np.arange(12, dtype=np.uint32).reshape(3, 4)


def address(data: object) -> int:
    return int(np.frombuffer(data, dtype=np.uint8).__array_interface__["data"][0])  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("element", "data"),
    [
        (BYTE, bytearray(b"abcdef")),
        (BYTE, memoryview(bytearray(b"abcdef"))),
        (BYTE, memoryview(bytearray(b"abcdef"))[2:]),
        (BYTE, memoryview(bytearray(b"abcdef")).cast("c")),
        (BYTE, array("B", b"abcdef")),
        (INT8, bytearray(b"abcdef")),
        (INT8, array("b", [-1, 1])),
        (INT16, array("h", [-1, 1])),
        (UINT32, array("I", [1, 2, 3])),
        (UINT32, memoryview(bytearray(12)).cast("I")),
        (UINT32, MATRIX),
        (UINT32, MATRIX[1:]),
        (UINT32, (ctypes.c_uint32 * 3)(1, 2, 3)),
        (INT64, np.arange(3, dtype=np.int64)),
        (INT64, array("l", [1, 2])),
        (DOUBLE, np.linspace(0, 1, 5)),
        (DOUBLE, array("d", [1.5])),
        (BOOLEAN, np.array([True, False])),
    ],
)
def test_buffers_are_not_copied(element: ndr.Element, data: object) -> None:
    octets, elements = element.source(data)
    plain = memoryview(data)  # type: ignore[arg-type]
    assert bytes(octets) == plain.tobytes()
    assert elements == plain.nbytes // element.size
    assert address(octets) == address(plain.cast("B") if plain.format != "B" else plain)
    target = element.target(data)
    assert target.capacity == elements
    assert target.raw is not None
    assert address(target.raw) == address(octets)


def test_bytes_go_through_as_they_are() -> None:
    data = b"abc"
    assert BYTE.source(data) == (data, 3)
    assert BYTE.source(data)[0] is data


@pytest.mark.parametrize(
    ("element", "data", "expected"),
    [
        (UINT32, MATRIX[:, ::2], MATRIX[:, ::2].tobytes()),
        (UINT32, MATRIX.astype(">u4"), MATRIX.tobytes()),
        (INT16, np.array([1, 2], dtype=">i2"), np.array([1, 2], dtype=np.int16).tobytes()),
        (BYTE, memoryview(b"abcdef")[::2], b"ace"),
        (BYTE, [97, 98], b"ab"),
        (BYTE, range(3), b"\0\1\2"),
        (INT16, (-1, 1), np.array([-1, 1], dtype=np.int16).tobytes()),
        (UINT32, deque([1, 2]), np.array([1, 2], dtype=np.uint32).tobytes()),
        (DOUBLE, [1, 2.5], np.array([1, 2.5]).tobytes()),
        (BOOLEAN, [True, False, 1], b"\1\0\1"),
        (REC, [Rec(1, 2, 3), Rec(4, 5, 6)], None),
        (UINT32, np.zeros((0, 4), dtype=np.uint32), b""),
        (UINT32, [], b""),
        (REC, [], b""),
        (REC, b"", b""),
        (BYTE, b"", b""),
    ],
)
def test_other_sources_are_converted(element: ndr.Element, data: object, expected: bytes | None) -> None:
    octets, elements = element.source(data)
    if expected is None:
        order = ndr.ByteOrder.native().prefix
        numbers = ((1, 4), (2, 2), (3, 1), (0, 1), (4, 4), (5, 2), (6, 1))
        expected = b"".join(struct.pack(order + " BH I"[size], value) for value, size in numbers)
    assert bytes(octets) == expected
    assert elements == (len(expected) + element.stride - element.size) // element.stride


# An empty bytes object is nothing of any kind, so that push(b"") ends every pipe.
def test_nothing_is_nothing_for_every_element() -> None:
    for element in (BYTE, INT16, UINT32, DOUBLE, BOOLEAN, REC):
        empty: list[object] = [b"", bytearray(), memoryview(b""), [], ()]
        for nothing in empty:
            octets, elements = element.source(nothing)
            assert (len(octets), elements) == (0, 0)


@pytest.mark.parametrize(
    ("element", "data", "advice"),
    [
        (UINT32, b"abcdefgh", r"UInt32 of 4 bytes, but the buffer's items have 1 \(format 'B'\); .*cast\('I'\)"),
        (BYTE, array("I", [1]), r"Byte of 1 bytes, but the buffer's items have 4"),
        (UINT32, array("i", [1]), r"UInt32 \(unsigned integers\), but the buffer holds signed integers"),
        (UINT32, array("f", [1]), "holds floating point numbers"),
        (DOUBLE, np.arange(3), "holds signed integers"),
        (INT64, np.array(["2020-01-01"], dtype="datetime64[s]"), "neither a buffer nor a sequence of Int64"),
        (UINT32, array("u", "abc"), "items have 4"),
        (BYTE, "text", r"not text; encode it first"),
        (BYTE, 7, "7 is neither a buffer nor a sequence of Byte"),
        (BYTE, None, "None is neither"),
        (BYTE, iter([1]), "neither a buffer nor a sequence"),
        (BYTE, [1, 256], r"\[1\]: 256 does not fit Byte, which takes 0 to 255"),
        (UINT32, [1, "2"], r"\[1\]: UInt32 takes an integer from 0 to 4294967295, not '2'"),
        (DOUBLE, [1.0, None], r"\[1\]: Double takes a number, not None"),
        (BOOLEAN, [True, 2], r"\[1\]: Boolean takes True or False, not 2"),
        (REC, b"1234567", "the elements are Rec: give a sequence of them"),
        (REC, Rec(1, 2, 3), "the elements are Rec: give a sequence of them"),
        (REC, [Rec(1, 2, 3), (1, 2, 3)], r"\[1\]: expected Rec, not \(1, 2, 3\)"),
        (REC, [Rec(1, 65536, 3)], r"\[0\]\.kind: 65536 does not fit UInt16"),
    ],
)
def test_sources_refused(element: ndr.Element, data: object, advice: str) -> None:
    with pytest.raises(RpcUsageError, match=advice) as caught:
        element.source(data)
    assert caught.value.status == 87


def frozen_array() -> object:
    frozen = np.zeros(3, dtype=np.uint32)
    frozen.flags.writeable = False
    return frozen


@pytest.mark.parametrize(
    ("element", "into", "advice"),
    [
        (BYTE, lambda: b"abc", "read-only; give a bytearray"),
        (UINT32, frozen_array, "read-only"),
        (UINT32, lambda: np.zeros(6, dtype=np.uint32)[::2], "not contiguous"),
        (UINT32, lambda: np.zeros(6, dtype=">u4"), "another byte order"),
        (UINT32, lambda: bytearray(8), "items have 1"),
        (UINT32, lambda: array("i", [1]), "signed integers"),
        (REC, lambda: bytearray(14), "pull into a list, a buffer cannot hold them"),
        (REC, lambda: (1, 2), "neither a writable buffer nor a mutable sequence"),
        (BYTE, lambda: "text", "neither a writable buffer"),
    ],
)
def test_targets_refused(element: ndr.Element, into: Callable[[], object], advice: str) -> None:
    with pytest.raises(RpcUsageError, match=advice) as caught:
        element.target(into())
    assert caught.value.status == 87


def test_sequences_as_targets() -> None:
    for into in ([0] * 3, deque([0] * 3)):
        target = UINT32.target(into)
        assert (target.capacity, target.raw) == (3, None)
        target.store(1, [7])
        assert list(into) == [0, 7, 0]


def test_empty_targets() -> None:
    for into in (bytearray(), np.zeros((0, 3), dtype=np.uint8)):
        assert BYTE.target(into).capacity == 0
    assert UINT32.target([]).capacity == 0


def test_a_chunk_is_read_only_memory_of_its_own() -> None:
    target = UINT32.new_target(4)
    assert target.raw is not None
    target.raw[:8] = np.array([5, 6], dtype=np.uint32).tobytes()
    chunk = UINT32.chunk(target, 2)
    assert isinstance(chunk, memoryview)
    assert (chunk.readonly, chunk.format, chunk.tolist()) == (True, "I", [5, 6])
    assert REC.chunk(REC.new_target(1 << 40), 0) == []


def test_the_callers_memory_is_free_again_after_use() -> None:
    data = bytearray(b"abc")
    octets, _ = BYTE.source(data)
    target = BYTE.target(data)
    del octets, target
    data += b"def"
    assert data == b"abcdef"

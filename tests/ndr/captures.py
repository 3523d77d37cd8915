"""Stubs that other implementations sent, as data: what stands in them and their bytes.

The pipe exchanges were recorded between programs built on an OSF-descended runtime (interface `pipetest`); the others
are published examples and dissector-checked exchanges of well-known interfaces. The values beside them were written
down by hand from the interface definitions, not computed by the code under test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias
from uuid import UUID

from apcrt import ndr

LITTLE, BIG = ndr.ByteOrder.LITTLE, ndr.ByteOrder.BIG


@dataclass(frozen=True)
class Rec:
    id: ndr.UInt32
    kind: ndr.UInt16
    tag: ndr.UInt8


@dataclass(frozen=True)
class Wide:
    tag: ndr.UInt8
    stamp: ndr.UInt64


@dataclass(frozen=True)
class ContextHandle:
    """A context handle is a long and a UUID (C706 appendix N)."""

    attributes: ndr.UInt32
    uuid: ndr.Guid


@dataclass(frozen=True)
class Stub:
    """One direction of one call.

    `fields` are (name, annotation, value); `pipes` are (element annotation, chunks). In a request the fields come
    first, in a response the pipes do.
    """

    name: str
    hex: str
    fields: Sequence[tuple[str, object, object]] = ()
    pipes: Sequence[tuple[object, Sequence[Sequence[object]]]] = ()
    request: bool = True
    order: ndr.ByteOrder = LITTLE
    env: dict[str, object] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        return bytes.fromhex(self.hex)

    def __str__(self) -> str:
        return self.name


def pattern(start: int, stop: int) -> list[int]:
    return [(7 * index + 3) % 256 for index in range(start, stop)]


def pattern_hex(start: int, stop: int) -> str:
    return bytes(pattern(start, stop)).hex()


def hypers(start: int, stop: int, bias: int = 0) -> list[int]:
    return [0x0102030405060700 + index + bias for index in range(start, stop)]


def hypers_hex(start: int, stop: int, bias: int = 0) -> str:
    return b"".join(value.to_bytes(8, "little") for value in hypers(start, stop, bias)).hex()


PIPES = [
    Stub(
        "op 0 sink request",
        "04000000 030a1118 04000000 1f262d34 02000000 3b42 0000 00000000",
        pipes=[(ndr.Byte, [pattern(0, 4), pattern(4, 8), pattern(8, 10)])],
    ),
    Stub(
        "op 0 sink response",
        "0a000000 5a013205",
        [("count", ndr.UInt32, 10), ("adler", ndr.UInt32, 0x0532015A)],
        request=False,
    ),
    Stub("op 1 source request", "0a000000 04000000", [("n", ndr.UInt32, 10), ("chunk", ndr.UInt32, 4)]),
    Stub(
        "op 1 source response",
        "04000000 030a1118 04000000 1f262d34 02000000 3b42 0000 00000000 5a013205",
        [("adler", ndr.UInt32, 0x0532015A)],
        [(ndr.Byte, [pattern(0, 4), pattern(4, 8), pattern(8, 10)])],
        request=False,
    ),
    Stub(
        "op 2 transform request",
        "03000000 01000080 b079371e 63f36ebc 02000000 126da65a c5e6ddf8 00000000",
        pipes=[(ndr.UInt32, [[0x80000001, 0x1E3779B0, 0xBC6EF363], [0x5AA66D12, 0xF8DDE6C5]])],
    ),
    Stub(
        "op 2 transform response",
        "02000000 03000000 61f36e3c 02000000 c7e6dd78 25da4cb5 01000000 8bcdbbf1 00000000 05000000",
        [("result", ndr.UInt32, 5)],
        [(ndr.UInt32, [[3, 0x3C6EF361], [0x78DDE6C7, 0xB54CDA25], [0xF1BBCD8B]])],
        request=False,
    ),
    Stub(
        "op 3 recs request",
        "02000000 04030201 1111a0 00 05030201 2222a1 00 01000000 06030201 3333a2 00 00000000",
        pipes=[
            (Rec, [[Rec(0x01020304, 0x1111, 0xA0), Rec(0x01020305, 0x2222, 0xA1)], [Rec(0x01020306, 0x3333, 0xA2)]])
        ],
    ),
    Stub(
        "op 3 recs response",
        "02000000 05030201 eeeea1 00 06030201 dddda2 00 01000000 07030201 cccca3 00 00000000 03000000",
        [("result", ndr.UInt32, 3)],
        [(Rec, [[Rec(0x01020305, 0xEEEE, 0xA1), Rec(0x01020306, 0xDDDD, 0xA2)], [Rec(0x01020307, 0xCCCC, 0xA3)]])],
        request=False,
    ),
    Stub(
        "op 4 mixed request",
        "0300 0000 03000000 00000000 03000000 686900 00 e8030000"
        "02000000 030a 0000 02000000 1118 0000 01000000 1f 000000 00000000",
        [("a", ndr.UInt16, 3), ("label", ndr.String, "hi"), ("b", ndr.UInt32, 1000)],
        [(ndr.Byte, [pattern(0, 2), pattern(2, 4), pattern(4, 5)])],
    ),
    Stub(
        "op 4 mixed response",
        "02000000 00000000 01000000 01000000 04000000 00000000 eb030000 0200 0000 5500000000000000 05000000",
        [("b", ndr.UInt32, 1003), ("c", ndr.UInt16, 2), ("d", ndr.UInt64, 85), ("result", ndr.UInt32, 5)],
        [(ndr.UInt32, [[0, 1], [4]])],
        request=False,
    ),
    Stub(
        "op 5 multi request",
        "02000000 030a 0000 02000000 1118 0000 01000000 1f 000000 00000000"
        "02000000 00010101 01000000 0201 0000 00000000",
        pipes=[
            (ndr.Byte, [pattern(0, 2), pattern(2, 4), pattern(4, 5)]),
            (ndr.Int16, [[0x100, 0x101], [0x102]]),
        ],
    ),
    Stub(
        "op 5 multi response",
        "02000000 01010201 01000000 0301 0000 00000000"
        "02000000 565f 0000 02000000 444d 0000 01000000 4a 000000 00000000 05000000 03000000",
        [("na", ndr.UInt32, 5), ("nb", ndr.UInt32, 3)],
        [(ndr.Int16, [[0x101, 0x102], [0x103]]), (ndr.Byte, [[0x56, 0x5F], [0x44, 0x4D], [0x4A]])],
        request=False,
    ),
    Stub(
        "op 6 hyper request",
        "0500 0000 02000000 0007060504030201 0107060504030201 01000000 00000000 0207060504030201 00000000",
        [("bias", ndr.UInt16, 5)],
        [(ndr.UInt64, [hypers(0, 2), hypers(2, 3)])],
    ),
    Stub(
        "op 6 hyper response",
        "02000000 00000000 0507060504030201 0607060504030201 01000000 00000000 0707060504030201 00000000 03000000",
        [("result", ndr.UInt32, 3)],
        [(ndr.UInt64, [hypers(5, 7), hypers(7, 8)])],
        request=False,
    ),
    Stub(
        "op 7 wide request",
        "01 000000 02000000 3000000000000000 1817161514131211 3100000000000000 1917161514131211"
        "01000000 00000000 3200000000000000 1a17161514131211 00000000",
        [("one", ndr.UInt8, 1)],
        [
            (
                Wide,
                [
                    [Wide(0x30, 0x1112131415161718), Wide(0x31, 0x1112131415161719)],
                    [Wide(0x32, 0x111213141516171A)],
                ],
            )
        ],
    ),
    Stub(
        "op 7 wide response",
        "02000000 00000000 3100000000000000 302e2c2a28262422 3200000000000000 322e2c2a28262422"
        "01000000 00000000 3300000000000000 342e2c2a28262422 00000000 03000000",
        [("result", ndr.UInt32, 3)],
        [
            (
                Wide,
                [
                    [Wide(0x31, 0x222426282A2C2E30), Wide(0x32, 0x222426282A2C2E32)],
                    [Wide(0x33, 0x222426282A2C2E34)],
                ],
            )
        ],
        request=False,
    ),
    Stub("op 5 empty request", "00000000 00000000", pipes=[(ndr.Byte, []), (ndr.Int16, [])]),
    Stub(
        "op 5 empty response",
        "00000000 00000000 00000000 00000000",
        [("na", ndr.UInt32, 0), ("nb", ndr.UInt32, 0)],
        [(ndr.Int16, []), (ndr.Byte, [])],
        request=False,
    ),
    Stub(
        "op 9 misuse request",
        "05000000 0a000000" + pattern_hex(0, 10) + "0000 00000000",
        [("how", ndr.UInt32, 5)],
        [(ndr.Byte, [pattern(0, 10)])],
    ),
    Stub(
        "op 0 big-endian request",
        "00000005 030a11181f 000000 00000000",
        pipes=[(ndr.Byte, [pattern(0, 5)])],
        order=BIG,
    ),
    Stub(
        "EfsRpcWriteFileRaw request",
        "00000000 33221100 5544 7766 8899aabbccddeeff 03000000 616263 00 02000000 6465 0000 00000000",
        [("context", ContextHandle, ContextHandle(0, UUID("00112233-4455-6677-8899-aabbccddeeff")))],
        [(ndr.Byte, [list(b"abc"), list(b"de")])],
    ),
    Stub(
        "RawGetFileDataAsync response",
        "05000000 68656c6c6f 000000 00000000 00000000",
        [("result", ndr.UInt32, 0)],
        [(ndr.Byte, [list(b"hello")])],
        request=False,
    ),
    Stub(
        "RawGetFileDataAsync response, two chunks",
        "18000000 000102030405060708090a0b 0c0d0e0f1011121314151617 03000000 78797a 00 00000000 00000000",
        [("result", ndr.UInt32, 0)],
        [(ndr.Byte, [list(range(24)), list(b"xyz")])],
        request=False,
    ),
]

LONG_PIPES = [
    Stub(
        "op 0 sink request, 3000 bytes",
        f"00080000 {pattern_hex(0, 2048)} b8030000 {pattern_hex(2048, 3000)} 00000000",
        pipes=[(ndr.Byte, [pattern(0, 2048), pattern(2048, 3000)])],
    ),
    Stub(
        "op 1 source response, 3000 bytes",
        f"e8030000 {pattern_hex(0, 1000)} e8030000 {pattern_hex(1000, 2000)} e8030000 {pattern_hex(2000, 3000)}"
        "00000000 50d6595f",
        [("adler", ndr.UInt32, 0x5F59D650)],
        [(ndr.Byte, [pattern(0, 1000), pattern(1000, 2000), pattern(2000, 3000)])],
        request=False,
    ),
    Stub(
        "op 6 hyper request, 300 elements",
        f"0500 0000 00010000 {hypers_hex(0, 256)} 2c000000 00000000 {hypers_hex(256, 300)} 00000000",
        [("bias", ndr.UInt16, 5)],
        [(ndr.UInt64, [hypers(0, 256), hypers(256, 300)])],
    ),
    Stub(
        "op 6 hyper response, 300 elements",
        f"2c010000 00000000 {hypers_hex(0, 300, 5)} 00000000 2c010000",
        [("result", ndr.UInt32, 300)],
        [(ndr.UInt64, [hypers(0, 300, 5)])],
        request=False,
    ),
]

Octets = Annotated[bytes, ndr.Bytes(size_is="len")]
OptionalText: TypeAlias = ndr.Unique[ndr.WString]
Pointer: TypeAlias = ndr.Unique[ndr.UInt16]
DoublePointer: TypeAlias = ndr.Unique[Pointer]


@dataclass(frozen=True)
class Surrounding:
    """rpcecho's echo_Surrounding: a conformant array at the end of a structure."""

    x: ndr.UInt32
    surrounding: Annotated[Sequence[int], ndr.Array(ndr.UInt16, size_is="x")]


PLAIN = [
    Stub("AddOne request", "29000000", [("in_data", ndr.UInt32, 41)]),
    Stub("AddOne request, big-endian", "00000029", [("in_data", ndr.UInt32, 41)], order=BIG),
    Stub("EchoData request", "03000000 03000000 616263", [("len", ndr.UInt32, 3), ("in_data", Octets, b"abc")]),
    Stub("EchoData response", "03000000 616263", [("out_data", Octets, b"abc")], request=False, env={"len": 3}),
    Stub("SourceData response", "03000000 000102", [("data", Octets, b"\0\1\2")], request=False, env={"len": 3}),
    Stub("TestCall request", "03000000 00000000 03000000 680069000000", [("s1", ndr.WString, "hi")]),
    Stub(
        "TestCall response",
        "00000200 03000000 00000000 03000000 680069000000",
        [("s2", OptionalText, "hi")],
        request=False,
    ),
    Stub("TestSleep request", "01000000", [("seconds", ndr.UInt32, 1)]),
    Stub(
        "TestSurrounding request",
        "02000000 02000000 0500 0600",
        [("data", Surrounding, Surrounding(2, [5, 6]))],
    ),
    Stub(
        "TestSurrounding response",
        "04000000 04000000 0000 0000 0000 0000",
        [("data", Surrounding, Surrounding(4, [0, 0, 0, 0]))],
        request=False,
    ),
    Stub(
        "TestDoublePointer request",
        "00000200 04000200 0c00",
        [("data", DoublePointer, 12)],
    ),
    Stub("TestDoublePointer response", "0c00", [("result", ndr.UInt16, 12)], request=False),
]

"""Byte orders, transfer syntaxes and UUIDs as they stand on the wire.

What lives here: the two things that the PDU header says about a stub (its byte order and, through the presentation
context, its transfer syntax), and the one composite primitive that headers and stubs share. What must not: anything
that knows types. The number of an order is its place in tables of precompiled `struct.Struct` pairs, which is how the
codecs choose without branching.
"""

from __future__ import annotations

import sys
from enum import Enum
from uuid import UUID

UUID_SIZE = 16


class ByteOrder(Enum):
    """The integer representation of a PDU (drep octet 0, high nibble: C706 14.2.5)."""

    LITTLE = "little"
    BIG = "big"

    @staticmethod
    def native() -> ByteOrder:
        """Return the order of this machine, which is the one we send."""
        return _NATIVE

    @property
    def prefix(self) -> str:
        """The prefix of this order in `struct` formats: "<" or ">"."""
        return "<" if self is ByteOrder.LITTLE else ">"

    @property
    def index(self) -> int:
        """Place of this order in a (little, big) pair."""
        return 0 if self is ByteOrder.LITTLE else 1

    @property
    def is_native(self) -> bool:
        """Whether memory of this machine is already in this order."""
        return self is _NATIVE


_NATIVE = ByteOrder.LITTLE if sys.byteorder == "little" else ByteOrder.BIG


class TransferSyntax(Enum):
    """The encodings of a stub that can be agreed at bind time (MS-RPCE 2.2.4.12, C706 14)."""

    NDR20 = "ndr20"


def encode_uuid(value: UUID, order: ByteOrder) -> bytes:
    """Return the 16 bytes of a UUID on the wire: the first three fields in `order`, the rest as octets (C706 A.1)."""
    return value.bytes_le if order is ByteOrder.LITTLE else value.bytes


def decode_uuid(data: bytes | bytearray | memoryview, order: ByteOrder) -> UUID:
    """Return the UUID of exactly 16 wire bytes.

    Raises:
        ValueError: `data` is not 16 bytes long.
    """
    octets = bytes(data)
    return UUID(bytes_le=octets) if order is ByteOrder.LITTLE else UUID(bytes=octets)

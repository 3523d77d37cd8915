"""The annotations of numbers, Booleans, UUIDs and enumerations.

Each name is `Annotated[python type, mark]`: a checker reads the Python type, `compile_type` finds the mark. IDL names
stand beside them. A mark here is at the same time the codec, since nothing about it depends on the annotated type;
enumerations take their members from it.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Annotated, TypeAlias
from uuid import UUID

from apcrt.ndr._codec import Codec, TypeMark
from apcrt.ndr._errors import DeclarationError, ValueRefused
from apcrt.ndr._layout import BooleanLayout, EnumLayout, Layout, ScalarLayout, UuidLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apcrt.ndr._codec import Compiler
    from apcrt.ndr._cursor import Decoder, Encoder


class FixedCodec(Codec):
    """A type that is nothing but a fixed layout."""

    def __init__(self, layout: Layout, *, refusal: str = "") -> None:
        self.name = layout.name
        self.align = layout.align
        self.minimum = layout.size
        self.fixed = layout
        self.layout = layout
        self.refusal = refusal

    def put(self, encoder: Encoder, value: object, _env: Mapping[str, object], /) -> None:
        encoder.align(self.align)
        encoder.write(self.fixed.pack(value, encoder.order_index))

    def take(self, decoder: Decoder, _env: Mapping[str, object], /) -> object:
        decoder.align(self.align)
        return self.fixed.unpack(decoder.data, decoder.take(self.minimum), decoder.order_index)


class ScalarCodec(FixedCodec):
    """A number: the shortest way for the most frequent parameters."""

    def __init__(self, layout: ScalarLayout) -> None:
        super().__init__(layout)
        self.scalar = layout

    def put(self, encoder: Encoder, value: object, _env: Mapping[str, object], /) -> None:
        encoder.align(self.align)
        try:
            encoder.write(self.scalar.packers[encoder.order_index].pack(value))
        except (struct.error, OverflowError, TypeError) as error:
            raise ValueRefused(self.scalar.complaint(value)) from error

    def take(self, decoder: Decoder, _env: Mapping[str, object], /) -> object:
        decoder.align(self.align)
        start = decoder.take(self.minimum)
        value: object = self.scalar.packers[decoder.order_index].unpack_from(decoder.data, start)[0]
        return value


class FixedMark(TypeMark):
    """The mark of a type that is the same whatever it annotates."""

    def __init__(self, layout: Layout) -> None:
        self._codec = ScalarCodec(layout) if isinstance(layout, ScalarLayout) else FixedCodec(layout)

    def codec(self, _python_type: object, _compiler: Compiler, /) -> Codec:
        return self._codec

    def __repr__(self) -> str:
        return self._codec.name


class EnumMark(TypeMark):
    """The mark of an enumeration: `Annotated[Colour, ndr.Enum32]` with `class Colour(IntEnum)`."""

    def __init__(self, name: str, code: str, largest: int, refusal: str) -> None:
        self.name = name
        self._code = code
        self._largest = largest
        self._refusal = refusal

    def codec(self, python_type: object, _compiler: Compiler, /) -> Codec:
        if not isinstance(python_type, type) or not issubclass(python_type, (IntEnum, IntFlag)):
            raise DeclarationError(f"ndr.{self.name} marks an enum.IntEnum or IntFlag, not {python_type!r}")
        for member in python_type:
            if not 0 <= member <= self._largest:
                raise DeclarationError(f"{member!r} does not fit ndr.{self.name}, which takes 0 to {self._largest}")
        return FixedCodec(EnumLayout(python_type.__name__, self._code, python_type), refusal=self._refusal)

    def __repr__(self) -> str:
        return self.name


Byte: TypeAlias = Annotated[int, FixedMark(ScalarLayout("Byte", "B"))]
"""byte: an octet, 0 to 255; arrays and pipes of it are `bytes` and buffers."""
Char: TypeAlias = Annotated[int, FixedMark(ScalarLayout("Char", "B"))]
"""char, an unsigned octet; no conversion between character sets takes place."""
Int8: TypeAlias = Annotated[int, FixedMark(ScalarLayout("Int8", "b"))]
"""small"""
UInt8: TypeAlias = Annotated[int, FixedMark(ScalarLayout("UInt8", "B"))]
"""unsigned small"""
Int16: TypeAlias = Annotated[int, FixedMark(ScalarLayout("Int16", "h"))]
"""short"""
UInt16: TypeAlias = Annotated[int, FixedMark(ScalarLayout("UInt16", "H"))]
"""unsigned short, wchar_t"""
Int32: TypeAlias = Annotated[int, FixedMark(ScalarLayout("Int32", "i"))]
"""long"""
UInt32: TypeAlias = Annotated[int, FixedMark(ScalarLayout("UInt32", "I"))]
"""unsigned long, error_status_t"""
Int64: TypeAlias = Annotated[int, FixedMark(ScalarLayout("Int64", "q"))]
"""hyper"""
UInt64: TypeAlias = Annotated[int, FixedMark(ScalarLayout("UInt64", "Q"))]
"""unsigned hyper"""
Float: TypeAlias = Annotated[float, FixedMark(ScalarLayout("Float", "f"))]
"""float: IEEE 754 single"""
Double: TypeAlias = Annotated[float, FixedMark(ScalarLayout("Double", "d"))]
"""double: IEEE 754 double"""
Boolean: TypeAlias = Annotated[bool, FixedMark(BooleanLayout("Boolean"))]
"""boolean: one octet, read as true when it is not zero"""
Guid: TypeAlias = Annotated[UUID, FixedMark(UuidLayout("Guid"))]
"""GUID, uuid_t: 16 bytes, aligned to 4"""

Enum16: EnumMark = EnumMark("Enum16", "H", 0x7FFF, "a 16-bit enum is no pipe element; use ndr.Enum32 ([v1_enum])")
"""Marks an `IntEnum` sent in 16 bits, which is what IDL's plain `enum` is."""
Enum32: EnumMark = EnumMark("Enum32", "I", 0xFFFFFFFF, "")
"""Marks an `IntEnum` or `IntFlag` sent in 32 bits, unsigned: [v1_enum]."""

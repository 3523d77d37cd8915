"""Pointers: `Unique[X]`, which is X or None.

On the wire (C706 14.3.11, MS-RPCE 2.2.4.12): a 32-bit referent, 0 for None and otherwise any number. A pointer that is
a parameter is followed by its pointee; one inside a constructed type has its pointee deferred behind the outermost one.
Reference pointers need no mark: as parameters they leave no trace on the wire, and a Python value is never "by value".
Aliases (full pointers) are another codec.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar, Union, cast, get_args, get_origin

from apcrt.ndr._codec import Codec, TypeMark, descend
from apcrt.ndr._cursor import Referent
from apcrt.ndr._errors import DeclarationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apcrt.ndr._codec import Compiler
    from apcrt.ndr._cursor import Decoder, Encoder

T = TypeVar("T")


class UniqueCodec(Codec):
    """A unique pointer. Its pointee is compiled after the types around it, which may contain themselves through it."""

    align = 4
    minimum = 4
    deferred = True

    refusal = "a pipe element cannot hold a pointer"

    def __init__(self, name: str) -> None:
        self.name = name
        self.pointee: Codec = self

    @property
    def sizes(self) -> tuple[str, ...]:
        return self.pointee.sizes

    def point_to(self, pointee: Codec) -> None:
        """Set the pointee's codec; until then the pointer can stand in types, but encode nothing."""
        self.pointee = pointee

    def encode(self, encoder: Encoder, value: object, env: Mapping[str, object], /) -> None:
        if value is None:
            encoder.write_long(0)
            return
        encoder.write_long(encoder.next_referent())
        descend(encoder)
        self.pointee.encode(encoder, value, env)
        encoder.depth -= 1

    def decode(self, decoder: Decoder, env: Mapping[str, object], /) -> object:
        if not decoder.read_long():
            return None
        decoder.descend()
        value = self.pointee.decode(decoder, env)
        decoder.depth -= 1
        return value

    def put(self, encoder: Encoder, value: object, env: Mapping[str, object], /) -> None:
        if value is None:
            encoder.write_long(0)
            return
        encoder.write_long(encoder.next_referent())
        encoder.pending.append((self.pointee, value, env))

    def take(self, decoder: Decoder, env: Mapping[str, object], /) -> object:
        if not decoder.read_long():
            return None
        referent = Referent(self.pointee, env)
        decoder.pending.append(referent)
        return referent

    def build(self, raw: object) -> object:
        return None if raw is None else cast("Referent", raw).value


class UniqueMark(TypeMark):
    """The mark behind `Unique[...]`."""

    def codec(self, python_type: object, compiler: Compiler, /) -> Codec:
        arguments = [argument for argument in get_args(python_type) if argument is not types.NoneType]
        if get_origin(python_type) not in (Union, types.UnionType) or len(arguments) != 1:
            raise DeclarationError(f"write ndr.Unique[type], where type is one annotation; {python_type!r} is none")
        codec = UniqueCodec("a Unique pointer")
        compiler.compile_later(arguments[0], codec.point_to)
        return codec

    def __repr__(self) -> str:
        return "Unique"


Unique: TypeAlias = Annotated[T | None, UniqueMark()]
"""[unique] pointer: `Unique[WString]` is a string or None."""

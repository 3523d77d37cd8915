"""Strings: [string] wchar_t* and [string] char*, which are conformant varying arrays with a terminating NUL.

On the wire (C706 14.3.4): maximum count, offset (0), actual count, the characters; both counts are in characters and
count the NUL. Strict both ways: a NUL inside is refused on the way out, since the peer's C code would cut the string
there, and on the way in, since then two readers of the same bytes disagree about the value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

from apcrt.ndr._codec import Codec, TypeMark
from apcrt.ndr._errors import NdrError, ValueRefused, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apcrt.ndr._codec import Compiler
    from apcrt.ndr._cursor import Decoder, Encoder


class StringCodec(Codec):
    """A NUL-terminated string of `width`-byte characters.

    The maximum count belongs to the hoisted counts (`dimensions`), so a string can also be the last member of a
    structure; everywhere else a structure holds a pointer to it.
    """

    dimensions = 1

    def __init__(self, name: str, width: int, encodings: tuple[str, str], errors: str) -> None:
        self.name = name
        self.align = 4
        self.minimum = 8 + width
        self.refusal = f"{name} has no fixed size; an element of a pipe has"
        self._width = width
        self._encodings = encodings
        self._errors = errors

    def _octets(self, encoder: Encoder, value: object) -> bytes:
        if not isinstance(value, str):
            raise ValueRefused(f"{self.name} takes a str, not {shown(value)}")
        if "\0" in value:
            raise ValueRefused(f"{shown(value)} has a NUL inside, where the peer would end the string")
        try:
            return (value + "\0").encode(self._encodings[encoder.order_index], self._errors)
        except UnicodeEncodeError as error:
            raise ValueRefused(
                f"{shown(value)} has characters that {self.name} cannot carry; use ndr.WString"
            ) from error

    def put_counts(self, encoder: Encoder, value: object, _env: Mapping[str, object], /) -> None:
        encoder.write_count(len(self._octets(encoder, value)) // self._width)

    def put(self, encoder: Encoder, value: object, _env: Mapping[str, object], /) -> None:
        octets = self._octets(encoder, value)
        encoder.write_long(0)
        encoder.write_count(len(octets) // self._width)
        encoder.write(octets)

    def take_counts(self, decoder: Decoder) -> None:
        decoder.hoisted.append(decoder.read_long())

    def take(self, decoder: Decoder, _env: Mapping[str, object], /) -> object:
        maximum = decoder.hoisted.pop()
        offset = decoder.read_long()
        actual = decoder.read_long()
        if offset:
            raise NdrError(f"the string begins at character {offset}, it must begin at 0")
        if not 1 <= actual <= maximum:
            raise NdrError(f"the string has {actual} characters, its NUL included, of at most {maximum}")
        nbytes = actual * self._width
        start = decoder.take(nbytes)
        try:
            text = str(decoder.data[start : start + nbytes], self._encodings[decoder.order_index], self._errors)
        except UnicodeDecodeError as error:
            raise NdrError(f"the string is not {self.name}: {error.reason}") from error
        if text.find("\0") != len(text) - 1:
            raise NdrError("the string has no NUL at its end, or one before it")
        return text[:-1]


class StringMark(TypeMark):
    """The mark of a string type."""

    def __init__(self, codec: StringCodec) -> None:
        self._codec = codec

    def codec(self, _python_type: object, _compiler: Compiler, /) -> Codec:
        return self._codec

    def __repr__(self) -> str:
        return self._codec.name


WString: TypeAlias = Annotated[str, StringMark(StringCodec("WString", 2, ("utf-16-le", "utf-16-be"), "surrogatepass"))]
"""[string] wchar_t*: UTF-16 in the byte order of the stub. Characters beyond the BMP take two code units; unpaired
surrogates, which Windows allows in file names, survive in both directions."""
String: TypeAlias = Annotated[str, StringMark(StringCodec("String", 1, ("latin-1", "latin-1"), "strict"))]
"""[string] char*: one octet per character (ISO 8859-1, so that every octet survives in both directions)."""

"""Arrays: fixed and conformant, of anything that may stand in an array.

    Annotated[Sequence[int], ndr.Array(ndr.UInt32, count=4)]            # long a[4]
    Annotated[Sequence[int], ndr.Array(ndr.UInt32, size_is="n")]        # [size_is(n)] long a[]
    Annotated[bytes, ndr.Bytes(size_is="n")]                            # [size_is(n)] byte a[]

A conformant array is its maximum count and its elements (C706 14.3.3.3); `size_is` names the parameter or the member
beside it that holds the same number. The count on the wire and that parameter must agree on both sides; the local
caller is told which of the two to mend. `size_is=None` means that the count on the wire is the only one.

Arrays of octets are `bytes`, all others lists. Arrays of scalars and of fixed structures are converted in bulk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from apcrt.ndr._codec import Codec, TypeMark, check_size
from apcrt.ndr._cursor import LateCheck
from apcrt.ndr._errors import DeclarationError, NdrError, ValueRefused
from apcrt.ndr._layout import ArrayLayout, OctetsLayout, ScalarLayout, octets_of, pack_scalars, sequence_of
from apcrt.ndr._types import Byte, FixedCodec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from apcrt.ndr._codec import Compiler
    from apcrt.ndr._cursor import Decoder, Encoder
    from apcrt.ndr._layout import Layout


class ElementsCodec(Codec):
    """What fixed and conformant arrays have in common: a number of elements in place."""

    def __init__(self, name: str, element: Codec, size_is: str | None) -> None:
        self.name = name
        self.element = element
        self.size_is = size_is
        self.align = element.align
        self.deferred = element.deferred
        self.octets = is_octet(element)

    @property
    def sizes(self) -> tuple[str, ...]:
        return (self.size_is, *self.element.sizes) if self.size_is is not None else self.element.sizes

    def items(self, value: object) -> Sequence[object] | bytes | memoryview:
        """Return the elements of a caller's value. Raises `ValueRefused` (87)."""
        return octets_of(value, self.name) if self.octets else sequence_of(value, self.name)

    def put_elements(
        self, encoder: Encoder, items: Sequence[object] | bytes | memoryview, env: Mapping[str, object]
    ) -> None:
        """Write the elements, each aligned."""
        if not len(items):
            return
        encoder.align(self.align)
        layout = self.element.layout
        if self.octets:
            encoder.write(cast("bytes", items))
        elif isinstance(layout, ScalarLayout):
            encoder.write(pack_scalars(items, layout, encoder.order_index))
        elif layout is not None:
            encoder.write(layout.pack_many(items, encoder.order_index))
        else:
            for index, item in enumerate(items):
                try:
                    self.element.put(encoder, item, env)
                except ValueRefused as refused:
                    refused.inside(f"[{index}]")
                    raise

    def take_elements(self, decoder: Decoder, count: int, env: Mapping[str, object]) -> object:
        """Read `count` elements. Nothing is allocated before their smallest size is known to be there."""
        if not count:
            return b"" if self.octets else []
        decoder.align(self.align)
        layout: Layout | None = self.element.layout
        if self.octets:
            start = decoder.take(count)
            return bytes(decoder.data[start : start + count])
        decoder.charge(count)
        if isinstance(layout, ScalarLayout):
            start = decoder.take(count * layout.size)
            return scalars(decoder, start, count, layout)
        if layout is not None:
            start = decoder.take(layout.span(count))
            return layout.unpack_many(decoder.data, start, count, decoder.order_index)
        decoder.require(count * self.element.minimum)
        take = self.element.take
        values: list[object] = []
        for index in range(count):
            try:
                values.append(take(decoder, env))
            except NdrError as error:
                error.inside(f"[{index}]")
                raise
        return values

    def build(self, raw: object) -> object:
        if not self.deferred:
            return raw
        build: Callable[[object], object] = self.element.build
        return [build(item) for item in cast("list[object]", raw)]


class FixedArrayCodec(ElementsCodec):
    """An array whose number of elements is declared, of elements that have no fixed layout."""

    def __init__(self, element: Codec, count: int) -> None:
        super().__init__(f"{element.name}[{count}]", element, None)
        self.count = count
        self.minimum = count * element.minimum
        self.refusal = element.refusal

    def put(self, encoder: Encoder, value: object, env: Mapping[str, object], /) -> None:
        items = self.items(value)
        if len(items) != self.count:
            raise ValueRefused(f"{self.name} takes exactly {self.count} elements, not {len(items)}")
        self.put_elements(encoder, items, env)

    def take(self, decoder: Decoder, env: Mapping[str, object], /) -> object:
        return self.take_elements(decoder, self.count, env)


class ConformantArrayCodec(ElementsCodec):
    """An array whose number of elements travels with it."""

    dimensions = 1

    def __init__(self, element: Codec, size_is: str | None) -> None:
        super().__init__(f"{element.name}[]", element, size_is)
        # An array without elements takes nothing in place, its count is hoisted.
        self.minimum = 0
        self.refusal = "a conformant array has no fixed size; an element of a pipe has"

    def put_counts(self, encoder: Encoder, value: object, env: Mapping[str, object], /) -> None:
        count = len(self.items(value))
        if self.size_is is not None:
            size = env.get(self.size_is)
            if size is None:
                raise ValueRefused(f"its size parameter {self.size_is} is missing")
            if size != count:
                raise ValueRefused(f"it has {count} elements, but {self.size_is} is {size}; they must be equal")
        encoder.write_count(count)

    def put(self, encoder: Encoder, value: object, env: Mapping[str, object], /) -> None:
        self.put_elements(encoder, self.items(value), env)

    def take_counts(self, decoder: Decoder) -> None:
        decoder.hoisted.append(decoder.read_long())

    def take(self, decoder: Decoder, env: Mapping[str, object], /) -> object:
        count = decoder.hoisted.pop()
        if count > 0x7FFFFFFF:
            raise NdrError(f"the array has {count} elements, more than an array can have (2147483647)")
        if self.size_is is not None:
            if self.size_is in env:
                check_size(self.size_is, env[self.size_is], count)
            else:
                decoder.late.append(LateCheck(self.size_is, count))
        return self.take_elements(decoder, count, env)


@dataclass(frozen=True)
class Array(TypeMark):
    """Marks an array in an annotation: `Annotated[Sequence[int], ndr.Array(ndr.UInt32, size_is="n")]`.

    Args:
        element: annotation of one element.
        size_is: name of the parameter or member that holds the number of elements; None if only the wire does.
        count: the fixed number of elements; excludes `size_is`.

    Arrays of `Byte`, `Char` and `UInt8` take any buffer of octets and give `bytes`; others take sequences (numbers also
    buffers) and give lists.
    """

    element: object
    size_is: str | None = None
    count: int | None = None

    def codec(self, _python_type: object, compiler: Compiler, /) -> Codec:
        element = compiler.compile(self.element)
        if element.dimensions:
            raise DeclarationError(
                f"an array cannot have {element.name} as its element, whose size varies; point to it: ndr.Unique[...]"
            )
        if self.count is None:
            return ConformantArrayCodec(element, self.size_is)
        if self.size_is is not None:
            raise DeclarationError("an array has either count= (fixed) or size_is= (conformant), not both")
        if self.count < 1:
            raise DeclarationError(f"a fixed array has at least one element, not {self.count}")
        if element.layout is None:
            return FixedArrayCodec(element, self.count)
        name = f"{element.name}[{self.count}]"
        if is_octet(element):
            return FixedCodec(OctetsLayout(name, self.count))
        return FixedCodec(ArrayLayout(name, element.layout, self.count), refusal=element.refusal)


def Bytes(size_is: str | None = None, *, count: int | None = None) -> Array:  # noqa: N802 - reads as a type in annotations
    """Mark an array of octets: `Annotated[bytes, ndr.Bytes(size_is="n")]`. The same as `Array(Byte, ...)`."""
    return Array(Byte, size_is, count)


def is_octet(element: Codec) -> bool:
    """Whether arrays of this element are `bytes` in Python: unsigned numbers of one octet."""
    return isinstance(element.layout, ScalarLayout) and element.layout.code == "B"


def scalars(decoder: Decoder, start: int, count: int, layout: ScalarLayout) -> list[object]:
    """Return `count` numbers that stand at `start`, which has been checked to be there."""
    values = layout.packers[decoder.order_index].iter_unpack(decoder.data[start : start + count * layout.size])
    return [value for (value,) in values]

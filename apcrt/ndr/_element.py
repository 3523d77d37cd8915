"""The element of a pipe, and the memory that elements are pushed from and pulled into.

What lives here: which types may be elements, a caller's data as octets in wire layout and this machine's byte order,
and the targets that a reader fills. What must not: chunks, counts, positions (`_pipes`).

There are two kinds of elements. Numbers and Booleans are *scalars*: they live in buffers and travel by slices of
memory. Everything else that is fixed (structures, fixed arrays, enumerations, UUIDs) is *objects*: it lives in lists.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias, cast

from apcrt.ndr._buffers import refuse_source, source_octets, target_octets, view_of
from apcrt.ndr._compile import compile_type
from apcrt.ndr._errors import DeclarationError, ValueRefused, shown
from apcrt.ndr._layout import BooleanLayout, ScalarLayout, pack_scalars
from apcrt.ndr._order import ByteOrder, TransferSyntax

if TYPE_CHECKING:
    from apcrt.ndr._codec import Codec
    from apcrt.ndr._layout import Layout

Chunk: TypeAlias = "memoryview | list[object]"

_NATIVE = ByteOrder.native()


class Target:
    """Where pulled elements go.

    Attributes:
        capacity: elements that it can hold.
        raw: the memory as writable octets (format "B"), for scalar elements in buffers; None for objects.

    Holds the caller's memory until it is dropped (a bytearray cannot be resized meanwhile). Used by one thread at a
    time.
    """

    __slots__ = ("capacity", "objects", "raw")

    def __init__(self, capacity: int, raw: memoryview | None, objects: MutableSequence[object] | None = None) -> None:
        self.capacity: int = capacity
        self.raw: memoryview | None = raw
        # Made at the first element where the caller gave none: targets of memory never need it.
        self.objects: MutableSequence[object] | None = objects

    def store(self, start: int, values: Sequence[object]) -> None:
        """Put objects at index `start` and after it; a list of our own grows by what has really arrived."""
        if self.objects is None:
            self.objects = []
        if isinstance(self.objects, list):
            self.objects[start : start + len(values)] = values
            return
        for index, value in enumerate(values, start):
            self.objects[index] = value

    def __repr__(self) -> str:
        return f"<Target of {self.capacity} elements in {'objects' if self.raw is None else 'memory'}>"


class Element:
    """The element type of a pipe. Immutable, for any thread.

    Attributes:
        name: as in the declaration.
        size: bytes of one element on the wire.
        align: its alignment in the stub (bytes).
        stride: bytes from one element of a chunk to the next; nothing follows the last.
        format: `struct` character of a scalar; None for objects.
    """

    __slots__ = ("align", "format", "layout", "name", "size", "stride")

    def __init__(self, layout: Layout) -> None:
        self.layout: Layout = layout
        self.name: str = layout.name
        self.size: int = layout.size
        self.align: int = layout.align
        self.stride: int = layout.stride
        self.format: str | None = layout.code if isinstance(layout, (ScalarLayout, BooleanLayout)) else None

    def source(self, data: object) -> tuple[memoryview | bytes, int]:
        """Return a caller's data as contiguous octets in wire layout and native byte order, and its number of elements.

        A buffer of the element's format is not copied: the octets alias it. Sequences are converted; objects are
        packed.

        Args:
            data: a `Buffer`, or a sequence of element values.

        Raises:
            ValueRefused: (87) it is no such thing; the text names the item and what would be right.
        """
        if self.format is None:
            return self._objects(data)
        if self.size == 1 and isinstance(data, (bytes, bytearray)):
            return data if isinstance(data, bytes) else memoryview(data), len(data)
        view = None if isinstance(data, (list, tuple, str)) else view_of(data)
        if view is not None:
            octets = source_octets(view, self.layout, _NATIVE)
            return octets, len(octets) // self.size
        if isinstance(data, str) or not isinstance(data, Sequence):
            raise refuse_source(data, self.name)
        values = cast("Sequence[object]", data)
        if isinstance(self.layout, ScalarLayout):
            return pack_scalars(values, self.layout, _NATIVE.index), len(values)
        return self.layout.pack_many(values, _NATIVE.index), len(values)

    def _objects(self, data: object) -> tuple[bytes, int]:
        view = view_of(data)
        if view is not None and not view.nbytes:
            return b"", 0
        if view is not None or isinstance(data, str) or not isinstance(data, Sequence):
            given: object = data
            raise ValueRefused(f"the elements are {self.name}: give a sequence of them, not {shown(given)}")
        values = cast("Sequence[object]", data)
        return self.layout.pack_many(values, _NATIVE.index), len(values)

    def target(self, into: object) -> Target:
        """Return a target over the caller's memory.

        Args:
            into: a writable, contiguous `Buffer` of the element's format, or a mutable sequence whose items are
            replaced.

        Raises:
            ValueRefused: (87) it is read-only, or its items are no elements.
        """
        if self.size == 1 and self.format is not None and isinstance(into, bytearray):
            return Target(len(into), memoryview(into))
        view = None if isinstance(into, list) else view_of(into)
        if view is not None:
            if self.format is None:
                raise ValueRefused(f"the elements are {self.name}: pull into a list, a buffer cannot hold them")
            raw = target_octets(view, self.layout, _NATIVE)
            return Target(len(raw) // self.size, raw)
        if isinstance(into, MutableSequence):
            objects = cast("MutableSequence[object]", into)
            return Target(len(objects), None, objects)
        raise ValueRefused(
            f"{shown(into)} is neither a writable buffer nor a mutable sequence to pull {self.name} into"
        )

    def new_target(self, elements: int) -> Target:
        """Return a target over memory of its own for so many elements (objects: grows as they come)."""
        if self.format is None:
            return Target(elements, None)
        return Target(elements, memoryview(bytearray(elements * self.size)))

    def chunk(self, target: Target, elements: int) -> Chunk:
        """Return the first `elements` of a target: a read-only memoryview in the element's format, or a list."""
        if target.raw is None or self.format is None:
            objects: Sequence[object] = target.objects or ()
            return list(objects[:elements])
        octets = target.raw[: elements * self.size].toreadonly()
        return octets if self.format == "B" else octets.cast(self.format)  # type: ignore[call-overload]

    def __repr__(self) -> str:
        return f"<Element {self.name}>"


@lru_cache(maxsize=256)
def pipe_element(annotation: object, *, syntax: TransferSyntax = TransferSyntax.NDR20) -> Element:
    """Return the element of a pipe of this type.

    Raises:
        DeclarationError: (a TypeError) the type has no encoding, or cannot be an element: pointers, unions, conformant
            arrays, strings, 16-bit enumerations (MIDL `pipe`).
    """
    codec: Codec = compile_type(annotation, syntax=syntax)
    if codec.refusal:
        raise DeclarationError(f"{codec.name} cannot be the element of a pipe: {codec.refusal}")
    if codec.layout is None:
        raise DeclarationError(
            f"{codec.name} cannot be the element of a pipe: its size is not fixed by the declaration"
        )
    return Element(codec.layout)

"""The caller's memory: what may be pushed from and pulled into, and how it becomes plain octets.

A buffer is used where it lies when its items are the pipe's elements: same size, same kind of number, this machine's
byte order, contiguous. As a source anything less regular is copied; as a target it is refused, since a copy would not
reach the caller. Signed and unsigned are different kinds from two bytes on: taking one for the other would change
values silently. Items of one byte are octets, whatever their format says.

NumPy arrays come in through the buffer protocol (this module does not know NumPy); for checkers `__array_interface__`
is what tells them, because NumPy declares `__buffer__` only from Python 3.12 on.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from apcrt.ndr._errors import ValueRefused, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apcrt.ndr._layout import Layout
    from apcrt.ndr._order import ByteOrder


class SupportsArrayInterface(Protocol):
    """An array of another library that also offers its memory through the buffer protocol, such as a NumPy array."""

    @property
    def __array_interface__(self) -> Mapping[str, object]: ...


Buffer: TypeAlias = "bytes | bytearray | memoryview | array[int] | array[float] | SupportsArrayInterface"
"""Memory that elements may be pushed from (any of these) or pulled into (the writable ones)."""

_KINDS = {
    **dict.fromkeys("bhilqn", "signed integers"),
    **dict.fromkeys("BHILQNc", "unsigned integers"),
    **dict.fromkeys("fd", "floating point numbers"),
    "?": "Booleans",
}
_SWAP_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


def view_of(data: object) -> memoryview | None:
    """Return the memory of an object with the buffer protocol, else None."""
    try:
        return memoryview(cast("bytes", data))
    except (TypeError, ValueError, BufferError):
        return None


def source_octets(view: memoryview, layout: Layout, order: ByteOrder) -> memoryview | bytes:
    """Return the items of a buffer as octets of this machine's order; without a copy where the layout allows it.

    Raises:
        ValueRefused: (87) its items are not elements of this layout.
    """
    if not view.nbytes:
        # Nothing is nothing of any kind: push(b"") ends every pipe.
        return b""
    foreign = _match(view, layout, order)
    if foreign:
        return byteswapped(view.tobytes(), view.itemsize)
    if not view.c_contiguous:
        return view.tobytes()
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def target_octets(view: memoryview, layout: Layout, order: ByteOrder) -> memoryview:
    """Return writable octets over a buffer, to be filled in this machine's byte order.

    Raises:
        ValueRefused: (87) it is read-only or not contiguous, or its items are not elements of this layout.
    """
    if _match(view, layout, order):
        raise ValueRefused(
            f"the target's items are in another byte order ({view.format}); give one in this machine's order"
        )
    if view.readonly:
        raise ValueRefused("the target is read-only; give a bytearray, an array or a writable memoryview")
    if not view.c_contiguous:
        raise ValueRefused("the target is not contiguous; pull into contiguous memory and copy from there")
    if not view.nbytes:
        return memoryview(bytearray())
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def byteswapped(octets: bytes | memoryview, size: int) -> memoryview:
    """Return a copy with the bytes of every `size`-byte number reversed."""
    numbers: array[int] = array(_SWAP_CODES[size])
    numbers.frombytes(octets)
    numbers.byteswap()
    return memoryview(numbers).cast("B")


def _match(view: memoryview, layout: Layout, order: ByteOrder) -> bool:
    """Check that items are elements; return whether they are in the other byte order. Raises `ValueRefused` (87)."""
    code = view.format
    if code == layout.code:
        return False
    prefix = code[0] if code and code[0] in "@=<>!" else "@"
    kind = _KINDS.get(code[-1] if len(code.lstrip("@=<>!")) == 1 else "")
    if kind is None or view.itemsize != layout.size:
        raise ValueRefused(
            f"the elements are {layout.name} of {layout.size} bytes, but the buffer's items have {view.itemsize} "
            f"(format {code!r}); {_advice(layout)}"
        )
    wanted = _KINDS[layout.code]
    if layout.size > 1 and kind != wanted:
        raise ValueRefused(f"the elements are {layout.name} ({wanted}), but the buffer holds {kind}; {_advice(layout)}")
    if layout.size == 1 or prefix in "@=":
        return False
    return (prefix == "<") is not (order.prefix == "<")


def _advice(layout: Layout) -> str:
    return f"say what raw memory is with memoryview(data).cast({layout.code!r}), or give a list of numbers"


def refuse_source(data: object, name: str) -> ValueRefused:
    """Return the refusal of something that is neither a buffer nor a sequence."""
    if isinstance(data, str):
        return ValueRefused(f"the elements are {name}, not text; encode it first: data.encode()")
    return ValueRefused(f"{shown(data)} is neither a buffer nor a sequence of {name}")

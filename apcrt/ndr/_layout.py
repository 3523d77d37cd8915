"""Types whose bytes are fixed by the declaration: scalars, and structures and arrays of them.

What lives here: such a type flattened into one `struct` format, with the gaps as pad bytes, and the way from a value to
the flat slots and back. Arrays of structures and pipe elements use it in bulk: one `iter_unpack` per batch instead of a
codec call per member. What must not: cursors, counts, pointers.

Every layout begins aligned: the format is right only when the first byte stands at a multiple of `align` in the stub.
NDR20 has no padding after the last member (C706 14.3.7); between the elements of an array the next one is aligned,
which is `stride`, and after the last element there is nothing.

The fast way trusts `struct` to refuse what does not fit; only then does `check` walk the value again to find out which
member it was, so that good values pay nothing for good error texts.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, NoReturn, cast
from uuid import UUID

from apcrt.ndr._errors import NdrError, ValueRefused, shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import IntEnum, IntFlag

INTEGER_RANGES = {
    "b": (-(1 << 7), (1 << 7) - 1), "B": (0, (1 << 8) - 1),
    "h": (-(1 << 15), (1 << 15) - 1), "H": (0, (1 << 16) - 1),
    "i": (-(1 << 31), (1 << 31) - 1), "I": (0, (1 << 32) - 1),
    "q": (-(1 << 63), (1 << 63) - 1), "Q": (0, (1 << 64) - 1),
}  # fmt: skip


class Layout(ABC):
    """A type of fixed size.

    Attributes:
        name: the declared type, for error texts.
        code: `struct` format without byte order, gaps included.
        size: bytes of one value, without a gap after it.
        align: bytes; a power of two up to 8.
        stride: bytes from one element of an array to the next.
        slots: values that `struct` takes and gives for one value.
        plain: the slots are the members themselves, without conversion.
    """

    def __init__(self, name: str, code: str, align: int, slots: int, *, plain: bool) -> None:
        self.name = name
        self.code = code
        self.align = align
        self.slots = slots
        self.plain = plain
        self.packers: tuple[struct.Struct, struct.Struct] = (struct.Struct("<" + code), struct.Struct(">" + code))
        self.size: int = self.packers[0].size
        self.stride: int = (self.size + align - 1) & -align
        gap = self.stride - self.size
        padded = f"{code}{gap}x" if gap else code
        self.strided: tuple[struct.Struct, struct.Struct] = (struct.Struct("<" + padded), struct.Struct(">" + padded))

    @abstractmethod
    def store(self, value: object, slots: list[object], /) -> None:
        """Append the slots of `value`. Raises `ValueRefused` (87) where `struct` itself would not notice."""

    @abstractmethod
    def load(self, slots: Sequence[object], at: int) -> object:
        """Return the value whose slots begin at `at`. Raises `NdrError` (1783) for slots that are no value."""

    @abstractmethod
    def check(self, value: object) -> None:
        """Raise `ValueRefused` (87) naming the member that does not fit; return if everything does."""

    def pack(self, value: object, order_index: int) -> bytes:
        """Return the bytes of one value. Raises `ValueRefused` (87)."""
        slots: list[object] = []
        self.store(value, slots)
        try:
            return self.packers[order_index].pack(*slots)
        except (struct.error, OverflowError, TypeError) as error:
            self._explain(value, error)

    def pack_many(self, values: Sequence[object], order_index: int) -> bytes:
        """Return the bytes of an array, elements `stride` apart, nothing after the last. Raises `ValueRefused` (87)."""
        pieces: list[bytes] = []
        pack = self.strided[order_index].pack
        for index, value in enumerate(values):
            slots: list[object] = []
            try:
                self.store(value, slots)
                pieces.append(pack(*slots))
            except (struct.error, OverflowError, TypeError) as error:
                try:
                    self._explain(value, error)
                except ValueRefused as refused:
                    refused.inside(f"[{index}]")
                    raise
            except ValueRefused as refused:
                refused.inside(f"[{index}]")
                raise
        gap = self.stride - self.size
        data = b"".join(pieces)
        return data[:-gap] if gap and data else data

    def unpack(self, data: memoryview, at: int, order_index: int) -> object:
        """Return the value at `at`; the caller has made sure that `size` bytes are there."""
        return self.load(self.packers[order_index].unpack_from(data, at), 0)

    def unpack_many(self, data: memoryview, at: int, count: int, order_index: int) -> list[object]:
        """Return `count` (at least 1) elements; `span(count)` bytes must be there. Raises `NdrError` (1783)."""
        whole = count if self.stride == self.size else count - 1
        end = at + whole * self.stride
        load = self.load
        values = [load(slots, 0) for slots in self.strided[order_index].iter_unpack(data[at:end])] if whole else []
        if whole != count:
            values.append(self.unpack(data, end, order_index))
        return values

    def repack(self, data: bytes | memoryview, order_index: int) -> bytes:
        """Return an array's elements, as `pack_many` gives them, in the other byte order than `order_index`."""
        view = memoryview(data)
        gap = self.stride - self.size
        last = len(view) - self.size
        pack = self.strided[1 - order_index].pack
        pieces = [pack(*slots) for slots in self.strided[order_index].iter_unpack(view[: last if gap else len(view)])]
        if gap:
            pieces.append(self.packers[1 - order_index].pack(*self.packers[order_index].unpack_from(view, last)))
        return b"".join(pieces)

    def span(self, count: int) -> int:
        """Return the bytes of `count` (at least 1) elements in a row."""
        return (count - 1) * self.stride + self.size

    def _explain(self, value: object, error: Exception) -> NoReturn:
        self.check(value)
        raise ValueRefused(f"{shown(value)} cannot be sent as {self.name}: {error}") from error


class ScalarLayout(Layout):
    """One number."""

    def __init__(self, name: str, code: str) -> None:
        super().__init__(name, code, struct.calcsize("<" + code), 1, plain=True)

    def store(self, value: object, slots: list[object], /) -> None:
        slots.append(value)

    def load(self, slots: Sequence[object], at: int) -> object:
        return slots[at]

    def check(self, value: object) -> None:
        try:
            self.packers[0].pack(value)
        except (struct.error, OverflowError, TypeError) as error:
            raise ValueRefused(self.complaint(value)) from error

    def complaint(self, value: object) -> str:
        """Say why `value` is refused and what would be accepted."""
        bounds = INTEGER_RANGES.get(self.code)
        if bounds is None:
            if isinstance(value, (int, float)):
                return f"{shown(value)} is too large for {self.name}"
            return f"{self.name} takes a number, not {shown(value)}"
        if isinstance(value, int):
            return f"{shown(value)} does not fit {self.name}, which takes {bounds[0]} to {bounds[1]}"
        return f"{self.name} takes an integer from {bounds[0]} to {bounds[1]}, not {shown(value)}"


class BooleanLayout(Layout):
    """One octet: 0 is false, anything else true (C706 14.2.3)."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "?", 1, 1, plain=False)

    def store(self, value: object, slots: list[object], /) -> None:
        self.check(value)
        slots.append(bool(value))

    def load(self, slots: Sequence[object], at: int) -> object:
        return slots[at]

    def check(self, value: object) -> None:
        # By comparison and not by type: NumPy has a Boolean of its own. `struct` would take anything by its truth.
        try:
            known = value in (0, 1)
        except ValueError:  # an array of truths
            known = False
        if not known:
            raise ValueRefused(f"{self.name} takes True or False, not {shown(value)}")


class EnumLayout(Layout):
    """An enumeration sent as its number."""

    def __init__(self, name: str, code: str, members: type[IntEnum | IntFlag]) -> None:
        super().__init__(name, code, struct.calcsize("<" + code), 1, plain=False)
        self.members = members

    def store(self, value: object, slots: list[object], /) -> None:
        slots.append(self._member(value))

    def load(self, slots: Sequence[object], at: int) -> object:
        try:
            return self.members(cast("int", slots[at]))
        except ValueError as error:
            raise NdrError(f"{slots[at]} is no member of {self.name}") from error

    def check(self, value: object) -> None:
        self._member(value)

    def _member(self, value: object) -> int:
        if isinstance(value, self.members):
            return int(value)
        if isinstance(value, int):
            try:
                return int(self.members(value))
            except ValueError as error:
                raise ValueRefused(f"{value} is no member of {self.name}") from error
        raise ValueRefused(f"expected a member of {self.name}, not {shown(value)}")


class UuidLayout(Layout):
    """A UUID: u32, u16, u16 in the byte order of the stub, then eight octets (C706 appendix A)."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "IHH8s", 4, 4, plain=False)

    def store(self, value: object, slots: list[object], /) -> None:
        self.check(value)
        uuid = cast("UUID", value)
        slots += (uuid.time_low, uuid.time_mid, uuid.time_hi_version, uuid.bytes[8:])

    def load(self, slots: Sequence[object], at: int) -> object:
        low, mid, high, rest = cast("tuple[int, int, int, bytes]", tuple(slots[at : at + 4]))
        return UUID(int=low << 96 | mid << 80 | high << 64 | int.from_bytes(rest, "big"))

    def check(self, value: object) -> None:
        if not isinstance(value, UUID):
            raise ValueRefused(f"expected a uuid.UUID, not {shown(value)}")


class OctetsLayout(Layout):
    """A fixed array of octets, which is `bytes` in Python."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(name, f"{count}s", 1, 1, plain=False)

    def store(self, value: object, slots: list[object], /) -> None:
        octets = value if isinstance(value, bytes) else octets_of(value, self.name)
        if len(octets) != self.size:
            raise ValueRefused(f"{self.name} takes exactly {self.size} bytes, not {len(octets)}")
        slots.append(octets)

    def load(self, slots: Sequence[object], at: int) -> object:
        return slots[at]

    def check(self, value: object) -> None:
        self.store(value, [])


class ArrayLayout(Layout):
    """A fixed array of fixed elements, which is a list in Python."""

    def __init__(self, name: str, element: Layout, count: int) -> None:
        gap = element.stride - element.size
        if isinstance(element, (ScalarLayout, BooleanLayout)):
            code = f"{count}{element.code}"
        else:
            code = (f"{element.code}{gap}x" if gap else element.code) * (count - 1) + element.code
        super().__init__(name, code, element.align, count * element.slots, plain=False)
        self.element = element
        self.count = count

    def store(self, value: object, slots: list[object], /) -> None:
        items = self._items(value)
        if self.element.plain and self.element.slots == 1:
            slots.extend(items)
            return
        for index, item in enumerate(items):
            try:
                self.element.store(item, slots)
            except ValueRefused as refused:
                refused.inside(f"[{index}]")
                raise

    def load(self, slots: Sequence[object], at: int) -> object:
        if self.element.plain and self.element.slots == 1:
            return list(slots[at : at + self.count])
        step = self.element.slots
        return [self.element.load(slots, at + index * step) for index in range(self.count)]

    def check(self, value: object) -> None:
        for index, item in enumerate(self._items(value)):
            try:
                self.element.check(item)
            except ValueRefused as refused:
                refused.inside(f"[{index}]")
                raise

    def _items(self, value: object) -> Sequence[object]:
        items = sequence_of(value, self.name)
        if len(items) != self.count:
            raise ValueRefused(f"{self.name} takes exactly {self.count} elements, not {len(items)}")
        return items


class RecordLayout(Layout):
    """A structure whose members are all fixed; a dataclass in Python."""

    def __init__(
        self, name: str, cls: type, members: Sequence[tuple[str, Layout]], make: Callable[..., object]
    ) -> None:
        code, at, align, slots = "", 0, 1, 0
        self.members: list[tuple[str, Layout, int]] = []
        for member, layout in members:
            gap = -at & (layout.align - 1)
            code += (f"{gap}x" if gap else "") + layout.code
            self.members.append((member, layout, slots))
            at += gap + layout.size
            slots += layout.slots
            align = max(align, layout.align)
        # A structure in a structure is not plain: its slots belong to another class.
        self._flat = all(layout.plain and layout.slots == 1 for _, layout in members)
        super().__init__(name, code, align, slots, plain=False)
        self.cls = cls
        self._make = make
        names = [member for member, _ in members]
        self._get: Callable[[object], object] = attrgetter(*names)
        self._single = len(names) == 1

    def store(self, value: object, slots: list[object], /) -> None:
        if not isinstance(value, self.cls):
            raise ValueRefused(f"expected {self.name}, not {shown(value)}")
        if self._flat:
            members = self._get(value)
            if self._single:
                slots.append(members)
            else:
                slots += cast("tuple[object, ...]", members)
            return
        for member, layout, _ in self.members:
            try:
                layout.store(getattr(value, member), slots)
            except ValueRefused as refused:
                refused.inside(member)
                raise

    def load(self, slots: Sequence[object], at: int) -> object:
        if self._flat:
            return self._build(slots if len(slots) == self.slots else slots[at : at + self.slots])
        values: list[object] = []
        for member, layout, start in self.members:
            try:
                values.append(layout.load(slots, at + start))
            except NdrError as error:
                error.inside(member)
                raise
        return self._build(values)

    def _build(self, values: Sequence[object]) -> object:
        try:
            return self._make(*values)
        except (ValueError, TypeError) as error:
            raise NdrError(f"{self.name} refuses what the peer sent: {error}") from error

    def check(self, value: object) -> None:
        if not isinstance(value, self.cls):
            raise ValueRefused(f"expected {self.name}, not {shown(value)}")
        for member, layout, _ in self.members:
            try:
                layout.check(getattr(value, member))
            except ValueRefused as refused:
                refused.inside(member)
                raise


def pack_scalars(values: Sequence[object], layout: ScalarLayout, order_index: int) -> bytes:
    """Return the bytes of an array of numbers. Raises `ValueRefused` (87) naming the index of what does not fit."""
    try:
        return struct.pack(f"{'<>'[order_index]}{len(values)}{layout.code}", *values)
    except (struct.error, OverflowError, TypeError) as error:
        for index, value in enumerate(values):
            try:
                layout.check(value)
            except ValueRefused as refused:
                refused.inside(f"[{index}]")
                raise
        raise ValueRefused(f"the values cannot be sent as {layout.name}: {error}") from error


def octets_of(value: object, name: str) -> bytes | memoryview:
    """Return the octets of a buffer of one-byte items, or of a sequence of integers. Raises `ValueRefused` (87)."""
    if isinstance(value, (bytes, bytearray)):
        return memoryview(value)
    try:
        view = memoryview(cast("bytes", value))
    except (TypeError, ValueError):
        items = sequence_of(value, name)
        try:
            return bytes(cast("Sequence[int]", items))
        except (ValueError, TypeError) as error:
            raise ValueRefused(f"{name} takes bytes or integers from 0 to 255: {error}") from error
    if view.itemsize != 1:
        raise ValueRefused(
            f"{name} takes bytes; the buffer has items of {view.itemsize} bytes (format {view.format!r})"
        )
    if not view.nbytes:
        return b""
    return view.cast("B") if view.c_contiguous else view.tobytes()


def sequence_of(value: object, name: str) -> Sequence[object]:
    """Return `value` as a sequence with a length. Raises `ValueRefused` (87)."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return cast("Sequence[object]", value)
    try:
        # Arrays of other libraries: sized and iterable is enough here.
        return cast("Sequence[object]", memoryview(cast("bytes", value)).tolist())
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueRefused(f"{name} takes a sequence, not {shown(value)}") from error

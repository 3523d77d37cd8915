"""Pipes on the wire: chunks of counted elements, written and read in pieces of any size.

    repeat:  align 4;  u32 n (n > 0);  n elements, the first aligned to the element's alignment
    end:     align 4;  u32 0                                                     (C706 14.3.10, MS-RPCE 2.2.4.13)

Alignment is relative to the start of the stub and runs on through parameters, chunks and fragments, so writer and
reader carry stub positions. Structures stand `stride` apart in a chunk, with nothing after the last.

Chunks mean nothing to the application: the reader delivers whatever elements have arrived, remembers how many of the
chunk are still to come, and takes its input split anywhere, inside counts, gaps and elements. It trusts no count: it
allocates nothing, and copies only what is there.

The memory of scalars moves by slices. Only a peer of the other byte order costs a swap, which is done in bulk.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from apcrt.ndr._buffers import byteswapped
from apcrt.ndr._errors import NdrError, ValueRefused
from apcrt.ndr._layout import ScalarLayout
from apcrt.ndr._order import ByteOrder, TransferSyntax

if TYPE_CHECKING:
    from apcrt.ndr._element import Element, Target

MAX_COUNT = 0xFFFFFFFF

_COUNT = (Struct("<I"), Struct(">I"))
_TERMINATORS = tuple(bytes((-position & 3) + 4) for position in range(8))
_TRUTH = bytes([0]) + b"\x01" * 255


def _prefix(position: int, align: int, order: ByteOrder) -> Struct:
    """Return gap, count, gap for a chunk at a stub position (mod 8)."""
    gap = -position & 3
    inner = -(position + gap + 4) & (align - 1)
    return Struct(f"{order.prefix}{gap}xI{inner}x")


def _check_syntax(syntax: TransferSyntax) -> None:
    if syntax is not TransferSyntax.NDR20:
        raise ValueRefused(f"there are no pipes in {syntax}")


class PipeWriter:
    """Writes one pipe in one direction. Holds no state but its type: positions are the caller's.

    Args:
        element: what the pipe carries.
        order: byte order of the stub.
        syntax: its encoding.

    Any thread.
    """

    __slots__ = ("_element", "_order", "_packers", "_swap")

    def __init__(self, element: Element, order: ByteOrder, *, syntax: TransferSyntax = TransferSyntax.NDR20) -> None:
        _check_syntax(syntax)
        self._element = element
        self._order = order
        self._packers = tuple(_prefix(position, element.align, order).pack for position in range(8))
        self._swap = not order.is_native and (element.format is None or element.size > 1)

    def chunk(self, offset: int, data: memoryview | bytes, elements: int) -> list[memoryview | bytes]:
        """Return the pieces of one chunk: gap, count and gap in one, then the data.

        Args:
            offset: stub position at which the chunk begins (any).
            data: the elements as `Element.source` gave them. Returned as it is: the caller sends or copies it before
                its owner may change it. Only for a stub of the other byte order a swapped copy is returned.
            elements: how many they are, at least 1.

        Raises:
            ValueRefused: (87) no elements (that would be the end), too many, or data of another length.
        """
        if not 0 < elements <= MAX_COUNT:
            raise ValueRefused(f"a chunk has 1 to {MAX_COUNT} elements, not {elements}")
        element = self._element
        if len(data) != (elements - 1) * element.stride + element.size:
            raise ValueRefused(f"{elements} elements of {element.name} are not {len(data)} bytes")
        if self._swap:
            data = self._swapped(data)
        return [self._packers[offset & 7](elements), data]

    def end(self, offset: int) -> bytes:
        """Return the end of the stream at stub position `offset`: gap and the count 0."""
        return _TERMINATORS[offset & 7]

    def _swapped(self, data: memoryview | bytes) -> memoryview | bytes:
        element = self._element
        if element.format is not None:
            return byteswapped(data, element.size)
        return element.layout.repack(data, ByteOrder.native().index)


class PipeReader:
    """Reads one pipe in one direction, incrementally.

    Args:
        element: what the pipe carries.
        order: byte order of the stub.
        offset: stub position at which the pipe begins: where the data before it ended.
        syntax: its encoding.
        max_chunk: largest count (elements) that a chunk may announce.

    Attributes:
        offset: stub position of the next byte that it expects; after the end, of the byte behind the terminator.
        ended: the terminator has been read.

    Not safe for several threads at once. After an `NdrError` it is of no further use.
    """

    __slots__ = ("_carry", "_element", "_fast", "_left", "_mask", "_max", "_order", "_unpack_count", "ended", "offset")

    def __init__(
        self,
        element: Element,
        order: ByteOrder,
        *,
        offset: int,
        syntax: TransferSyntax = TransferSyntax.NDR20,
        max_chunk: int = MAX_COUNT,
    ) -> None:
        _check_syntax(syntax)
        self.offset: int = offset
        self.ended: bool = False
        self._element = element
        self._order = order
        self._unpack_count = _COUNT[order.index].unpack_from
        self._max = max_chunk
        self._mask = element.align - 1
        self._left: int = 0
        # The part of a count or of an element that came at the end of a piece of input; never a whole one.
        self._carry = bytearray()
        # Wire bytes are memory bytes: scalars in our order. Booleans are not: the wire allows any octet but 0 for true.
        self._fast = isinstance(element.layout, ScalarLayout) and (order.is_native or element.size == 1)

    def read(self, source: memoryview, target: Target, start: int) -> tuple[int, int]:
        """Take elements from `source` into `target` from index `start` on.

        Stops when the target is full, the source is used up, or the stream has ended. Incomplete counts and elements
        are kept inside, so the source is always consumed to its end unless the target is full or the stream ended.

        Args:
            source: octets (format "B") from stub position `offset` on.

        Returns:
            Bytes of the source consumed, elements stored.

        Raises:
            NdrError: (1783) a count is over the limit, or an element is no value of its type.
        """
        element = self._element
        size, stride, mask = element.size, element.stride, self._mask
        raw = target.raw if self._fast else None
        capacity = target.capacity
        available = len(source)
        position, index = 0, start
        # Stub position of source[0]: while `position` runs, the stub position is always their sum.
        base = self.offset
        while index < capacity and position < available:
            left = self._left
            if not left:
                if self.ended:
                    break
                at = position + (-(base + position) & 3)
                if self._carry or at + 4 > available:
                    position = self._carry_count(source, position, base)
                else:
                    self._begin_chunk(self._unpack_count(source, at)[0])
                    position = at + 4
                left = self._left
                if not left:
                    continue
            rest = available - position
            if mask and not self._carry:
                gap = -(base + position) & mask
                if gap:
                    gap = min(gap, rest)
                    position += gap
                    rest -= gap
            if self._carry or rest < size:
                taken = min(size - len(self._carry), rest)
                self._carry += source[position : position + taken]
                position += taken
                if len(self._carry) == size:
                    self._store(memoryview(self._carry), 0, 1, target, index)
                    self._carry = bytearray()
                    self._left = left - 1
                    index += 1
                continue
            count = min((rest - size) // stride + 1, left, capacity - index)
            nbytes = (count - 1) * stride + size
            if raw is not None:
                to = index * size
                raw[to : to + nbytes] = source[position : position + nbytes]
            else:
                self._store(source, position, count, target, index)
            position += nbytes
            self._left = left - count
            index += count
        self.offset = base + position
        return position, index - start

    def ready(self, source: memoryview) -> bool:
        """Return whether `read` with this much would deliver an element, the end, or an error. Changes nothing."""
        offset, left, carried = self.offset, self._left, len(self._carry)
        rest = len(source)
        if not left:
            if self.ended:
                return True
            gap = 0 if carried else -offset & 3
            at = gap - carried
            if rest < at + 4:
                return False
            head = bytes(self._carry) + bytes(source[gap : at + 4])
            left = int(self._unpack_count(head)[0])
            if not left or left > self._max:
                return True
            offset += at + 4
            rest -= at + 4
            carried = 0
        gap = 0 if carried else -offset & self._mask
        return rest >= gap + self._element.size - carried

    def direct(self, target: Target, start: int) -> memoryview | None:
        """Return the memory into which the bytes that follow on the wire may be received at once, or None.

        It is the rest of the current chunk as far as the target reaches (index `start` on). Nothing is accounted for:
        whoever received into it says so with `direct_done`. None when the next bytes are a count or a gap, in the other
        byte order, or become objects.
        """
        raw = target.raw
        left = self._left
        if raw is None or not left or not self._fast:
            return None
        size = self._element.size
        at = start * size
        end = at + min(left, target.capacity - start) * size
        if self._carry:
            carried = len(self._carry)
            if end == at:
                return None
            # The bytes that came before go where they belong, so that the rest can follow them.
            raw[at : at + carried] = self._carry
            at += carried
        elif -self.offset & self._mask:
            return None
        return raw[at:end] if end > at else None

    def direct_done(self, target: Target, start: int, nbytes: int) -> int:
        """Account for `nbytes` received into the memory of `direct(target, start)`.

        Returns:
            Elements completed, from index `start` on. The beginning of a further one is kept inside.
        """
        raw = target.raw
        if raw is None or not nbytes:
            return 0
        size = self._element.size
        total = len(self._carry) + nbytes
        count, rest = divmod(total, size)
        at = (start + count) * size
        self._carry = bytearray(raw[at : at + rest])
        self._left -= count
        self.offset += nbytes
        return count

    def _carry_count(self, source: memoryview, position: int, base: int) -> int:
        """Take what there is of a count that is not there as a whole; return the new position in `source`."""
        available = len(source)
        if not self._carry:
            position = min(position + (-(base + position) & 3), available)
        taken = min(4 - len(self._carry), available - position)
        self._carry += source[position : position + taken]
        if len(self._carry) == 4:
            count = self._unpack_count(self._carry)[0]
            self._carry = bytearray()
            self._begin_chunk(count)
        return position + taken

    def _begin_chunk(self, count: int) -> None:
        if count > self._max:
            raise NdrError(f"a chunk of {count} elements of {self._element.name}, the limit is {self._max}")
        self._left = count
        self.ended = not count

    def _store(self, source: memoryview, position: int, count: int, target: Target, index: int) -> None:
        """Store whole elements that need more than a copy, or that go to objects."""
        element = self._element
        layout = element.layout
        raw = target.raw
        if raw is None:
            target.store(index, layout.unpack_many(source, position, count, self._order.index))
            return
        size = element.size
        octets: memoryview | bytes = source[position : position + count * size]
        if not self._fast:
            octets = byteswapped(octets, size) if size > 1 else bytes(octets).translate(_TRUTH)
        raw[index * size : (index + count) * size] = octets

    def __repr__(self) -> str:
        state = "ended" if self.ended else f"{self._left} elements of the chunk to come"
        return f"<PipeReader of {self._element.name} at {self.offset}, {state}>"

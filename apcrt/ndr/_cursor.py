"""Where encoding and decoding stand: a growing stub, and a stub being read under limits.

What lives here: positions, alignment, running out of data, and the bookkeeping that spans types (hoisted counts,
deferred pointees, checks of sizes that come later). What must not: any knowledge of a type.

Alignment is relative to the start of the stub, not of a buffer, so both sides carry an absolute `offset` (C706 14.2.2).
Gap octets are written as zero and ignored when read.

A decoder never allocates by a number that it has read: a count is first multiplied with the fewest bytes that its
elements can take and compared with what is there (final data) or with the budget (data still arriving).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from apcrt.ndr._errors import NdrError, NeedMoreData, ValueRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apcrt.ndr._codec import Codec
    from apcrt.ndr._order import ByteOrder

_LONG = (Struct("<I"), Struct(">I"))
_GAPS = tuple(bytes(n) for n in range(8))

FIRST_REFERENT = 0x00020000
REFERENT_STEP = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may make a decoder do.

    Attributes:
        max_depth: pointers followed one inside the other (a recursive type could otherwise exhaust the stack).
        max_elements: elements of arrays that become Python objects, together (byte arrays cost no object per element).
        max_bytes: stub bytes that may be asked for with `NeedMoreData`: what a stream can make its reader collect.
    """

    max_depth: int = 64
    max_elements: int = 1 << 20
    max_bytes: int = 4 << 20


DEFAULT_LIMITS = Limits()


class Encoder:
    """A stub, or the next part of one, being written.

    Args:
        order: byte order of what is written.
        offset: stub position (bytes) at which this part begins; alignment counts from stub position 0.
        limit: most bytes that may be written here; None for no limit.

    Not safe for several threads at once; one encoder belongs to one call.
    """

    __slots__ = ("_base", "_limit", "_referent", "data", "depth", "order", "order_index", "pending")

    def __init__(self, order: ByteOrder, *, offset: int = 0, limit: int | None = None) -> None:
        self.data: bytearray = bytearray()
        self.order: ByteOrder = order
        self.order_index: int = order.index
        self._base = offset
        self._limit = limit
        self._referent = FIRST_REFERENT
        self.depth: int = 0
        # Pointees of the constructed type under way, in order of appearance: (codec, value, env).
        self.pending: list[tuple[Codec, object, Mapping[str, object]]] = []

    @property
    def offset(self) -> int:
        """Stub position of the next byte to be written."""
        return self._base + len(self.data)

    def align(self, n: int) -> None:
        """Write zero octets up to the next multiple of `n` (1, 2, 4 or 8) in the stub."""
        gap = -(self._base + len(self.data)) & (n - 1)
        if gap:
            self.data += _GAPS[gap]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append octets as they are.

        Raises:
            ValueRefused: (87) the limit of this encoder is passed.
        """
        if self._limit is not None and len(self.data) + len(data) > self._limit:
            raise ValueRefused(f"the encoded parameters pass the limit of {self._limit} bytes")
        self.data += data

    def write_long(self, value: int) -> None:
        """Append an aligned unsigned 32-bit number: a count, an offset or a referent."""
        self.align(4)
        self.write(_LONG[self.order_index].pack(value))

    def write_count(self, count: int) -> None:
        """Append an aligned count of elements.

        Raises:
            ValueRefused: (87) more than 2^31-1 elements, which no NDR array can have here.
        """
        if count > 0x7FFFFFFF:
            raise ValueRefused(f"{count} elements are more than an array can have (2147483647)")
        self.write_long(count)

    def next_referent(self) -> int:
        """Return a fresh, nonzero referent identifier (any value is valid; these are the customary ones)."""
        referent = self._referent
        self._referent += REFERENT_STEP
        return referent


class Decoder:
    """A stub, or the next part of one, being read.

    Args:
        data: the bytes at hand, from stub position `offset` on.
        order: byte order of the PDU that carried them.
        offset: stub position (bytes) of `data[0]`.
        final: True when no more will come: running out of data is then an `NdrError` (1783), otherwise `NeedMoreData`.
        limits: what the peer may make us do.
        progress: of an earlier decoder over less of the same stub, so that finished pointees are not read again.

    Not safe for several threads at once. Sans-IO; holds on to `data` only as long as it lives.
    """

    __slots__ = (
        "_base", "_elements", "_end", "data", "depth", "final", "hoisted", "late", "limits", "order",
        "order_index", "pending", "position", "progress",
    )  # fmt: skip

    def __init__(
        self,
        data: memoryview | bytes | bytearray,
        order: ByteOrder,
        *,
        offset: int = 0,
        final: bool,
        limits: Limits = DEFAULT_LIMITS,
        progress: Progress | None = None,
    ) -> None:
        self.data: memoryview = memoryview(data)
        self.order: ByteOrder = order
        self.order_index: int = order.index
        self.final: bool = final
        self.limits: Limits = limits
        self.position: int = 0
        self._base = offset
        self._end = len(self.data)
        self._elements = limits.max_elements
        self.depth: int = 0
        self.progress: Progress | None = progress
        self.hoisted: list[int] = []
        self.pending: list[Referent] = []
        # Sizes that are parameters further on: checked when those have been read.
        self.late: list[LateCheck] = []

    @property
    def offset(self) -> int:
        """Stub position of the next byte to be read."""
        return self._base + self.position

    @property
    def remaining(self) -> int:
        """Bytes at hand that have not been read."""
        return self._end - self.position

    def align(self, n: int) -> None:
        """Skip to the next multiple of `n` (1, 2, 4 or 8) in the stub; the skip may lead past the data at hand."""
        self.position += -(self._base + self.position) & (n - 1)

    def take(self, n: int) -> int:
        """Return the place in `data` of the next `n` bytes and step over them.

        Raises:
            NdrError: (1783) the stub ends before them.
            NeedMoreData: they have not arrived.
        """
        start = self.position
        end = start + n
        if end > self._end:
            self._short(end)
        self.position = end
        return start

    def require(self, n: int) -> None:
        """Make sure that `n` bytes follow, without stepping over them. Raises as `take` does."""
        end = self.position + n
        if end > self._end:
            self._short(end)

    def read_long(self) -> int:
        """Read an aligned unsigned 32-bit number. Raises as `take` does."""
        self.align(4)
        start = self.take(4)
        value: int = _LONG[self.order_index].unpack_from(self.data, start)[0]
        return value

    def charge(self, elements: int) -> None:
        """Count elements that are going to become Python objects.

        Raises:
            NdrError: (1783) together they are more than the limit.
        """
        self._elements -= elements
        if self._elements < 0:
            raise NdrError(f"arrays have more than {self.limits.max_elements} elements together")

    def descend(self) -> None:
        """Go one pointer deeper; the caller takes `depth` back when it returns.

        Raises:
            NdrError: (1783) the depth limit is passed.
        """
        self.depth += 1
        if self.depth > self.limits.max_depth:
            raise NdrError(f"pointers are nested deeper than {self.limits.max_depth}")

    def mark(self) -> Mark:
        """Return where this decoder stands, for a later one to `go_to`."""
        return self.offset, self._elements

    def go_to(self, mark: Mark) -> None:
        """Stand where an earlier decoder over the same stub stood."""
        self.position = mark[0] - self._base
        self._elements = mark[1]

    def _short(self, end: int) -> NoReturn:
        if self.final:
            raise NdrError(f"the stub ends at byte {self._base + self._end}, {end - self._end} bytes are missing")
        if self._base + end > self.limits.max_bytes:
            raise NdrError(f"the parameters need {self._base + end} bytes, the limit is {self.limits.max_bytes}")
        raise NeedMoreData(self._base + end)


Mark: TypeAlias = tuple[int, int]


class Progress:
    """What decoding has finished when data ran out, kept from one attempt to the next.

    Without it each attempt begins at the start of the stub, and a peer that sends many small pointees in many small
    fragments makes the work grow with the square of what it sends. One per stub; opaque to whoever keeps it.
    """

    __slots__ = ("fields", "suspended")

    def __init__(self) -> None:
        # By the stub position where each unfinished value began; a value takes at least one byte, so positions differ.
        self.suspended: dict[int, Suspended] = {}
        self.fields: SuspendedFields | None = None


@dataclass(frozen=True, slots=True)
class Suspended:
    """A value whose own bytes have been read, and some of its deferred pointees.

    Attributes:
        raw: the value in place.
        pending: all its pointers.
        index: the first one whose pointee has not been read.
        mark: where that pointee begins.
    """

    raw: object
    pending: list[Referent]
    index: int
    mark: Mark


@dataclass(frozen=True, slots=True)
class SuspendedFields:
    """A row of parameters of which some have been read.

    Attributes:
        index: the first parameter that has not.
        mark: where it begins.
        values: those read.
        scope: where size parameters are looked up; referents hold on to it.
        late: (parameter, size parameter, elements) to be compared at the end.
    """

    index: int
    mark: Mark
    values: dict[str, object]
    scope: dict[str, object]
    late: list[tuple[str, str, int]]


class Referent:
    """The place of an embedded pointer whose pointee comes after the constructed type that holds the pointer."""

    __slots__ = ("codec", "env", "value")

    def __init__(self, codec: Codec, env: Mapping[str, object]) -> None:
        self.codec = codec
        self.env = env
        self.value: object = None


@dataclass(frozen=True, slots=True)
class LateCheck:
    """A conformant array whose size parameter had not been read yet.

    Attributes:
        size_is: name of the parameter that gives the size.
        count: elements that the array had.
    """

    size_is: str
    count: int

"""One message being sent: stub bytes in, whole fragments out.

What lives here: `OutgoingStub`. What must not: which call may send (`_client`, `_server`), and what the bytes mean.

How it works. Small pieces are collected in the *open fragment*, a bytearray. `take` cuts what is there, the open
fragment first and the caller's buffers after it, into fragments, and returns them as a gather list: a header, then
views of the payload. Nothing of any size is copied except what stays behind. A header costs one `struct` call, because
all that changes in it is two flags, the length and the hint.

The rules of fragments (C706 12.6.4.9, and what peers are known to trip over):
- The payload of every fragment but the last is a multiple of 8, so that values of up to 8 bytes are aligned in it.
  Another end of this runtime does not mind; to it nothing is held back, so that a flushed element arrives.
- There is no empty fragment, except a last one when everything else has left already.
- The allocation hint of a fragment that is not the last exceeds its payload; servers of OSF descent insist.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from apcrt.ndr import ByteOrder
from apcrt.status import RpcUsageError, Status
from apcrt.wire._numbers import FIRST, HEADER_SIZE, LAST, OBJECT, PacketType
from apcrt.wire._pdu import DREP

Chunk = bytes | bytearray | memoryview

_MESSAGE_HEADER: Final = 24
_OBJECT_HEADER: Final = 40
# Prefix (version to drep), frag_length, auth_length, call_id, alloc_hint, and what stays the same behind it.
_HEADERS: Final = tuple(
    {size: struct.Struct(f"{order.prefix}8sHHII{size - 20}s") for size in (_MESSAGE_HEADER, _OBJECT_HEADER)}
    for order in (ByteOrder.LITTLE, ByteOrder.BIG)
)
# The first 8 bytes of a header, version to drep: four of them, by FIRST and LAST.
_PREFIXES: Final = {
    (order.index, size, ptype): tuple(
        bytes((5, 0, ptype, flags | (OBJECT if size == _OBJECT_HEADER else 0))) + DREP[order.index]
        for flags in (0, FIRST, LAST, FIRST | LAST)
    )
    for order in ByteOrder
    for size in (_MESSAGE_HEADER, _OBJECT_HEADER)
    for ptype in (PacketType.REQUEST, PacketType.RESPONSE)
}
_MAX_HINT: Final = 0xFFFFFFFF


class OutgoingStub:
    """A request or a response on its way out. Made by an association; not thread-safe.

    Args:
        ptype: request or response.
        call_id: the call.
        fragment: bytes of the largest fragment that may be sent.
        order: our byte order.
        tail: what follows the allocation hint in every header: 4 bytes, or 20 with an object UUID.
        streams: does the message carry pipes, so that its length is not known beforehand?
        aligned: must every payload but the last be a multiple of 8?
    """

    __slots__ = (
        "_budget",
        "_open",
        "_pack",
        "_prefixes",
        "_size",
        "_streams",
        "_tail",
        "begun",
        "call_id",
        "finished",
        "granule",
        "offset",
    )

    def __init__(
        self,
        ptype: PacketType,
        call_id: int,
        *,
        fragment: int,
        order: ByteOrder,
        tail: bytes,
        streams: bool,
        aligned: bool = True,
    ) -> None:
        self.call_id: int = call_id
        #: Stub bytes accepted so far, which is the stub position of the next one.
        self.offset: int = 0
        #: True once the first fragment has been taken.
        self.begun: bool = False
        #: True once the last fragment has been taken, or the message was given up.
        self.finished: bool = False
        self._size = HEADER_SIZE + 4 + len(tail)
        self._budget = (fragment - self._size) & ~7
        #: What flushed stub bytes are rounded down to; up to this less one stay behind.
        self.granule = 8 if aligned else 1
        self._pack = _HEADERS[order.index][self._size].pack
        self._prefixes = _PREFIXES[order.index, self._size, ptype]
        self._tail = tail
        self._streams = streams
        self._open = bytearray()

    @property
    def pending(self) -> int:
        """Stub bytes in the open fragment, which were accepted and not yet taken."""
        return len(self._open)

    @property
    def budget(self) -> int:
        """Stub bytes of a full fragment; a multiple of 8."""
        return self._budget

    def add(self, data: Chunk) -> None:
        """Copy bytes into the open fragment: the way of small pieces. A view must be one of bytes (format B).

        Raises:
            RpcUsageError: (1914) the last fragment has been taken.
        """
        if self.finished:
            raise _too_late()
        self._open += data
        self.offset += len(data)

    def take(self, buffers: Sequence[Chunk] = (), *, flush: bool = False, last: bool = False) -> list[Chunk]:
        """Cut fragments from the open fragment followed by `buffers`, without copying either.

        Args:
            buffers: more stub bytes; views must be of bytes (format B). They are sliced, not copied: the fragments must
                have left, or been copied, before the memory changes.
            flush: let a fragment leave that is not full. To strangers up to seven bytes stay behind even then.
            last: this is the end of the message; everything leaves.

        Returns:
            A gather list: for each fragment its header, then its payload in pieces. Empty if no fragment is due. What
            was the open fragment is handed over, so the list stays valid whatever is added or taken later.

        Raises:
            RpcUsageError: (1914) the last fragment has been taken.
        """
        if self.finished:
            raise _too_late()
        held = self._open
        fresh = 0
        for buffer in buffers:
            fresh += len(buffer)
        self.offset += fresh
        total = len(held) + fresh
        if last:
            leaving = total
        elif flush:
            leaving = total - total % self.granule
        else:
            leaving = total - total % self._budget
        if not leaving and not last:
            for buffer in buffers:
                held += buffer
            return []
        self._open = bytearray()
        self.finished = last
        return self._cut([held, *buffers] if held else buffers, leaving, last)

    def _cut(self, pieces: Sequence[Chunk], left: int, last: bool) -> list[Chunk]:
        """Build the fragments of the first `left` bytes of `pieces`; what is behind them becomes the open fragment."""
        out: list[Chunk] = []
        index = position = 0
        while True:
            size = min(left, self._budget)
            # Peers count on the whole rest only in messages without pipes, and it is known only when all is there.
            hint = left if last and not self._streams else size + 4
            left -= size
            final = last and not left
            flags = (0 if self.begun else FIRST) | (LAST if final else 0)
            if final:
                hint = size
            self.begun = True
            out.append(
                self._pack(self._prefixes[flags], size + self._size, 0, self.call_id, min(hint, _MAX_HINT), self._tail)
            )
            while size:
                piece = pieces[index]
                have = len(piece) - position
                if have > size:
                    out.append(memoryview(piece)[position : position + size])
                    position += size
                    break
                if have:
                    out.append(memoryview(piece)[position:] if position else piece)
                index += 1
                position = 0
                size -= have
            if not left:
                break
        for piece in pieces[index:]:
            self._open += memoryview(piece)[position:]
            position = 0
        return out

    def empty_last(self) -> bytes:
        """A last fragment without payload, for a message that is given up in the middle. For the association."""
        return self._pack(self._prefixes[LAST], self._size, 0, self.call_id, 0, self._tail)

    def give_up(self) -> None:
        """Send nothing more of this message; what was not taken is dropped. For the association."""
        self.finished = True
        self._open = bytearray()


def _too_late() -> RpcUsageError:
    return RpcUsageError(Status.RPC_S_INVALID_ASYNC_HANDLE, "the message has ended")

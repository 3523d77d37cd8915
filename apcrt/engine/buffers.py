"""Receive buffers, lent while data is partial and given back at once.

What lives here: `BufferPool`, and `Inbox`, which holds received stub bytes until somebody asks for them. What must
not: sockets and protocol.

How it works. A connection owns no receive buffer: a thousand idle connections must not cost a thousand buffers. To
receive, it borrows one, feeds the wire machine, and gives the buffer back unless stub bytes in it are still unread.
In that case the inbox keeps it, or, when little is left, copies the rest out, so that a buffer of 64 KiB is not held
for a few bytes.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["BUFFER_SIZE", "BufferPool", "Inbox"]

BUFFER_SIZE: Final = 65536 + 512  # bytes: the largest fragment, and the next header
KEPT: Final = 32  # buffers that the pool keeps when nobody borrows; 2 MiB
COPY_BELOW: Final = 8192  # bytes: a rest up to this is copied out


class BufferPool:
    """Buffers of `BUFFER_SIZE` bytes. Thread-safe: list operations are atomic, and nothing else is shared."""

    __slots__ = ("_free",)

    def __init__(self) -> None:
        self._free: list[memoryview] = []

    def lend(self) -> memoryview:
        """A writable buffer with undefined content; the borrower gives it back or keeps it for good."""
        try:
            return self._free.pop()
        except IndexError:
            return memoryview(bytearray(BUFFER_SIZE))

    def give_back(self, buffer: memoryview) -> None:
        """Return a buffer that nobody looks at any more."""
        if len(self._free) < KEPT:
            self._free.append(buffer)


class Inbox:
    """Received stub bytes of one call, in order, not yet asked for. Guarded by the connection's lock."""

    __slots__ = ("_held", "_pool", "_views", "size")

    def __init__(self, pool: BufferPool) -> None:
        self._pool = pool
        self._views: deque[memoryview] = deque()
        self._held: list[memoryview] = []
        #: Bytes waiting.
        self.size: int = 0

    def put(self, view: memoryview) -> None:
        """Add bytes, which still stand in the buffer they were received into; `settle` must follow."""
        self._views.append(view)
        self.size += len(view)

    def settle(self, buffer: memoryview) -> bool:
        """Decide what becomes of the buffer that the newest views stand in; True when the inbox keeps it."""
        if not self.size:
            return False
        if self.size <= COPY_BELOW:
            rest = memoryview(b"".join(self._views))
            self._views.clear()
            self._views.append(rest)
            self._release()
            return False
        self._held.append(buffer)
        return True

    @property
    def head(self) -> memoryview:
        """The first contiguous bytes; only when `size` is not 0."""
        return self._views[0]

    def join(self) -> memoryview:
        """All bytes as one piece, for somebody who cannot use the head alone."""
        if len(self._views) > 1:
            whole = memoryview(b"".join(self._views))
            self._views.clear()
            self._views.append(whole)
            self._release()
        return self._views[0]

    def consume(self, count: int) -> None:
        """Drop `count` bytes from the head, which has at least as many."""
        if not count:
            return
        self.size -= count
        head = self._views[0]
        if count == len(head):
            self._views.popleft()
            if not self._views:
                self._release()
        else:
            self._views[0] = head[count:]

    def clear(self) -> None:
        """Drop everything."""
        self._views.clear()
        self.size = 0
        self._release()

    def _release(self) -> None:
        for buffer in self._held:
            self._pool.give_back(buffer)
        self._held.clear()

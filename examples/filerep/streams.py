"""What a server sends: the listing of a tree, the content of a file, or its changes, one piece at a time.

What lives here: the source of each stream that a `Sender` pushes, and the reply that belongs to it. What must not:
calls and threads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from io import FileIO
from typing import Protocol, TypeVar

from examples.filerep import delta
from examples.filerep.interface import Receipt
from examples.filerep.paths import Tree, attributes
from examples.filerep.records import encode_entry

__all__ = ["ChangeStream", "FileStream", "ListingStream", "Outgoing"]

R_co = TypeVar("R_co", covariant=True)


class Outgoing(Protocol[R_co]):
    """A stream on its way out. Pieces may share one buffer: be done with one before asking for the next."""

    def next_piece(self) -> bytes | memoryview:
        """The next piece; nothing at the end. Raises OSError."""
        ...

    def reply(self) -> R_co:
        """What the call replies with, once all of the stream has been pushed."""
        ...

    def close(self) -> None:
        """Let go of files. Idempotent."""
        ...


class ListingStream:
    """All entries of a tree, as records."""

    def __init__(self, tree: Tree, exclude: frozenset[str], size: int) -> None:
        self._entries = 0
        self._pieces = self._produce(tree, exclude, size)

    def next_piece(self) -> bytes:
        """About `size` bytes of records."""
        return next(self._pieces, b"")

    def reply(self) -> int:
        """The number of entries."""
        return self._entries

    def close(self) -> None:
        """Close the directory that is being read."""
        self._pieces.close()

    def _produce(self, tree: Tree, exclude: frozenset[str], size: int) -> Generator[bytes]:
        piece = bytearray()
        for entry in tree.walk(exclude):
            piece += encode_entry(entry)
            self._entries += 1
            if len(piece) >= size:
                yield bytes(piece)
                piece.clear()
        if piece:
            yield bytes(piece)


class FileStream:
    """The content of a file, hashed on the way; the receipt is of what was sent, should the file change meanwhile."""

    def __init__(self, file: FileIO, size: int) -> None:
        self._file = file
        self._size = size
        self._hash = hashlib.sha256()
        self._length = 0
        self._pieces = self._produce()

    def next_piece(self) -> bytes | memoryview:
        """The next piece of the content."""
        return next(self._pieces, b"")

    def reply(self) -> Receipt:
        """The attributes of the file and the hash of what was sent."""
        looks = attributes(self._file)
        return Receipt(self._length, looks.modified, looks.mode, self._hash.digest())

    def close(self) -> None:
        """Close the file."""
        self._pieces.close()
        self._file.close()

    def _produce(self) -> Generator[bytes | memoryview]:
        for piece in delta.content(self._file, self._size):
            self._seen(piece)
            yield piece

    def _seen(self, piece: memoryview) -> None:
        self._hash.update(piece)
        self._length += len(piece)


class ChangeStream(FileStream):
    """What makes an old copy into the file. `old`, the copy's fingerprints, is filled before the first piece."""

    def __init__(self, file: FileIO, block: int) -> None:
        super().__init__(file, block)
        self.old = bytearray()

    def _produce(self) -> Generator[bytes | memoryview]:
        yield from delta.changes(self._file, self._size, self.old, self._seen)

"""Only what differs: fingerprints of the old copy one way, instructions for the new one the other way.

What lives here: both ends of the transformation, over plain files and iterators. What must not: calls and pipes.

The owner of an old copy sends one fingerprint for each block of it. The owner of the new file reads it block by block
and answers with a stream of instructions, in order: KEEP so many bytes of the old copy from where we are, or take so
much new DATA. Blocks are compared where they lie, at the same offset: what changes in place or grows at the end costs
little; what is inserted at the front moves everything behind it, and costs a whole transfer. (Finding moved blocks
takes a rolling checksum, one step per byte: not a thing for Python.)

Blocks are 64 KiB, and more for large files, so that the fingerprints, which the server has to hold, are 1 MiB at the
most.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from io import FileIO
from typing import TYPE_CHECKING, Final

import apcrt
from apcrt import Status

if TYPE_CHECKING:
    from examples.filerep.replica import Replica

__all__ = [
    "FINGERPRINT",
    "LARGEST_BLOCK",
    "MOST_BLOCKS",
    "SMALLEST_BLOCK",
    "STEP",
    "Patch",
    "block_size",
    "changes",
    "content",
    "fingerprints",
]

SMALLEST_BLOCK: Final = 64 * 1024
LARGEST_BLOCK: Final = 64 * 1024 * 1024
MOST_BLOCKS: Final = 64 * 1024
FINGERPRINT: Final = 16  # bytes: half a SHA-256
STEP: Final = 1 << 20  # bytes that are worked on before others get their turn

_KEEP: Final = 1
_DATA: Final = 2
_INSTRUCTION: Final = struct.Struct("<BI")
_ZEROS: Final = bytearray(SMALLEST_BLOCK)
_ZEROS_FINGERPRINT: Final = hashlib.sha256(_ZEROS).digest()[:FINGERPRINT]


def block_size(size: int) -> int:
    """Bytes in a block of a file of `size` bytes: a power of two."""
    block = SMALLEST_BLOCK
    while block < LARGEST_BLOCK and size > block * MOST_BLOCKS:
        block *= 2
    return block


def content(file: FileIO, size: int) -> Iterator[memoryview]:
    """A file in pieces of `size` bytes, all in one buffer: be done with a piece before asking for the next."""
    view = memoryview(bytearray(size))
    filled = 0
    while count := file.readinto(view[filled:]):
        filled += count
        if filled == size:
            yield view
            filled = 0
    if filled:
        yield view[:filled]


def fingerprints(file: FileIO, block: int) -> Iterator[bytes]:
    """Those of every block of the old copy, joined for about STEP bytes of the file at a time."""
    joined = bytearray()
    at_once = max(1, STEP // block) * FINGERPRINT
    for piece in content(file, block):
        joined += _fingerprint(piece)
        if len(joined) >= at_once:
            yield bytes(joined)
            joined.clear()
    if joined:
        yield bytes(joined)


def changes(file: FileIO, block: int, old: bytes | bytearray, seen: Callable[[memoryview], object]) -> Iterator[bytes]:
    """The instructions that make a copy with the fingerprints `old` into `file`, for at most STEP or a block at a time.

    `seen` is called with all of the file, piece by piece.
    """
    kept = 0
    for index, piece in enumerate(content(file, block)):
        seen(piece)
        same = _fingerprint(piece) == old[index * FINGERPRINT : (index + 1) * FINGERPRINT]
        if same:
            kept += len(piece)
        if kept and (kept >= STEP or not same):
            yield _INSTRUCTION.pack(_KEEP, kept)
            kept = 0
        if not same:
            yield b"".join((_INSTRUCTION.pack(_DATA, len(piece)), piece))
    if kept:
        yield _INSTRUCTION.pack(_KEEP, kept)


class Patch:
    """Follows the instructions: writes a replica from the old copy and what is new.

    Args:
        old: the old copy, at its beginning.
        replica: what is being made.
    """

    def __init__(self, old: FileIO, replica: Replica) -> None:
        self.new_bytes = 0
        self._old = old
        self._replica = replica
        self._head = bytearray()  # of an instruction that has not arrived whole
        self._data = 0  # bytes of a DATA that are still to come

    def apply(self, piece: memoryview) -> Iterator[None]:
        """Follow what `piece` holds of the stream, pausing after every STEP of copying; the piece must stay as it is.

        Raises:
            RpcError: 1783, the instructions are damaged, or are for another old copy.
            OSError: writing or reading failed.
        """
        while len(piece):
            if self._data:
                new, piece = piece[: self._data], piece[self._data :]
                self._replica.write(new)
                self._data -= len(new)
                self.new_bytes += len(new)
                continue
            missing = _INSTRUCTION.size - len(self._head)
            self._head += piece[:missing]
            piece = piece[missing:]
            if len(self._head) < _INSTRUCTION.size:
                return
            kind, length = _INSTRUCTION.unpack(self._head)
            self._head.clear()
            if kind == _DATA:
                self._data = length
            elif kind == _KEEP:
                yield from self._keep(length)
            else:
                raise _damaged(f"there is no instruction {kind}")

    def finish(self) -> None:
        """The stream has ended.

        Raises:
            RpcError: 1783, inside an instruction.
        """
        if self._head or self._data:
            raise _damaged("they end too early")

    def _keep(self, length: int) -> Iterator[None]:
        self._old.seek(self._replica.size)
        buffer = memoryview(bytearray(min(length, STEP)))
        while length:
            count = self._old.readinto(buffer[: min(length, STEP)])
            if not count:
                raise _damaged("they keep more than there is")
            self._replica.write(buffer[:count])
            length -= count
            yield


def _fingerprint(piece: memoryview) -> bytes:
    # Sparse files are mostly zeros; a bytearray compares with any buffer by memcmp, which stops where they differ.
    if len(piece) == SMALLEST_BLOCK and piece == _ZEROS:
        return _ZEROS_FINGERPRINT
    return hashlib.sha256(piece).digest()[:FINGERPRINT]


def _damaged(what: str) -> apcrt.RpcError:
    return apcrt.RpcError(Status.RPC_X_BAD_STUB_DATA, f"the instructions are damaged: {what}")

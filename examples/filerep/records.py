"""The listing of a tree as a stream of bytes: one record for each entry.

What lives here: `Entry`, its encoding, and a decoder that takes the stream in any pieces. What must not: file systems.

Elements of a pipe have a fixed size and names have not, so the listing is a pipe of bytes and has a form of its own:
a header of fixed size and the path behind it, as the octets that the file system knows it by. A page of records in an
array would do as well, but the server would have to find its place again for every page, and a million entries must
not cost either side more memory than one buffer.
"""

from __future__ import annotations

import enum
import os
import struct
from dataclasses import dataclass
from typing import Final

import apcrt
from apcrt import Status

__all__ = ["Entry", "EntryReader", "Kind", "encode_entry"]

_HEADER: Final = struct.Struct("<BxHIQqI")  # kind, mode, status, size, modified, octets of the path
_LONGEST_PATH: Final = 1 << 20  # octets; far beyond PATH_MAX, since deep trees are walked one directory at a time


class Kind(enum.IntEnum):
    """What an entry is; only files and directories are replicated."""

    FILE = 1
    DIRECTORY = 2
    LINK = 3
    SPECIAL = 4
    UNREADABLE = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a tree. `status` says why an UNREADABLE one is."""

    kind: Kind
    path: str
    size: int = 0
    modified: int = 0
    mode: int = 0
    status: int = 0


def encode_entry(entry: Entry) -> bytes:
    """The record of an entry."""
    path = os.fsencode(entry.path)
    return _HEADER.pack(entry.kind, entry.mode, entry.status, entry.size, entry.modified, len(path)) + path


class EntryReader:
    """Takes the stream apart, piece by piece."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, piece: bytes | bytearray | memoryview) -> list[Entry]:
        """The entries that `piece` completes.

        Raises:
            RpcError: 1783, the peer sends something else than records.
        """
        rest = self._rest
        rest += piece
        entries: list[Entry] = []
        start = 0
        while len(rest) - start >= _HEADER.size:
            kind, mode, status, size, modified, length = _HEADER.unpack_from(rest, start)
            if length > _LONGEST_PATH or not 1 <= kind <= len(Kind):
                raise apcrt.RpcError(Status.RPC_X_BAD_STUB_DATA, "the listing is damaged")
            path = rest[start + _HEADER.size : start + _HEADER.size + length]
            if len(path) < length:
                break
            entries.append(Entry(Kind(kind), os.fsdecode(bytes(path)), size, modified, mode, status))
            start += _HEADER.size + length
        del rest[:start]
        return entries

    def finish(self) -> None:
        """The stream has ended.

        Raises:
            RpcError: 1783, inside a record.
        """
        if self._rest:
            raise apcrt.RpcError(Status.RPC_X_BAD_STUB_DATA, "the listing ends inside a record")

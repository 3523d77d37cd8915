"""What server and client share: the FileRep interface, declared once.

What lives here: the operations and the structures they carry. What must not: how either side does its part.

Names of files are relative to the tree that the server serves, with "/" between their parts. Times are nanoseconds
since 1970, modes the nine permission bits, sizes bytes. The streams of bytes inside the pipes have a form of their own
where they are not simply the content of a file: `records` for the listing, `delta` for fingerprints and changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import apcrt
from apcrt import ndr

__all__ = ["Attributes", "FileRep", "Receipt", "ServerTally", "Sha256"]

Sha256 = Annotated[bytes, ndr.Array(ndr.Byte, count=32)]


@dataclass(frozen=True, slots=True)
class Attributes:
    """What makes two files look the same without reading them, and what a replica is given."""

    size: ndr.UInt64
    modified: ndr.Int64
    mode: ndr.UInt32


@dataclass(frozen=True, slots=True)
class Receipt:
    """What went through a pipe, or lies in a file: sent after the data, so that both sides can compare."""

    size: ndr.UInt64
    modified: ndr.Int64
    mode: ndr.UInt32
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class ServerTally:
    """What the server has counted since it began."""

    calls: ndr.UInt64
    send_completes: ndr.UInt64
    receive_completes: ndr.UInt64
    wrong_thread: ndr.UInt64


class FileRep(apcrt.Interface, uuid="d0a1f3b6-7c1e-4e0f-9d2b-5f6c3a8e4b71", version="1.0"):
    """A directory tree, to be read and, if its owner allows it, written."""

    @apcrt.operation
    def list_tree(self, records: apcrt.OutPipe[ndr.Byte]) -> ndr.UInt64:
        """Everything in the tree, directories before what is in them; replies with the number of entries."""
        raise NotImplementedError

    @apcrt.operation
    def read(self, path: ndr.WString, content: apcrt.OutPipe[ndr.Byte]) -> Receipt:
        """A whole file."""
        raise NotImplementedError

    @apcrt.operation
    def read_changes(self, path: ndr.WString, block: ndr.UInt32, blocks: apcrt.InOutPipe[ndr.Byte]) -> Receipt:
        """In: fingerprints of the caller's old copy, one for each `block` bytes. Out: what makes it the new one."""
        raise NotImplementedError

    @apcrt.operation
    def write(
        self, path: ndr.WString, modified: ndr.Int64, mode: ndr.UInt32, content: apcrt.InPipe[ndr.Byte]
    ) -> Receipt:
        """Create or replace a file; the receipt is of what has arrived."""
        raise NotImplementedError

    @apcrt.operation
    def make_directory(self, path: ndr.WString, mode: ndr.UInt32) -> None:
        """Create a directory, and those above it, where they are missing."""
        raise NotImplementedError

    @apcrt.operation
    def stat(self, path: ndr.WString) -> Attributes:
        """How a file looks from outside."""
        raise NotImplementedError

    @apcrt.operation
    def digest(self, path: ndr.WString) -> Receipt:
        """How a file looks from inside: read it there, and send its SHA-256."""
        raise NotImplementedError

    @apcrt.operation
    def statistics(self) -> ServerTally:
        """The server's own count of notifications."""
        raise NotImplementedError

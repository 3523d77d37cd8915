"""A file in the making: whole under its own name, or not there.

What lives here: `Replica`. What must not: where the data comes from.

The data goes into a file with a temporary name in the same directory, is hashed on its way, and gets the real name in
one step at the end (rename), so that a server that dies, a full disk or Ctrl-C never leave half a file in the place of
a good one. Blocks of zeros are skipped, not written: a sparse file stays sparse.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from typing import Final

from examples.filerep.paths import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, Tree

__all__ = ["Replica"]

_ZEROS: Final = bytearray(64 * 1024)
_serial = itertools.count(1)


class Replica:
    """Made with the directories it needs; then `write` in order; then `commit` or `discard`. One thread at a time."""

    def __init__(self, tree: Tree, path: str) -> None:
        self.size = 0
        self._hash = hashlib.sha256()
        self._directory, self._name = tree.open_parent(path, make=True)
        self._temporary = f"{TEMPORARY_PREFIX}{os.getpid()}-{next(_serial)}{TEMPORARY_SUFFIX}"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self._file = os.open(self._temporary, flags, 0o600, dir_fd=self._directory)
        except BaseException:
            os.close(self._directory)
            raise
        self._open = True

    @property
    def sha256(self) -> bytes:
        """Of what has been written so far."""
        return self._hash.digest()

    def write(self, data: memoryview) -> None:
        """Append. Raises OSError; the replica can then only be discarded."""
        self._hash.update(data)
        for begin in range(0, len(data), len(_ZEROS)):
            piece = data[begin : begin + len(_ZEROS)]
            # bytearray compares with any buffer by memcmp, which stops at the first difference.
            if len(piece) < len(_ZEROS) or piece != _ZEROS:
                _write_at(self._file, piece, self.size)
            self.size += len(piece)

    def commit(self, modified: int, mode: int) -> None:
        """Give it its times, its mode and its name. On OSError it is discarded."""
        try:
            os.truncate(self._file, self.size)  # it may end in zeros that were skipped
            os.fchmod(self._file, mode & 0o777)
            os.utime(self._file, ns=(modified, modified))
            os.replace(self._temporary, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except BaseException:
            self.discard()
            raise
        self._close()

    def discard(self) -> None:
        """Leave no trace. Idempotent, and without effect once committed."""
        if self._open:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=self._directory)
            self._close()

    def _close(self) -> None:
        self._open = False
        os.close(self._file)
        os.close(self._directory)


def _write_at(file: int, data: memoryview, offset: int) -> None:
    while len(data):
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written

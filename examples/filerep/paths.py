"""A directory tree that no name can lead out of, whoever sent the name.

What lives here: opening, creating and listing what a path from the other side names. What must not: what is done
with it.

Both directions need it: a client could ask the server for `../../etc/shadow`, and a server could offer a client a file
of that name. A check of the text alone is not enough, for a symbolic link inside the tree may point anywhere, and may
be put there between check and use. So every path is walked from a descriptor of the root, one part at a time, and no
step follows a link (openat with O_NOFOLLOW). That also reaches trees deeper than PATH_MAX.

Symbolic links are not followed and not replicated. Whatever leads outside is refused with 5 ERROR_ACCESS_DENIED.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Final, Self

import apcrt
from apcrt import Status
from examples.filerep.interface import Attributes
from examples.filerep.records import Entry, Kind

__all__ = ["TEMPORARY_PREFIX", "TEMPORARY_SUFFIX", "Tree", "attributes", "parts"]

#: Files in the making have such names; listings leave them out.
TEMPORARY_PREFIX: Final = ".filerep-"
TEMPORARY_SUFFIX: Final = ".part"

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # opening a FIFO must not wait for its writer
_LINK_IN_THE_WAY: Final = (errno.ELOOP, errno.ENOTDIR)


def parts(path: str) -> list[str]:
    """The parts of a relative path.

    Raises:
        RpcError: 5 ERROR_ACCESS_DENIED, it is absolute, leads upwards, or is no name at all.
    """
    names = path.split("/")
    if "\0" in path or any(name in ("", ".", "..") for name in names):
        raise _refused(path)
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise _refused(path) from None
    return names


def attributes(file: FileIO) -> Attributes:
    """Those of an open file."""
    return _attributes(os.fstat(file.fileno()))


def _attributes(found: os.stat_result) -> Attributes:
    """What is compared and replicated of a file's status: the permission bits, but not set-user-ID and its kin."""
    return Attributes(found.st_size, found.st_mtime_ns, stat.S_IMODE(found.st_mode) & 0o777)


class Tree:
    """A directory and everything below it. Any thread; close it, or use `with`.

    Methods raise OSError for what the system refuses, and RpcError (5) for paths that lead outside.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        """Forget the root. Idempotent."""
        root, self._root = self._root, -1
        if root >= 0:
            os.close(root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # One thing by its path

    def open_parent(self, path: str, *, make: bool = False) -> tuple[int, str]:
        """A descriptor of the directory that `path` lies in, which the caller closes, and the last part of it.

        With `make`, directories that are missing on the way are made.
        """
        *above, name = parts(path)
        directory = os.dup(self._root)
        try:
            for part in above:
                below = self._descend(directory, part, path, make=make)
                os.close(directory)
                directory = below
        except BaseException:
            os.close(directory)
            raise
        return directory, name

    def open_file(self, path: str) -> FileIO:
        """Open a regular file for reading, unbuffered."""
        with self._parent(path) as (directory, name):
            try:
                descriptor = os.open(name, _FILE, dir_fd=directory)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise _refused(path) from None
                raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise apcrt.RpcError(Status.ERROR_ACCESS_DENIED, f"{path!r} is not a regular file")
        return open(descriptor, "rb", buffering=0)

    def stat(self, path: str) -> Attributes | None:
        """The attributes of a regular file; None when there is none."""
        try:
            with self._parent(path) as (directory, name):
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return _attributes(found) if stat.S_ISREG(found.st_mode) else None

    def make_directory(self, path: str, mode: int) -> None:
        """Make a directory, and those above it, where they are missing; give it `mode`, but stay able to write."""
        with self._parent(path, make=True) as (directory, name):
            made = self._descend(directory, name, path, make=True)
        try:
            wanted = mode & 0o777 | 0o700
            if stat.S_IMODE(os.fstat(made).st_mode) != wanted:
                os.fchmod(made, wanted)
        finally:
            os.close(made)

    def set_mode(self, path: str, mode: int) -> None:
        """Give a regular file these permission bits."""
        with self.open_file(path) as file:
            os.fchmod(file.fileno(), mode & 0o777)

    # Everything

    def sweep(self) -> None:
        """Remove what runs that were killed have left behind: files in the making whose process is no more."""
        pending = [""]
        while pending:
            path = pending.pop()
            with contextlib.suppress(OSError, apcrt.RpcError), self._directory(path) as descriptor:
                for child in sorted(os.listdir(descriptor)):
                    if _temporary(child) and not _alive(child):
                        os.unlink(child, dir_fd=descriptor)
                    elif stat.S_ISDIR(os.stat(child, dir_fd=descriptor, follow_symlinks=False).st_mode):
                        pending.append(f"{path}/{child}" if path else child)

    def walk(self, exclude: frozenset[str] = frozenset()) -> Iterator[Entry]:
        """Every entry, directories before what is in them; a directory that cannot be read is an entry that says so.

        `exclude`: names of files and directories to leave out, wherever they are. Holds one directory open at a time.
        """
        pending: list[str] = [""]
        while pending:
            path = pending.pop()
            try:
                for entry in self._children(path, exclude):
                    if entry.kind is Kind.DIRECTORY:
                        pending.append(entry.path)
                    yield entry
            except OSError as error:
                yield Entry(Kind.UNREADABLE, path or ".", status=Status.from_oserror(error))

    def _children(self, path: str, exclude: frozenset[str]) -> Iterator[Entry]:
        with self._directory(path) as descriptor, os.scandir(descriptor) as children:
            for child in children:
                if child.name in exclude or _temporary(child.name):
                    continue
                below = f"{path}/{child.name}" if path else child.name
                try:
                    yield _entry(below, child.stat(follow_symlinks=False))
                except FileNotFoundError:
                    continue  # gone since
                except OSError as error:
                    yield Entry(Kind.UNREADABLE, below, status=Status.from_oserror(error))

    # Inside

    @contextlib.contextmanager
    def _parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        directory, name = self.open_parent(path, make=make)
        try:
            yield directory, name
        finally:
            os.close(directory)

    @contextlib.contextmanager
    def _directory(self, path: str) -> Iterator[int]:
        if not path:
            yield self._root
            return
        with self._parent(path) as (directory, name):
            descriptor = self._descend(directory, name, path, make=False)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @staticmethod
    def _descend(directory: int, name: str, path: str, *, make: bool) -> int:
        """One step down, through no link."""
        try:
            return os.open(name, _DIRECTORY, dir_fd=directory)
        except FileNotFoundError:
            if not make:
                raise
        except OSError as error:
            if error.errno in _LINK_IN_THE_WAY and _is_link(directory, name):
                raise _refused(path) from None
            raise
        with contextlib.suppress(FileExistsError):  # another thread was faster
            os.mkdir(name, dir_fd=directory)
        return os.open(name, _DIRECTORY, dir_fd=directory)


def _entry(path: str, found: os.stat_result) -> Entry:
    if stat.S_ISREG(found.st_mode):
        looks = _attributes(found)
        return Entry(Kind.FILE, path, looks.size, looks.modified, looks.mode)
    if stat.S_ISDIR(found.st_mode):
        return Entry(Kind.DIRECTORY, path, mode=stat.S_IMODE(found.st_mode) & 0o777)
    return Entry(Kind.LINK if stat.S_ISLNK(found.st_mode) else Kind.SPECIAL, path)


def _temporary(name: str) -> bool:
    return name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX)


def _alive(name: str) -> bool:
    """Is the process running that makes the file of this temporary name?"""
    number = name.removeprefix(TEMPORARY_PREFIX).partition("-")[0]
    try:
        os.kill(int(number), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _is_link(directory: int, name: str) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)


def _refused(path: str) -> apcrt.RpcError:
    return apcrt.RpcError(Status.ERROR_ACCESS_DENIED, f"{path!r} leads out of the tree")

"""A descriptor of the operating system, as overlapped input and output sees it.

What lives here: what kinds there are, one attempt to read or to write, what its outcome is called in Windows' numbers.
What must not: lines of operations, locks, Ports (`_file`), helper threads (`_pool`).

How it works. Regular files and block devices are always "ready" and block all the same: they are read and written at
offsets, by helpers. Everything else is made non-blocking; an attempt that would have to wait has the outcome None, and
is made again when the descriptor is ready.

Ctrl-C may strike after any call into C, and what the kernel has moved by then must not be forgotten. So the call and
the note of its result are one call, `moved.extend(map(function, ...))`, and an attempt that finds a note takes it up.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Protocol

from apcrt.apc import ApcError
from apcrt.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from apcrt.overlapped._operation import Overlapped

__all__ = ["Descriptor", "HasFileno", "Outcome", "Request"]

Outcome = tuple[int, int, OSError | None]
"""How an operation ended: status, bytes moved, and what the operating system said if that was why."""

_COLLAPSE = 64  # notes of partial writes that are kept apart
_TURNS = 16  # partial writes in one attempt: while the other end reads as fast as we write, others must not wait for us


class HasFileno(Protocol):
    """A file, a socket, or whatever has a descriptor."""

    def fileno(self) -> int:
        """Its descriptor."""
        ...


class Request:
    """One operation in a line: its memory, and what the kernel has moved of it so far."""

    __slots__ = ("moved", "overlapped", "view")

    def __init__(self, overlapped: Overlapped) -> None:
        self.overlapped = overlapped
        self.view = overlapped.data
        self.moved: list[int] = []


class Descriptor:
    """Owner of one descriptor.

    Args:
        source: an object with `fileno()`, or the number. While the constructor raises, it stays the caller's.

    Raises:
        ApcError: 6 it is not open, 336 it is a directory.

    Attributes:
        fd: the number.
        kind: what it is, in a word.
        blocks: it is read and written at offsets, by a helper.
    """

    def __init__(self, source: HasFileno | int) -> None:
        try:
            self.fd: int = source if isinstance(source, int) else source.fileno()
            mode = os.fstat(self.fd).st_mode
        except (OSError, ValueError) as error:
            raise ApcError(Status.ERROR_INVALID_HANDLE, f"{source!r} has no open descriptor") from error
        if stat.S_ISDIR(mode):
            raise ApcError(Status.ERROR_DIRECTORY_NOT_SUPPORTED, "a directory cannot be read or written")
        self.blocks: bool = stat.S_ISREG(mode) or stat.S_ISBLK(mode)
        self.kind: str = next((name for test, name in _KINDS if test(mode)), "descriptor")
        self._message = False
        self._empty_is_end = True
        self._end = Status.ERROR_BROKEN_PIPE if stat.S_ISFIFO(mode) else Status.ERROR_HANDLE_EOF
        self._unread: deque[tuple[bytes, int]] = deque()
        self._was_blocking = not self.blocks and os.get_blocking(self.fd)
        if not self.blocks:
            os.set_blocking(self.fd, False)
        self._source: HasFileno | int = source
        self._send: Callable[[memoryview], int] = partial(os.write, self.fd)
        if stat.S_ISSOCK(mode):
            self._open_socket()

    def _open_socket(self) -> None:
        if isinstance(self._source, int):
            self._source = socket.socket(fileno=self.fd)
        if isinstance(self._source, socket.socket):
            own = self._source
            own.setblocking(False)
            kind = own.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
            # Python ignores SIGPIPE, but a program may have changed that.
            self._send = lambda data: socket.socket.send(own, data, socket.MSG_NOSIGNAL)
        else:
            with contextlib.closing(socket.socket(fileno=os.dup(self.fd))) as copy:
                kind = copy.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        self._message = kind != socket.SOCK_STREAM
        self._empty_is_end = kind != socket.SOCK_DGRAM  # whose messages may be empty

    def close(self) -> None:
        """Close it. What others share with us, a terminal for instance, blocks again as it did."""
        if self._was_blocking:
            with contextlib.suppress(OSError):
                os.set_blocking(self.fd, True)
        if isinstance(self._source, int):
            os.close(self._source)
        elif callable(close := getattr(self._source, "close", None)):
            close()

    def put_back(self, data: bytes, status: int) -> None:
        """Let the next read have what another one took."""
        if data or self._message:
            self._unread.appendleft((data, status))

    def put_back_request(self, request: Request) -> None:
        """Let the next read have what this one has moved, and was interrupted before it could tell."""
        view, count = request.view, request.moved[0]
        self.put_back(bytes(view[:count]), Status.ERROR_MORE_DATA if count > len(view) else 0)

    def attempt(self, request: Request) -> Outcome | None:
        """Go on with an operation, never blocking. None: not possible now."""
        try:
            return self._read(request) if request.overlapped.is_read else self._write(request)
        except BlockingIOError:
            return None
        except OSError as error:
            return _outcome_of(error)

    def perform(self, request: Request) -> Outcome:
        """Do an operation at its offset, blocking: on a helper thread."""
        overlapped, view = request.overlapped, request.view
        assert overlapped.offset is not None
        move = os.preadv if overlapped.is_read else os.pwritev
        done = 0
        try:
            # More than once for what is too large for one call.
            while done < len(view):
                moved = move(self.fd, (view[done:],), overlapped.offset + done)
                if not moved:
                    break
                done += moved
        except (OSError, OverflowError) as error:
            return _outcome_of(error)
        if overlapped.is_read and not done and len(view):
            return Status.ERROR_HANDLE_EOF, 0, None
        return 0, done, None

    def _read(self, request: Request) -> Outcome | None:
        view, moved = request.view, request.moved
        size = len(view)
        if not moved:
            if self._unread:
                return self._reread(view)
            if self._message:
                # One byte more than was asked for, to see whether the message is longer; the kernel drops the rest.
                moved.extend(map(os.readv, (self.fd,), ((view, bytearray(1)),)))
            elif size:
                moved.extend(map(os.readv, (self.fd,), ((view,),)))
            else:
                return self._look()
        count = moved[0]
        if count > size:
            return Status.ERROR_MORE_DATA, size, None
        if not count and self._empty_is_end:
            return self._end, 0, None
        return 0, count, None

    def _reread(self, view: memoryview) -> Outcome:
        data, status = self._unread[0]
        count = min(len(view), len(data))
        view[:count] = data[:count]
        if self._message:
            del self._unread[0]
            return Status.ERROR_MORE_DATA if count < len(data) else status, count, None
        if count == len(data):
            del self._unread[0]
        else:
            self._unread[0] = (data[count:], status)
        return 0, count, None

    def _look(self) -> Outcome | None:
        """A read of no bytes, which completes when there is something to read."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        for _, events in poll.poll(0):
            return (0, 0, None) if events & select.POLLIN else (self._end, 0, None)
        return None

    def _write(self, request: Request) -> Outcome | None:
        view, moved = request.view, request.moved
        size = len(view)
        done = sum(moved)
        turns = 0
        while done < size or (self._message and not moved):
            if turns == _TURNS:
                return None
            turns += 1
            if len(moved) > _COLLAPSE:
                moved[:] = [done]
            moved.extend(map(self._send, (view[done:],)))
            done = sum(moved)
        return 0, done, None


_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISREG, "file"),
    (stat.S_ISBLK, "block device"),
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "character device"),
)


def _outcome_of(error: OSError | OverflowError) -> Outcome:
    if isinstance(error, OSError):
        # The frames of its traceback would keep the memory.
        return Status.from_oserror(error), 0, error.with_traceback(None)
    return Status.ERROR_INVALID_PARAMETER, 0, None

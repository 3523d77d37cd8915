"""Pipes inside the process: two ends, each of which can be read and written overlapped.

What lives here: the exact counterpart of a connected duplex named pipe, in byte and in message mode. What must not:
descriptors; pipes of the operating system are `_file`'s.

How it works. Each direction is a `_Channel`: writes whose bytes were not all read yet, and reads that wait for bytes.
Everything happens under D, so reads, writes and APCs have one order, which no kernel pipe could give. A write completes
when what is unread, up to its own last byte, fits into the quota: at once with room, when all of it is read with none.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from apcrt.apc import ApcError
from apcrt.apc.lowlevel import D
from apcrt.overlapped._operation import MOST_PENDING, Overlapped, OverlappedObject, OverlappedStatistics
from apcrt.status import Status

if TYPE_CHECKING:
    from apcrt.apc import ApcThread
    from apcrt.apc.lowlevel import Wakes

__all__ = ["PipeEnd", "create_pipe"]


class _Written:
    """One write: the operation, and the bytes that were not read yet."""

    __slots__ = ("overlapped", "rest", "size")

    def __init__(self, overlapped: Overlapped | None, data: bytes) -> None:
        self.overlapped = overlapped  # None for what a read has handed back
        self.size = len(data)
        self.rest = memoryview(data)  # a copy: once the write has completed, its memory is its owner's again


class _Channel:
    """One direction. Everything is done under D."""

    def __init__(self, *, message: bool, quota: int) -> None:
        self.message = message
        self.quota = quota
        self.writes: deque[_Written] = deque()
        self.reads: deque[Overlapped] = deque()
        self.ended: bool = False  # no more will be written
        self.deaf: bool = False  # no more will be read

    def read(self, wakes: Wakes, overlapped: Overlapped) -> None:
        """Take a read, now or when something is written."""
        if self.ended and not self.writes:
            raise ApcError(Status.ERROR_BROKEN_PIPE, "the other end of the pipe was closed, and all of it was read")
        if len(self.reads) >= MOST_PENDING:
            raise _too_many()
        self.reads.append(overlapped)
        self.move(wakes)

    def write(self, wakes: Wakes, overlapped: Overlapped) -> None:
        """Take a write."""
        if self.deaf:
            raise ApcError(Status.ERROR_NO_DATA, "the other end of the pipe was closed")
        if len(self.writes) >= MOST_PENDING:
            raise _too_many()
        if self.message or len(overlapped.data):
            self.writes.append(_Written(overlapped, bytes(overlapped.data)))
            self.move(wakes)
        else:
            overlapped.complete(wakes, 0, 0)

    def remove(self, overlapped: Overlapped) -> bool:
        """Take a pending operation out of its line; what it offered is not read. Returns whether it was there."""
        if overlapped in self.reads:
            self.reads.remove(overlapped)
            return True
        for written in self.writes:
            if written.overlapped is overlapped and overlapped.pending:
                self.writes.remove(written)
                return True
        return False

    def pending_writes(self) -> list[Overlapped]:
        """Those that have not completed."""
        return [one.overlapped for one in self.writes if one.overlapped is not None and one.overlapped.pending]

    def hand_back(self, wakes: Wakes, data: bytes, status: int) -> None:
        """Let the next read begin with what another one took."""
        if status == Status.ERROR_MORE_DATA and self.writes:
            self.writes[0].rest = memoryview(data + self.writes[0].rest)
        elif data or self.message:
            self.writes.appendleft(_Written(None, data))
        self.move(wakes)

    def end(self, wakes: Wakes) -> None:
        """The writing end is closed: what was written can be read, and then nothing."""
        self.ended = True
        self.move(wakes)

    def deafen(self, wakes: Wakes) -> None:
        """The reading end is closed: nobody will read what was written."""
        self.deaf = True
        for written in self.writes:
            if written.overlapped is not None:
                written.overlapped.complete(wakes, Status.ERROR_BROKEN_PIPE, 0)
        self.writes.clear()

    def move(self, wakes: Wakes) -> None:
        """Let reads have what was written, then complete what that has completed, in the order of issue."""
        done: list[tuple[Overlapped, int, int]] = []
        while self.reads and (self.writes or self.ended):
            overlapped = self.reads.popleft()
            if self.writes:
                done.append(self._fill(overlapped, done))
            else:
                done.append((overlapped, Status.ERROR_BROKEN_PIPE, 0))
        unread = 0
        for written in self.writes:
            unread += len(written.rest)
            if unread > self.quota:
                break
            if written.overlapped is not None:
                done.append((written.overlapped, 0, written.size))
        for overlapped, status, count in sorted(done, key=lambda one: one[0].serial):
            overlapped.complete(wakes, status, count)  # of writes that have completed before: without effect

    def _fill(self, overlapped: Overlapped, done: list[tuple[Overlapped, int, int]]) -> tuple[Overlapped, int, int]:
        """Serve one read from one message, or from as many writes as it takes."""
        target = overlapped.data
        count = 0
        while self.writes:
            written = self.writes[0]
            taken = min(len(target) - count, len(written.rest))
            target[count : count + taken] = written.rest[:taken]
            count += taken
            written.rest = written.rest[taken:]
            if len(written.rest):
                return overlapped, Status.ERROR_MORE_DATA if self.message else 0, count
            self.writes.popleft()
            if written.overlapped is not None:
                done.append((written.overlapped, 0, written.size))
            if self.message:
                break
        return overlapped, 0, count


class PipeEnd(OverlappedObject):
    """One end of a pipe that `create_pipe` has made. What one end writes the other one reads."""

    def __init__(self, name: str, incoming: _Channel, outgoing: _Channel) -> None:
        super().__init__()
        self._name = name
        self._incoming = incoming
        self._outgoing = outgoing
        self._closed = False

    def __repr__(self) -> str:
        incoming, outgoing = len(self._incoming.reads), len(self._outgoing.writes)
        state = "closed" if self._closed else f"reads={incoming} unread={outgoing}"
        return f"<PipeEnd {self._name} {state}>"

    def start(self, overlapped: Overlapped) -> None:
        if overlapped.offset is not None:
            raise ApcError(Status.ERROR_INVALID_PARAMETER, "a pipe has no offsets; leave `offset` out")
        D.run(_start, self, overlapped)

    def close(self) -> None:
        D.do(_close, self)

    def cancel_one(self, overlapped: Overlapped) -> bool:
        return D.run(_cancel, self, [overlapped]) > 0

    def cancel_all(self, thread: ApcThread | None) -> int:
        return D.run(_cancel_all, self, thread)

    def statistics(self) -> OverlappedStatistics:
        return D.run(_statistics, self)

    def hand_back(self, data: bytes, status: int) -> None:
        D.do(_hand_back, self, data, status)

    # Under D.

    def look(self) -> OverlappedStatistics:
        """Its state."""
        writes = len(self._outgoing.pending_writes())
        return OverlappedStatistics(len(self._incoming.reads), writes, self._bytes_read, self._bytes_written)

    def put_back(self, wakes: Wakes, data: bytes, status: int) -> None:
        """See `hand_back`. A channel that is closed here needs nothing any more."""
        if not self._closed:
            self._incoming.hand_back(wakes, data, status)

    def forget(self, wakes: Wakes, overlapped: Overlapped) -> None:
        self.cancel(wakes, [overlapped])

    def begin(self, wakes: Wakes, overlapped: Overlapped) -> None:
        """Give an operation to its channel."""
        if self._closed:
            raise ApcError(Status.ERROR_INVALID_HANDLE, "this end of the pipe is closed")
        overlapped.thread.dependents[overlapped] = None
        try:
            if overlapped.is_read:
                self._incoming.read(wakes, overlapped)
            else:
                self._outgoing.write(wakes, overlapped)
        except ApcError:
            overlapped.thread.dependents.pop(overlapped, None)
            raise

    def cancel(self, wakes: Wakes, overlapped: list[Overlapped]) -> int:
        """End operations that are pending; returns how many were."""
        ended = 0
        for one in overlapped:
            if (self._incoming if one.is_read else self._outgoing).remove(one):
                one.complete(wakes, Status.ERROR_OPERATION_ABORTED, 0)
                ended += 1
        if ended:
            self._outgoing.move(wakes)  # what stood behind a write that is gone may fit now
        return ended

    def pending(self, thread: ApcThread | None) -> list[Overlapped]:
        """What is pending here, of one thread or of all, in the order of issue."""
        operations = [*self._incoming.reads, *self._outgoing.pending_writes()]
        own = (one for one in operations if thread is None or one.thread is thread)
        return sorted(own, key=lambda one: one.serial)

    def shut(self, wakes: Wakes) -> None:
        """Close it."""
        if not self._closed:
            self._closed = True
            self.cancel(wakes, self.pending(None))
            self._outgoing.end(wakes)
            self._incoming.deafen(wakes)


def create_pipe(*, message: bool = False, quota: int = 4096) -> tuple[PipeEnd, PipeEnd]:
    """A connected duplex pipe inside the process, as CreateNamedPipe and CreateFile make one; returns its two ends.

    Args:
        message: True: a read takes one message at the most, as it was written; False: whatever bytes there are.
        quota: bytes that may be unread in each direction before a write waits for its reader. With 0 a write completes
            when all of it was read.

    Raises:
        ApcError: 87 a negative quota.
    """
    if quota < 0:
        raise ApcError(Status.ERROR_INVALID_PARAMETER, f"a quota is a number of bytes, not {quota}")
    one, other = (_Channel(message=message, quota=quota) for _ in range(2))
    return PipeEnd("server", one, other), PipeEnd("client", other, one)


def _start(wakes: Wakes, end: PipeEnd, overlapped: Overlapped) -> None:
    end.begin(wakes, overlapped)


def _close(wakes: Wakes, end: PipeEnd) -> None:
    end.shut(wakes)


def _statistics(_wakes: Wakes, end: PipeEnd) -> OverlappedStatistics:
    return end.look()


def _hand_back(wakes: Wakes, end: PipeEnd, data: bytes, status: int) -> None:
    end.put_back(wakes, data, status)


def _cancel(wakes: Wakes, end: PipeEnd, overlapped: list[Overlapped]) -> int:
    return end.cancel(wakes, overlapped)


def _cancel_all(wakes: Wakes, end: PipeEnd, thread: ApcThread | None) -> int:
    return end.cancel(wakes, end.pending(thread))


def _too_many() -> ApcError:
    return ApcError(
        Status.ERROR_INVALID_USER_BUFFER, f"{MOST_PENDING} operations are pending here; wait for one to complete"
    )

"""One read or write under way, and what objects have in common that can be read and written so.

What lives here: `Overlapped`, its life and its end, and `OverlappedObject`, the verbs of all faces. What must not:
where the bytes come from (`_pipe`, `_file`, `_descriptor`).

How it works. An operation belongs to the thread that issued it. Completing it is one operation of the dispatcher: the
result is set, waits for it are served, its routine joins the queue of its thread, all at one moment. So an operation
has one end, whoever brings it about: the data, a cancel, the closing of the object, or the end of the thread.

A verb that waits and is interrupted cancels its operation. If that has completed already, what a read took goes back to
the object, in front of everything else, so that an interrupted read has consumed nothing; or, where the interrupt will
come again at the next wait, the result is returned.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import trio

from apcrt import trace
from apcrt.apc import ApcError, Waitable, WaitCancelled, aio, current_thread, wait_for_single_object_ex
from apcrt.apc.lowlevel import Entry, deliver, ensure_pump, in_trio_run, outlast, outlast_async, signal
from apcrt.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from apcrt.apc import ApcThread
    from apcrt.apc.lowlevel import Wakes

__all__ = ["MOST_PENDING", "Overlapped", "OverlappedObject", "OverlappedStatistics", "Readable", "Writable"]

Readable = bytes | bytearray | memoryview
Writable = bytearray | memoryview
MOST_PENDING: Final = 4096
"""Operations of one kind that may be pending on one object; one more is refused with 1784."""

_serial = itertools.count(1)


@dataclass(frozen=True, slots=True)
class OverlappedStatistics:
    """What is and was done with an object that is read and written overlapped, at one moment.

    Attributes:
        pending_reads: reads that have not completed.
        pending_writes: writes that have not completed.
        bytes_read: moved by the reads that have completed.
        bytes_written: moved by the writes that have completed.
    """

    pending_reads: int
    pending_writes: int
    bytes_read: int
    bytes_written: int


class Overlapped(Waitable):
    """One read or write (an OVERLAPPED): what `read_ex` and `write_ex` return.

    It is a waitable object that becomes signaled when it completes, and no wait consumes it. So a program may give it a
    routine, which gets `(error, count, overlapped)` as an APC on the issuing thread; or wait for it, with others and
    alertably if need be; or ask it now and then.

    Attributes:
        thread: the thread that issued it.
        is_read: whether it is a read; else it is a write.
        offset: where in the file it begins, in bytes; None where there are no offsets.
        user_info: anything; apcrt does not touch it (hEvent, in Windows).
    """

    __slots__ = (
        "_data",
        "_routine",
        "cause",
        "claimed",
        "count",
        "is_read",
        "offset",
        "owner",
        "serial",
        "status",
        "thread",
        "user_info",
    )

    def __init__(
        self,
        owner: OverlappedObject,
        data: memoryview,
        *,
        is_read: bool,
        routine: Callable[[int, int, Overlapped], object] | None,
        offset: int | None,
    ) -> None:
        super().__init__()
        self.owner: OverlappedObject = owner
        self.thread: ApcThread = current_thread()
        self.is_read: bool = is_read
        self.offset: int | None = offset
        self.user_info: object = None
        self.serial: int = next(_serial)
        self.status: int = Status.ERROR_IO_PENDING
        self.count: int = 0
        self.cause: OSError | None = None  # what the operating system said, if it was that
        self.claimed: bool = False  # somebody is moving its bytes and cannot be stopped; set under D
        self._data: memoryview | None = data
        self._routine = routine

    def __repr__(self) -> str:
        state = "pending" if self.pending else f"status={self.status} count={self.count}"
        return f"<Overlapped {'read' if self.is_read else 'write'} {state}>"

    @property
    def pending(self) -> bool:
        """Whether it has not completed yet (HasOverlappedIoCompleted, the other way round)."""
        return self.status == Status.ERROR_IO_PENDING

    @property
    def has_routine(self) -> bool:
        """Whether its completion is an APC that has not been queued yet."""
        return self._routine is not None

    def result(self) -> int:
        """The bytes read or written (GetOverlappedResult without waiting; to wait, wait for the object).

        Raises:
            ApcError: 996 it has not completed; else why it has failed: 995 cancelled, 38 end of file, 109 the other end
                was closed, 234 a message was longer than the buffer, which is full now; `count` bytes were moved. What
                the operating system said, if it was that, is the `__cause__`.
        """
        if self.pending:
            raise ApcError(Status.ERROR_IO_INCOMPLETE, f"{self!r} has not completed yet; wait for it")
        if self.status:
            raise ApcError(self.status, f"the {'read' if self.is_read else 'write'} has failed") from self.cause
        return self.count

    def cancel(self) -> bool:
        """Cancel this operation (CancelIoEx). Any thread.

        Returns:
            Whether it has ended by this, with 995; False when it has completed already, or is past being cancelled and
            will complete by itself.
        """
        return self.owner.cancel_one(self)

    def is_signaled_for(self, _thread: ApcThread, /) -> bool:
        """Signaled once it has completed. Under D."""
        return self.status != Status.ERROR_IO_PENDING

    def take(self, _thread: ApcThread, /) -> bool:
        """A wait takes nothing from it."""
        return False

    def give_back(self, _thread: ApcThread, /) -> None:
        """Nothing was taken."""

    @property
    def data(self) -> memoryview:
        """The memory to be read into or written from, while it is pending. For the object."""
        assert self._data is not None
        return self._data

    def complete(self, wakes: Wakes, status: int, count: int, cause: OSError | None = None) -> None:
        """Reach the end, unless it has been reached. Under D."""
        if not self.pending:
            return
        self.thread.dependents.pop(self, None)
        self.cause = cause
        self.count = count
        self.status = status
        self._data = None
        self.owner.add_bytes(count, is_read=self.is_read)
        signal(wakes, self)
        routine, self._routine = self._routine, None
        if routine is not None:
            deliver(wakes, self.thread, Entry(routine, (status, count, self), "io", self._context()))

    def owner_ended(self, wakes: Wakes, _thread: ApcThread) -> None:
        """The thread that issued it has ended: it moves nothing any more, and its routine never runs. Under D."""
        self._routine = None
        self.owner.forget(wakes, self)

    @staticmethod
    def _context() -> trace.Snapshot | None:
        return trace.snapshot() if trace.level <= trace.INFO else None


class OverlappedObject(ABC):
    """Something that can be read and written overlapped. Use it with `with`, or close it.

    The verbs tell the face: `read_ex` and `write_ex` never wait, `read_into` and `write` block, `receive_into` and
    `send` await. Every method may be called on any thread, but not in finalizers and signal handlers. Reads are served
    in the order in which they were issued, and so are writes.
    """

    def __init__(self) -> None:
        self._bytes_read = 0
        self._bytes_written = 0

    def read_ex(
        self,
        into: Writable,
        routine: Callable[[int, int, Overlapped], object] | None = None,
        *,
        offset: int | None = None,
    ) -> Overlapped:
        """Start to read up to `len(into)` bytes into memory that must stay until it completes (ReadFileEx).

        Args:
            into: a contiguous buffer; a bytearray cannot be resized meanwhile.
            routine: called as `routine(error, count, overlapped)`, an APC on this thread, also when the read has
                completed at once. None: wait for the result, or ask for it.
            offset: where to begin, in bytes; for regular files, and only for them.

        Returns:
            The operation; it may have completed already.

        Raises:
            ApcError: it was not started, and the routine will not run: 109 the other end was closed, 38 nothing will
                come any more, 6 the object is closed, 1784 too many are pending, 87 for arguments.
        """
        return self._start(memoryview(into).cast("B"), is_read=True, routine=routine, offset=offset)

    def write_ex(
        self,
        data: Readable,
        routine: Callable[[int, int, Overlapped], object] | None = None,
        *,
        offset: int | None = None,
    ) -> Overlapped:
        """Start to write `data` (WriteFileEx), which must stay as it is until it completes.

        Arguments and result as `read_ex`; it completes when all of it is written.

        Raises:
            ApcError: as `read_ex`; 232 the other end was closed.
        """
        return self._start(memoryview(data).cast("B"), is_read=False, routine=routine, offset=offset)

    def cancel_io(self) -> None:
        """Cancel what the calling thread has pending here (CancelIo). Routines run, with 995 and 0."""
        self.cancel_all(current_thread())

    def cancel_io_ex(self, overlapped: Overlapped | None = None) -> None:
        """Cancel one operation, or what all threads have pending here (CancelIoEx). Routines run, with 995 and 0.

        Raises:
            ApcError: 1168 there was nothing to be cancelled.
        """
        cancelled = self.cancel_all(None) if overlapped is None else int(self.cancel_one(overlapped))
        if not cancelled:
            raise ApcError(Status.ERROR_NOT_FOUND, "there is nothing to be cancelled")

    def read_into(self, into: Writable, *, offset: int | None = None) -> int:
        """Read up to `len(into)` bytes, blocking until there are some; returns how many. Not alertable.

        Left by Ctrl-C, or by the cancelling of its thread, it has consumed nothing.

        Raises:
            ApcError: why it failed, as `Overlapped.result`; 87 on a thread that runs trio.
            WaitCancelled: the structured scope of this thread was cancelled.
        """
        _check_blocking("read_into", "receive_into")
        return self._wait_for(self.read_ex(into, offset=offset), into)

    def write(self, data: Readable, *, offset: int | None = None) -> int:
        """Write all of `data`, blocking until it is written; returns its length. Otherwise as `read_into`.

        Left by Ctrl-C or by a cancel, some of it may have been written.
        """
        _check_blocking("write", "send")
        return self._wait_for(self.write_ex(data, offset=offset), None)

    async def receive_into(self, into: Writable, *, offset: int | None = None) -> int:
        """Read up to `len(into)` bytes, awaiting until there are some. Cancelled, it has consumed nothing.

        Raises:
            ApcError: why it failed, as `Overlapped.result`; 87 outside of trio.
        """
        ensure_pump()
        await trio.lowlevel.checkpoint_if_cancelled()
        return await self._await(self.read_ex(into, offset=offset), into)

    async def send(self, data: Readable, *, offset: int | None = None) -> int:
        """Write all of `data`, awaiting until it is written. Cancelled, some of it may have been written."""
        ensure_pump()
        await trio.lowlevel.checkpoint_if_cancelled()
        return await self._await(self.write_ex(data, offset=offset), None)

    async def aclose(self) -> None:
        """`close` for a trio task: what would block the loop is done elsewhere. It is closed also when cancelled."""
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()

    def add_bytes(self, count: int, *, is_read: bool) -> None:
        """Count what a completed operation has moved. Under D."""
        if is_read:
            self._bytes_read += count
        else:
            self._bytes_written += count

    @abstractmethod
    def statistics(self) -> OverlappedStatistics:
        """What is pending, and how much was moved. Any thread."""

    @abstractmethod
    def close(self) -> None:
        """Close it; what is pending completes with 995. Idempotent."""

    @abstractmethod
    def start(self, overlapped: Overlapped) -> None:
        """Begin an operation, which may complete it. Raises ApcError when it cannot begin."""

    @abstractmethod
    def cancel_one(self, overlapped: Overlapped) -> bool:
        """Cancel one operation, if it is pending here and can be; returns whether that has ended it."""

    @abstractmethod
    def cancel_all(self, thread: ApcThread | None) -> int:
        """Cancel what `thread` has pending, or everybody; returns how many have ended."""

    @abstractmethod
    def forget(self, wakes: Wakes, overlapped: Overlapped) -> None:
        """The thread of a pending operation has ended. Under D."""

    def _start(
        self,
        data: memoryview,
        *,
        is_read: bool,
        routine: Callable[[int, int, Overlapped], object] | None,
        offset: int | None,
    ) -> Overlapped:
        if is_read and data.readonly:
            raise ApcError(Status.ERROR_NOACCESS, "what is read into must be writable memory")
        overlapped = Overlapped(self, data, is_read=is_read, routine=routine, offset=offset)
        try:
            self.start(overlapped)
        except BaseException:
            data.release()  # what was refused must not keep the memory as long as the exception lives
            raise
        return overlapped

    @abstractmethod
    def hand_back(self, data: bytes, status: int) -> None:
        """Let the next read have what a read took (with 0 or 234) whose caller was interrupted. With no lock held."""

    def _wait_for(self, overlapped: Overlapped, into: Writable | None) -> int:
        try:
            wait_for_single_object_ex(overlapped, None)
        except WaitCancelled:
            if overlapped.cancel():
                raise
            # What it did must not be lost; the next wait ends with the cancel.
            outlast(overlapped)
        except BaseException:
            if not overlapped.cancel():
                outlast(overlapped)  # a helper has its memory: a matter of the disk
                self._hand_back(overlapped, into)
            raise
        return overlapped.result()

    async def _await(self, overlapped: Overlapped, into: Writable | None) -> int:
        try:
            await aio.wait_for_single_object_ex(overlapped, None)
        except (trio.Cancelled, WaitCancelled):
            if overlapped.cancel():
                raise
            # It has completed meanwhile, or cannot be stopped: what it did must not be lost.
            await outlast_async(overlapped)
        except BaseException:
            if not overlapped.cancel():
                await outlast_async(overlapped)
                self._hand_back(overlapped, into)
            raise
        return overlapped.result()

    def _hand_back(self, overlapped: Overlapped, into: Writable | None) -> None:
        if into is not None and overlapped.status in (0, Status.ERROR_MORE_DATA):
            self.hand_back(bytes(memoryview(into).cast("B")[: overlapped.count]), overlapped.status)


def enlist(_wakes: Wakes, overlapped: Overlapped) -> None:
    """Bind a pending operation to its thread: it will be told of the thread's end. Under D."""
    thread = overlapped.thread
    if thread.ended:
        raise ApcError(Status.ERROR_GEN_FAILURE, f"thread {thread.name!r} has ended")
    thread.dependents[overlapped] = None


def strike_off(_wakes: Wakes, overlapped: Overlapped) -> None:
    """Undo `enlist` for an operation that does not begin after all. Under D."""
    overlapped.thread.dependents.pop(overlapped, None)


def claim(_wakes: Wakes, overlapped: Overlapped) -> bool:
    """Begin to move its bytes in a way that cannot be stopped; False when it has completed already. Under D."""
    overlapped.claimed = overlapped.pending
    return overlapped.claimed


def _check_blocking(verb: str, twin: str) -> None:
    if in_trio_run():
        raise ApcError(
            Status.ERROR_INVALID_PARAMETER, f"{verb} would block the trio loop of this thread; use: await {twin}(...)"
        )

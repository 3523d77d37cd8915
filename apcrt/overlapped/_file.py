"""Anything with a descriptor, read and written overlapped: files, pipes, sockets, terminals.

What lives here: `OverlappedFile`: the lines of pending operations, who serves them, their ends. What must not: system
calls that move bytes (`_descriptor`) and helper threads (`_pool`).

How it works. Reads stand in one line and writes in another, in the order of issue. What is not a regular file is driven
by readiness: the thread that issues an operation tries it at once if nothing is before it in its line; else, and if it
would have to wait, the descriptor is armed, one-shot, in the Port of *every* thread that has something pending here. So
whichever of them waits first is told, and serves the lines from their heads, the operations of the others included;
their completions go to their own threads. A thread that never waits holds up nobody but itself. For a thread with a
wake-up hook, which never waits, the Port is the driver's. Regular files are never "not ready": a helper thread takes
one operation after the other from each line.

One short lock guards the lines, and is held while non-blocking calls are tried; operations complete under D, beneath
it. The end of a thread is told under D, so it cannot take this lock: it ends the operations of the thread where they
stand, and whoever serves the line next passes over them.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import trio

from apcrt.apc import ApcError, current_thread
from apcrt.apc.lowlevel import HANGUP, READ, WRITE, D, driver_port, ensure_pump, in_trio_run, wake
from apcrt.overlapped._descriptor import Descriptor, HasFileno, Outcome, Request
from apcrt.overlapped._operation import (
    MOST_PENDING,
    Overlapped,
    OverlappedObject,
    OverlappedStatistics,
    claim,
    enlist,
    strike_off,
)
from apcrt.overlapped._pool import HelperPool, enter_pool
from apcrt.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from apcrt.apc import ApcThread
    from apcrt.apc.lowlevel import Port, Wakes

__all__ = ["OverlappedFile"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_ABORTED: Outcome = (Status.ERROR_OPERATION_ABORTED, 0, None)


class OverlappedFile(OverlappedObject):
    """A file, pipe, socket or terminal that can be read and written overlapped; owns its descriptor.

    Args:
        source: an object with `fileno()`, which is closed with its `close()`; or the number of a descriptor. What it
            has buffered is not seen here. It is made non-blocking unless it is a regular file.

    Regular files and block devices need an `offset` with every operation; nothing else takes one. Pipes, terminals and
    stream sockets are in byte mode: a read completes with what there is. Datagram and seqpacket sockets are in message
    mode: a read takes one message, and if that is longer than its buffer it ends with 234 and the kernel drops the
    rest. The end of a file or of a stream is 38, that of a pipe 109; writing where nobody reads any more is 232.

    Raises:
        ApcError: 6 it is not open, 336 it is a directory. The source stays the caller's then.
    """

    def __init__(self, source: HasFileno | int) -> None:
        super().__init__()
        self._released = True  # until there is something to be released: see __del__
        self._epoch = D.epoch
        self._lock = threading.RLock()
        self._busy = False
        self._closed = False
        self._reads: OrderedDict[Overlapped, Request] = OrderedDict()
        self._writes: OrderedDict[Overlapped, Request] = OrderedDict()
        # Where readiness drives.
        self._homes: dict[ApcThread, list[int]] = {}  # how many writes and reads of each thread are in the lines
        self._armed: dict[Port, int] = {}
        # Where helpers do.
        self._working = [False, False]  # whether writes, and reads, are work of the pool now
        self._running = 0  # operations that helpers are doing; they are at the heads of the lines
        self._rest = threading.Event()  # no helper is at it
        self._descriptor = Descriptor(source)
        self._pool: HelperPool | None = enter_pool() if self._descriptor.blocks else None
        self._released = False

    def __repr__(self) -> str:
        descriptor = self._descriptor
        if self._closed:
            return f"<OverlappedFile {descriptor.kind} closed>"
        pending = f"reads={len(self._reads)} writes={len(self._writes)}"
        return f"<OverlappedFile {descriptor.kind} fd={descriptor.fd} {pending}>"

    def __del__(self) -> None:
        # Nothing is pending, or it would not be garbage. A finalizer takes no lock.
        if self._released or self._epoch != D.epoch:
            return
        self._released = self._closed = True
        if self._pool is not None:
            self._pool.leave_behind()
        self._descriptor.close()
        warnings.warn(f"unclosed {self._descriptor.kind}: {self!r}", ResourceWarning, stacklevel=2, source=self)

    def statistics(self) -> OverlappedStatistics:
        self._check_process()
        return self._run(self._look)

    def start(self, overlapped: Overlapped) -> None:
        self._check_process()
        offset = overlapped.offset
        if self._pool is None:
            if offset is not None:
                raise ApcError(
                    Status.ERROR_INVALID_PARAMETER, f"a {self._descriptor.kind} has no offsets; leave `offset` out"
                )
            self._prepare(overlapped.thread)
            self._run(self._begin, overlapped)
        elif offset is None or offset < 0:
            verb = "read_ex(into" if overlapped.is_read else "write_ex(data"
            raise ApcError(
                Status.ERROR_INVALID_PARAMETER,
                f"a regular file is read and written at an offset of at least 0 bytes, not {offset}; "
                f"say {verb}, offset=0)",
            )
        else:
            self._run(self._queue, overlapped, self._pool)

    def cancel_one(self, overlapped: Overlapped) -> bool:
        self._check_process()
        return self._run(self._cancel, [overlapped]) > 0

    def cancel_all(self, thread: ApcThread | None) -> int:
        self._check_process()
        return self._run(self._cancel_of, thread)

    def hand_back(self, data: bytes, status: int) -> None:
        if self._pool is None:
            self._check_process()
            self._run(self._put_back, data, status)

    def close(self) -> None:
        """Close it, and what it was made of; what is pending completes with 995. Idempotent.

        What a helper is doing with a regular file completes by itself first, and the last regular file to be closed
        waits for the end of the helper threads: on a thread that runs trio use `aclose`.
        """
        self._check_process()
        self._run(self._shut)
        if self._running:
            self._rest.wait()
        if self._run(self._release):
            self._descriptor.close()
            if self._pool is not None:
                self._pool.leave()

    async def aclose(self) -> None:
        """`close` for a trio task; the loop goes on meanwhile. It is closed also when cancelled."""
        if self._pool is None:
            await super().aclose()
            return
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.close, limiter=trio.CapacityLimiter(1))

    def forget(self, wakes: Wakes, overlapped: Overlapped) -> None:
        if not overlapped.claimed:
            overlapped.complete(wakes, *_ABORTED)

    # For Ports and threads.

    def service(self, fd: int, events: int) -> None:  # noqa: ARG002 - there is only one
        """The descriptor may be ready (`lowlevel.Source`)."""
        port = current_thread().open_port
        try:
            self._run(self._serve_all, port, events)
        except BaseException:
            # Ctrl-C: what was moved already must be told, and what is left armed again.
            self._run(self._serve_all, port, events)
            raise

    def owes(self) -> bool:
        """Does anybody wait for an APC from here (`lowlevel.Source`)?"""
        return any(one.has_routine for one in (*self._reads.copy(), *self._writes.copy()))

    def rehome(self) -> None:
        """A thread with something pending here has got or lost its wake-up hook (`lowlevel.Homed`)."""
        if self._epoch == D.epoch:
            if any(thread.has_wakeup for thread in tuple(self._homes)):
                driver_port()
            self._run(self._tidy)

    def thread_ended(self) -> None:
        """A thread with something pending here is ending, and its operations have ended (`lowlevel.Homed`)."""
        if self._epoch == D.epoch:
            self._run(self._tidy)

    # With no lock held.

    def _run(self, operation: Callable[[Wakes, *Ts], T], *args: *Ts) -> T:
        """Do `operation` under the lock, and then wake whom it woke."""
        wakes: Wakes = []
        try:
            with self._lock:
                if self._busy:
                    raise ApcError(
                        Status.ERROR_INVALID_PARAMETER,
                        f"a finalizer or signal handler that interrupted {self!r} cannot use it; queue an APC there",
                    )
                self._busy = True
                try:
                    return operation(wakes, *args)
                finally:
                    self._busy = False
        finally:
            wake(wakes)

    def _check_process(self) -> None:
        if self._epoch != D.epoch:
            raise ApcError(
                Status.ERROR_INVALID_HANDLE,
                f"{self!r} belongs to the process that this one was forked from; make a new one in the child",
            )

    @staticmethod
    def _prepare(thread: ApcThread) -> None:
        """Have somebody who services what `thread` will wait for, before the lock is taken."""
        if thread.has_wakeup:
            driver_port()
        elif in_trio_run():
            ensure_pump()

    def _help(self, is_read: bool) -> bool:
        """Do the first operation of a line, on a helper thread; returns whether there is another."""
        request = self._run(self._take, is_read)
        return request is not None and self._run(self._finish, request, self._descriptor.perform(request))

    # Under the lock.

    def _look(self, _wakes: Wakes) -> OverlappedStatistics:
        reads = sum(one.pending for one in self._reads)
        writes = sum(one.pending for one in self._writes)
        return OverlappedStatistics(reads, writes, self._bytes_read, self._bytes_written)

    def _line(self, is_read: bool) -> OrderedDict[Overlapped, Request]:
        return self._reads if is_read else self._writes

    def _line_to_join(self, overlapped: Overlapped) -> OrderedDict[Overlapped, Request]:
        if self._closed:
            raise ApcError(Status.ERROR_INVALID_HANDLE, f"{self!r} is closed")
        line = self._line(overlapped.is_read)
        if len(line) >= MOST_PENDING:
            raise ApcError(
                Status.ERROR_INVALID_USER_BUFFER,
                f"{MOST_PENDING} operations are pending here; wait for one to complete",
            )
        return line

    def _leave_line(self, request: Request) -> None:
        overlapped = request.overlapped
        thread = overlapped.thread
        self._line(overlapped.is_read).pop(overlapped, None)
        counts = self._homes.get(thread)
        if counts is not None:
            counts[overlapped.is_read] -= 1
            if not any(counts):
                del self._homes[thread]
                thread.homed.discard(self)

    def _settle(self, wakes: Wakes, request: Request, outcome: Outcome) -> None:
        """Complete an operation, whatever has become of it meanwhile; then it leaves its line."""
        D.submit(wakes, _settle, self._descriptor, request, outcome)
        self._leave_line(request)

    def _begin(self, wakes: Wakes, overlapped: Overlapped) -> None:
        """Try an operation, and let it join its line if it has to wait."""
        line = self._line_to_join(overlapped)
        request = Request(overlapped)
        if not line:
            try:
                outcome = self._descriptor.attempt(request)
            except BaseException:  # Ctrl-C
                if request.moved and overlapped.is_read:
                    self._descriptor.put_back_request(request)
                raise
            if outcome is not None:
                status, _, cause = outcome
                if status not in (0, Status.ERROR_MORE_DATA):
                    raise ApcError(status, f"the {'read' if overlapped.is_read else 'write'} cannot begin") from cause
                D.submit(wakes, _settle, self._descriptor, request, outcome)
                return
        D.run(enlist, overlapped)
        line[overlapped] = request
        thread = overlapped.thread
        self._homes.setdefault(thread, [0, 0])[overlapped.is_read] += 1
        thread.homed.add(self)
        try:
            self._arm()
        except BaseException as error:
            self._leave_line(request)
            D.submit(wakes, strike_off, overlapped)
            if isinstance(error, OSError):
                raise ApcError(Status.from_oserror(error), f"{self!r} cannot be waited for") from error
            raise

    def _serve_all(self, wakes: Wakes, port: Port | None, events: int) -> None:
        """What a Port has reported."""
        if self._closed:
            return
        if port in self._armed:
            self._armed[port] = 0
        if events & (READ | HANGUP):
            self._serve(wakes, self._reads)
        if events & (WRITE | HANGUP):
            self._serve(wakes, self._writes)
        self._rearm(wakes)

    def _serve(self, wakes: Wakes, line: OrderedDict[Overlapped, Request]) -> None:
        """Go on with the operations of a line, from its head, as long as none would have to wait."""
        while line:
            overlapped = next(iter(line))
            request = line[overlapped]
            if not overlapped.pending:  # its thread has ended
                self._leave_line(request)
                continue
            outcome = self._descriptor.attempt(request)
            if outcome is None:
                return
            self._settle(wakes, request, outcome)

    def _arm(self) -> None:
        """Be armed in the Port of every thread that has something pending here, and in no other."""
        wanted: dict[Port, int] = {}
        if not self._reads and not self._writes:
            self._homes.clear()  # which it is, unless Ctrl-C has come between an end and its count
        for thread, (writes, reads) in self._homes.items():
            port = _port_of(thread)
            if port is not None:
                wanted[port] = wanted.get(port, 0) | (READ if reads else 0) | (WRITE if writes else 0)
        for port in [port for port in self._armed if port not in wanted]:
            del self._armed[port]
            port.disarm(self._descriptor.fd)
        for port, interest in wanted.items():
            if self._armed.get(port) != interest:
                port.arm(self._descriptor.fd, interest, self)
                self._armed[port] = interest

    def _rearm(self, wakes: Wakes) -> None:
        """`_arm`, for who has nobody to raise an error to: the operations get it."""
        try:
            self._arm()
        except (ApcError, OSError) as error:
            if isinstance(error, OSError):
                outcome: Outcome = (Status.from_oserror(error), 0, error.with_traceback(None))
            else:
                outcome = (error.status, 0, None)
            for request in self._in_order():
                self._settle(wakes, request, outcome)
            self._disarm()

    def _disarm(self) -> None:
        while self._armed:
            port, _ = self._armed.popitem()
            port.disarm(self._descriptor.fd)

    def _in_order(self) -> list[Request]:
        """Everything in the lines, in the order of issue."""
        return sorted((*self._reads.values(), *self._writes.values()), key=lambda one: one.overlapped.serial)

    def _tidy(self, wakes: Wakes) -> None:
        """Part with operations that have ended, and be armed where the others want it now."""
        if self._pool is None and not self._closed:
            for request in self._in_order():
                if not request.overlapped.pending:
                    self._leave_line(request)
            self._serve(wakes, self._reads)
            self._serve(wakes, self._writes)
            self._rearm(wakes)

    def _put_back(self, wakes: Wakes, data: bytes, status: int) -> None:
        if not self._closed:
            self._descriptor.put_back(data, status)
            self._tidy(wakes)

    def _cancel(self, wakes: Wakes, operations: Iterable[Overlapped]) -> int:
        """End operations that can be; returns how many have."""
        ended = 0
        for one in operations:
            request = self._line(one.is_read).get(one)
            if request is None or one.claimed:
                continue
            if request.moved and one.is_read:  # Ctrl-C came between the reading and its end, which has been reached
                self._settle(wakes, request, self._descriptor.attempt(request) or _ABORTED)
                continue
            ended += one.pending
            self._settle(wakes, request, _ABORTED)
        if self._pool is None:
            self._rearm(wakes)
        return ended

    def _cancel_of(self, wakes: Wakes, thread: ApcThread | None) -> int:
        operations = [request.overlapped for request in self._in_order()]
        return self._cancel(wakes, [one for one in operations if thread is None or one.thread is thread])

    def _shut(self, wakes: Wakes) -> None:
        if not self._closed:
            self._cancel_of(wakes, None)
            self._closed = True
            self._disarm()

    def _release(self, _wakes: Wakes) -> bool:
        """Whether the descriptor is the caller's to close: once."""
        released, self._released = self._released, True
        return not released

    # Under the lock, for helpers.

    def _queue(self, wakes: Wakes, overlapped: Overlapped, pool: HelperPool) -> None:
        line = self._line_to_join(overlapped)
        D.run(enlist, overlapped)
        line[overlapped] = Request(overlapped)
        is_read = overlapped.is_read
        if not self._working[is_read]:
            try:
                pool.submit(partial(self._help, is_read))
            except BaseException:
                del line[overlapped]
                D.submit(wakes, strike_off, overlapped)
                raise
            self._working[is_read] = True

    def _take(self, _wakes: Wakes, is_read: bool) -> Request | None:
        """The next operation of a line, which nobody can stop any more."""
        line = self._line(is_read)
        while line:
            overlapped = next(iter(line))
            if D.run(claim, overlapped):
                self._running += 1
                self._rest.clear()
                return line[overlapped]
            del line[overlapped]  # its thread has ended
        self._working[is_read] = False
        return None

    def _finish(self, wakes: Wakes, request: Request, outcome: Outcome) -> bool:
        """Complete it; returns whether there is another to be done."""
        self._settle(wakes, request, outcome)
        self._running -= 1
        if not self._running:
            self._rest.set()
        is_read = request.overlapped.is_read
        more = bool(self._line(is_read))
        self._working[is_read] = more
        return more


def _port_of(thread: ApcThread) -> Port | None:
    """Where the operations of `thread` are armed; None when it has ended, and they with it."""
    if thread.has_wakeup and not thread.ended:
        return driver_port()
    try:
        return thread.port
    except ApcError:
        return None


def _settle(wakes: Wakes, descriptor: Descriptor, request: Request, outcome: Outcome) -> None:
    """Under D: the operation ends; if the end of its thread was faster, the next read gets what it has taken."""
    overlapped = request.overlapped
    if overlapped.pending:
        request.view.release()  # its memory is its owner's again, before the owner is told
        overlapped.complete(wakes, *outcome)
    elif overlapped.is_read and not descriptor.blocks and outcome[0] in (0, Status.ERROR_MORE_DATA):
        descriptor.put_back(bytes(request.view[: outcome[1]]), outcome[0])

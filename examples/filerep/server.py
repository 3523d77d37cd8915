"""The server: a manager for every operation of FileRep, and the workers that move the large streams.

What lives here: `FileRepServer` and the state objects of calls that it hands off. What must not: processes, signals
and options (`cli`).

How it works. Short operations, and an upload, which waits for its client only, are plain managers on dispatch threads.
Whatever the server pushes is handed off (`return apcrt.PENDING`) to a worker, an APC thread that does nothing but wait
alertably: there, one `Sender` for each call pushes a buffer, reads the next one from the disk while that is on its
way, and pushes it when the send-complete comes. So a few workers serve any number of slow clients, none of them holds
a thread, and each costs two buffers and the send window.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from typing import Generic, TypeVar

import apcrt
from apcrt import AsyncEvent, AsyncFlags, Status, apc, notify
from examples.filerep import delta
from examples.filerep.interface import Attributes, FileRep, Receipt, ServerTally
from examples.filerep.paths import Tree, attributes
from examples.filerep.records import encode_entry
from examples.filerep.replica import Replica

__all__ = ["FileRepServer", "Worker"]

R = TypeVar("R")


@dataclass
class Worker:
    """A thread that only waits alertably, and what it has counted. Run `Worker.main` as an APC thread."""

    thread: apc.ApcThread | None = None
    ident: int = 0
    calls: int = 0
    send_completes: int = 0
    receive_completes: int = 0
    wrong_thread: int = 0

    def main(self) -> None:
        """Serve until the block of threads is cancelled."""
        self.thread, self.ident = apc.current_thread(), threading.get_ident()
        while True:
            apc.sleep_ex(None, alertable=True)

    def count(self, event: AsyncEvent) -> None:
        """A notification has come; is it where it belongs?"""
        self.wrong_thread += threading.get_ident() != self.ident
        self.send_completes += event is AsyncEvent.SEND_COMPLETE
        self.receive_completes += event is AsyncEvent.RECEIVE_COMPLETE


class Sender(Generic[R]):
    """Pushes a stream, one buffer at a time, and completes the call with a reply. Lives on its worker.

    Args:
        worker: whose thread this is running on.
        call: the call that was handed off.
        pipe: where the stream goes.
        pieces: the stream; the next piece is only asked for when the one before has been pushed.
        reply: asked for when all of it is on its way.
    """

    def __init__(
        self,
        worker: Worker,
        call: apcrt.ServerHandle[R],
        pipe: apcrt.Pipe[int],
        pieces: Iterator[bytes | memoryview],
        reply: Callable[[], R],
    ) -> None:
        self.worker = worker
        self.call = call
        self.pipe = pipe
        self.pieces = pieces
        self.reply = reply
        self.ahead: bytes | memoryview = b""
        self.ended = False
        worker.calls += 1
        call.notification = notify.Apc(self.on_event, thread=worker.thread)
        with _ending(self):
            self.begin()

    def begin(self) -> None:
        """The first step: push."""
        self.call.flags = AsyncFlags.NOTIFY_ON_SEND_COMPLETE
        self.ahead = next(self.pieces, b"")
        self.push()

    def push(self) -> None:
        """Push what was read ahead (of nothing: the end), then read ahead again."""
        self.pipe.push(self.ahead)
        self.ended = not self.ahead
        if not self.ended:
            self.ahead = next(self.pieces, b"")

    def on_event(self, call: apcrt.ServerHandle[R], event: AsyncEvent) -> None:
        """Send-complete: the buffer has left."""
        self.worker.count(event)
        with _ending(self):
            if self.ended:
                call.complete_call(self.reply())
                self.close()
            else:
                self.push()

    def close(self) -> None:
        """Let go of the file."""
        close = getattr(self.pieces, "close", None)
        if close is not None:
            close()


class ChangeSender(Sender[Receipt]):
    """First pulls the fingerprints of the client's copy into `old`, then pushes what differs from it."""

    def __init__(
        self,
        worker: Worker,
        call: apcrt.ServerHandle[Receipt],
        pipe: apcrt.Pipe[int],
        pieces: Iterator[bytes | memoryview],
        reply: Callable[[], Receipt],
        old: bytearray,
    ) -> None:
        self.old = old
        self.buffer = bytearray(4096)
        super().__init__(worker, call, pipe, pieces, reply)

    def begin(self) -> None:
        self.pull()

    def pull(self) -> None:
        """Take what is there; at the end turn around."""
        while True:
            status, count = self.pipe.pull(self.buffer)
            if status is Status.RPC_S_ASYNC_CALL_PENDING:
                return
            if not count:
                super().begin()
                return
            self.old += memoryview(self.buffer)[:count]
            if len(self.old) > delta.MOST_BLOCKS * delta.FINGERPRINT:
                raise apcrt.RpcError(Status.ERROR_INVALID_PARAMETER, "more fingerprints than a file can have")

    def on_event(self, call: apcrt.ServerHandle[Receipt], event: AsyncEvent) -> None:
        if event is AsyncEvent.RECEIVE_COMPLETE:
            self.worker.count(event)
            with _ending(self):
                self.pull()
        else:
            super().on_event(call, event)


@contextlib.contextmanager
def _ending(sender: Sender[R]) -> Iterator[None]:
    """End the call of a sender that fails: the client is told why, if there still is a client."""
    try:
        yield
    except OSError as error:
        _abort(sender.call, Status.from_oserror(error))
        sender.close()
    except apcrt.RpcError as error:
        _abort(sender.call, error.status)
        sender.close()


def _abort(call: apcrt.ServerHandle[R], status: int) -> None:
    with contextlib.suppress(apcrt.RpcUsageError):  # the client has gone, and the call with it
        call.abort_call(status)


@contextlib.contextmanager
def _as_status() -> Iterator[None]:
    """What the system refuses, as the client shall see it."""
    try:
        yield
    except OSError as error:
        raise apcrt.RpcError(Status.from_oserror(error), str(error)) from error


class FileRepServer:
    """Serves a tree.

    Args:
        tree: what is served.
        workers: at least one; their threads run.
        writable: may clients write?
        buffer: bytes pushed at a time.
        exclude: names that the listing leaves out.
    """

    def __init__(
        self,
        tree: Tree,
        workers: Sequence[Worker],
        *,
        writable: bool = False,
        buffer: int = 256 * 1024,
        exclude: frozenset[str] = frozenset(),
    ) -> None:
        self.tree = tree
        self.workers = workers
        self.writable = writable
        self.buffer = buffer
        self.exclude = exclude
        self._turn = itertools.cycle(workers)
        self._plain = 0

    # Handed off

    @FileRep.list_tree.manager
    def list_tree(self, call: apcrt.ServerHandle[int], records: apcrt.OutPipe[int]) -> apcrt.Pending:
        listing = _Listing(self.tree, self.exclude, self.buffer)
        return self._hand_off(Sender, call, records, listing.pieces(), lambda: listing.entries)

    @FileRep.read.manager
    def read(self, call: apcrt.ServerHandle[Receipt], path: str, content: apcrt.OutPipe[int]) -> apcrt.Pending:
        with _as_status():
            reading = _Reading(self.tree.open_file(path))
        return self._hand_off(Sender, call, content, _Closing(reading.pieces(self.buffer), reading), reading.receipt)

    @FileRep.read_changes.manager
    def read_changes(
        self, call: apcrt.ServerHandle[Receipt], path: str, block: int, blocks: apcrt.InOutPipe[int]
    ) -> apcrt.Pending:
        if not delta.SMALLEST_BLOCK <= block <= delta.LARGEST_BLOCK:
            raise apcrt.RpcError(Status.ERROR_INVALID_PARAMETER, f"{block} bytes are no size of a block")
        old = bytearray()
        with _as_status():
            reading = _Reading(self.tree.open_file(path))
        pieces = delta.changes(reading.file, block, old, reading.see)
        return self._hand_off(ChangeSender, call, blocks, _Closing(pieces, reading), reading.receipt, old)

    # Plain

    @FileRep.write.manager
    def write(
        self, _call: apcrt.ServerHandle[Receipt], path: str, modified: int, mode: int, content: apcrt.InPipe[int]
    ) -> Receipt:
        self._check_writable()
        self._plain += 1
        buffer = memoryview(bytearray(self.buffer))
        with _as_status():
            replica = Replica(self.tree, path)
            try:
                while count := content.read_into(buffer):
                    replica.write(buffer[:count])
                sha256 = replica.sha256
                replica.commit(modified, mode)
            finally:
                replica.discard()
        return Receipt(replica.size, modified, mode & 0o777, sha256)

    @FileRep.make_directory.manager
    def make_directory(self, _call: apcrt.ServerHandle[None], path: str, mode: int) -> None:
        self._check_writable()
        self._plain += 1
        with _as_status():
            self.tree.make_directory(path, mode)

    @FileRep.stat.manager
    def stat(self, _call: apcrt.ServerHandle[Attributes], path: str) -> Attributes:
        self._plain += 1
        with _as_status():
            found = self.tree.stat(path)
        if found is None:
            raise apcrt.RpcError(Status.ERROR_FILE_NOT_FOUND, f"there is no file {path!r}")
        return found

    @FileRep.digest.manager
    def digest(self, call: apcrt.ServerHandle[Receipt], path: str) -> Receipt:
        self._plain += 1
        with _as_status():
            reading = _Reading(self.tree.open_file(path))
            try:
                for _ in reading.pieces(self.buffer):
                    if call.test_cancel():
                        raise apcrt.RpcError(Status.RPC_S_CALL_CANCELLED)
                return reading.receipt()
            finally:
                reading.file.close()

    @FileRep.statistics.manager
    def statistics(self, _call: apcrt.ServerHandle[ServerTally]) -> ServerTally:
        return ServerTally(
            self._plain + sum(worker.calls for worker in self.workers),
            sum(worker.send_completes for worker in self.workers),
            sum(worker.receive_completes for worker in self.workers),
            sum(worker.wrong_thread for worker in self.workers),
        )

    # Inside

    def _hand_off(
        self,
        kind: Callable[..., object],
        call: apcrt.ServerHandle[R],
        pipe: apcrt.Pipe[int],
        pieces: Iterator[bytes | memoryview],
        reply: Callable[[], R],
        *more: object,
    ) -> apcrt.Pending:
        """Have the next worker make a `kind` of sender for the call."""
        worker = next(self._turn)
        if worker.thread is None:
            raise apcrt.RpcError(Status.RPC_S_OUT_OF_THREADS, "the workers have not been started")
        worker.thread.queue_user_apc(kind, worker, call, pipe, pieces, reply, *more)
        return apcrt.PENDING

    def _check_writable(self) -> None:
        if not self.writable:
            raise apcrt.RpcError(Status.ERROR_ACCESS_DENIED, "this server's tree is not to be written")


class _Reading:
    """A file being read once, from its beginning, and hashed on the way."""

    def __init__(self, file: FileIO) -> None:
        self.file = file
        self.size = 0
        self._looks = attributes(os.fstat(file.fileno()))
        self._hash = hashlib.sha256()

    def see(self, piece: memoryview) -> None:
        """Count and hash a piece."""
        self.size += len(piece)
        self._hash.update(piece)

    def pieces(self, size: int) -> Iterator[memoryview]:
        """The content, at most `size` bytes at a time, in one buffer."""
        for piece in delta.content(self.file, size):
            self.see(piece)
            yield piece

    def receipt(self) -> Receipt:
        """What has been read."""
        return Receipt(self.size, self._looks.modified, self._looks.mode, self._hash.digest())


class _Closing(Iterator[bytes | memoryview]):
    """An iterator over a file that closes the file, also when it was never asked for anything."""

    def __init__(self, pieces: Iterator[bytes | memoryview], reading: _Reading) -> None:
        self._pieces = pieces
        self._reading = reading

    def __next__(self) -> bytes | memoryview:
        return next(self._pieces)

    def close(self) -> None:
        """Let go of the file."""
        self._reading.file.close()


class _Listing:
    """The tree as a stream of records."""

    def __init__(self, tree: Tree, exclude: frozenset[str], size: int) -> None:
        self.entries = 0
        self._tree = tree
        self._exclude = exclude
        self._size = size

    def pieces(self) -> Iterator[bytes]:
        """Records, joined until there are about `size` bytes of them."""
        joined = bytearray()
        for entry in self._tree.walk(self._exclude):
            self.entries += 1
            joined += encode_entry(entry)
            if len(joined) >= self._size:
                yield bytes(joined)
                joined.clear()
        if joined:
            yield bytes(joined)

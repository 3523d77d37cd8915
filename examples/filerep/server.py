"""The server: a manager for every operation of FileRep, and the workers that move the large streams.

What lives here: `FileRepServer`, its workers, and the state objects of the calls that it hands off. What must not:
processes, signals and options (`cli`), and what is sent (`streams`).

How it works. Short operations, and an upload, which waits for its client only, are plain managers on dispatch threads.
Whatever the server pushes is handed off (`return apcrt.PENDING`) to a worker, an APC thread that does nothing but wait
alertably: there, one `Sender` for each call pushes a piece, reads the next one from the disk while that is on its way,
and pushes it when the send-complete comes. So a few workers serve any number of slow clients, none of them holds a
thread, and each costs one buffer and the send window.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

import apcrt
from apcrt import AsyncEvent, AsyncFlags, Status, apc, notify
from examples.filerep import delta
from examples.filerep.interface import Attributes, FileRep, Receipt, ServerTally
from examples.filerep.paths import Tree, attributes
from examples.filerep.replica import Replica
from examples.filerep.streams import ChangeStream, FileStream, ListingStream, Outgoing

__all__ = ["FileRepServer", "Worker"]

R = TypeVar("R")

_PULL: Final = 64 * 1024  # bytes of fingerprints at a time


class Worker:
    """A thread that does nothing but wait alertably, the senders on it, and what it has counted."""

    def __init__(self, threads: apc.ApcThreads, name: str) -> None:
        self.senders: set[Sender[Any]] = set()
        self.calls = 0
        self.send_completes = 0
        self.receive_completes = 0
        self.wrong_thread = 0
        self.thread = threads.start(self._main, name=name)

    def count(self, event: AsyncEvent) -> None:
        """A notification has come. Is this where it belongs?"""
        self.wrong_thread += threading.get_ident() != self.thread.ident
        self.send_completes += event is AsyncEvent.SEND_COMPLETE
        self.receive_completes += event is AsyncEvent.RECEIVE_COMPLETE

    def _main(self) -> None:
        try:
            while True:
                apc.sleep_ex(None, alertable=True)
        finally:  # the block of threads was cancelled: the server ends
            for sender in tuple(self.senders):
                sender.close()


class Sender(Generic[R]):
    """Pushes a stream, one piece at a time, and completes its call. Everything here runs on the worker's thread."""

    def __init__(self, worker: Worker, call: apcrt.ServerHandle[R], pipe: apcrt.Pipe[int], stream: Outgoing[R]) -> None:
        self.worker = worker
        self.call = call
        self.pipe = pipe
        self.stream = stream
        self.ahead: bytes | memoryview = b""
        self.ended = False

    def start(self) -> None:
        """The first APC of the call on its worker."""
        self.worker.calls += 1
        self.worker.senders.add(self)
        self.call.notification = notify.Apc(self.on_event, thread=self.worker.thread)
        with self.failures():
            self.begin()

    def begin(self) -> None:
        """Read the first piece and push it."""
        self.call.flags = AsyncFlags.NOTIFY_ON_SEND_COMPLETE
        self.ahead = self.stream.next_piece()
        self.push()

    def push(self) -> None:
        """Push what was read ahead, of nothing: the end; then read ahead again while it is on its way."""
        self.pipe.push(self.ahead)
        if self.ahead:
            self.ahead = self.stream.next_piece()
        else:
            self.ended = True

    def on_event(self, call: apcrt.ServerHandle[R], event: AsyncEvent) -> None:
        """Send-complete: the piece has left."""
        self.worker.count(event)
        with self.failures():
            if not self.ended:
                self.push()
                return
            call.complete_call(self.stream.reply())
            self.close()

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Whatever fails ends the call. The client is told why, if there still is a client."""
        try:
            yield
        except (OSError, apcrt.RpcError) as error:
            status = Status.from_oserror(error) if isinstance(error, OSError) else error.status
            with contextlib.suppress(apcrt.RpcUsageError):  # the call is over already: the client has gone
                self.call.abort_call(status)
            self.close()

    def close(self) -> None:
        """Let go of the file."""
        self.worker.senders.discard(self)
        self.stream.close()


class ChangeSender(Sender[Receipt]):
    """First pulls the fingerprints of the client's old copy, then turns around and pushes what differs."""

    def __init__(
        self, worker: Worker, call: apcrt.ServerHandle[Receipt], pipe: apcrt.Pipe[int], stream: ChangeStream
    ) -> None:
        super().__init__(worker, call, pipe, stream)
        self.old = stream.old
        self.buffer = bytearray(_PULL)

    def begin(self) -> None:
        while True:
            status, count = self.pipe.pull(self.buffer)
            if status is Status.RPC_S_ASYNC_CALL_PENDING:
                return  # receive-complete will call again
            if not count:
                break
            self.old += memoryview(self.buffer)[:count]
            if len(self.old) > delta.MOST_BLOCKS * delta.FINGERPRINT:
                raise apcrt.RpcError(Status.ERROR_INVALID_PARAMETER, "more fingerprints than a file can have")
        super().begin()

    def on_event(self, call: apcrt.ServerHandle[Receipt], event: AsyncEvent) -> None:
        if event is not AsyncEvent.RECEIVE_COMPLETE:
            super().on_event(call, event)
            return
        self.worker.count(event)
        with self.failures():
            self.begin()


class FileRepServer:
    """The manager of a tree.

    Args:
        tree: what is served.
        workers: at least one, running.
        writable: may clients write?
        buffer: bytes pushed or pulled at a time.
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
        self._turns = itertools.count()  # next() on it is atomic: dispatch threads share it

    # Handed off to a worker

    @FileRep.list_tree.manager
    def list_tree(self, call: apcrt.ServerHandle[int], records: apcrt.OutPipe[int]) -> apcrt.Pending:
        stream = ListingStream(self.tree, self.exclude, self.buffer)
        return self._hand_off(Sender(self._worker(), call, records, stream))

    @FileRep.read.manager
    def read(self, call: apcrt.ServerHandle[Receipt], path: str, content: apcrt.OutPipe[int]) -> apcrt.Pending:
        with _as_status():
            stream = FileStream(self.tree.open_file(path), self.buffer)
        return self._hand_off(Sender(self._worker(), call, content, stream))

    @FileRep.read_changes.manager
    def read_changes(
        self, call: apcrt.ServerHandle[Receipt], path: str, block: int, blocks: apcrt.InOutPipe[int]
    ) -> apcrt.Pending:
        if not delta.SMALLEST_BLOCK <= block <= delta.LARGEST_BLOCK:
            raise apcrt.RpcError(Status.ERROR_INVALID_PARAMETER, f"a block cannot have {block} bytes")
        with _as_status():
            stream = ChangeStream(self.tree.open_file(path), block)
        return self._hand_off(ChangeSender(self._worker(), call, blocks, stream))

    def _worker(self) -> Worker:
        return self.workers[next(self._turns) % len(self.workers)]

    @staticmethod
    def _hand_off(sender: Sender[R]) -> apcrt.Pending:
        try:
            sender.worker.thread.queue_user_apc(sender.start)
        except apcrt.ApcError as error:  # the server is ending
            sender.stream.close()
            raise apcrt.RpcError(Status.RPC_S_SERVER_TOO_BUSY, "the server is ending") from error
        return apcrt.PENDING

    # Plain, on a dispatch thread

    @FileRep.write.manager
    def write(
        self,
        call: apcrt.ServerHandle[Receipt],
        path: str,
        modified: int,
        mode: int,
        content: apcrt.InPipe[int],
    ) -> Receipt:
        self._check_writable(path)
        with _as_status():
            replica = Replica(self.tree, path)
            try:
                buffer = memoryview(bytearray(self.buffer))
                while count := content.read_into(buffer):
                    replica.write(buffer[:count])
                replica.commit(modified, mode)
            finally:
                replica.discard()
        return Receipt(replica.size, modified, mode, replica.sha256)

    @FileRep.make_directory.manager
    def make_directory(self, call: apcrt.ServerHandle[None], path: str, mode: int) -> None:
        self._check_writable(path)
        with _as_status():
            self.tree.make_directory(path, mode)

    @FileRep.stat.manager
    def stat(self, call: apcrt.ServerHandle[Attributes], path: str) -> Attributes:
        with _as_status():
            found = self.tree.stat(path)
        if found is None:
            raise apcrt.RpcError(Status.ERROR_FILE_NOT_FOUND, path)
        return found

    @FileRep.digest.manager
    def digest(self, call: apcrt.ServerHandle[Receipt], path: str) -> Receipt:
        whole, size = hashlib.sha256(), 0
        with _as_status(), self.tree.open_file(path) as file:
            for piece in delta.content(file, delta.STEP):
                if call.test_cancel():
                    raise apcrt.RpcCancelled(detail="the client has gone")
                whole.update(piece)
                size += len(piece)
            looks = attributes(file)
        return Receipt(size, looks.modified, looks.mode, whole.digest())

    @FileRep.statistics.manager
    def statistics(self, call: apcrt.ServerHandle[ServerTally]) -> ServerTally:
        return ServerTally(
            sum(worker.calls for worker in self.workers),
            sum(worker.send_completes for worker in self.workers),
            sum(worker.receive_completes for worker in self.workers),
            sum(worker.wrong_thread for worker in self.workers),
        )

    def _check_writable(self, path: str) -> None:
        if not self.writable:
            raise apcrt.RpcError(Status.ERROR_ACCESS_DENIED, f"{path!r}: the tree is served read-only")


@contextlib.contextmanager
def _as_status() -> Iterator[None]:
    """What the system refuses goes to the client as the status that a Windows server would have sent."""
    try:
        yield
    except OSError as error:
        raise apcrt.RpcError(Status.from_oserror(error), str(error)) from error

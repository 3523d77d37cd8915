"""One file on its way: the state objects of calls, each living on the thread that issued it.

What lives here: `Download`, `Update`, `Verify` and `Upload`. What must not: which files, and how many at a time
(`client`).

What to watch for: nothing here waits and nothing here locks. A call is begun, its pipe pushed and pulled, its file
written, all in APC routines on one thread, which is the thread that began it; every routine compares thread
identities and counts. One push or pull is outstanding for each call, and one buffer is ahead: while the next one is on
its way, the one before is hashed and written.
"""

from __future__ import annotations

import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import apcrt
from apcrt import AsyncEvent, AsyncFlags, Status, apc, notify
from examples.filerep import delta
from examples.filerep.interface import FileRep, Receipt
from examples.filerep.paths import Tree, attributes
from examples.filerep.records import Entry
from examples.filerep.replica import Replica

__all__ = ["Download", "Replace", "Tally", "Transfer", "Update", "Upload", "Verify", "VerifyThere"]

TURN: Final = 8  # buffers that a transfer moves before the others of its thread get their turn


@dataclass
class Tally:
    """What one thread has counted."""

    files: int = 0
    bytes: int = 0
    sent: int = 0
    new: int = 0
    updated: int = 0
    unchanged: int = 0
    compared: int = 0
    mismatches: int = 0
    failures: int = 0
    send_completes: int = 0
    receive_completes: int = 0
    completions: int = 0
    wrong_thread: int = 0


class Transfer(ABC):
    """A call under way, from `start` to `over`."""

    def __init__(self, files: FileRep, tree: Tree, entry: Entry, tally: Tally, buffer: int) -> None:
        self.files, self.tree, self.entry, self.tally = files, tree, entry, tally
        self.buffer = buffer
        self.done = False
        self.told = False
        self.error: Exception | None = None
        self.again: Transfer | None = None
        self.thread = threading.get_ident()
        self.handle = apcrt.AsyncHandle[Receipt](notification=notify.Apc(self.on_event))

    @property
    def over(self) -> bool:
        """Done, and no completion of its call is to come any more."""
        return self.told and self.done

    def start(self) -> None:
        """Begin the call; what goes wrong at once ends the transfer like what goes wrong later."""
        try:
            self.begin()
        except (OSError, apcrt.RpcError) as error:
            self.fail(error)

    def on_event(self, _: apcrt.AsyncHandle[Receipt], event: AsyncEvent) -> None:
        """A completion, in an alertable wait of the issuing thread."""
        tally = self.tally
        tally.completions += 1
        tally.wrong_thread += threading.get_ident() != self.thread
        try:
            if event is AsyncEvent.SEND_COMPLETE:
                tally.send_completes += 1
                self.push()
            elif event is AsyncEvent.RECEIVE_COMPLETE:
                tally.receive_completes += 1
                self.pull()
            else:
                self.told = True
                receipt = self.handle.complete_call()
                if not self.done:
                    self.finish(receipt)
        except (OSError, apcrt.RpcError) as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """End the transfer; a call that is still alive is aborted, and its call-complete comes later."""
        if not self.done:
            self.error = error
            self.end()
        status = self.handle.get_call_status()
        if status == Status.RPC_S_ASYNC_CALL_PENDING:
            self.handle.cancel_call(abort=True)
        elif status == Status.RPC_S_INVALID_ASYNC_HANDLE:
            self.told = True  # it never began, or its failure has been told already

    def succeed(self) -> None:
        """Done, and well."""
        self.tally.files += 1
        self.end()

    def end(self) -> None:
        """Done, one way or the other."""
        self.done = True
        self.release()

    def compare(self, receipt: Receipt, sha256: bytes) -> bool:
        """Do both sides have the same bytes?"""
        self.tally.compared += 1
        return receipt.sha256 == sha256

    def in_turn(self, step: int) -> bool:
        """Go on at once? After some buffers the rest is queued behind what others of this thread have to do."""
        if step < TURN:
            return True
        apc.current_thread().queue_user_apc(self._resume)
        return False

    def _resume(self) -> None:
        try:
            if not self.done:
                self.pull()
        except (OSError, apcrt.RpcError) as error:
            self.fail(error)

    @abstractmethod
    def begin(self) -> None:
        """Begin the call."""

    @abstractmethod
    def finish(self, receipt: Receipt) -> None:
        """The reply has come; ends with `succeed`, or raises."""

    def push(self) -> None:  # noqa: B027 - most transfers push nothing
        """The last push has left."""

    def pull(self) -> None:  # noqa: B027 - some pull nothing
        """Something is there to be pulled."""

    def release(self) -> None:  # noqa: B027 - some hold nothing
        """Let go of files."""


class Download(Transfer):
    """A new file, through an [out] pipe."""

    def begin(self) -> None:
        self.replica = Replica(self.tree, self.entry.path)
        self.buffers = [memoryview(bytearray(self.buffer)) for _ in range(2)]
        self.held: memoryview | None = None
        self.content: apcrt.Pipe[int] = self.call()
        self.pull()

    def call(self) -> apcrt.Pipe[int]:
        """Begin the call that the content comes from."""
        content: apcrt.OutPipe[int] = apcrt.OutPipe()
        self.files.read.begin(self.handle, self.entry.path, content)
        return content

    def pull(self) -> None:
        step = 0
        while self.in_turn(step):
            step += 1
            status, count = self.content.pull(self.buffers[0])
            if self.held is not None:
                self.take(self.held)
                self.held = None
            if status is Status.RPC_S_ASYNC_CALL_PENDING or not count:
                return
            self.held = self.buffers[0][:count]
            self.buffers.reverse()
            self.tally.sent += count

    def take(self, piece: memoryview) -> None:
        """What was pulled before is written while the next is on its way."""
        self.replica.write(piece)
        self.tally.bytes += len(piece)

    def finish(self, receipt: Receipt) -> None:
        if not self.compare(receipt, self.replica.sha256):
            self.tally.mismatches += 1
            raise apcrt.RpcError(Status.RPC_X_BAD_STUB_DATA, "the copy is not what the server has read")
        self.replica.commit(receipt.modified, receipt.mode)
        self.tally.new += 1
        self.succeed()

    def release(self) -> None:
        replica = getattr(self, "replica", None)
        if replica is not None:
            replica.discard()


class Update(Download):
    """A file of which there is an old copy: its fingerprints go in, what differs comes out."""

    def call(self) -> apcrt.Pipe[int]:
        self.old = self.tree.open_file(self.entry.path)
        block = delta.block_size(max(self.entry.size, os.fstat(self.old.fileno()).st_size))
        self.prints = delta.fingerprints(self.old, block)
        self.patch = delta.Patch(self.old, self.replica)
        self.pushing = True
        blocks: apcrt.InOutPipe[int] = apcrt.InOutPipe()
        self.handle.flags = AsyncFlags.NOTIFY_ON_SEND_COMPLETE  # the first one is the request's own
        self.files.read_changes.begin(self.handle, self.entry.path, block, blocks)
        return blocks

    def push(self) -> None:
        if not self.pushing:
            return
        fingerprints = next(self.prints, b"")
        if not fingerprints:
            self.pushing = False
            self.handle.flags = AsyncFlags.NONE  # no notice for the end
        self.content.push(fingerprints)
        self.tally.sent += len(fingerprints)
        if not self.pushing:
            self.pull()

    def pull(self) -> None:
        if not self.pushing:
            super().pull()

    def take(self, piece: memoryview) -> None:
        before = self.replica.size
        for _ in self.patch.apply(piece):
            pass
        self.tally.bytes += self.replica.size - before

    def finish(self, receipt: Receipt) -> None:
        self.patch.finish()
        super().finish(receipt)
        self.tally.new -= 1
        self.tally.updated += 1

    def release(self) -> None:
        super().release()
        old = getattr(self, "old", None)
        if old is not None:
            old.close()


class Verify(Transfer):
    """A file that looks the same on both sides: is it? If not, it is updated here."""

    def begin(self) -> None:
        self.files.digest.begin(self.handle, self.entry.path)
        self.sha256 = hashlib.sha256()
        self.file = self.tree.open_file(self.entry.path)
        self.pieces = delta.content(self.file, self.buffer)
        self.receipt: Receipt | None = None
        self.read = False
        self.size = 0
        self.pull()

    def pull(self) -> None:
        """Read on here, while the server does the same there."""
        step = 0
        while self.in_turn(step):
            step += 1
            piece = next(self.pieces, None)
            if piece is None:
                self.read = True
                self.conclude()
                return
            self.sha256.update(piece)
            self.size += len(piece)
            self.tally.bytes += len(piece)

    def finish(self, receipt: Receipt) -> None:
        self.receipt = receipt
        self.conclude()

    def conclude(self) -> None:
        """Compare, once both sides have read it."""
        if self.receipt is None or not self.read:
            return
        if self.compare(self.receipt, self.sha256.digest()):
            self.tally.unchanged += 1
            self.succeed()
        else:  # it only looked the same
            self.tally.bytes -= self.size
            self.again = self.mend()
            self.end()

    def mend(self) -> Transfer:
        """What to do about a difference."""
        return Update(self.files, self.tree, self.entry, self.tally, self.buffer)

    def release(self) -> None:
        file = getattr(self, "file", None)
        if file is not None:
            file.close()


class Upload(Transfer):
    """A file to the server, through an [in] pipe, with send-complete as the flow control."""

    def begin(self) -> None:
        self.file = self.tree.open_file(self.entry.path)
        self.looks = attributes(self.file)
        self.sha256 = hashlib.sha256()
        self.pieces: Iterator[memoryview] = delta.content(self.file, self.buffer)
        self.ended = False
        self.content: apcrt.InPipe[int] = apcrt.InPipe()
        self.handle.flags = AsyncFlags.NOTIFY_ON_SEND_COMPLETE
        self.files.write.begin(self.handle, self.entry.path, self.looks.modified, self.looks.mode, self.content)

    def push(self) -> None:
        if self.ended:
            return
        piece = next(self.pieces, None)
        if piece is None:
            self.ended, self.handle.flags = True, AsyncFlags.NONE
            self.content.push(b"")
            return
        self.sha256.update(piece)
        self.content.push(piece)
        self.tally.bytes += len(piece)
        self.tally.sent += len(piece)

    def finish(self, receipt: Receipt) -> None:
        if not self.compare(receipt, self.sha256.digest()):
            self.tally.mismatches += 1
            raise apcrt.RpcError(Status.RPC_X_BAD_STUB_DATA, "the server has received something else")
        self.count()
        self.succeed()

    def count(self) -> None:
        """One more file that was not there."""
        self.tally.new += 1

    def release(self) -> None:
        file = getattr(self, "file", None)
        if file is not None:
            file.close()


class Replace(Upload):
    """An upload over an old copy."""

    def count(self) -> None:
        self.tally.updated += 1


class VerifyThere(Verify):
    """The same as `Verify`, from the side that has the original: the server's copy is replaced."""

    def mend(self) -> Transfer:
        return Replace(self.files, self.tree, self.entry, self.tally, self.buffer)

"""A connection: what client and server ends have in common.

What lives here: sending (inline, gathered, left over), receiving, arming in a Port, death. What must not: binding and
requests (client.py), dispatching (server.py), values.

How it works. One lock guards everything. Whoever wants progress, whether a thread that pushes, the home thread that
found its Port ready, or the keeper, takes the lock, tries the non-blocking operations, lets the wire machine and the
exchange draw the consequences, arms what is still wanted, frees the lock and only then wakes threads. An event is a
hint: a stale one costs one system call.

`driver` names the Port in which the descriptors are armed. It is the home thread's, or the I/O thread's while sends
are left over and the home is not waiting (adoption). Besides, the lifeline is registered in the I/O thread's Port for
as long as the connection lives, which is how a death is noticed that nobody is looking for.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, TypeVarTuple

import trio

from apcrt.apc import current_thread, lowlevel
from apcrt.engine.buffers import BUFFER_SIZE
from apcrt.status import ApcError, RpcError, RpcUnavailable, Status, StatusError

if TYPE_CHECKING:
    from apcrt.apc import ApcThread
    from apcrt.engine.exchange import Exchange
    from apcrt.engine.io_thread import IoThread
    from apcrt.transport import Stream

__all__ = ["Connection", "Poller"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Chunk = bytes | bytearray | memoryview

GATHER_BELOW: Final = 16 * 1024  # bytes: smaller pushes are collected in the open fragment, larger ones are not copied
GATHER_LIMIT: Final = 32 * 1024  # bytes: an open fragment with this much leaves at once


_serial = itertools.count(1)


class Poller(Protocol):
    """Where descriptors are armed: a thread's Port, or the Port that all dispatch threads share."""

    def arm(self, fd: int, interest: int, source: lowlevel.Source) -> None: ...
    def disarm(self, fd: int) -> None: ...


class Connection(abc.ABC):
    """One end of one connection; a Source, a Flushable and a Homed of `apcrt.apc.lowlevel`."""

    def __init__(self, io: IoThread) -> None:
        self.name: str = f"c{next(_serial)}"
        self.io = io
        self.lock: threading.Lock = threading.Lock()
        self.stream: Stream | None = None
        self.exchange: Exchange | None = None
        #: The thread that completions of the present call go to; the I/O thread when there is none.
        self.home: ApcThread = io.thread
        self.driver: Poller = io.port
        self.closed: RpcError | None = None
        #: Functions to run, and threads to wake, once the lock is free.
        self.wakes: list[ApcThread] = []
        self.after: list[Callable[[], None]] = []
        self.send_queue: deque[memoryview] = deque()
        self.queued_bytes: int = 0
        self._head_cut = False  # the first queued fragment has left in part
        self._armed = (False, False)
        self._pollers: set[Poller] = set()
        self._dirty = False
        self._hung_up = False
        self._at_end = False

    # Locking ----------------------------------------------------------------------------------------------------

    def run(self, operation: Callable[[*Ts], T], *args: *Ts) -> T:
        """Do `operation(*args)` under the lock, then run and wake what that has collected; Ctrl-C waits."""
        return lowlevel.undisturbed(self._run, operation, args)

    def _run(self, operation: Callable[[*Ts], T], args: tuple[*Ts]) -> T:
        try:
            with self.lock:
                try:
                    return operation(*args)
                except StatusError:
                    raise
                except BaseException:  # out of a signal handler, most likely: who knows what it has torn apart
                    with contextlib.suppress(RpcError):  # the runtime is closing, and the connection with it
                        self.io.spawn(self._give_up_torn, wakes=self.wakes)
                    raise
        finally:
            self.release()

    def release(self) -> None:
        """Run and wake what was collected under the lock; called without it, after every critical section."""
        if self.wakes or self.after:
            with self.lock:  # or an append that is under way could go to a list nobody reads any more
                wakes, self.wakes = self.wakes, []
                after, self.after = self.after, []
            try:
                # First: whoever wakes is to find the connection given back already.
                for function in after:
                    function()
            finally:
                lowlevel.wake(wakes)

    async def _give_up_torn(self) -> None:
        self.run(
            self.give_up, RpcUnavailable(Status.RPC_S_CALL_FAILED, "a signal handler has interrupted the connection")
        )
        await trio.lowlevel.checkpoint()

    # What the two ends differ in ---------------------------------------------------------------------------------

    @abc.abstractmethod
    def wants_read(self) -> bool:
        """Is there anything that received bytes could move on?"""

    @abc.abstractmethod
    def feed(self, data: memoryview) -> None:
        """Give received bytes to the wire machine and act on its events."""

    @abc.abstractmethod
    def end_of_file(self) -> None:
        """The peer has closed its sending direction."""

    @abc.abstractmethod
    def fail(self, error: RpcError) -> None:
        """The connection is of no more use: end what it carries, then `shut`."""

    def give_up(self, error: RpcError) -> None:
        """`fail`, for a reason that concerns nobody but the present exchange."""
        self.fail(error)

    @abc.abstractmethod
    def thread_ended(self) -> None:
        """The home thread is no more (`lowlevel.Homed`). Without the lock."""

    def at_end(self) -> None:
        """A receive has met the peer's end of file. Under the lock."""
        self._at_end = True
        self.end_of_file()

    # Sending -----------------------------------------------------------------------------------------------------

    def outstanding(self) -> int:
        """Bytes pushed and not yet with the transport: what a send window limits."""
        stub = self.exchange.stub if self.exchange is not None else None
        return self.queued_bytes + (stub.pending if stub is not None else 0)

    def send_stub(
        self, exchange: Exchange, buffers: Sequence[Chunk], size: int, *, flush: bool = False, last: bool = False
    ) -> None:
        """Send stub bytes of an exchange: small ones are gathered, large ones leave from the caller's memory.

        Nothing of `buffers` is referred to after the return. Under the lock.
        """
        stub = exchange.stub
        if stub is None:
            raise RpcUnavailable(Status.RPC_S_CALL_FAILED, "the call has no connection")
        exchange.unsent = True
        if size < GATHER_BELOW and not (flush or last):
            for piece in buffers:
                stub.add(piece)
            if stub.pending < GATHER_LIMIT:
                self.mark_dirty()
                return
            buffers = ()
        self.transmit(stub.take(buffers, flush=True, last=last))

    def transmit(self, fragments: Sequence[Chunk]) -> None:
        """Hand whole fragments to the transport, and queue what it does not take. Under the lock.

        Raises:
            TransportError: the link is broken; the caller fails the connection.
        """
        stream = self.open_stream()
        if self.send_queue:
            self._send_queued(stream)
        taken = 0
        if not fragments:  # a tail too short for a fragment of its own
            self._all_sent()
            return
        if not self.send_queue:
            taken = stream.send(fragments)
            total = sum(map(len, fragments))
            while taken < total:
                more = stream.send(_without(fragments, taken))
                if not more:
                    break
                taken += more
            if taken == total:
                self._all_sent()
                return
        self._queue(fragments, taken)
        self.mark_dirty()

    def open_stream(self) -> Stream:
        """The stream, which a connection has from the moment it is open until it is shut."""
        if self.stream is None or self.closed is not None:
            raise RpcUnavailable(Status.RPC_S_CALL_FAILED, "the connection is not open")
        return self.stream

    def send_between(self, pdu: bytes) -> None:
        """Send a PDU of its own (co_cancel, orphaned) after the fragment under way, ahead of what is queued."""
        if not self.send_queue:
            self.transmit([pdu])
            return
        place = 1 if self._head_cut else 0
        for index, queued in enumerate(self.send_queue):
            if (index or not self._head_cut) and queued[3] & 1 and bytes(queued[12:16]) == pdu[12:16]:
                place = index + 1  # not before the call's own first fragment, or it is about nothing
        self.send_queue.insert(place, memoryview(pdu))
        self.queued_bytes += len(pdu)
        self._send_queued(self.open_stream())

    def _queue(self, fragments: Sequence[Chunk], taken: int) -> None:
        """Copy what is left, one entry for each fragment, so that a cancel can pass between two of them."""
        left = gone = 0
        entry = bytearray()
        for piece in fragments:
            if not left:  # a header stands at the beginning of each fragment, and frag_length in it
                left = int.from_bytes(piece[8:10], "little" if piece[4] & 0x10 else "big")
                gone = 0
            left -= len(piece)
            skip = min(taken, len(piece))
            taken -= skip
            gone += skip
            entry += memoryview(piece)[skip:]
            if not left and entry:
                self._head_cut = self._head_cut or bool(gone)
                self.send_queue.append(memoryview(entry))
                self.queued_bytes += len(entry)
                entry = bytearray()

    def _send_queued(self, stream: Stream) -> None:
        queue = self.send_queue
        while queue:
            taken = stream.send(list(itertools.islice(queue, 256)))
            if not taken:
                return
            self.queued_bytes -= taken
            while taken:
                first = queue[0]
                if taken < len(first):
                    queue[0] = first[taken:]
                    self._head_cut = True
                    break
                taken -= len(first)
                queue.popleft()
                self._head_cut = False
            if queue and self.exchange is not None and self.exchange.unsent:
                self.exchange.drained(self.outstanding())
        self._all_sent()

    def _all_sent(self) -> None:
        if self.send_queue:
            return
        exchange = self.exchange
        if (
            exchange is not None
            and exchange.unsent
            and (exchange.stub is None or exchange.stub.pending < exchange.stub.granule)
        ):
            exchange.unsent = False
            exchange.drained(0)

    # Progress ----------------------------------------------------------------------------------------------------

    def service(self, fd: int, events: int) -> None:  # noqa: ARG002 - both ends look at all of their descriptors
        """A descriptor may be ready (`lowlevel.Source`)."""
        self.run(self._service, events)

    def _service(self, events: int) -> None:
        if self.closed is None:
            self._armed = (False, False)
            if events & lowlevel.HANGUP:
                self._hung_up = True
            self.progress()

    def owes(self) -> bool:
        """Does progress here lead to an APC of the home thread (`lowlevel.Source`)? A guess, without the lock."""
        exchange = self.exchange
        return exchange is not None and exchange.reports_by_apc()

    def flush(self) -> None:
        """Send what was gathered (`lowlevel.Flushable`): before every wait of the pushing thread, and by the keeper."""
        self.run(self._flush)

    def try_flush(self, adopt: bool) -> bool:
        """The keeper's flush: False when it has to look again.

        What the transport does not take is left to the home thread while that is waiting. A home that is not, or one
        that has waited for many looks (`adopt`), is relieved: the I/O thread sends until the queue is empty. So
        nothing has to look at a stalled stream again and again.
        """
        if not self.lock.acquire(blocking=False):
            return False
        try:
            self._flush()
            done = self.closed is not None or not self.send_queue
            if not done and (adopt or not self.home.drives):
                self.move_to(self.io.port)
                self.update()
                done = True
        finally:
            self.lock.release()
        self.release()
        return done

    def _flush(self) -> None:
        self._dirty = False
        if self.closed is None:
            self.progress()

    def progress(self) -> None:
        """Send, receive and arm, as far as it goes without waiting. Under the lock."""
        if self.closed is not None:
            return
        try:
            self._progress()
        except RpcError as error:
            self.fail(error)

    def _progress(self) -> None:
        stream = self.stream
        if stream is None:
            return
        stub = self.exchange.stub if self.exchange is not None else None
        if stub is not None and stub.pending >= stub.granule:
            self.transmit(stub.take((), flush=True))
        elif self.send_queue:
            self._send_queued(stream)
        else:
            self._all_sent()
        self.receive()
        self.update()

    def receive(self) -> None:
        """Receive for as long as somebody wants bytes and there are some. Under the lock."""
        pool = self.io.buffers
        while self.closed is None and self.stream is not None and not self._at_end and self._reads():
            buffer = pool.lend()
            kept = False
            try:
                count = self.stream.recv_into((buffer,))
                if count is None:
                    break
                if count == 0:
                    self.at_end()
                    break
                exchange = self.exchange
                self.feed(buffer[:count])
                kept = exchange is not None and exchange.inbox.settle(buffer)
                if self.exchange is not exchange and self.exchange is not None:
                    kept = self.exchange.inbox.settle(buffer) or kept
            finally:
                if not kept:
                    pool.give_back(buffer)
            if count < BUFFER_SIZE // 2 and not self._hung_up:
                break  # most likely all there was; if not, the descriptor says so again

    def _reads(self) -> bool:
        """Read on? Also when nobody asks, once the peer has hung up: its end hides behind what it sent before.

        That is no more than the transport holds already, since nothing is sent after it.
        """
        return self.wants_read() or self._hung_up

    def update(self) -> None:
        """Arm what is wanted and not armed. Under the lock, after everything that changes what is wanted."""
        stream = self.stream
        if stream is None or self.closed is not None:
            return
        read = not self._at_end and self.wants_read()
        write = bool(self.send_queue)
        if write and self.driver is self.io.port and self.home is not self.io.thread:
            read = read or not self._at_end  # adopted: an early fault must be seen
        elif not write and self.adopted():
            self.set_home(self.home)
        armed_read, armed_write = self._armed
        if (read and not armed_read) or (write and not armed_write):
            self._armed = (read or armed_read, write or armed_write)
            read, write = self._armed
            stream.arm(read, write)
            for fd, interest in stream.interest(read, write):
                self.driver.arm(fd, interest, self)
            self._pollers.add(self.driver)
        elif self.driver is self.io.port and self._armed == (False, False):
            self.watch()

    def adopted(self) -> bool:
        """Does the I/O thread drive for a home that was not waiting?"""
        return self.driver is self.io.port and self.home is not self.io.thread and not self.home.has_wakeup

    def watch(self) -> None:
        """Have the I/O thread told of the peer's death, unless it was already. Under the lock."""
        if self.closed is not None or (self.driver is self.io.port and self._armed != (False, False)):
            return  # what is armed there tells of a hang-up too, and there is one registration for a descriptor
        if self.stream is not None and not self._hung_up:
            self.io.port.arm(self.stream.lifeline, lowlevel.HANGUP, self)
            self._pollers.add(self.io.port)

    def move_to(self, poller: Poller) -> None:
        """Arm in another Port from now on. Under the lock."""
        if poller is self.driver:
            return
        if self._armed != (False, False) and self.stream is not None:
            for fd in self.stream.descriptors:
                self.driver.disarm(fd)
            self._pollers.discard(self.driver)
            if self.driver is self.io.port:
                self.watch()
        self._armed = (False, False)
        self.driver = poller

    def set_home(self, home: ApcThread) -> None:
        """Let completions go to `home`, and its Port drive; a thread with a wake-up hook has the I/O thread drive."""
        try:
            port = self.io.port if home.has_wakeup or home is self.io.thread else home.port
        except ApcError:  # it has ended: what it was to be told cannot be delivered, but the call goes on
            home, port = self.io.thread, self.io.port
        if self.home is not home:
            self.home.homed.discard(self)
            self.home = home
        if home is not self.io.thread:
            home.homed.add(self)
        self.move_to(port)

    def rehome(self) -> None:
        """The home thread has got or lost a wake-up hook (`lowlevel.Homed`)."""
        self.run(self._rehome)

    def _rehome(self) -> None:
        if self.closed is None:
            self.set_home(self.home)
            self.update()

    def mark_dirty(self) -> None:
        """Something has not left: the pushing thread flushes before it waits, and the keeper looks after a while."""
        if not self._dirty:
            self._dirty = True
            current_thread().add_dirty(self)
            self.io.mark_dirty(self, self.wakes)

    def shut(self, error: RpcError) -> None:
        """Close for good; nothing is sent any more. Under the lock; once only."""
        if self.closed is not None:
            return
        self.closed = error
        stream = self.stream
        self.home.homed.discard(self)
        self.send_queue.clear()
        self.queued_bytes = 0
        if stream is not None:
            for poller in self._pollers | {self.driver}:
                for fd in stream.descriptors:
                    poller.disarm(fd)
            self._pollers.clear()
            stream.close()


def _without(pieces: Sequence[Chunk], count: int) -> list[Chunk]:
    """The pieces without their first `count` bytes."""
    for index, piece in enumerate(pieces):
        if count < len(piece):
            return [memoryview(piece)[count:], *pieces[index + 1 :]]
        count -= len(piece)
    return []

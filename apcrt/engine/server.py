"""The server's end: listeners, connections, and the threads that run requests.

What lives here: `ServerConnection`, `DispatchPool` (the dispatch threads and the Port they share) and `Acceptor`, the
interface that `apcrt.rpc` fills to say what is served. What must not: managers and values.

How it works. A connection without a running call is armed in one epoll set that all dispatch threads poll, one event
each: the thread that reads a request runs it, and no other thread is woken for it. While a call runs, the connection
is driven by the thread its completions go to. When every dispatch thread is busy the I/O thread looks now and then:
requests wait for a thread up to the limit of calls, and are refused beyond it.
"""

from __future__ import annotations

import abc
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import trio

from apcrt import trace
from apcrt.apc import lowlevel
from apcrt.engine.connection import Connection
from apcrt.engine.exchange import Exchange
from apcrt.status import RpcError, RpcUnavailable, Status
from apcrt.wire import (
    AssociationGroups,
    BoundByPeer,
    CallOrphaned,
    CancelRequested,
    CloseConnection,
    InterfaceOffer,
    ReplyReady,
    RequestData,
    RequestEnd,
    RequestStarted,
    ServerAssociation,
)

if TYPE_CHECKING:
    from apcrt.apc import ApcThread
    from apcrt.engine.connection import Poller
    from apcrt.engine.io_thread import IoThread
    from apcrt.transport import Listener, PeerIdentity, Stream

__all__ = ["Acceptor", "DispatchPool", "ServerConnection", "ServerExchange", "serve_listener"]

LINGER: Final = 2.0  # seconds that a refused peer gets to read why
RELIEF: Final = 0.01  # seconds between two looks at new requests while every dispatch thread is busy


class ServerExchange(Exchange):
    """What the server's end needs to know about a call beside what every exchange has."""

    @abc.abstractmethod
    def cancelled(self, *, orphaned: bool) -> None:
        """The client has cancelled, or (`orphaned`) given the call up. Under the lock."""

    @abc.abstractmethod
    def disconnected(self) -> None:
        """The client will send nothing any more. Under the lock."""

    @abc.abstractmethod
    def run(self) -> None:
        """Run the manager. On a dispatch thread, without a lock."""


class Acceptor(Protocol):
    """What a server serves, as the engine asks for it."""

    groups: AssociationGroups
    groups_lock: threading.Lock
    max_request: int

    @property
    def offer(self) -> InterfaceOffer:
        """The interfaces."""
        ...

    def open_exchange(self, connection: ServerConnection, request: RequestStarted) -> ServerExchange | int:
        """The exchange for a request that begins, or the fault code that refuses it. Under the connection's lock."""
        ...

    def connection_closed(self, connection: ServerConnection) -> None:
        """A connection has gone. Without a lock."""
        ...


class ServerConnection(Connection):
    """A connection that a client has opened."""

    stream: Stream | None
    exchange: Exchange | None
    home: ApcThread
    driver: Poller

    def __init__(
        self, io: IoThread, acceptor: Acceptor, dispatch: DispatchPool, stream: Stream, secondary_address: str
    ) -> None:
        super().__init__(io)
        self.stream = stream
        self.peer: PeerIdentity = stream.peer
        self.bound: bool = False
        self._acceptor = acceptor
        self._dispatch = dispatch
        self._lingering = False
        self.driver = dispatch
        self.wire: ServerAssociation = ServerAssociation(
            acceptor.offer, acceptor.groups, secondary_address=secondary_address, max_request=acceptor.max_request
        )

    def accepted(self) -> None:
        """Begin: listen to the client and watch for its death. On the I/O thread."""
        self.run(self._accepted)

    def _accepted(self) -> None:
        self.watch()
        self.update()

    def dispatchable(self, exchange: ServerExchange) -> None:
        """The arguments are complete: a dispatch thread is to run the manager. Under the lock."""
        self.after.append(partial(self._dispatch.offer, exchange))

    def finish(self, exchange: ServerExchange) -> None:
        """The response is on its way, or the call was given up: go on with the next request. Under the lock."""
        exchange.inbox.clear()
        exchange.connection = None
        if self.exchange is exchange:
            self.exchange = None
        if self.closed is not None:
            return
        self.home.homed.discard(self)
        self.home = self.io.thread
        self.move_to(self._dispatch)
        self.update()

    def fault(self, call_id: int, code: int) -> None:
        """Answer a call with a fault. Under the lock."""
        pdu = self.wire.fault(call_id, code)
        try:
            if pdu:
                self.transmit([pdu])
        except RpcError as error:
            self.fail(error)

    def update(self) -> None:
        if self._at_end and self.exchange is None and not self.send_queue and not self._lingering:
            self.shut_quietly()
        super().update()

    def adopted(self) -> bool:
        return self.exchange is not None and super().adopted()

    def wants_read(self) -> bool:
        if self._lingering:
            return True
        exchange = self.exchange
        # No further request while replies wait to be sent: a client that reads none must not be able to pile them up.
        return exchange.wants_stub() if exchange is not None else not self.send_queue

    def feed(self, data: memoryview) -> None:
        if self._lingering:
            return
        with self._acceptor.groups_lock:
            events = self.wire.receive(data)
        for event in events:
            self._handle(event)

    def body_taken(self, count: int) -> None:
        """Stub bytes of the present fragment were received straight into a manager's buffer."""
        for event in self.wire.body_taken(count):
            self._handle(event)

    def _handle(self, event: object) -> None:
        exchange = self.exchange
        match event:
            case RequestData(data=data, order=order):
                if exchange is not None:
                    exchange.inbox.put(data)
                    exchange.arrived(order)
            case RequestEnd():
                if exchange is not None:
                    exchange.ended()
            case RequestStarted():
                opened = self._acceptor.open_exchange(self, event)
                if isinstance(opened, int):
                    self.transmit([self.wire.fault(event.call_id, opened, did_not_execute=True)])
                else:
                    self.exchange = opened
            case CancelRequested():
                if isinstance(exchange, ServerExchange):
                    exchange.cancelled(orphaned=False)
            case CallOrphaned():
                if isinstance(exchange, ServerExchange):
                    exchange.cancelled(orphaned=True)
            case ReplyReady(data=reply):
                self.transmit([reply])
            case BoundByPeer():
                self.bound = True
            case CloseConnection(reason=reason):
                self._close_politely(reason)
            case _:
                raise AssertionError(f"an event that no server gets: {event!r}")

    def _close_politely(self, reason: str) -> None:
        """Let the peer read our last word before the connection goes: a reset would destroy it on the way."""
        if trace.level <= trace.INFO:
            self.after.append(
                partial(trace.emit, trace.INFO, "connection.refused", connection=self.name, reason=reason)
            )
        exchange = self.exchange
        if exchange is not None:
            self.exchange = None
            exchange.lost(RpcUnavailable(Status.RPC_S_PROTOCOL_ERROR, reason))
        self._lingering = True
        if not self.send_queue:
            self.open_stream().shutdown_send()
        self.after.append(self._linger)

    def _linger(self) -> None:
        try:
            self.io.spawn(self._shut_later)
        except RpcUnavailable:
            self.run(self.shut_quietly)

    async def _shut_later(self) -> None:
        await trio.sleep(LINGER)
        self.run(self.shut_quietly)

    def end_of_file(self) -> None:
        exchange = self.exchange
        if isinstance(exchange, ServerExchange):
            exchange.disconnected()  # a running call may still answer a client that has half-closed
        else:
            self.shut_quietly()

    def shut_quietly(self) -> None:
        """Close without anything having gone wrong. Under the lock."""
        self.fail(RpcUnavailable(Status.RPC_S_CALL_FAILED, "the client has closed the connection"))

    def fail(self, error: RpcError) -> None:
        if self.closed is not None:
            return
        exchange = self.exchange
        self.shut(error)
        if exchange is not None:
            self.exchange = None
            exchange.lost(error)
        with self._acceptor.groups_lock:
            self.wire.closed()
        self.after.append(partial(self._acceptor.connection_closed, self))
        if trace.level <= trace.DEBUG:
            self.after.append(
                partial(trace.emit, trace.DEBUG, "connection.closed", connection=self.name, status=error.status)
            )

    def thread_ended(self) -> None:
        """The thread that drove the call is no more: the I/O thread drives it from now on (`lowlevel.Homed`)."""
        self.run(self._thread_ended)

    def _thread_ended(self) -> None:
        if self.closed is None and self.exchange is not None:
            self.set_home(self.io.thread)
            self.update()


class DispatchPool:
    """The dispatch threads of a server, and the Port they share.

    Args:
        io: the runtime's I/O thread, which reads requests now and then while every dispatch thread is busy, so that
            those beyond the limit of calls are refused and not kept waiting.
        name: the threads are called name-1, name-2 and so on.
        threads: how many there are; each runs one plain manager at a time.
    """

    def __init__(self, io: IoThread, name: str, threads: int) -> None:
        self._io = io
        self._epoll = select.epoll()
        self._sources: dict[int, lowlevel.Source] = {}
        self._offered: deque[ServerExchange] = deque()
        self._offers = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_SEMAPHORE | os.EFD_CLOEXEC)
        self._stop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._offers, select.EPOLLIN)
        self._epoll.register(self._stop, select.EPOLLIN)
        self._lock = threading.Lock()
        self._local = threading.local()
        self._closed = False
        self._busy = 0
        self._relieved = False  # is the I/O thread looking?
        # Daemons only for the sake of a program that ends without having left its runtime; `stop` joins them.
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(1, threads + 1)
        ]
        for thread in self._threads:
            thread.start()

    def arm(self, fd: int, interest: int, source: lowlevel.Source) -> None:
        """Watch a descriptor, once; from any thread."""
        mask = select.EPOLLONESHOT
        if interest & lowlevel.READ:
            mask |= select.EPOLLIN
        if interest & lowlevel.WRITE:
            mask |= select.EPOLLOUT
        with self._lock:
            if self._closed:
                return
            known = self._sources.get(fd)
            self._sources[fd] = source
            if known is None:
                self._epoll.register(fd, mask)
            else:
                self._epoll.modify(fd, mask)

    def disarm(self, fd: int) -> None:
        """Forget a descriptor, before it is closed; from any thread."""
        with self._lock:
            if self._sources.pop(fd, None) is not None and not self._closed:
                self._epoll.unregister(fd)

    def offer(self, exchange: ServerExchange) -> None:
        """Have a dispatch thread run a call: this one, if it is one and has just read the request, else any."""
        mine: list[ServerExchange] | None = getattr(self._local, "mine", None)
        if mine is not None:
            mine.append(exchange)
            return
        self._offered.append(exchange)
        os.eventfd_write(self._offers, 1)

    def is_here(self) -> bool:
        """Is the calling thread one of the dispatch threads?"""
        return threading.current_thread() in self._threads

    def stop(self) -> None:
        """End the threads, each after the manager it runs, and join them. Idempotent; not from one of them."""
        if self._closed:
            return
        os.eventfd_write(self._stop, 1)
        for thread in self._threads:
            thread.join()
        with self._lock:
            self._closed = True
            self._sources.clear()
            self._epoll.close()
            os.close(self._offers)
            os.close(self._stop)

    def _run(self) -> None:
        while True:
            for fd, events in self._epoll.poll(maxevents=1):
                if fd == self._stop:
                    return
                with self._lock:
                    self._busy += 1
                    relief = self._busy == len(self._threads) and not self._relieved
                    self._relieved = self._relieved or relief
                try:
                    if relief:
                        self._call_for_relief()
                    self._handle(fd, events)
                except Exception as error:  # noqa: BLE001 - the next request has done nothing wrong
                    trace.emit(trace.WARNING, "runtime.task_failed", task="dispatch", error=repr(error))
                finally:
                    with self._lock:
                        self._busy -= 1

    def _handle(self, fd: int, events: int) -> None:
        if fd == self._offers:
            try:
                os.eventfd_read(self._offers)
            except BlockingIOError:  # another thread was faster
                return
            self._offered.popleft().run()
            return
        mine: list[ServerExchange] = []
        self._local.mine = mine
        try:
            self._serve(fd, events)
        finally:
            self._local.mine = None
        for exchange in mine:
            exchange.run()

    def _serve(self, fd: int, events: int) -> None:
        source = self._sources.get(fd)
        if source is not None:
            source.service(fd, lowlevel.HANGUP if events & select.EPOLLHUP else 0)

    def _call_for_relief(self) -> None:
        try:
            self._io.spawn(self._relieve)
        except RpcUnavailable:  # the runtime is closing, and will not take more calls
            return

    async def _relieve(self) -> None:
        """Read what has come, every now and then, for as long as nobody else can. On the I/O thread."""
        while True:
            await trio.sleep(RELIEF)
            with self._lock:
                self._relieved = not self._closed and self._busy == len(self._threads)
                found = self._epoll.poll(0, 64) if self._relieved else []
            if not self._relieved:
                return
            for fd, events in found:
                if fd not in (self._offers, self._stop):
                    self._serve(fd, events)


async def serve_listener(
    listener: Listener,
    io: IoThread,
    acceptor: Acceptor,
    dispatch: DispatchPool,
    accepted: Callable[[ServerConnection], bool],
) -> None:
    """Accept connections until cancelled. On the I/O thread.

    Args:
        accepted: told of each connection before it is served; False refuses it.
    """
    secondary = listener.address.endpoint
    try:
        while True:
            stream = await listener.accept()
            connection = ServerConnection(io, acceptor, dispatch, stream, secondary)
            if trace.level <= trace.DEBUG:
                trace.emit(trace.DEBUG, "connection.accepted", connection=connection.name, peer=stream.peer.description)
            if accepted(connection):
                connection.accepted()
            else:
                stream.close()
    finally:
        with trio.CancelScope(shield=True):
            await listener.aclose()

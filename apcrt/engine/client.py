"""The client's end of a connection, and the pool of them that a binding has.

What lives here: opening and binding on the I/O thread, one call after another on a connection, choosing a connection
for a call. What must not: what a call means.

How it works. A connection exists from the moment a call needs one, so that the call never has to wait for it: calls
queue on it while it is being opened. A call with pipes has a connection to itself; calls without pipes that must keep
their order share the one of their thread (a *lane*), one after another. All connections of a pool belong to one
association group: the first bind makes it, and further connections wait for that before they bind.
"""

from __future__ import annotations

import abc
import enum
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import UUID

import trio

from apcrt import trace
from apcrt.apc import lowlevel
from apcrt.engine.connection import Connection
from apcrt.engine.exchange import Exchange
from apcrt.status import RpcCancelled, RpcError, RpcUnavailable, Status
from apcrt.wire import (
    BindRefused,
    Bound,
    ClientAssociation,
    FaultReceived,
    PresentationContext,
    ProtocolViolation,
    ResponseData,
    ResponseEnd,
)

if TYPE_CHECKING:
    from apcrt.apc import ApcThread
    from apcrt.engine.io_thread import IoThread
    from apcrt.transport import Address, Stream, Transport

__all__ = ["ClientConnection", "ClientExchange", "ConnectionPool", "Group"]

IDLE_KEPT: Final = 16  # idle connections that a pool keeps; more are closed when their call ends


class ClientExchange(Exchange):
    """What the client's end needs to know about a call beside what every exchange has."""

    #: The thread that began the call: calls of one thread keep their order, and no two threads share a connection.
    issuer: ApcThread
    #: The thread that completions go to.
    home: ApcThread
    opnum: int
    object_uuid: UUID | None
    #: Does the request carry pipes, so that its length is unknown?
    streams_out: bool
    #: Is it a causal call without pipes, which keeps its place among those of its thread?
    shared: bool

    @abc.abstractmethod
    def placed(self, connection: ClientConnection) -> bool:
        """`connection` is to carry it from now on, under whose lock this is. False when it is over already."""

    @abc.abstractmethod
    def moves(self) -> None:
        """Its connection is of no use any more, and another one is to carry it. Under the lock."""

    @abc.abstractmethod
    def takes_off(self) -> bool:
        """Is the caller the one who looks for the other connection? True once for each `moves`. Without a lock."""

    @abc.abstractmethod
    def started(self) -> None:
        """The request may be sent: `stub` is there. Under the lock."""

    @abc.abstractmethod
    def faulted(self, fault: FaultReceived) -> None:
        """The server has answered with a fault. Under the lock."""


class _State(enum.Enum):
    OPENING = enum.auto()
    BINDING = enum.auto()
    READY = enum.auto()
    CLOSED = enum.auto()


class Group:
    """The association group that the connections of a binding share; used on the I/O thread."""

    def __init__(self) -> None:
        self.id = 0
        self.gate: trio.Lock | None = None


class ClientConnection(Connection):
    """A connection of a pool, from the wish for one to its end."""

    stream: Stream | None
    exchange: Exchange | None

    def __init__(self, io: IoThread, pool: ConnectionPool) -> None:
        super().__init__(io)
        self.pool = pool
        self.wire: ClientAssociation = ClientAssociation()
        self.state: _State = _State.OPENING
        self.waiting: deque[ClientExchange] = deque()
        #: The thread whose calls the connection was last used for. Guarded by the pool's lock, like `claims`.
        self.last_thread: ApcThread | None = None
        #: Calls that the pool has given to this connection and that are not over.
        self.claims = 0
        self._bound = lowlevel.Latch(io.thread)
        self._sent_before = 0
        self._joined = 0

    @property
    def ready(self) -> bool:
        """Is it bound, and not closed?"""
        return self.state is _State.READY

    def submit(self, exchange: ClientExchange) -> None:
        """Carry an exchange, now or when those before it are over. Never waits."""
        self.run(self._submit, exchange)

    def _submit(self, exchange: ClientExchange) -> None:
        if self.closed is not None:  # since the pool has chosen it
            exchange.moves()
            self.after.append(partial(self.resubmit, exchange))
        elif exchange.placed(self):
            if self.state is _State.READY and self.exchange is None:
                self._start(exchange)
            else:
                self.waiting.append(exchange)
        else:  # cancelled on its way
            self.after.append(partial(self.pool.give_back, self))

    def resubmit(self, exchange: ClientExchange) -> None:
        """Have another connection carry an exchange that was to be carried by this one. Without the lock."""
        if not exchange.takes_off():
            return
        try:
            self.pool.submit(exchange)
        except RpcError as error:
            self.run(self._refuse, exchange, error)

    def _refuse(self, exchange: ClientExchange, error: RpcError) -> None:
        if exchange.placed(self):
            exchange.lost(error)

    def opened(self, stream: Stream, group_id: int) -> None:
        """The transport has connected: bind. On the I/O thread."""
        self.run(self._opened, stream, group_id)

    def _opened(self, stream: Stream, group_id: int) -> None:
        if self.closed is not None:
            stream.close()
            return
        self.stream = stream
        self.state = _State.BINDING
        self._joined = group_id
        try:
            self.transmit([self.wire.bind([self.pool.context], group_id)])
            self.update()
        except RpcError as error:
            self.fail(error)

    async def until_bound(self) -> None:
        """Wait until the bind was answered, or the connection has failed. On the I/O thread."""
        await self._bound.wait_async()

    def finish(self, exchange: ClientExchange) -> None:
        """An exchange is over and the connection can go on. Under the lock."""
        if self.exchange is not exchange:  # it was still waiting for its turn
            if exchange in self.waiting:
                self.waiting.remove(exchange)
        else:
            exchange.inbox.clear()
            self.exchange = None
        exchange.connection = None
        if self._at_end:
            self.give_up(RpcUnavailable(Status.RPC_S_CALL_FAILED, f"{self.pool.address} closed the connection"))
        self.after.append(partial(self.pool.give_back, self))
        if self.exchange is None and self.closed is None and self.state is _State.READY:
            if self.waiting:
                self._start(self.waiting.popleft())
            else:
                self.set_home(self.io.thread)
                self.watch()

    def wants_read(self) -> bool:
        if self.state is _State.BINDING:
            return True
        return self.exchange is not None and self.exchange.wants_stub()

    def feed(self, data: memoryview) -> None:
        for event in self.wire.receive(data):
            self._handle(event)

    def body_taken(self, count: int) -> None:
        """Stub bytes of the present fragment were received straight into a caller's buffer."""
        for event in self.wire.body_taken(count):
            self._handle(event)

    def _handle(self, event: object) -> None:
        exchange = self.exchange
        match event:
            case ResponseData(data=data, order=order):
                if exchange is not None:
                    exchange.inbox.put(data)
                    exchange.arrived(order)
            case ResponseEnd():
                if exchange is not None:
                    exchange.ended()
            case FaultReceived():
                if isinstance(exchange, ClientExchange):
                    exchange.faulted(event)
            case Bound():
                self._bound_by(event)
            case BindRefused(status=status):
                if self._joined:
                    self._group_is_gone()
                else:
                    self.fail(RpcUnavailable(status, f"{self.pool.address} refused the bind: {event.reason.name}"))
            case ProtocolViolation(status=status, reply=reply, detail=detail):
                if reply:
                    self.transmit([reply])
                self.fail(RpcUnavailable(status, f"{self.pool.address} broke the protocol: {detail}"))
            case _:
                self.fail(RpcUnavailable(Status.RPC_S_CALL_FAILED_DNE, f"{self.pool.address} asks us to leave"))

    def _bound_by(self, event: Bound) -> None:
        rejected = self.pool.context.context_id not in self.wire.accepted
        if rejected:
            result = event.results[0] if event.results else None
            unknown = result is None or result.reason == 1
            status = Status.RPC_S_UNKNOWN_IF if unknown else Status.RPC_S_UNSUPPORTED_TRANS_SYN
            self.fail(RpcUnavailable(status, f"{self.pool.address} does not serve {self.pool.context.abstract}"))
            return
        self.state = _State.READY
        self.pool.group.id = event.group_id
        self._bound.set(self.wakes)
        if trace.level <= trace.DEBUG:
            self.after.append(partial(trace.emit, trace.DEBUG, "connection.opened", connection=self.name))
        self.watch()
        if self.waiting:
            self._start(self.waiting.popleft())
        else:
            self.after.append(partial(self.pool.rest, self))

    def _group_is_gone(self) -> None:
        """The server has forgotten our association group (its last connection had closed): begin a new one."""
        if self.pool.group.id == self._joined:
            self.pool.group.id = 0
        self._move_waiting()
        self.fail(RpcUnavailable(Status.RPC_S_CALL_FAILED_DNE, "the association group was gone"))

    def _move_waiting(self) -> None:
        """Let another connection carry those who wait for this one, which keeps them until then. Under the lock."""
        while self.waiting:
            exchange = self.waiting.popleft()
            exchange.moves()
            self.after.append(partial(self.resubmit, exchange))

    def _start(self, exchange: ClientExchange) -> None:
        self.exchange = exchange
        self._sent_before = self.open_stream().statistics().bytes_sent
        self.set_home(exchange.home)
        exchange.stub = self.wire.request(
            self.pool.context.context_id, exchange.opnum, streams=exchange.streams_out, object_uuid=exchange.object_uuid
        )
        try:
            exchange.started()
            self.update()
        except RpcError as error:
            self.fail(error)

    def end_of_file(self) -> None:
        exchange = self.exchange
        if exchange is not None and exchange.peer_ended:
            return  # the whole response is here: the call can do without the connection
        what = "before the reply" if exchange is not None else "the connection"
        self.fail(RpcUnavailable(Status.RPC_S_CALL_FAILED, f"{self.pool.address} closed {what}"))

    def fail(self, error: RpcError) -> None:
        if self.closed is not None:
            return
        exchange, stream = self.exchange, self.stream
        sent = stream is not None and exchange is not None and stream.statistics().bytes_sent > self._sent_before
        ready = self.state is _State.READY
        self.state = _State.CLOSED
        self.shut(error)
        self._bound.set(self.wakes)
        not_executed = error
        if error.status == Status.RPC_S_CALL_FAILED and (ready or stream is not None):
            not_executed = RpcUnavailable(Status.RPC_S_CALL_FAILED_DNE, error.detail)
            not_executed.__cause__ = error.__cause__
        if exchange is not None:
            self.exchange = None
            exchange.lost(error if sent else not_executed)
        while self.waiting:
            self.waiting.popleft().lost(not_executed)
        self.after.append(partial(self.pool.dropped, self))
        if trace.level <= trace.DEBUG:
            self.after.append(
                partial(trace.emit, trace.DEBUG, "connection.closed", connection=self.name, status=error.status)
            )

    def give_up(self, error: RpcError) -> None:
        """Close because one call has ended in a way that the connection cannot survive; those behind it move on."""
        self._move_waiting()
        self.fail(error)

    def thread_ended(self) -> None:
        """The home thread is no more: its call cannot be completed (`lowlevel.Homed`)."""
        self.run(self._thread_ended)

    def _thread_ended(self) -> None:
        if self.closed is None and self.exchange is not None:
            self.fail(RpcCancelled(detail="the thread that the call reports to has ended"))


class ConnectionPool:
    """The connections of one binding for one interface.

    Args:
        io: the runtime's I/O thread.
        transport, address: how and where to connect.
        context: the presentation context that every connection binds.
        group: the association group, shared by all pools of the binding.
    """

    def __init__(
        self, io: IoThread, transport: Transport, address: Address, context: PresentationContext, group: Group
    ) -> None:
        self.io = io
        self.transport = transport
        self.address = address
        self.context = context
        self.group = group
        self._lock = threading.Lock()
        self._idle: list[ClientConnection] = []
        self._all: set[ClientConnection] = set()
        self._lanes: dict[ApcThread, ClientConnection] = {}
        self._closed = False

    def submit(self, exchange: ClientExchange) -> None:
        """Find a connection for a call and let it be carried. Never waits; failures come as `Exchange.lost`.

        Raises:
            RpcUnavailable: 1727, the binding was closed.
        """
        with self._lock:
            if self._closed:
                raise RpcUnavailable(Status.RPC_S_CALL_FAILED_DNE, "the binding is closed")
            connection = self._lanes.get(exchange.issuer) if exchange.shared else None
            if connection is None or connection.closed is not None:
                connection = self._take_idle(exchange.issuer) or self._new()
            if exchange.shared:
                self._lanes[exchange.issuer] = connection
            connection.claims += 1
            connection.last_thread = exchange.issuer
        connection.submit(exchange)

    def give_back(self, connection: ClientConnection) -> None:
        """A call on the connection is over."""
        with self._lock:
            connection.claims -= 1
        self.rest(connection)

    def rest(self, connection: ClientConnection) -> None:
        """Keep a connection that nobody uses for the next call, or close it when there are enough of them.

        It is nobody's lane then. One that is still being opened comes back here when it is bound.
        """
        with self._lock:
            if connection.claims or connection.closed is not None or not connection.ready or connection in self._idle:
                return
            self._leave_lane(connection)
            surplus = self._closed or len(self._idle) >= IDLE_KEPT
            if not surplus:
                self._idle.append(connection)
        if surplus:
            self._close(connection)

    def dropped(self, connection: ClientConnection) -> None:
        """A connection has closed."""
        with self._lock:
            self._all.discard(connection)
            self._leave_lane(connection)
            if connection in self._idle:
                self._idle.remove(connection)

    def close(self) -> None:
        """Close every connection; calls under way end with 1818."""
        with self._lock:
            self._closed = True
            everything = list(self._all)
        for connection in everything:
            self._close(connection)

    def connections(self) -> int:
        """How many there are, idle ones included."""
        return len(self._all)

    def _leave_lane(self, connection: ClientConnection) -> None:
        thread = connection.last_thread
        if thread is not None and self._lanes.get(thread) is connection:
            del self._lanes[thread]

    def _close(self, connection: ClientConnection) -> None:
        connection.run(connection.fail, RpcCancelled(detail="the binding was closed"))

    def _take_idle(self, thread: ApcThread) -> ClientConnection | None:
        while self._idle:
            index = next((i for i, one in enumerate(self._idle) if one.last_thread is thread), -1)
            connection = self._idle.pop(index)
            stream = connection.stream
            if connection.closed is None and stream is not None and stream.idle_and_alive():
                return connection
            self.io.spawn(self._drop_stale, connection)
        return None

    async def _drop_stale(self, connection: ClientConnection) -> None:
        self._close(connection)
        await trio.lowlevel.checkpoint()

    def _new(self) -> ClientConnection:
        connection = ClientConnection(self.io, self)
        self._all.add(connection)
        self.io.spawn(self._open, connection)
        return connection

    async def _open(self, connection: ClientConnection) -> None:
        if trace.level <= trace.DEBUG:
            trace.emit(trace.DEBUG, "connection.opening", connection=connection.name, address=str(self.address))
        group = self.group
        if group.gate is None:
            group.gate = trio.Lock()
        if group.id:
            await self._connect(connection)
            return
        async with group.gate:
            await self._connect(connection)
            if not group.id:
                await connection.until_bound()

    async def _connect(self, connection: ClientConnection) -> None:
        try:
            stream = await self.transport.connect(self.address)
        except RpcError as error:
            connection.run(connection.fail, error)
            return
        except trio.Cancelled:
            connection.run(connection.fail, RpcCancelled(detail="the runtime was closed"))
            raise
        connection.opened(stream, self.group.id)

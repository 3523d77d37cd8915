"""A server: interfaces, managers, endpoints, and how many calls at a time.

What lives here: `Server`. What must not: sockets and PDUs (`engine`), and what happens to one call (`_server_call.py`).

How it works. `register` ties interfaces to manager objects. `start` opens endpoints and the dispatch threads; `async`
managers then run in a trio run of their own, on a thread of the server. `serve` does the same for a trio program, and
runs `async` managers in the caller's own run. Every registered interface is served on every endpoint.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast
from uuid import UUID

import trio

from apcrt import trace
from apcrt.apc import ApcThread, current_thread, lowlevel
from apcrt.engine.io_thread import Errand
from apcrt.engine.server import DispatchPool, ServerConnection, ServerExchange, serve_listener
from apcrt.rpc._server_call import ServerCall
from apcrt.rpc.interface import MANAGES, Interface, Operation
from apcrt.rpc.string_binding import StringBinding
from apcrt.status import FaultStatus, RpcUsageError, Status
from apcrt.transport import Address, Listener, Registry
from apcrt.wire import AssociationGroups, RequestStarted, SyntaxId

if TYPE_CHECKING:
    from apcrt.engine.io_thread import IoThread
    from apcrt.rpc._census import Census
    from apcrt.rpc._operation import OperationSpec

__all__ = ["Server"]

SEND_WINDOW = 1 << 20  # bytes that a manager may have pushed and not sent


class _Served:
    """An interface and the routines that serve it; the wire's `InterfaceShape`."""

    def __init__(self, interface: type[Interface], manager: object) -> None:
        self.interface = interface
        self.routines: dict[int, Callable[..., object]] = _routines(interface, manager)
        self.operations: int = max(interface.operations, default=-1) + 1

    def streams_in(self, opnum: int) -> bool:
        """Does the request of an operation carry pipes?"""
        spec = self.interface.operations.get(opnum)
        return spec is not None and spec.streams_in

    def find(self, opnum: int) -> tuple[OperationSpec, Callable[..., object]] | None:
        """The operation and its routine."""
        spec = self.interface.operations.get(opnum)
        return None if spec is None else (spec, self.routines[opnum])


class _AsyncHost:
    """Runs `async def` managers as tasks of one trio run."""

    def __init__(self) -> None:
        self._work: deque[Callable[[], None]] = deque()
        self._arrived: lowlevel.Latch | None = None
        self._nursery: trio.Nursery | None = None
        self.closed = False

    def submit(self, action: Callable[[], None]) -> None:
        """Run a function on the host's thread, soon; from any thread. Once the host has ended, here and now."""
        self._work.append(action)
        latch = self._arrived
        if self.closed:
            self._do_all()
        elif latch is not None:
            wakes: list[ApcThread] = []
            latch.set(wakes)
            lowlevel.wake(wakes)

    def start(self, call: ServerCall, routine: Callable[[], Any]) -> None:
        """Run a manager as a task."""
        if self._nursery is None or self.closed:
            call.abort_quietly(FaultStatus.NCA_S_SERVER_TOO_BUSY)
        else:
            self._nursery.start_soon(call.run_async, routine, name=call.name)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the host until cancelled; then the running managers are cancelled too."""
        lowlevel.ensure_pump()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._arrived = latch = lowlevel.Latch(current_thread())
                task_status.started()
                while True:
                    self._do_all()
                    await latch.wait_async()
                    self._arrived = latch = lowlevel.Latch(current_thread())
        finally:
            self.closed = True
            self._do_all()

    def _do_all(self) -> None:
        while self._work:
            with contextlib.suppress(IndexError):  # another thread was faster, once the host has ended
                self._work.popleft()()


class Server:
    """Serves interfaces. Made by `Runtime.server`; `with` it, or `close` it, or leave it to the runtime.

    Any thread may call its methods.
    """

    def __init__(
        self,
        io: IoThread,
        registry: Registry,
        census: Census,
        *,
        name: str,
        max_calls: int,
        max_request: int,
        half_open_time: float,
        dispatch_threads: int,
    ) -> None:
        if max_calls < 1:
            raise RpcUsageError(Status.RPC_S_MAX_CALLS_TOO_SMALL, f"max_calls is at least 1, not {max_calls}")
        if dispatch_threads < 1:
            raise RpcUsageError(Status.RPC_S_INVALID_ARG, f"dispatch_threads is at least 1, not {dispatch_threads}")
        self.offer = self
        self.groups: AssociationGroups = AssociationGroups()
        self.groups_lock: threading.Lock = threading.Lock()
        self.max_request = max_request
        self.send_window: int | None = SEND_WINDOW
        self._io = io
        self._registry = registry
        self._census = census
        self._name = name
        self._max_calls = max_calls
        self._half_open_time = half_open_time
        self._dispatch_threads = dispatch_threads
        self._lock = threading.Lock()
        self._served: dict[tuple[UUID, int], _Served] = {}
        self._dispatch: DispatchPool | None = None
        self._host = _AsyncHost()
        self._host_thread: threading.Thread | None = None
        self._host_stop: Callable[[], None] | None = None
        self._listening: list[trio.CancelScope] = []
        self._endpoints: list[str] = []
        self._connections: set[ServerConnection] = set()
        self._half_open: dict[ServerConnection, float] = {}  # those that have not bound, perhaps, and until when
        self._calls: set[ServerCall] = set()
        self._on_threads = False  # begun by `start`, not by `serve`
        self._stopping = False
        self._closed = False
        self._waiters: list[lowlevel.Latch] = []

    # Registration

    def register(self, interface: type[Interface], manager: object, /) -> None:
        """RpcServerRegisterIf: serve `interface` by `manager`, an object with marked routines.

        Raises:
            RpcUsageError: 87, operations have no routine (the text names them); 1712
                RPC_S_TYPE_ALREADY_REGISTERED.
        """
        served = _Served(interface, manager)
        key = (interface.syntax.uuid, interface.syntax.major)
        with self._lock:
            if key in self._served:
                raise RpcUsageError(
                    Status.RPC_S_TYPE_ALREADY_REGISTERED, f"{interface.__name__} is registered; unregister it first"
                )
            self._served[key] = served
            host_missing = self._on_threads and not self._closed and self._host_thread is None and _has_async(served)
        if host_missing:
            self._start_host()

    def unregister(self, interface: type[Interface], /) -> None:
        """RpcServerUnregisterIf: serve it no more; running calls go on.

        Raises:
            RpcUsageError: 1717 RPC_S_UNKNOWN_IF, it is not registered.
        """
        with self._lock:
            if self._served.pop((interface.syntax.uuid, interface.syntax.major), None) is None:
                raise RpcUsageError(Status.RPC_S_UNKNOWN_IF, f"{interface.__name__} is not registered")

    def find(self, abstract: SyntaxId) -> _Served | None:
        """What serves an abstract syntax: same major version, at least the minor one (the wire's `InterfaceOffer`)."""
        served = self._served.get((abstract.uuid, abstract.major))
        if served is None or served.interface.syntax.minor < abstract.minor:
            return None
        return served

    # Listening

    def start(self, *endpoints: str) -> list[str]:
        """Open endpoints and serve on threads of the server; returns the bound string bindings. Blocks shortly.

        Args:
            endpoints: string bindings; one without a network address listens on this machine only, one with an empty
                or zero endpoint gets a dynamic one.

        Raises:
            RpcUsageError: 1713 RPC_S_ALREADY_LISTENING, 1714 RPC_S_NO_PROTSEQS_REGISTERED without endpoints, and
                those of bad bindings; on a thread that runs trio (await `serve` there).
            TransportError: 1720, 1740.
        """
        if lowlevel.in_trio_run():
            raise RpcUsageError(Status.RPC_S_CANNOT_SUPPORT, "on a thread that runs trio: await server.serve(...)")
        addresses = self._begin(endpoints)
        self._on_threads = True
        try:
            if any(_has_async(served) for served in self._served.values()):
                self._start_host()
            return self._opened(Errand(self._io, self._listen, addresses).wait())
        except BaseException:
            self._stopping = True
            raise

    async def serve(self, *endpoints: str, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, running `async` managers in this trio run.

        `bindings = await nursery.start(server.serve, "ncacn_ip_tcp:[0]")` returns the bound string bindings.
        Cancelled, it stops listening and cancels the managers that run in it; their clients get 1818.
        """
        addresses = self._begin(endpoints)
        try:
            bound = self._opened(await Errand(self._io, self._listen, addresses).wait_async())
            async with trio.open_nursery() as nursery:
                await nursery.start(self._host.run)
                task_status.started(bound)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.stop)

    def stop(self) -> None:
        """RpcMgmtStopServerListening: refuse new calls; those running go on. Idempotent.

        Any thread, managers included. The endpoints are closed when it returns; on a thread that runs trio, soon after.
        """
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            scopes, self._listening = self._listening, []
            connections = list(self._connections)
        if self._io.alive:
            errand = Errand(self._io, self._stop_listening, scopes)
            if not lowlevel.in_trio_run():
                errand.wait()
        for connection in connections:
            connection.run(self._shut_idle, connection)
        self._tell_waiters()
        if trace.level <= trace.INFO:
            trace.emit(trace.INFO, "server.stopped", server=self._name)

    @staticmethod
    def _shut_idle(connection: ServerConnection) -> None:
        if connection.exchange is None:
            connection.shut_quietly()

    def wait(self, timeout: float | None = None) -> bool:
        """RpcMgmtWaitServerListen: block until the server has stopped and its last call has ended.

        Args:
            timeout: seconds; None for ever.

        Returns:
            Whether that has happened. The wait is not alertable.

        Raises:
            RpcUsageError: 1764 in a manager, whose call would never end; on a thread that runs trio.
        """
        self._refuse_own_threads("wait")
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            latch = lowlevel.Latch()
            with self._lock:
                if self._stopping and not self._calls:
                    return True
                self._waiters.append(latch)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            latch.wait(left)

    def close(self) -> None:
        """Stop, end the calls that still run with 1818 for their clients, and join every thread. Idempotent.

        Raises:
            RpcUsageError: 1764 in a manager, which it would wait for.
        """
        self._refuse_own_threads("close")
        self.stop()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            connections = list(self._connections)
        if self._host_stop is not None:
            self._host_stop()
        for connection in connections:
            connection.run(connection.shut_quietly)
        if self._dispatch is not None:
            self._dispatch.stop()
        if self._host_thread is not None:
            self._host_thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    @property
    def endpoints(self) -> list[str]:
        """The bound string bindings."""
        return list(self._endpoints)

    @property
    def running(self) -> int:
        """Calls that are under way."""
        return len(self._calls)

    # For the engine and for calls

    def open_exchange(self, connection: ServerConnection, request: RequestStarted) -> ServerExchange | int:
        """The call for a request that begins, or the code of the fault that refuses it. Under the connection's lock."""
        served = self.find(request.interface)
        if served is None:
            return FaultStatus.NCA_S_UNK_IF
        found = served.find(request.opnum)
        if found is None:
            return FaultStatus.NCA_S_OP_RNG_ERROR
        operation, routine = found
        call = ServerCall(self, connection, request.call_id, operation, routine, request.order)
        with self._lock:
            if self._stopping or len(self._calls) >= self._max_calls:
                return FaultStatus.NCA_S_SERVER_TOO_BUSY
            self._calls.add(call)
        self._census.enter()
        return call

    def connection_closed(self, connection: ServerConnection) -> None:
        """A connection has gone."""
        with self._lock:
            self._connections.discard(connection)
        self._half_open.pop(connection, None)

    def call_ended(self, call: ServerCall) -> None:
        """A call is over."""
        with self._lock:
            self._calls.discard(call)
            tell = self._stopping and not self._calls
        self._census.leave()
        if tell:
            self._tell_waiters()

    def run_async(self, call: ServerCall, routine: Callable[[], Any]) -> None:
        """Have a manager run in the trio run that serves."""
        self._host.submit(partial(self._host.start, call, routine))

    def cancel_soon(self, scope: trio.CancelScope) -> None:
        """Cancel a manager's scope, on its own thread."""
        self._host.submit(scope.cancel)

    # Inside

    def _refuse_own_threads(self, verb: str) -> None:
        here = threading.current_thread()
        if here is self._host_thread or (self._dispatch is not None and self._dispatch.is_here()):
            raise RpcUsageError(
                Status.RPC_S_CANNOT_SUPPORT,
                f"server.{verb}() in a manager would wait for that manager; stop() does not, and the owner closes",
            )

    def _begin(self, endpoints: tuple[str, ...]) -> list[Address]:
        if not endpoints:
            raise RpcUsageError(Status.RPC_S_NO_PROTSEQS_REGISTERED, 'name an endpoint, such as "ncacn_ip_tcp:[0]"')
        addresses: list[Address] = []
        for endpoint in endpoints:
            string = StringBinding.parse(endpoint)
            self._registry.find(string.protocol_sequence)
            addresses.append(Address(string.protocol_sequence, string.network_address, string.endpoint, string.options))
        with self._lock:
            if self._closed or self._stopping:
                raise RpcUsageError(Status.RPC_S_NOT_LISTENING, "the server has been stopped; make another one")
            if self._dispatch is not None:
                raise RpcUsageError(Status.RPC_S_ALREADY_LISTENING, "the server is listening already")
            self._dispatch = DispatchPool(self._io, f"apcrt-{self._name}", self._dispatch_threads)
        return addresses

    def _opened(self, listeners: list[Listener]) -> list[str]:
        self._endpoints = [
            StringBinding(
                one.address.protocol_sequence, one.address.network_address, one.address.endpoint, one.address.options
            ).compose()
            for one in listeners
        ]
        if trace.level <= trace.INFO:
            trace.emit(trace.INFO, "server.listening", server=self._name, endpoints=self._endpoints)
        return self.endpoints

    async def _listen(self, addresses: list[Address]) -> list[Listener]:
        listeners: list[Listener] = []
        try:
            for address in addresses:
                transport = self._registry.find(address.protocol_sequence)
                listeners.append(await transport.listen(address))
        except BaseException:
            with trio.CancelScope(shield=True):
                for listener in listeners:
                    await listener.aclose()
            raise
        for listener in listeners:
            scope = trio.CancelScope()
            self._listening.append(scope)
            self._io.spawn(self._serve_one, listener, scope)
        return listeners

    async def _serve_one(self, listener: Listener, scope: trio.CancelScope) -> None:
        dispatch = self._dispatch
        if dispatch is None:
            return
        with scope:
            await serve_listener(listener, self._io, self, dispatch, self._accepted)

    @staticmethod
    async def _stop_listening(scopes: list[trio.CancelScope]) -> None:
        for scope in scopes:
            scope.cancel()
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()

    def _accepted(self, connection: ServerConnection) -> bool:
        with self._lock:
            if self._stopping:
                return False
            self._connections.add(connection)
        if not self._half_open:
            self._io.spawn(self._sweep)
        self._half_open[connection] = trio.current_time() + self._half_open_time
        return True

    async def _sweep(self) -> None:
        """A client that connects and does not bind is not waited for. On the I/O thread."""
        while self._half_open:
            connection, deadline = next(iter(self._half_open.items()))
            if deadline <= trio.current_time():
                self._half_open.pop(connection, None)
                connection.run(self._shut_unbound, connection)
            else:
                await trio.sleep_until(deadline)

    @staticmethod
    def _shut_unbound(connection: ServerConnection) -> None:
        if not connection.bound:
            connection.shut_quietly()

    def _start_host(self) -> None:
        ready = threading.Event()
        scope = trio.CancelScope()

        async def main() -> None:
            with scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self._host.run)
                    ready.set()

        # A daemon only for the sake of a program that ends without having left its runtime; `close` joins it.
        self._host_thread = threading.Thread(
            target=trio.run, args=(main,), name=f"apcrt-{self._name}-async", daemon=True
        )
        self._host_thread.start()
        ready.wait()
        self._host_stop = partial(self._host.submit, scope.cancel)

    def _tell_waiters(self) -> None:
        with self._lock:
            waiters, self._waiters = self._waiters, []
        wakes: list[ApcThread] = []
        for latch in waiters:
            latch.set(wakes)
        lowlevel.wake(wakes)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "stopped" if self._stopping else "listening" if self._endpoints else "new"
        return f"<Server {self._name} {state}, {len(self._calls)} calls, {len(self._connections)} connections>"


def _routines(interface: type[Interface], manager: object) -> dict[int, Callable[..., object]]:
    """The manager's routine for each operation of an interface."""
    routines: dict[int, Callable[..., object]] = {}
    wanted: dict[int, int] = {}
    for declared in vars(interface).values():
        if isinstance(declared, Operation):
            found = cast("Operation[..., object]", declared)
            wanted[id(found)] = found.spec.opnum
    for name in dir(type(manager)):
        marked = getattr(getattr(type(manager), name, None), MANAGES, ())
        for one in cast("list[Operation[Any, Any]]", marked):
            if id(one) in wanted:
                routines[wanted[id(one)]] = getattr(manager, name)
    missing = [spec.name for opnum, spec in sorted(interface.operations.items()) if opnum not in routines]
    if missing:
        first = missing[0]
        raise RpcUsageError(
            Status.RPC_S_INVALID_ARG,
            f"{type(manager).__name__} does not serve {', '.join(missing)} of {interface.__name__}; mark a routine "
            f"with @{interface.__name__}.{first}.manager",
        )
    return routines


def _has_async(served: _Served) -> bool:
    return any(inspect.iscoroutinefunction(routine) for routine in served.routines.values())

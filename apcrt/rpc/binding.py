"""A binding: the client's idea of a server, by address, with its options.

What lives here: `Binding`, which gives calls to connection pools and keeps count of them. What must not: the calls.

How it works. Making a binding connects nothing. Each interface that is called through it gets a pool of connections;
all pools of a binding share one association group. A binding is for any number of threads.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from apcrt.engine.client import ConnectionPool, Group
from apcrt.rpc.string_binding import StringBinding
from apcrt.status import RpcError, RpcUsageError, Status
from apcrt.transport import Address
from apcrt.wire import NDR20, PresentationContext

if TYPE_CHECKING:
    from uuid import UUID

    from apcrt.engine.io_thread import IoThread
    from apcrt.rpc._census import Census
    from apcrt.rpc._client_call import ClientCall
    from apcrt.transport import Transport
    from apcrt.wire import SyntaxId

__all__ = ["Binding"]


class Binding:
    """Where calls go, and how. Made by `Runtime.binding`.

    Args:
        io: the runtime's I/O thread.
        transport: what reaches the server.
        string: the string binding.
        census: the runtime's count of calls.
        send_window: bytes of pushed and unsent data that a call may have; None for no limit.
        call_timeout: seconds of silence after which the blocking face gives up with 1818; None for never.
        noncausal: let calls of one thread overtake each other (RPC_C_OPT_BINDING_NONCAUSAL).
    """

    def __init__(
        self,
        io: IoThread,
        transport: Transport,
        string: StringBinding,
        census: Census,
        *,
        send_window: int | None,
        call_timeout: float | None,
        noncausal: bool,
    ) -> None:
        self.io = io
        self.string = string
        self.send_window = send_window
        self.call_timeout = call_timeout
        self.noncausal = noncausal
        self.object_uuid: UUID | None = string.object_uuid
        self._transport = transport
        self._address = Address(string.protocol_sequence, string.network_address, string.endpoint, string.options)
        self._census = census
        self._group = Group()
        self._lock = threading.Lock()
        self._pools: dict[SyntaxId, ConnectionPool] = {}
        self._running: set[ClientCall] = set()
        self._closed = False

    def pool(self, interface: SyntaxId) -> ConnectionPool:
        """The connections for an interface."""
        with self._lock:
            if self._closed:
                raise RpcUsageError(Status.RPC_S_INVALID_BINDING, f"the binding {self.string} is closed")
            pool = self._pools.get(interface)
            if pool is None:
                context = PresentationContext(0, interface, (NDR20,))
                pool = self._pools[interface] = ConnectionPool(
                    self.io, self._transport, self._address, context, self._group
                )
            return pool

    def pool_of(self, call: ClientCall) -> ConnectionPool:
        """The connections for a call's interface."""
        return self.pool(call.operation.interface)

    def started(self, call: ClientCall) -> None:
        """A call has begun."""
        self._running.add(call)
        self._census.enter()

    def ended(self, call: ClientCall) -> None:
        """A call is over."""
        if call in self._running:
            self._running.discard(call)
            self._census.leave()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    @property
    def running(self) -> int:
        """Calls that are under way."""
        return len(self._running)

    def cancel_all(self) -> None:
        """Abort every call that is under way; each ends with 1818."""
        for call in list(self._running):
            try:
                call.cancel(abort=True)
            except RpcError:  # it has just ended by itself
                continue

    def close(self) -> None:
        """Close the connections; calls under way end with 1818. Idempotent."""
        with self._lock:
            self._closed = True
            pools = list(self._pools.values())
        self.cancel_all()
        for pool in pools:
            pool.close()

    def __str__(self) -> str:
        return str(self.string)

    def __repr__(self) -> str:
        return f"<Binding {self.string} with {len(self._running)} calls under way>"

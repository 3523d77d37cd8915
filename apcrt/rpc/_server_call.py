"""The server's side of a call.

What lives here: `ServerCall`: from a request to the manager and from its reply to the response. What must not: which
manager, and how many at a time (`server.py`); pushing and pulling (`_call.py`).

How it works. Arguments are collected until they can be decoded: at the end of the request, or, when pipes follow
them, as soon as they are there. Then a dispatch thread runs the manager; an `async def` one is handed to the trio run
of the server. Whatever way the call ends (the reply returned, `complete_call` or `abort_call` from anywhere, an
exception, a client that has gone) happens once, under the connection's lock.
"""

from __future__ import annotations

import inspect
import itertools
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import trio

from apcrt import ndr, trace
from apcrt.apc import current_thread
from apcrt.engine.buffers import Inbox
from apcrt.engine.server import ServerConnection, ServerExchange
from apcrt.rpc import notify
from apcrt.rpc._call import Call, lost_error
from apcrt.rpc._states import CallEvent, CallState, StreamState
from apcrt.rpc._streams import Input, Output
from apcrt.rpc.handle import PENDING, AsyncEvent, ServerHandle
from apcrt.status import (
    FaultStatus,
    RpcCancelled,
    RpcError,
    RpcUnavailable,
    RpcUsageError,
    Status,
    StatusError,
    fault_from_win32,
)

if TYPE_CHECKING:
    from apcrt.apc import ApcThread
    from apcrt.engine.client import ClientConnection
    from apcrt.rpc._operation import OperationSpec
    from apcrt.rpc.server import Server
    from apcrt.wire import OutgoingStub

__all__ = ["ServerCall"]

_serial = itertools.count(1)


class ServerCall(Call, ServerExchange):
    """One call that a client has made.

    Args:
        server: whose limits it counts against.
        connection: what carries it.
        call_id: of its request.
        operation: what is called.
        manager: the routine that serves it.
        order: byte order of the request.
    """

    connection: ClientConnection | ServerConnection | None
    stub: OutgoingStub | None
    peer_order: ndr.ByteOrder | None

    def __init__(
        self,
        server: Server,
        connection: ServerConnection,
        call_id: int,
        operation: OperationSpec,
        manager: Callable[..., object],
        order: ndr.ByteOrder,
    ) -> None:
        outputs = {pipe.name: Output(pipe, ndr.ByteOrder.native()) for pipe in operation.pipes if pipe.carries_out}
        inputs = {pipe.name: Input(pipe) for pipe in operation.pipes if pipe.carries_in}
        super().__init__(
            operation,
            Inbox(connection.io.buffers),
            outputs=tuple(outputs.values()),
            inputs=tuple(inputs.values()),
            outputs_first=False,
            window=server.send_window,
        )
        self.connection = connection
        self.peer_order = order
        self.client: str = connection.peer.description
        self.handle: ServerHandle[Any] = ServerHandle(self)
        self.scope: trio.CancelScope | None = None
        self.watched: bool = False
        self.cancel_requested: bool = False
        self.gone: bool = False
        self._server = server
        self._manager = manager
        self._call_id = call_id
        self._arguments: dict[str, object] | None = None
        self._needed = 0
        self._progress = ndr.Progress()  # so that a retry does not begin again at the first argument
        self._streams = (outputs, inputs)
        self._name = f"{operation.name}@{next(_serial)}"

    @property
    def name(self) -> str:
        return self._name

    # Upcalls of the engine, under the connection's lock

    def arrived(self, order: ndr.ByteOrder) -> None:  # noqa: ARG002 - known since the request began
        if self._arguments is not None:
            self.offer_pending()
        elif self.inputs and self.inbox.size >= self._needed:
            self._decode(final=False)

    def ended(self) -> None:
        self.peer_ended = True
        if self._arguments is None:
            self._decode(final=True)
        else:
            self.offer_pending()

    def _decode(self, *, final: bool) -> None:
        """Decode the arguments if they are all there, and have the manager run."""
        connection = self.connection
        if not isinstance(connection, ServerConnection):
            return
        size = self.inbox.size
        stub = self.inbox.join() if size else memoryview(b"")
        decoder = ndr.Decoder(stub, self.peer_order or ndr.ByteOrder.native(), final=final, progress=self._progress)
        try:
            values = self.operation.request.decode(decoder)
        except ndr.NeedMoreData as more:
            self._needed = more.needed
            return
        except RpcError as error:
            self._fault(connection, error.status)
            return
        self._in_offset = decoder.offset
        # Bytes behind the arguments of a request without pipes are a verification trailer, or padding: ignored.
        self.inbox.consume(decoder.offset if self.inputs else size)
        self._arguments = values
        connection.dispatchable(self)

    def inputs_ended(self) -> None:
        self.inbox.clear()  # what follows the last terminator is ignored

    def cancelled(self, *, orphaned: bool) -> None:
        self.cancel_requested = True
        if orphaned:
            self.gone = True
            self._cancel_scope()
            self._end(CallEvent.FAILURE, RpcCancelled(Status.RPC_S_CALL_CANCELLED, "the client has given the call up"))

    def disconnected(self) -> None:
        self.gone = self.cancel_requested = True
        self._cancel_scope()
        if not self.peer_ended:  # the rest of the request will never come
            self.lost(RpcUnavailable(Status.RPC_S_CALL_FAILED, "the client has closed the connection"))

    def lost(self, error: RpcError) -> None:
        self.gone = self.cancel_requested = True
        self._cancel_scope()
        self._end(CallEvent.FAILURE_INLINE if self._inline else CallEvent.FAILURE, lost_error(error))

    def _cancel_scope(self) -> None:
        connection, scope = self.connection, self.scope
        if connection is not None and scope is not None:
            connection.after.append(partial(self._server.cancel_soon, scope))

    def wants_stub(self) -> bool:
        if self._arguments is None:
            return True
        if self.peer_ended:
            return self.watched  # only a cancel can come
        return self.wants_more_input()

    # Running the manager

    def run(self) -> None:
        """Run or hand over the manager, on a dispatch thread."""
        if self.state is not CallState.RUNNING:
            return  # the client has gone since
        arguments, manager = self._arguments or {}, self._manager
        outputs, inputs = self._streams
        positional: list[object] = []
        for name, parameter in zip(self.operation.parameters, self._parameter_kinds(), strict=True):
            if parameter is None:
                positional.append(arguments[name])
            else:
                pipe: Any = parameter.kind()
                pipe.attach(self, outputs.get(name), inputs.get(name))
                positional.append(pipe)
        if trace.level <= trace.DEBUG:
            trace.emit(trace.DEBUG, "call.dispatched", call=self._name, opnum=self.operation.opnum, client=self.client)
        if inspect.iscoroutinefunction(manager):
            self._server.run_async(self, partial(manager, self.handle, *positional))
            return
        try:
            self._returned(manager(self.handle, *positional))
        except BaseException as error:  # noqa: BLE001 - whatever a manager raises is its client's; the thread goes on
            self._raised(error)

    async def run_async(self, routine: Callable[[], Any]) -> None:
        """Run an `async def` manager, as a task of the trio run that serves."""
        self.scope = trio.CancelScope()
        self._watch()
        try:
            with self.scope:
                if self.gone:
                    self.scope.cancel()
                self._returned(await routine())
                return
        except BaseException as error:
            if not isinstance(_unwrapped(error), Exception | SystemExit):
                self.abort_quietly(Status.RPC_S_CALL_CANCELLED)  # the run is ending
                raise
            self._raised(error)  # whatever a manager raises is its client's
        else:
            self.abort_quietly(Status.RPC_S_CALL_CANCELLED)  # the scope was cancelled

    def _parameter_kinds(self) -> list[Any]:
        pipes = {pipe.name: pipe for pipe in self.operation.pipes}
        return [pipes.get(name) for name in self.operation.parameters]

    def _returned(self, reply: object) -> None:
        if reply is PENDING:
            self._watch()
            return
        try:
            self.complete(reply)
        except RpcUsageError as error:
            if (
                error.status != Status.RPC_S_INVALID_ASYNC_HANDLE
            ):  # else the client has gone, or the manager completed it
                self._report(error)
                self.abort_quietly(error.status)
        except RpcError as error:
            self._report(error)

    def _raised(self, error: BaseException) -> None:
        error = _unwrapped(error)
        if isinstance(error, StatusError):
            if trace.level <= trace.DEBUG:
                trace.emit(trace.DEBUG, "call.failed", call=self._name, opnum=self.operation.opnum, status=error.status)
            self.abort_quietly(error.status or FaultStatus.NCA_S_FAULT_UNSPEC)  # an error that says "no error" is one
        else:
            self._report(error)
            self.abort_quietly(FaultStatus.NCA_S_FAULT_UNSPEC)

    def _report(self, error: BaseException) -> None:
        trace.emit(
            trace.WARNING,
            "manager.raised",
            call=self._name,
            opnum=self.operation.opnum,
            error=repr(error),
            traceback="".join(traceback.format_exception(error)),
        )

    def _watch(self) -> None:
        """Somebody else than a dispatch thread has the call: let a cancel or a death be noticed meanwhile."""
        connection = self.connection
        if connection is not None:
            connection.run(self._watch_on, connection)

    def _watch_on(self, connection: ClientConnection | ServerConnection) -> None:
        if self.connection is not connection:
            return
        self.watched = True
        notification = self.handle.notification
        home = notification.thread if isinstance(notification, notify.Apc) else None
        if home is not None:
            connection.set_home(home)
        elif self.scope is not None:
            connection.set_home(current_thread())
        else:
            connection.set_home(connection.io.thread)
        connection.update()

    def report_to(self, notification: notify.Notification[Any]) -> None:
        """The owner has said how it wants to be told.

        Raises:
            RpcUsageError: 87, an APC without a thread.
        """
        if not isinstance(notification, notify.Apc):
            return
        if notification.thread is None:
            raise RpcUsageError(
                Status.RPC_S_INVALID_ARG,
                "a server's APC notification names its thread: notify.Apc(routine, thread=worker); "
                "a dispatch thread goes back to its pool",
            )
        connection = self.connection
        if connection is not None:
            connection.run(self._report_to, connection, notification.thread)

    def _report_to(self, connection: ClientConnection | ServerConnection, thread: ApcThread) -> None:
        if self.connection is connection:
            connection.set_home(thread)
            connection.update()

    # Ends

    def complete(self, reply: object) -> None:
        """Send the results and end the call."""
        connection = self._mine()
        error = connection.run(self._complete, connection, reply)
        if error is not None:
            raise error

    def _complete(self, connection: ServerConnection, reply: object) -> Exception | None:
        """`complete` under the lock. Returns what the reply's own code raised when it was encoded."""
        self._still_mine(connection)
        if not (self.all_ended(self.inputs) and self.all_ended(self.outputs)):
            self._fault(connection, Status.RPC_X_PIPE_DISCIPLINE_ERROR)
            raise RpcUsageError(
                Status.RPC_X_PIPE_DISCIPLINE_ERROR,
                f"{self.operation.name} was completed before all its pipes were moved to their ends",
            )
        encoder = ndr.Encoder(ndr.ByteOrder.native(), offset=self._out_offset)
        try:
            self.operation.encode_reply(encoder, reply, self._arguments or {})
        except Exception as error:  # noqa: BLE001 - it is the caller's; nothing has been sent
            return error
        try:
            self._ensure_stub(connection)
            connection.send_stub(self, [encoder.data], len(encoder.data), last=True)
        except RpcError as error:
            connection.fail(error)
            raise RpcUsageError(
                Status.RPC_S_INVALID_ASYNC_HANDLE, "the client has gone, and the call with it"
            ) from error
        self._end(CallEvent.REPLY, None)
        return None

    def abort(self, status: int) -> None:
        """End the call with an error for the client."""
        if not status & 0xFFFFFFFF:
            raise RpcUsageError(
                Status.RPC_S_INVALID_ARG, "abort a call with the status that its client is to get, not 0"
            )
        connection = self._mine()
        connection.run(self._abort, connection, status)

    def _abort(self, connection: ServerConnection, status: int) -> None:
        self._still_mine(connection)
        self._fault(connection, status)

    def abort_quietly(self, status: int) -> None:
        """`abort`, for the runtime: of a call that is over already, nothing."""
        try:
            self.abort(status)
        except RpcUsageError:
            return

    def test_cancel(self) -> bool:
        """Has the client cancelled, or gone? Looks at the connection."""
        connection = self.connection
        if connection is not None and not self.cancel_requested:
            connection.run(self._look, connection)
        return self.cancel_requested

    def _look(self, connection: ClientConnection | ServerConnection) -> None:
        if self.connection is connection and self.peer_ended:
            watched, self.watched = self.watched, True
            connection.progress()
            self.watched = watched

    def wants_send_complete(self) -> bool:
        return self.wants_send_complete_of(self.handle.flags)

    def notification(self) -> notify.Notification[Any]:
        return self.handle.notification

    def _notify(self, event: AsyncEvent) -> None:
        self.handle.event = event
        notification = self.handle.notification
        if notification is not None:
            self.deliver(notification, self.handle, event, current_thread())

    def _send(
        self,
        connection: ClientConnection | ServerConnection,
        pieces: Any,
        *,
        flush: bool = False,
        last: bool = False,
    ) -> None:
        self._ensure_stub(cast("ServerConnection", connection))
        super()._send(connection, pieces, flush=flush, last=last)

    def _ensure_stub(self, connection: ServerConnection) -> None:
        if self.stub is None:
            self.stub = connection.wire.respond(self._call_id, streams=bool(self.outputs))

    def _fault(self, connection: ServerConnection, status: int) -> None:
        """Answer with a fault; the rest of the request, if any, is discarded as it comes."""
        connection.fault(self._call_id, fault_from_win32(status))
        self._end(CallEvent.FAILURE_INLINE, RpcError(status, f"{self.operation.name} was aborted"))

    def _fail_here(self, connection: ClientConnection | ServerConnection, error: RpcError) -> None:
        if self.state is not CallState.RUNNING or not isinstance(connection, ServerConnection):
            return
        if isinstance(error, ndr.NdrError):
            self._fault(connection, error.status)
        else:
            connection.fail(error)

    def _mine(self) -> ServerConnection:
        connection = self.connection
        if not isinstance(connection, ServerConnection):
            raise RpcUsageError(Status.RPC_S_INVALID_ASYNC_HANDLE, f"the call of {self.operation.name} is over already")
        return connection

    def _still_mine(self, connection: ServerConnection) -> None:
        if self.connection is not connection:
            raise RpcUsageError(Status.RPC_S_INVALID_ASYNC_HANDLE, f"the call of {self.operation.name} is over already")

    def _end(self, event: CallEvent, error: RpcError | None) -> None:
        """The call is over, one way or the other. Under the lock."""
        if not self.advance(event):
            return
        self.advance(CallEvent.TAKEN)  # nobody comes for the outcome on this side
        connection = self.connection
        self.error = error
        pending = self.current_input()
        if event is CallEvent.FAILURE and pending is not None and pending.state is StreamState.PENDING:
            pending.state = StreamState.OPEN
            self._notify(AsyncEvent.RECEIVE_COMPLETE)  # so that the next pull can say what has happened
        elif event is CallEvent.FAILURE and self._send_due:
            self._notify(AsyncEvent.SEND_COMPLETE)
        self._rouse()
        self.inbox.clear()
        self.connection = None
        if isinstance(connection, ServerConnection):
            connection.after.append(partial(self._ended, error))
            connection.finish(self)

    def _ended(self, error: RpcError | None) -> None:
        self._server.call_ended(self)
        if trace.level <= trace.DEBUG:
            if error is None:
                trace.emit(trace.DEBUG, "call.completed", call=self._name, opnum=self.operation.opnum)
            else:
                trace.emit(
                    trace.DEBUG, "call.failed", call=self._name, opnum=self.operation.opnum, status=int(error.status)
                )

    def __repr__(self) -> str:
        return f"{self._name} {self.state.name.lower()} for {self.client}"


def _unwrapped(error: BaseException) -> BaseException:
    """What a nursery has wrapped, if it is one error."""
    while isinstance(error, BaseExceptionGroup):
        leaves = list(cast("BaseExceptionGroup[BaseException]", error).exceptions)
        if len(leaves) != 1:
            return cast("BaseException", error)
        (error,) = leaves
    return error

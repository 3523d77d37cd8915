"""The client's side of a call.

What lives here: `ClientCall`: from arguments to reply, with cancel and completion. What must not: pushing and pulling,
which both sides share (`_call.py`), and the faces (`interface.py`).

How it works. `begin` encodes the arguments, brings the pipes to life and gives the call to the binding's connection
pool; that never waits. Until the connection is there, what is pushed waits in a backlog, within the same window. The
response is what is left after the pipes were pulled to their ends; it is decoded when it is complete, and then the
call is complete.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from apcrt import ndr, trace
from apcrt.apc import ApcThread, current_thread, lowlevel, run_special_apcs
from apcrt.engine.buffers import Inbox
from apcrt.engine.client import ClientConnection, ClientExchange
from apcrt.rpc._call import MAX_REPLY, Call, lost_error
from apcrt.rpc._states import CallEvent, CallState, StreamState
from apcrt.rpc._streams import Input, Output
from apcrt.rpc.handle import AsyncEvent, AsyncHandle
from apcrt.status import (
    RpcCancelled,
    RpcError,
    RpcFault,
    RpcPending,
    RpcUnavailable,
    RpcUsageError,
    Status,
)

if TYPE_CHECKING:
    from apcrt.engine.server import ServerConnection
    from apcrt.rpc import notify
    from apcrt.rpc._operation import OperationSpec
    from apcrt.rpc.binding import Binding
    from apcrt.rpc.pipe import Pipe
    from apcrt.wire import FaultReceived, OutgoingStub

__all__ = ["ClientCall"]

_serial = itertools.count(1)


class ClientCall(Call, ClientExchange):
    """One call that this process has made.

    Args:
        operation: what is called.
        binding: where; says window, time-outs and order.
        arguments: by name, pipes included.
        handle: the application's async handle, or None for the blocking and trio faces.
        home: the thread that completions go to.
    """

    connection: ClientConnection | ServerConnection | None
    stub: OutgoingStub | None
    opnum: int
    streams_out: bool
    shared: bool
    issuer: ApcThread
    peer_order: ndr.ByteOrder | None

    def __init__(
        self,
        operation: OperationSpec,
        binding: Binding,
        arguments: dict[str, object],
        handle: AsyncHandle[Any] | None,
        home: ApcThread,
    ) -> None:
        outputs = {pipe.name: Output(pipe, ndr.ByteOrder.native()) for pipe in operation.pipes if pipe.carries_in}
        inputs = {pipe.name: Input(pipe) for pipe in operation.pipes if pipe.carries_out}
        pipes = _checked_pipes(operation, arguments)
        encoder = ndr.Encoder(ndr.ByteOrder.native())
        operation.request.encode(encoder, arguments)
        super().__init__(
            operation,
            Inbox(binding.io.buffers),
            outputs=tuple(outputs.values()),
            inputs=tuple(inputs.values()),
            outputs_first=True,
            window=binding.send_window,
        )
        self.binding = binding
        self.handle = handle
        self.home = home
        self.issuer = current_thread()
        self.opnum = operation.opnum
        self.object_uuid: UUID | None = binding.object_uuid
        self.streams_out = operation.streams_in
        self.shared = not operation.pipes and not binding.noncausal
        self.reply: object = None
        self._arguments = {name: value for name, value in arguments.items() if name not in pipes}
        self._backlog: list[bytes] = [bytes(encoder.data)]
        self._backlog_size = len(encoder.data)
        self._out_offset = self._arguments_size = len(encoder.data)
        self._backlog_ended = not self.outputs
        self._cancelled = False
        self._moving = False  # between two connections
        self._gate = threading.Lock()  # between two connections: who carries it, and whether it goes on
        self._name = f"{operation.name}#{next(_serial)}"
        self._snapshot = trace.snapshot()
        if self.wants_send_complete() and self.streams_out:
            self._send_due = True  # the first send-complete of an in-pipe call is the request's own
        for name, pipe in pipes.items():
            pipe.attach(self, outputs.get(name), inputs.get(name))

    @property
    def name(self) -> str:
        return self._name

    def submit(self) -> None:
        """Give the call to the pool, tied to its handle if it has one. Never waits; Ctrl-C is put off meanwhile.

        Raises:
            RpcUsageError: 1702, the binding is closed; 1914, the handle is busy. The call has not begun then.
        """
        run_special_apcs()
        lowlevel.undisturbed(self._submit)

    def _submit(self) -> None:
        pool = self.binding.pool_of(self)
        if self.handle is not None:
            self.handle.tie(self)
        self.binding.started(self)
        if trace.level <= trace.DEBUG:
            trace.emit(trace.DEBUG, "call.started", call=self._name, opnum=self.opnum, binding=str(self.binding))
        try:
            pool.submit(self)
        except BaseException:
            with self._gate:  # it has never existed: nothing may be heard of it when the connection goes that has it
                self.advance(CallEvent.FAILURE_INLINE)
                self.connection = None
            self.binding.ended(self)
            self._untie()
            raise

    # Upcalls of the engine, under the connection's lock

    def placed(self, connection: ClientConnection) -> bool:
        with self._gate:
            if self.state is not CallState.RUNNING:
                return False
            self.connection = connection
            return True

    def moves(self) -> None:
        self._moving = True

    def takes_off(self) -> bool:
        with self._gate:
            moving, self._moving = self._moving, False
            return moving

    def _move_on(self, connection: ClientConnection | ServerConnection) -> None:
        if isinstance(connection, ClientConnection):
            connection.resubmit(self)

    def started(self) -> None:
        connection = self.connection
        if connection is None:
            return
        backlog, self._backlog = self._backlog, []
        size, self._backlog_size = self._backlog_size, 0
        if self.wants_send_complete() and self.streams_out:
            self._send_due = True
        connection.send_stub(self, backlog, size, flush=True, last=self._backlog_ended)
        if self._cancelled:
            self._tell_cancel(connection)

    def arrived(self, order: ndr.ByteOrder) -> None:
        if self.peer_order is None:
            self.peer_order = order
        if self.current_input() is not None:
            self.offer_pending()
        elif self.inbox.size > MAX_REPLY:
            self._break_off(ndr.NdrError(f"the results are larger than {MAX_REPLY} bytes"))

    def ended(self) -> None:
        self.peer_ended = True
        if not self.all_ended(self.outputs):
            self._break_off(
                RpcUnavailable(Status.RPC_S_PROTOCOL_ERROR, "the server replied before the end of the request")
            )
            return
        self.offer_pending()
        self.inputs_ended()

    def inputs_ended(self) -> None:
        connection = self.connection
        if not self.peer_ended or connection is None or not self.all_ended(self.inputs):
            return
        rest = self.inbox.join() if self.inbox.size else memoryview(b"")
        order = self.peer_order or ndr.ByteOrder.native()
        try:
            decoder = ndr.Decoder(rest, order, offset=self._in_offset, final=True)
            self.reply = self.operation.decode_reply(decoder, self._arguments)
        except RpcError as error:
            self._end(CallEvent.FAILURE, error)
            return
        finally:
            self.inbox.clear()
        self._end(CallEvent.REPLY, None)

    def faulted(self, fault: FaultReceived) -> None:
        error = RpcFault(fault.status, f"{self.operation.name} was answered with a fault", fault_code=fault.fault_code)
        connection = self.connection
        event = self._failure_event()
        if isinstance(connection, ClientConnection) and self.stub is not None and not self.stub.finished:
            # The rest of the request will never be read with interest: end it, if the connection can be kept at all.
            rest = connection.wire.abandon(self.stub.call_id)
            if rest:
                with contextlib.suppress(RpcError):  # the broken link fails the connection by itself
                    connection.transmit([rest])
                self._end(event, error)
            else:
                self._end(event, error, keep=False)
                connection.give_up(error)
            return
        self._end(event, error)

    def lost(self, error: RpcError) -> None:
        self._end(self._failure_event(), lost_error(error), keep=False)

    def wants_stub(self) -> bool:
        if not self.all_ended(self.outputs):
            return not self.inbox.size  # an early fault
        if self.current_input() is not None:
            return self.wants_more_input()
        return True

    # Sending before the connection is there

    def _send(
        self,
        connection: ClientConnection | ServerConnection,
        pieces: Sequence[bytes | bytearray | memoryview],
        *,
        flush: bool = False,
        last: bool = False,
    ) -> None:
        if self.stub is not None:
            super()._send(connection, pieces, flush=flush, last=last)
            return
        if self.wants_send_complete():
            self._send_due = True
        for piece in pieces:
            self._backlog.append(bytes(piece))
            self._backlog_size += len(piece)
            self._out_offset += len(piece)
        self._backlog_ended = last

    def outstanding(self, connection: ClientConnection | ServerConnection) -> int:
        if self.stub is None:  # arguments are not pushes: a first push is taken whether they have left or not
            return self._backlog_size - self._arguments_size
        return connection.outstanding()

    # What the handle and the faces do

    def status(self) -> int:
        """997, 0, or why the call failed; lets the connection progress first."""
        connection = self.connection
        if connection is not None:
            connection.run(connection.progress)
        if self.state is CallState.RUNNING:
            return Status.RPC_S_ASYNC_CALL_PENDING
        if self.state is CallState.OVER:
            return Status.RPC_S_INVALID_ASYNC_HANDLE
        return self.error.status if self.error is not None else Status.RPC_S_OK

    def complete(self) -> Any:
        """Take the outcome: the reply, or the error that is raised."""
        if self.status() == Status.RPC_S_ASYNC_CALL_PENDING:
            if self.all_ended(self.outputs):
                raise RpcPending(Status.RPC_S_ASYNC_CALL_PENDING, f"{self.operation.name} has not completed yet")
            error = RpcUsageError(
                Status.RPC_X_PIPE_DISCIPLINE_ERROR, "the call was completed before all its inputs were ended"
            )
            self._kill(error, CallEvent.FAILURE_INLINE)
            raise error
        if not self.advance(CallEvent.TAKEN):
            raise RpcUsageError(Status.RPC_S_INVALID_ASYNC_HANDLE, "the outcome of the call was taken already")
        self._untie()
        if self.error is not None:
            raise self.error
        return self.reply

    def outcome(self) -> Any:
        """The reply of a settled call, or the error that is raised; for the blocking and trio faces."""
        if self.error is not None:
            raise self.error
        if not self.settled():
            raise RpcPending(Status.RPC_S_ASYNC_CALL_PENDING, f"{self.operation.name} has not completed yet")
        self.advance(CallEvent.TAKEN)
        return self.reply

    def cancel(self, *, abort: bool) -> None:
        """Cancel, from any thread; without effect when the call is over."""
        if abort:
            self._kill(RpcCancelled(Status.RPC_S_CALL_CANCELLED, f"{self.operation.name} was cancelled"))
            return
        while (connection := self.connection) is not None and not self._cancelled:
            connection.run(self._cancel_gently, connection)

    def _cancel_gently(self, connection: ClientConnection | ServerConnection) -> None:
        if self.connection is not connection:
            return  # another one has it meanwhile
        self._cancelled = True
        if self.state is CallState.RUNNING and self.stub is not None:
            try:
                self._tell_cancel(connection)
                connection.update()
            except RpcError as error:
                connection.fail(error)

    def silence_limit(self) -> float | None:
        return self.binding.call_timeout

    def timed_out(self) -> None:
        self._kill(RpcCancelled(Status.RPC_S_CALL_CANCELLED, f"no sign of life for {self.binding.call_timeout:g} s"))

    def settled(self) -> bool:
        """Is the call no longer running?"""
        return self.state is not CallState.RUNNING

    def wants_send_complete(self) -> bool:
        return self.handle is not None and self.wants_send_complete_of(self.handle.flags)

    def notification(self) -> notify.Notification[Any]:
        return self.handle.notification if self.handle is not None else None

    def _notify(self, event: AsyncEvent) -> None:
        handle = self.handle
        if handle is not None:
            handle.event = event
            self.deliver(handle.notification, handle, event, self.issuer)

    # Ends

    def _failure_event(self) -> CallEvent:
        return CallEvent.FAILURE_INLINE if self._inline else CallEvent.FAILURE

    def _kill(self, error: RpcError, event: CallEvent = CallEvent.FAILURE) -> None:
        """End the call from this side, now, whatever the server does; its connection is given up."""
        while (connection := self.connection) is not None:
            connection.run(self._abandon, connection, event, error)

    def _abandon(self, connection: ClientConnection | ServerConnection, event: CallEvent, error: RpcError) -> None:
        """Give up a running call: tell the server if it is listening, and close the connection that carries it."""
        stub = self.stub
        if not isinstance(connection, ClientConnection):
            return
        if not self._end(event, error, keep=stub is None, on=connection):
            return
        if stub is None:
            return  # nothing was sent: the connection is for the next call
        farewell = connection.wire.orphan(stub.call_id)
        if farewell and not connection.send_queue:
            with contextlib.suppress(RpcError):  # it is being closed anyway
                connection.transmit([farewell])
        connection.give_up(error)

    def _break_off(self, error: RpcError) -> None:
        connection = self.connection
        if connection is not None:
            self._abandon(connection, self._failure_event(), error)

    def _fail_here(self, connection: ClientConnection | ServerConnection, error: RpcError) -> None:
        if self.state is CallState.RUNNING:
            if isinstance(error, ndr.NdrError):
                self._abandon(connection, CallEvent.FAILURE_INLINE, error)
            else:
                connection.fail(error)

    def _tell_cancel(self, connection: ClientConnection | ServerConnection) -> None:
        if isinstance(connection, ClientConnection) and self.stub is not None:
            told = connection.wire.cancel(self.stub.call_id)
            if told:
                connection.send_between(told)

    def _end(
        self, event: CallEvent, error: RpcError | None, *, keep: bool = True, on: ClientConnection | None = None
    ) -> bool:
        """Reach one of the final states and tell everybody; with `keep` the connection goes on. Under the lock.

        Returns False, and does nothing, when the call is over, or is not carried by the connection `on` any more.
        """
        with self._gate:
            connection = self.connection
            if (on is not None and connection is not on) or not self.advance(event):
                return False
            self.error = error
        for stream in self.inputs:
            if stream.state is StreamState.PENDING:
                stream.state = StreamState.OPEN
        if event is not CallEvent.FAILURE_INLINE:
            self._notify(AsyncEvent.CALL_COMPLETE)
        self._rouse()
        if connection is not None:
            connection.after.append(partial(self._ended, error))
        if isinstance(connection, ClientConnection) and keep:
            connection.finish(self)
        self.inbox.clear()
        self.connection = None
        if event is CallEvent.FAILURE_INLINE:
            self._untie()
        return True

    def _ended(self, error: RpcError | None) -> None:
        self.binding.ended(self)
        if trace.level > trace.DEBUG:
            return
        with trace.restored(self._snapshot):
            if error is None:
                trace.emit(trace.DEBUG, "call.completed", call=self._name, opnum=self.opnum)
            elif error.status == Status.RPC_S_CALL_CANCELLED:
                trace.emit(trace.DEBUG, "call.cancelled", call=self._name, opnum=self.opnum)
            else:
                trace.emit(trace.DEBUG, "call.failed", call=self._name, opnum=self.opnum, status=int(error.status))

    def _untie(self) -> None:
        if self.handle is not None:
            self.handle.untie(self)

    def __repr__(self) -> str:
        return f"{self._name} {self.state.name.lower()}"


def _checked_pipes(operation: OperationSpec, arguments: dict[str, object]) -> dict[str, Pipe[Any]]:
    """The pipe arguments by name.

    Raises:
        RpcUsageError: 87, not a pipe of the declared direction; 1830, a pipe of another call.
    """
    pipes: dict[str, Pipe[Any]] = {}
    for declared in operation.pipes:
        given = arguments[declared.name]
        if not isinstance(given, declared.kind):
            raise RpcUsageError(
                Status.RPC_S_INVALID_ARG,
                f"{operation.name}: {declared.name} is an {declared.kind.__name__}, not {type(given).__name__}",
            )
        if given.live:
            raise RpcUsageError(
                Status.RPC_X_INVALID_PIPE_OBJECT,
                f"{operation.name}: {declared.name} was used for another call; make a new one",
            )
        pipes[declared.name] = given
    return pipes

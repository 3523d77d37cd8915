"""What the client's and the server's side of a call have in common: streams, notifications, waiting.

What lives here: `Call`, which pushes, pulls and notifies. What must not: how a call begins and ends, which differs
(`_client_call.py`, `_server_call.py`), how elements become bytes (`_streams.py`), and the sockets (`engine`).

How it works. A call is the engine's `Exchange`: everything below runs under the lock of its connection, in the thread
that makes the progress. Pushing encodes a chunk and hands it to the connection, which sends it at once or gathers it.
Pulling first empties the inbox and then receives straight into the caller's memory. What happens while nobody is in a
push or pull is told in one of two ways: by the notification of a handle, or, for the blocking and trio verbs, by
latches that wait for exactly this call (`_awaited.py`).

One connection at a time carries the call; it is None before the first and after the end. The methods that start from
outside (`push`, `pull` and so on) take the lock and look again.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, TypeVarTuple

from apcrt import ndr, trace
from apcrt.apc import ApcThread, lowlevel, run_special_apcs
from apcrt.engine.buffers import Inbox
from apcrt.rpc import notify
from apcrt.rpc._awaited import Awaited
from apcrt.rpc._states import CALL, PULL, PUSH, CallEvent, CallState, StreamState
from apcrt.rpc._streams import Input, Output, Stream
from apcrt.rpc.handle import AsyncEvent, AsyncFlags
from apcrt.status import RpcCancelled, RpcError, RpcUnavailable, RpcUsageError, SendWindowFull, Status

if TYPE_CHECKING:
    from apcrt.engine.client import ClientConnection
    from apcrt.engine.server import ServerConnection
    from apcrt.rpc._operation import OperationSpec
    from apcrt.wire import OutgoingStub

__all__ = ["Call", "lost_error"]

H = TypeVar("H")  # the handle: the client's or the server's
S = TypeVar("S", bound=Stream)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_REPLY: Final = 4 << 20  # bytes of non-pipe results


class Call(Awaited):
    """A call on one side: an exchange whose stub bytes are arguments, pipes and results.

    Args:
        operation: what is called.
        outputs, inputs: the streams that this side pushes and pulls, in order.
        outputs_first: whether all outputs come before all inputs (the client) or after them (the server).
        window: bytes of pushed data that may be unsent before pushes are refused; None for no limit.
    """

    connection: ClientConnection | ServerConnection | None
    stub: OutgoingStub | None

    def __init__(
        self,
        operation: OperationSpec,
        inbox: Inbox,
        *,
        outputs: Sequence[Output],
        inputs: Sequence[Input],
        outputs_first: bool,
        window: int | None,
    ) -> None:
        super().__init__()
        self.operation = operation
        self.inbox = inbox
        self.connection = None
        self.stub = None
        self.unsent = False
        self.state: CallState = CallState.RUNNING
        self.error: RpcError | None = None
        self.outputs = outputs
        self.inputs = inputs
        self.window = window
        self.peer_order: ndr.ByteOrder | None = None
        self.peer_ended = False
        #: Operations of the trio face since the last checkpoint.
        self.unchecked = 0
        self._outputs_first = outputs_first
        self._out_offset = 0
        self._in_offset = 0
        self._send_due = False
        self._refused = 0
        self._pushed = False  # is anything that was pushed outstanding?
        self._inline = False
        self._next_turn()

    # Turns -------------------------------------------------------------------------------------------------------

    def _next_turn(self) -> None:
        """Open the stream whose turn it is, if there is one that has not had it."""
        phases = (self.outputs, self.inputs) if self._outputs_first else (self.inputs, self.outputs)
        for phase in phases:
            for stream in phase:
                if stream.state is not StreamState.ENDED:
                    if stream.state is StreamState.WAITING:
                        stream.state = StreamState.OPEN
                    return

    def current_input(self) -> Input | None:
        """The stream whose turn it is to be pulled."""
        for stream in self.inputs:
            if stream.state in (StreamState.OPEN, StreamState.PENDING):
                return stream
        return None

    def all_ended(self, streams: Sequence[Stream]) -> bool:
        """Have all of these been ended?"""
        return all(stream.state is StreamState.ENDED for stream in streams)

    # Pushing -----------------------------------------------------------------------------------------------------

    def push(self, stream: Output | None, data: object) -> int:
        """Push elements, or with none of them the end; returns how many. Never waits.

        Raises:
            SendWindowFull: 1913, nothing was taken.
            RpcUsageError: 1831 out of order, 1916 after the end, 87 no elements of this pipe, 1915 the call is over.
            RpcError: why the call has failed; it is dead.
        """
        if stream is None:
            self._refuse("push", PUSH[StreamState.ABSENT])
        octets, elements = stream.element.source(data)
        self.push_octets(stream, octets, elements)
        return elements

    def push_octets(self, stream: Output, octets: bytes | memoryview, elements: int) -> None:
        """`push` of what `Element.source` has made of the caller's data."""
        self._inline_run("push", PUSH, stream, self._push, octets, elements)
        if trace.level <= trace.DEBUG:
            trace.emit(
                trace.DEBUG, "pipe.pushed", call=self.name, pipe=stream.name, elements=elements, bytes=len(octets)
            )

    def _inline_run(
        self,
        verb: str,
        table: Mapping[StreamState, int],
        stream: S,
        operation: Callable[[ClientConnection | ServerConnection, S, *Ts], T],
        *args: *Ts,
    ) -> T:
        """Do a push or a pull under the lock of the connection that carries the call."""
        run_special_apcs()
        while True:
            connection = self._carrier(verb, table[stream.state])
            outcome: list[T] = connection.run(self._inline_do, connection, verb, table, stream, operation, args)
            if outcome:
                return outcome[0]
            # Another connection has begun to carry the call meanwhile.

    def _inline_do(
        self,
        connection: ClientConnection | ServerConnection,
        verb: str,
        table: Mapping[StreamState, int],
        stream: S,
        operation: Callable[[ClientConnection | ServerConnection, S, *Ts], T],
        args: tuple[*Ts],
    ) -> list[T]:
        if self.error is not None:
            raise self._over()
        if self.connection is not connection or connection.closed is not None:
            return []
        status = table[stream.state]
        if status:
            self._refuse(verb, status)
        self._inline = True
        try:
            outcome = operation(connection, stream, *args)
            connection.update()
        except RpcUsageError:
            raise
        except RpcError as error:
            self._fail_here(connection, error)
            raise self._told(error) from error.__cause__
        finally:
            self._inline = False
        return [outcome]

    def _told(self, error: RpcError) -> RpcError:
        """What to raise for `error`: what has become of the call by it."""
        return self.error or error

    def room_for(self, size: int) -> bool:
        """Would a push of `size` bytes be taken now? Under the lock."""
        connection = self.connection
        if connection is None or self.error is not None or self.window is None:
            return True
        outstanding = self.outstanding(connection)
        return not outstanding or outstanding + size <= self.window

    def _push(
        self, connection: ClientConnection | ServerConnection, stream: Output, octets: bytes | memoryview, elements: int
    ) -> None:
        if not elements:
            self._push_end(connection, stream)
            return
        outstanding = self.outstanding(connection)
        if self._pushed and outstanding and self.window is not None and outstanding + len(octets) > self.window:
            self._refused = len(octets)
            raise SendWindowFull(
                Status.RPC_S_SEND_INCOMPLETE,
                f"{len(octets)} bytes do not fit: {outstanding} of {self.window} are still to be sent; "
                "push them again after the next send-complete",
            )
        self._pushed = True
        self._send(connection, stream.chunk(self._out_offset, octets, elements))

    def _push_end(self, connection: ClientConnection | ServerConnection, stream: Output) -> None:
        stream.state = StreamState.ENDED
        self._next_turn()
        last = self._outputs_first and self.all_ended(self.outputs)
        self._send(connection, [stream.end(self._out_offset)], last=last)

    def _send(
        self,
        connection: ClientConnection | ServerConnection,
        pieces: Sequence[bytes | bytearray | memoryview],
        *,
        flush: bool = False,
        last: bool = False,
    ) -> None:
        """Hand stub bytes to the connection; overridden where the connection may not be there yet."""
        if self.wants_send_complete():
            self._send_due = True
        size = sum(map(len, pieces))
        self._out_offset += size
        connection.send_stub(self, pieces, size, flush=flush, last=last)

    def outstanding(self, connection: ClientConnection | ServerConnection) -> int:
        """Bytes pushed and not with the transport yet."""
        return connection.outstanding()

    def drained(self, left: int) -> None:
        if not left:
            self._pushed = False
            if self._send_due or (self._refused and self.wants_send_complete()):
                self._send_due = False
                self._notify(AsyncEvent.SEND_COMPLETE)
            self._refused = 0
            self._rouse()
        elif self._refused and self.window is not None and left + self._refused <= self.window:
            self._refused = 0
            if self.wants_send_complete() and not self._send_due:
                self._notify(AsyncEvent.SEND_COMPLETE)
            self._rouse()

    # Pulling -----------------------------------------------------------------------------------------------------

    def pull(self, stream: Input | None, target: ndr.Target, *, notify_later: bool) -> tuple[Status, int]:
        """Pull elements into `target`: (0, n) with n elements, (0, 0) at the end, (997, 0) when nothing is there.

        Args:
            notify_later: after 997, is receive-complete to be notified? False for verbs that wait by a latch.

        Raises:
            RpcUsageError: 1831 out of order or while a pull is pending, 1918 after the end, 87 for no room, 1915.
            RpcError: why the call has failed; it is dead.
        """
        if stream is None:
            self._refuse("pull", PULL[StreamState.ABSENT])
        if not target.capacity:
            raise RpcUsageError(
                Status.RPC_S_INVALID_ARG, "the buffer to pull into has room for no element; give it some"
            )
        outcome = self._inline_run("pull", PULL, stream, self._pull, target, notify_later)
        if trace.level <= trace.DEBUG:
            trace.emit(
                trace.DEBUG,
                "pipe.pulled",
                call=self.name,
                pipe=stream.name,
                elements=outcome[1],
                status=int(outcome[0]),
            )
        return outcome

    def _pull(
        self, connection: ClientConnection | ServerConnection, stream: Input, target: ndr.Target, notify_later: bool
    ) -> tuple[Status, int]:
        count = 0
        while True:
            stream.begin(self.peer_order, self._in_offset)
            count = stream.take(self.inbox, target, count)
            if stream.ended or count == target.capacity:
                break
            if self.peer_ended:
                raise ndr.NdrError(f"the peer ended its message before the end of pipe {stream.name}")
            received = stream.receive(connection, self.inbox, target, count)
            if self.connection is not connection:
                raise self.error or self._over()
            if received is None:
                break
            count += received
        if count:
            return Status.RPC_S_OK, count
        if stream.ended:
            self._pulled_end(stream)
            return Status.RPC_S_OK, 0
        if notify_later:
            stream.state = StreamState.PENDING
        return Status.RPC_S_ASYNC_CALL_PENDING, 0

    def _pulled_end(self, stream: Input) -> None:
        stream.state = StreamState.ENDED
        if stream.reader is not None:
            self._in_offset = stream.reader.offset
        self._next_turn()
        if self.all_ended(self.inputs):
            self.inputs_ended()

    @abc.abstractmethod
    def inputs_ended(self) -> None:
        """Everything to pull has been pulled. Under the lock."""

    def pending_ready(self) -> bool:
        """Would a pull succeed now? Also when it would fail for good."""
        stream = self.current_input()
        if stream is None:
            return False
        stream.begin(self.peer_order, self._in_offset)
        return self.peer_ended or stream.ready(self.inbox)

    def offer_pending(self) -> None:
        """Post receive-complete when a pending pull would now succeed. Under the lock."""
        stream = self.current_input()
        if stream is None:
            return
        if (stream.state is StreamState.PENDING or self._waiters) and self.pending_ready():
            if stream.state is StreamState.PENDING:
                stream.state = StreamState.OPEN
                self._notify(AsyncEvent.RECEIVE_COMPLETE)
            self._rouse()

    def wants_more_input(self) -> bool:
        """Is somebody waiting for an element that has not arrived?"""
        stream = self.current_input()
        if stream is None or (stream.state is not StreamState.PENDING and not self._waiters):
            return False
        return not self.pending_ready()

    # Notifications -----------------------------------------------------------------------------------------------

    def reports_by_apc(self) -> bool:
        return isinstance(self.notification(), notify.Apc)

    @abc.abstractmethod
    def notification(self) -> notify.Notification[Any]:
        """How the handle wants to be told; None without one."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """A short name for traces."""

    @abc.abstractmethod
    def wants_send_complete(self) -> bool:
        """Does the handle ask for send-complete now?"""

    @abc.abstractmethod
    def _notify(self, event: AsyncEvent) -> None:
        """Deliver a notification as the handle wants it. Under the lock."""

    def deliver(
        self,
        notification: notify.Notification[H],
        handle: H,
        event: AsyncEvent,
        thread: ApcThread,
    ) -> None:
        """Post one notification; what cannot be delivered is traced and otherwise ignored. Under the lock."""
        connection = self.connection
        if connection is None or notification is None:
            return
        if isinstance(notification, notify.Event):
            connection.after.append(notification.event.set)
            return
        target = notification.thread or thread
        posted = lowlevel.post(target, notification.routine, (handle, event), source="notify", wakes=connection.wakes)
        if not posted:
            # Who was cancelled left its calls on purpose.
            level = trace.DEBUG if target.cancelled else trace.WARNING
            if trace.level <= level:
                connection.after.append(
                    partial(trace.emit, level, "call.undeliverable", call=self.name, wanted=event.name.lower())
                )
        elif trace.level <= trace.DEBUG:
            routine = lowlevel.apc_name(notification.routine)
            connection.after.append(partial(trace.emit, trace.DEBUG, "apc.queued", thread=target.name, apc=routine))

    # Ends --------------------------------------------------------------------------------------------------------

    def advance(self, event: CallEvent) -> bool:
        """Take a transition of the call; False when the table has none for it. Under the lock."""
        following = CALL.get((self.state, event))
        if following is None:
            return False
        self.state = following
        return True

    @abc.abstractmethod
    def _fail_here(self, connection: ClientConnection | ServerConnection, error: RpcError) -> None:
        """A push or pull under way has failed with `error`, which its caller is about to see. Under the lock."""

    def _carrier(self, verb: str, status: int) -> ClientConnection | ServerConnection:
        """The connection; `status` is what the stream's state says about the attempt."""
        while True:
            connection = self.connection
            if connection is None:
                if self.state is CallState.COMPLETE and status:
                    self._refuse(verb, status)  # the reply is in and was not taken: the stream still says what it is
                raise self._over()
            if connection.closed is None or self.error is not None:
                return connection
            self._move_on(connection)
            time.sleep(0)  # another thread is at it, and done in a moment

    def _move_on(self, connection: ClientConnection | ServerConnection) -> None:
        """The connection has closed: the call has another one in a moment, or is over."""

    def _over(self) -> RpcError:
        """What a push or pull of a call that is over raises."""
        if self.error is not None:
            return self.error
        return RpcUsageError(Status.RPC_S_INVALID_ASYNC_CALL, f"the call of {self.operation.name} is over")

    @staticmethod
    def _refuse(verb: str, status: int) -> NoReturn:
        words = {
            Status.RPC_X_WRONG_PIPE_ORDER: "it is not this pipe's turn, or not its direction on this side",
            Status.RPC_X_PIPE_CLOSED: "its end was already pushed",
            Status.RPC_X_PIPE_EMPTY: "its end was already pulled",
        }
        raise RpcUsageError(status, f"cannot {verb}: {words.get(Status(status), 'not now')}")

    def wants_send_complete_of(self, flags: AsyncFlags) -> bool:
        """Is the send-complete flag set, on an operation that has pipes at all?"""
        return bool(flags & AsyncFlags.NOTIFY_ON_SEND_COMPLETE) and bool(self.operation.pipes)


def lost_error(error: RpcError) -> RpcError:
    """A fresh error for each call that one broken connection ends."""
    if not isinstance(error, RpcUnavailable | RpcCancelled):
        return error
    fresh = type(error)(error.status, error.detail)
    fresh.__cause__ = error.__cause__
    return fresh

"""Async handles: the client's and the server's view of one call (RPC_ASYNC_STATE).

What lives here: `AsyncHandle`, `ServerHandle`, the flags and events they speak of. What must not: how a call is
carried; the handle asks its call (`_client_call.py`, `_server_call.py`).

How it works. A client's handle exists before its call and may be used for another one afterwards. `begin` ties it to
a call; the final `complete_call` unties it. A server's handle is made for its call and dies with it.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from apcrt.status import RpcUsageError, Status

if TYPE_CHECKING:
    from apcrt.rpc import notify
    from apcrt.rpc._client_call import ClientCall
    from apcrt.rpc._server_call import ServerCall

__all__ = ["PENDING", "AsyncEvent", "AsyncFlags", "AsyncHandle", "Pending", "ServerHandle"]

R = TypeVar("R")


class AsyncEvent(enum.IntEnum):
    """RPC_ASYNC_EVENT: what a notification is about."""

    CALL_COMPLETE = 0
    SEND_COMPLETE = 1
    RECEIVE_COMPLETE = 2
    CLIENT_DISCONNECT = 3
    CLIENT_CANCEL = 4


class AsyncFlags(enum.IntFlag):
    """The flags of a handle; may be changed between pushes."""

    NONE = 0
    #: RPC_C_NOTIFY_ON_SEND_COMPLETE: a notification when what was pushed is with the transport.
    NOTIFY_ON_SEND_COMPLETE = 1


class Pending(enum.Enum):
    """The type of `PENDING`, for annotations of managers that may hand their call off."""

    PENDING = "PENDING"

    def __repr__(self) -> str:
        return "apcrt.PENDING"


#: What a manager returns to say that somebody else will complete or abort the call.
PENDING: Final = Pending.PENDING


class AsyncHandle(Generic[R]):
    """The client's handle of one asynchronous call that replies with an `R`.

    Args:
        notification: how its owner is told (`notify.Apc`, `notify.Event`), or None to poll.
        flags: `AsyncFlags.NOTIFY_ON_SEND_COMPLETE` or none.
        user_info: anything; apcrt does not touch it.

    One handle serves one outstanding call; it may be used again after the final `complete_call`. All methods may be
    called from any thread.
    """

    def __init__(
        self,
        *,
        notification: notify.Notification[AsyncHandle[R]] = None,
        flags: AsyncFlags = AsyncFlags.NONE,
        user_info: object = None,
    ) -> None:
        self.notification: notify.Notification[AsyncHandle[R]] = notification
        self.flags = flags
        self.user_info = user_info
        #: The latest event (RPC_ASYNC_STATE.Event), for kinds of notification that do not carry it.
        self.event: AsyncEvent | None = None
        self._call: ClientCall | None = None

    def get_call_status(self) -> int:
        """RpcAsyncGetCallStatus: 997 while the call is under way, 0 when it has completed, else why it failed.

        Without side effects, but for giving the connection a chance to progress, so that a program that only polls
        gets on. 1914 RPC_S_INVALID_ASYNC_HANDLE when the handle has no call.
        """
        call = self._call
        return Status.RPC_S_INVALID_ASYNC_HANDLE if call is None else call.status()

    def complete_call(self) -> R:
        """RpcAsyncCompleteCall: take the reply and free the handle.

        Raises:
            RpcPending: 997, too early; nothing has changed, and it may be called again.
            RpcUsageError: 1914, there is no call; 1917 RPC_X_PIPE_DISCIPLINE_ERROR, an input was never ended (the
                call is dead).
            RpcFault, RpcCancelled, RpcUnavailable: how the call failed; the handle is free.
        """
        call = self._call
        if call is None:
            raise RpcUsageError(Status.RPC_S_INVALID_ASYNC_HANDLE, "the handle has no call; begin one with it first")
        reply: R = call.complete()
        return reply

    def cancel_call(self, *, abort: bool) -> None:
        """RpcAsyncCancelCall. From any thread; of a completed call: no effect.

        Args:
            abort: False asks the server to stop and goes on waiting for it; True ends the call at once with 1818
                RPC_S_CALL_CANCELLED, and call-complete follows.

        Raises:
            RpcUsageError: 1914, there is no call.
        """
        call = self._call
        if call is None:
            raise RpcUsageError(Status.RPC_S_INVALID_ASYNC_HANDLE, "the handle has no call to cancel")
        call.cancel(abort=abort)

    def tie(self, call: ClientCall) -> None:
        """Serve a call from now on, for the runtime.

        Raises:
            RpcUsageError: 1914, the handle serves another one.
        """
        if self._call is not None:
            raise RpcUsageError(
                Status.RPC_S_INVALID_ASYNC_HANDLE,
                f"the handle serves {self._call!r}; complete it first, or make a handle for each outstanding call",
            )
        self._call = call

    def untie(self, call: ClientCall) -> None:
        """Be free again, for the runtime."""
        if self._call is call:
            self._call = None

    def __repr__(self) -> str:
        return f"<AsyncHandle {self._call!r}>" if self._call is not None else "<AsyncHandle without a call>"


class ServerHandle(Generic[R]):
    """The server's handle of one call that replies with an `R`: a manager's first argument.

    Exactly one of `complete_call` and `abort_call` ends the call, from any thread, unless the manager returns the
    reply or raises. Made by the runtime.
    """

    def __init__(self, call: ServerCall) -> None:
        self._call = call
        self._notification: notify.Notification[ServerHandle[R]] = None
        self.flags = AsyncFlags.NONE
        #: Anything; apcrt does not touch it.
        self.user_info: object = None
        #: The latest event, for kinds of notification that do not carry it.
        self.event: AsyncEvent | None = None

    @property
    def notification(self) -> notify.Notification[ServerHandle[R]]:
        """How the owner of the call is told of send-complete and receive-complete.

        Raises, when set:
            RpcUsageError: 87, an APC without a thread: a dispatch thread goes back to its pool, so the notification
                has to name the thread that will run it.
        """
        return self._notification

    @notification.setter
    def notification(self, notification: notify.Notification[ServerHandle[R]]) -> None:
        self._notification = notification
        self._call.report_to(notification)

    @property
    def opnum(self) -> int:
        """The operation's number."""
        return self._call.operation.opnum

    @property
    def client(self) -> str:
        """Who calls, in words: the client's address, or its process and user."""
        return self._call.client

    def complete_call(self, reply: R) -> None:
        """RpcAsyncCompleteCall on the server: send the reply and end the call. For a void operation: None.

        Raises:
            RpcUsageError: 1914, the call is over already (the client is gone, or it was completed); 1917
                RPC_X_PIPE_DISCIPLINE_ERROR, a stream is unfinished (the call is dead, the client gets the same).
        """
        self._call.complete(reply)

    def abort_call(self, status: int) -> None:
        """RpcAsyncAbortCall: end the call with an error; the client gets `status`, and no results.

        Raises:
            RpcUsageError: 87 for status 0; 1914 when the call is over already.
        """
        self._call.abort(status)

    def test_cancel(self) -> bool:
        """RpcServerTestCancel: has the client cancelled the call, or gone? The call has to be ended all the same."""
        return self._call.test_cancel()

    def __repr__(self) -> str:
        return f"<ServerHandle {self._call!r}>"

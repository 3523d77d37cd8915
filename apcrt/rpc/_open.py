"""`with operation.open(...)` and `async with operation.open(...)`: a block around one call.

What lives here: `OpenCall`, the block, and `OpenedCall`, its value. What must not: the pipes' verbs.

How it works. Entering begins the call. Leaving decides by what is finished: everything, and the reply is awaited; an
output not drained, and the call is cancelled quietly; an input not ended, and the call is cancelled and 1917 raised,
so that a truncated upload is never taken for a whole one. An exception or a cancelled scope aborts, which is bounded.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from apcrt.apc import current_thread, lowlevel
from apcrt.rpc._client_call import ClientCall
from apcrt.status import RpcError, RpcPending, RpcUsageError, Status

if TYPE_CHECKING:
    from apcrt.rpc._operation import OperationSpec
    from apcrt.rpc.binding import Binding

__all__ = ["OpenCall", "OpenedCall"]

R = TypeVar("R")


class OpenedCall(Generic[R]):
    """A call inside its block."""

    def __init__(self, call: ClientCall) -> None:
        self._call = call
        self._outcome: tuple[object] | None = None
        self._error: RpcError | None = None

    @property
    def reply(self) -> R:
        """The reply, once the block has ended.

        Raises:
            RpcPending: 997, the block has not ended yet.
            RpcError: how the call failed; 1818 RPC_S_CALL_CANCELLED when the block left an output undrained.
        """
        if self._error is not None:
            raise self._error
        if self._outcome is None:
            raise RpcPending(Status.RPC_S_ASYNC_CALL_PENDING, "the reply is there when the block has ended")
        return cast("R", self._outcome[0])

    def cancel(self, *, abort: bool) -> None:
        """Cancel the call: gently (the server may still reply), or at once with 1818. Any thread."""
        self._call.cancel(abort=abort)

    @property
    def failure(self) -> RpcError | None:
        """How the call failed, for the block."""
        return self._error

    def settle(self) -> None:
        """Take the outcome, for the block."""
        try:
            self._outcome = (self._call.outcome(),)
        except RpcError as error:
            self._error = error


class OpenCall(Generic[R]):
    """The block; made by `BoundOperation.open`, for one use."""

    def __init__(self, spec: OperationSpec, binding: Binding, arguments: dict[str, object]) -> None:
        self._spec = spec
        self._binding = binding
        self._arguments = arguments
        self._opened: tuple[ClientCall, OpenedCall[R]] | None = None

    def __enter__(self) -> OpenedCall[R]:
        if lowlevel.in_trio_run():
            raise RpcUsageError(
                Status.RPC_S_CANNOT_SUPPORT, f"on a thread that runs trio: async with {self._spec.name}.open(...)"
            )
        return self._begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        call, opened = self._leave(error)
        if call is not None:
            if not call.wait_until(call.settled, call.silence_limit()):
                call.timed_out()
            self._finish(opened, error)

    async def __aenter__(self) -> OpenedCall[R]:
        lowlevel.ensure_pump()
        return self._begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        call, opened = self._leave(error)
        if call is not None:
            try:
                await call.wait_until_async(call.settled)
            except BaseException:
                call.cancel(abort=True)
                opened.settle()
                raise
            self._finish(opened, error)

    def _begin(self) -> OpenedCall[R]:
        if self._opened is not None:
            raise RpcUsageError(Status.RPC_S_INVALID_ASYNC_CALL, "a block is for one call; open another one")
        call = ClientCall(self._spec, self._binding, self._arguments, None, current_thread())
        call.submit()
        self._opened = (call, OpenedCall(call))
        return self._opened[1]

    def _leave(self, error: BaseException | None) -> tuple[ClientCall | None, OpenedCall[R]]:
        """End the call unless all its streams are finished; None for the call when there is nothing to wait for."""
        if self._opened is None:
            raise RpcUsageError(Status.RPC_S_INVALID_ASYNC_CALL, "the block was left before it was entered")
        call, opened = self._opened
        if call.settled():
            self._finish(opened, error)
            return None, opened
        if error is not None:
            call.cancel(abort=True)
            opened.settle()
            return None, opened
        if not call.all_ended(call.outputs):
            call.cancel(abort=True)
            opened.settle()
            raise RpcUsageError(
                Status.RPC_X_PIPE_DISCIPLINE_ERROR,
                f"the block of {self._spec.name} was left before its input was ended; end it with send_eof, write_eof "
                "or a push of nothing. The call was cancelled",
            )
        if not call.all_ended(call.inputs):
            call.cancel(abort=True)
            opened.settle()
            return None, opened
        return call, opened

    @staticmethod
    def _finish(opened: OpenedCall[R], error: BaseException | None) -> None:
        opened.settle()
        if error is None and opened.failure is not None:
            raise opened.failure

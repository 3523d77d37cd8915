"""Structured threads: OS threads as children of a block.

What lives here: starting, suspending, cancelling and joining threads. What must not: queues and waits.

How it works. A block outlives its threads, always. The first error in one of them, or in the body, cancels the block:
trio threads through a cancel scope in their own loop, plain threads by their waits and calls ending with
`WaitCancelled`, threads still suspended by never starting. Then the block ends and raises what went wrong. The body is
cancelled like a thread of its kind.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from typing import TYPE_CHECKING, Final, NoReturn, Self, TypeVarTuple, cast

import trio

from apcrt.apc import _task_wait
from apcrt.apc._dispatcher import D, Wait
from apcrt.apc._operations import change_cancels
from apcrt.apc._pump import pumped_thread
from apcrt.apc._thread import ApcThread, current_thread
from apcrt.apc._wait import block, drain_queue, waiting_thread
from apcrt.status import ApcError, Status, WaitCancelled

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
    from types import TracebackType

__all__ = ["ApcThreads", "StructuredThread", "ThreadExit", "exit_thread", "open_apc_threads"]

Ts = TypeVarTuple("Ts")

FAILED: Final = 1
"""The exit code of a thread that has ended with an error, or has never run."""


class ThreadExit(BaseException):
    """Ends a structured thread, from anywhere on it; raised by `exit_thread`. Let it through."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code: int = code


def exit_thread(code: int = 0) -> NoReturn:
    """End the calling thread at once, also from inside APC routines (ExitThread). What is queued never runs.

    Args:
        code: its exit code, 0 to 0xFFFFFFFF.

    Raises:
        ThreadExit: on its way out of the thread's function; `finally` and `with` blocks run.
        ApcError: 87 another code, or a thread that `open_apc_threads` has not started: return from its function there.
    """
    if not 0 <= code <= 0xFFFFFFFF:
        raise ApcError(Status.ERROR_INVALID_PARAMETER, f"an exit code has 32 bits; {code} has not")
    if not isinstance(current_thread(), StructuredThread):
        raise ApcError(
            Status.ERROR_INVALID_PARAMETER,
            "only threads that open_apc_threads() has started can be ended so; return from the thread's function",
        )
    raise ThreadExit(code)


class StructuredThread(ApcThread):
    """A thread that a block has started, or will: `open_apc_threads().start(...)`."""

    __slots__ = (
        "_args",
        "_block",
        "_exit_code",
        "_function",
        "_os_thread",
        "_scope",
        "_token",
        "discarded",
        "failure",
        "suspended",
    )

    def __init__(
        self,
        block: ApcThreads,
        function: Callable[..., object],
        args: tuple[object, ...],
        name: str,
        *,
        suspended: bool,
    ) -> None:
        super().__init__(name)
        self._block = block
        self._function = function
        self._args = args
        self._scope: trio.CancelScope | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._os_thread = threading.Thread(target=self._run, name=name)
        self.suspended: bool = suspended
        self.discarded: bool = False  # it will never run; set under the block's lock
        self.failure: BaseException | None = None
        self._exit_code = FAILED

    @property
    def exit_code(self) -> int | None:
        """What the thread has ended with (GetExitCodeThread); None while it is alive.

        What was given to `exit_thread`, else the function's result if that is a whole number, else 0. 1 after an error
        and for a thread that never ran, 1223 ERROR_CANCELLED when it was cancelled.
        """
        return self._exit_code if self.gone else None

    def resume(self) -> int:
        """Let a thread that was started suspended run (ResumeThread). Any thread.

        Returns:
            1 when it was suspended, 0 when it was not.

        Raises:
            ApcError: 31 it has ended without running, for its block was cancelled or left; 164 no OS thread can be had.
        """
        if not self._block.release(self):
            return 0
        self.launch()
        return 1

    @property
    def is_trio(self) -> bool:
        """Whether the thread runs a trio loop: its function is async."""
        return inspect.iscoroutinefunction(self._function)

    @property
    def cancelled(self) -> bool:
        """Whether its block, or one around it, was cancelled."""
        return self._block.cancelled or super().cancelled

    def launch(self) -> None:
        """Start the OS thread; for the block."""
        try:
            self._os_thread.start()
        except RuntimeError as error:
            self.end()
            raise ApcError(Status.RPC_S_OUT_OF_THREADS, f"thread {self.name!r} cannot be started") from error

    def join(self) -> None:
        """Wait for the OS thread, whose ApcThread has ended: a matter of microseconds."""
        if self._os_thread.ident is not None:
            self._os_thread.join()

    def cancel(self) -> None:
        """End this thread soon; for the block, once."""
        if self.discarded:
            self.end()
        elif not self.is_trio:
            D.do(change_cancels, self, 1)
        else:
            _cancel_scope(self._token, self._scope)

    def _run(self) -> None:
        self.begin()
        try:
            if self.is_trio:
                trio.run(self._main, clock=D.clock.for_trio())
            else:
                if self.has_apcs():
                    drain_queue(self)
                self._returned(self._function(*self._args))
        except BaseException as error:  # noqa: BLE001 - the block raises it
            self._raised(error)
        finally:
            self.end()

    def _returned(self, result: object) -> None:
        self._exit_code = result & 0xFFFFFFFF if isinstance(result, int) else 0

    def _raised(self, error: BaseException) -> None:
        rest: BaseException | None = error
        if isinstance(error, ThreadExit):
            self._exit_code, rest = error.code, None
        elif isinstance(error, BaseExceptionGroup):
            # Out of a nursery: of one of its tasks, with what else was under way.
            exits, rest = cast("BaseExceptionGroup[BaseException]", error).split(ThreadExit)
            if exits is not None:
                self._exit_code = next(one.code for one in _leaves(exits) if isinstance(one, ThreadExit))
        elif isinstance(error, WaitCancelled) and self._block.cancelled:
            self._exit_code, rest = int(Status.ERROR_CANCELLED), None
        if rest is not None:
            self._exit_code = FAILED
            self.failure = rest
            self._block.cancel()

    async def _main(self) -> None:
        with trio.CancelScope() as self._scope:
            # In this order: whoever cancels before the token is there has set the flag that is read after it.
            self._token = trio.lowlevel.current_trio_token()
            if self._block.cancelled:
                self._scope.cancel()
            thread = pumped_thread("start")
            if self.has_apcs():
                await _task_wait.drain(thread, None)
            self._returned(await cast("Awaitable[object]", self._function(*self._args)))
        if self._scope.cancelled_caught:
            self._exit_code = int(Status.ERROR_CANCELLED)


class ApcThreads:
    """A block of threads; see `open_apc_threads`. Methods may be called on any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # re-entrant: a signal handler may cancel the block
        self._children: list[StructuredThread] = []
        self._joined = 0
        self._open = False
        self._cancelled = False
        self._body: ApcThread | None = None  # a plain body that has not been left
        self._scope: trio.CancelScope | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._manager: contextlib.AbstractContextManager[None] | None = None
        self._async_manager: contextlib.AbstractAsyncContextManager[None] | None = None

    def __repr__(self) -> str:
        state = "cancelled" if self._cancelled else "open" if self._open else "closed"
        return f"<ApcThreads {state} threads={len(self._children) - self._joined}>"

    @property
    def cancelled(self) -> bool:
        """Whether the block has been cancelled."""
        return self._cancelled

    def start(
        self,
        function: Callable[[*Ts], object],
        /,
        *args: *Ts,
        name: str | None = None,
        suspended: bool = False,
    ) -> StructuredThread:
        """Start a thread that calls `function(*args)`; an async function runs in a trio loop of its own.

        APCs can be queued to the thread at once; those that are queued before it begins run first, in order.

        Args:
            function: plain or async. Its result is dropped, its error ends the block.
            args: its arguments.
            name: of the thread, in traces; made from the function's by default.
            suspended: do not start it before `resume()` is called on the result.

        Raises:
            ApcError: 87 the block is not open; 164 no OS thread can be had.
        """
        with self._lock:
            if not self._open:
                raise ApcError(Status.ERROR_INVALID_PARAMETER, "the block of open_apc_threads() is not open")
            name = name or f"{getattr(function, '__name__', 'thread')}-{len(self._children) + 1}"
            thread = StructuredThread(self, function, args, name, suspended=suspended)
            # Listed first: a signal handler that cancels just now must find it.
            self._children.append(thread)
            if self._cancelled:
                thread.cancels = 0 if thread.is_trio else 1
                thread.discarded = suspended
        if not suspended:
            thread.launch()
        elif thread.discarded:
            thread.end()
        return thread

    def cancel(self) -> None:
        """Cancel every thread of the block, and its body. Any thread; does not wait."""
        with self._lock:
            if self._cancelled:
                return
            self._cancelled = True
            if self._body is not None:
                D.do(change_cancels, self._body, 1)
            children = tuple(self._children)
            for child in children:
                child.discarded = child.suspended
        for child in children:
            child.cancel()
        _cancel_scope(self._token, self._scope)

    def release(self, child: StructuredThread) -> bool:
        """Whether `child` was suspended; now it is not. For `StructuredThread.resume`."""
        with self._lock:
            if child.discarded:
                raise ApcError(Status.ERROR_GEN_FAILURE, f"thread {child.name!r} has ended without running")
            was, child.suspended = child.suspended, False
        return was

    def __enter__(self) -> Self:
        self._manager = self._plain()
        self._manager.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        manager, self._manager = self._manager, None
        return None if manager is None else manager.__exit__(kind, error, traceback)

    async def __aenter__(self) -> Self:
        self._async_manager = self._async()
        await self._async_manager.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        manager, self._async_manager = self._async_manager, None
        return None if manager is None else await manager.__aexit__(kind, error, traceback)

    @contextlib.contextmanager
    def _plain(self) -> Generator[None]:
        if trio.lowlevel.in_trio_run():
            waiting_thread("with open_apc_threads()", "async with open_apc_threads()")
        thread = current_thread()
        self._begin(thread)
        error: BaseException | None = None
        try:
            yield
        except BaseException as caught:  # noqa: BLE001 - raised below, when the threads have ended
            error = caught
        with self._lock:
            self._body = None
            cancelled = self._cancelled
        if cancelled:
            D.do(change_cancels, thread, -1)
        if error is not None:
            self.cancel()
        if isinstance(error, WaitCancelled) and cancelled and not thread.cancels:
            error = None  # our own
        shielded = False
        while True:
            # Ctrl-C crosses, as does the cancelling of a block around this one; but not before the threads have ended.
            try:
                while (child := self._next()) is not None:
                    block(Wait(thread, (child,), shielded=shielded), None)
                    child.join()
                    self._joined += 1
                break
            except BaseException as caught:  # noqa: BLE001
                shielded = True
                error = caught if error is None else error
                self.cancel()
        self._finish(error)

    @contextlib.asynccontextmanager
    async def _async(self) -> AsyncGenerator[None]:
        thread = pumped_thread("open_apc_threads")
        error: BaseException | None = None
        try:
            with trio.CancelScope() as self._scope:
                self._token = trio.lowlevel.current_trio_token()
                self._begin(None)
                body: BaseException | None = None
                try:
                    yield
                except BaseException as caught:  # noqa: BLE001 - raised below, when the threads have ended
                    body = caught
                    self.cancel()
                try:
                    await self._join_async(thread)
                except trio.Cancelled:
                    # The scope's own after an error of the body, which must not be lost over it.
                    if body is None:
                        raise
                if body is not None:
                    raise body
        except BaseException as caught:  # noqa: BLE001 - raised by _finish
            error = caught
        self._finish(error)

    async def _join_async(self, thread: ApcThread) -> None:
        try:
            await self._join_all_async(thread)
        except BaseException:
            self.cancel()
            with trio.CancelScope(shield=True):
                await self._join_all_async(thread)
            raise

    async def _join_all_async(self, thread: ApcThread) -> None:
        while (child := self._next()) is not None:
            await _task_wait.block(Wait(thread, (child,)), None)
            child.join()
            self._joined += 1

    def _begin(self, body: ApcThread | None) -> None:
        with self._lock:
            if self._open or self._children:
                raise ApcError(Status.ERROR_INVALID_PARAMETER, "a block of open_apc_threads() can be entered once")
            self._open = True
            self._body = body

    def _next(self) -> StructuredThread | None:
        """The next thread to wait for; None closes the block.

        Suspended threads come last, as the others may resume them. When only they are left nobody will, and they end.
        """
        with self._lock:
            rest = self._children[self._joined :]
            rest.sort(key=lambda child: child.suspended and not child.ended)
            self._children[self._joined :] = rest
            if not rest:
                self._open = False
                return None
            first = rest[0]
            first.discarded = first.suspended
        if first.discarded:
            first.end()
        return first

    def _finish(self, error: BaseException | None) -> None:
        failures = [child.failure for child in self._children if child.failure is not None]
        for child in self._children:
            child.failure = None
        if failures:
            failures = failures if error is None else [error, *failures]
            raise BaseExceptionGroup("errors in the threads of a block", failures) from None
        if error is not None:
            raise error


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(cast("BaseExceptionGroup[BaseException]", error))
        else:
            yield error


def _cancel_scope(token: trio.lowlevel.TrioToken | None, scope: trio.CancelScope | None) -> None:
    if token is None or scope is None:
        return
    if trio.lowlevel.in_trio_task() and trio.lowlevel.current_trio_token() is token:
        scope.cancel()
        return
    with contextlib.suppress(trio.RunFinishedError):
        token.run_sync_soon(scope.cancel)


def open_apc_threads() -> ApcThreads:
    """A block whose threads end before it does.

    Use it with `with` on a plain thread, and with `async with` in trio, where leaving it does not block the loop:

        with open_apc_threads() as threads:
            worker = threads.start(work, 1)
            worker.queue_user_apc(hello)

    Leaving the block waits for its threads. An error in one, or in the body, or `threads.cancel()`, cancels all of
    them: the waits and calls of plain threads raise `WaitCancelled` (1223), which should be let through; trio threads
    are cancelled as trio does it. A thread that never waits cannot be cancelled.

    Raises (on leaving the block):
        BaseExceptionGroup: the errors of its threads, and the body's if there is one.
        BaseException: the body's own error, unwrapped, when no thread has failed; KeyboardInterrupt for one.
        ApcError: 87 entered with the wrong one of `with` and `async with`.
    """
    return ApcThreads()

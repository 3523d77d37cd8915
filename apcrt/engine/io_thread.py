"""The I/O thread: what nobody waits for.

What lives here: the one thread of a runtime with its trio run: it opens connections and listens, it is the home of
connections whose completions go to no waiting thread, it watches for the death of peers, and it is the keeper, which
sends what threads have left behind. What must not: managers and user code of any kind.

How it works. Its main task waits on a latch for coroutines to start in its nursery. Its Port is pumped like that of
any trio thread. The keeper is parked while nothing is dirty: the first connection of a burst wakes it, and from then
on it looks every `keeper_interval` seconds until the set is empty again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Generic, TypeVar, TypeVarTuple

import trio

from apcrt import trace
from apcrt.apc import ApcThread, current_thread, lowlevel
from apcrt.engine.buffers import BufferPool
from apcrt.status import RpcUnavailable, Status

if TYPE_CHECKING:
    from apcrt.engine.connection import Connection

__all__ = ["Errand", "IoThread"]

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

LOOKS_BEFORE_ADOPTION: Final = 8  # a stream that has been stuck this often is in no hurry to be driven by its home


class Errand(Generic[T]):
    """A coroutine that runs on the I/O thread for a caller who waits for its result, in either face."""

    def __init__(self, io: IoThread, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> None:
        self._latch = lowlevel.Latch()
        self._result: list[T] = []
        self._error: Exception = RpcUnavailable(Status.RPC_S_CALL_FAILED, "the runtime was closed meanwhile")
        io.spawn(self._do, function, args)

    async def _do(self, function: Callable[..., Awaitable[T]], args: tuple[object, ...]) -> None:
        try:
            try:
                self._result.append(await function(*args))
            except Exception as error:  # noqa: BLE001 - it is the caller's, who waits for it
                self._error = error
        finally:
            wakes: list[ApcThread] = []
            self._latch.set(wakes)
            lowlevel.wake(wakes)

    def wait(self) -> T:
        """Block for the result; its exception is raised here."""
        self._latch.wait(None)
        return self._unwrap()

    async def wait_async(self) -> T:
        """Await the result; a cancelled wait leaves the coroutine running."""
        await self._latch.wait_async()
        return self._unwrap()

    def _unwrap(self) -> T:
        if self._result:
            return self._result[0]
        raise self._error


class IoThread:
    """One thread `name` that runs trio until `stop`. Made started.

    Args:
        name: of the OS thread.
        keeper_interval: seconds between two looks at what was left unsent.
        overdue_after: seconds after which a thread that owes completions and does not wait alertably is warned of;
            None for never.
    """

    thread: ApcThread
    port: lowlevel.Port

    def __init__(self, name: str, *, keeper_interval: float = 0.002, overdue_after: float | None = 10.0) -> None:
        self.buffers: BufferPool = BufferPool()
        self._keeper_interval = keeper_interval
        self._overdue_after = overdue_after
        self._work: deque[tuple[Callable[..., Awaitable[object]], tuple[object, ...]]] = deque()
        self._dirty: dict[Connection, int] = {}  # and how often the keeper has looked
        self._stopping = False
        self._failure: BaseException | None = None
        started = threading.Event()
        # A daemon only for the sake of a program that ends without having left its runtime; `stop` joins it.
        self._os_thread = threading.Thread(target=self._run, args=(started,), name=name, daemon=True)
        self._os_thread.start()
        started.wait()

    def spawn(
        self,
        function: Callable[[*Ts], Awaitable[object]],
        *args: *Ts,
        wakes: list[ApcThread] | None = None,
    ) -> None:
        """Start a coroutine function in the I/O thread's nursery, from any thread.

        With `wakes` (under a connection's lock) the wake is left to the caller. The function handles its own errors.

        Raises:
            RpcUnavailable: 1726, the runtime has been closed.
        """
        if self._stopping:
            raise RpcUnavailable(Status.RPC_S_CALL_FAILED, "the runtime is closed")
        self._work.append((function, args))
        self._poke(self._arrived, wakes)

    def mark_dirty(self, connection: Connection, wakes: list[ApcThread]) -> None:
        """Have the keeper look at a connection after a while."""
        self._dirty[connection] = 0
        if not self._burst.is_set:
            self._burst.set(wakes)

    def stop(self) -> None:
        """End everything on the thread and join it. Idempotent; not from the thread itself."""
        self._stopping = True
        self._poke(self._arrived, None)
        self._os_thread.join()

    @property
    def alive(self) -> bool:
        """Is the thread running?"""
        return self._os_thread.is_alive()

    @staticmethod
    def _poke(latch: lowlevel.Latch, wakes: list[ApcThread] | None) -> None:
        collected: list[ApcThread] = [] if wakes is None else wakes
        latch.set(collected)
        if wakes is None:
            lowlevel.wake(collected)

    def _run(self, started: threading.Event) -> None:
        self.thread = current_thread()
        self.port = self.thread.port
        self._arrived = lowlevel.Latch(self.thread)
        self._burst = lowlevel.Latch(self.thread)
        trio.run(self._main, started)

    async def _main(self, started: threading.Event) -> None:
        lowlevel.ensure_pump()
        started.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep)
            nursery.start_soon(self._look_for_overdue)
            while not self._stopping:
                await self._arrived.wait_async()
                self._arrived = lowlevel.Latch(self.thread)
                while self._work:
                    function, args = self._work.popleft()
                    nursery.start_soon(self._contain, function, args)
            nursery.cancel_scope.cancel()

    async def _contain(self, function: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        try:
            await function(*args)
        except Exception as error:  # noqa: BLE001 - one task must not take the others' connections with it
            trace.emit(trace.WARNING, "runtime.task_failed", task=function.__qualname__, error=repr(error))

    async def _keep(self) -> None:
        while True:
            await self._burst.wait_async()
            while self._dirty:
                await trio.sleep(self._keeper_interval)
                for connection in list(self._dirty):
                    looks = self._dirty.pop(connection)  # before the look, so that a new mark is not lost
                    if not connection.try_flush(adopt=looks >= LOOKS_BEFORE_ADOPTION):
                        self._dirty.setdefault(connection, looks + 1)
            self._burst = lowlevel.Latch(self.thread)
            if self._dirty:  # marked between the look and the new latch
                self._burst.set([])

    async def _look_for_overdue(self) -> None:
        while self._overdue_after is not None:
            await trio.sleep(min(1.0, self._overdue_after / 4))
            lowlevel.check_overdue(time.monotonic(), self._overdue_after)

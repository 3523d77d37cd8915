"""For tests of programs that use apcrt: a server in process, captured traces, a trio stream over any transport.

What lives here: `in_process`, `capture_trace`, `StreamAdapter`. What must not: anything that a running program needs.

How it works. `in_process` serves a manager over a Unix socket in a private directory, in a runtime of its own, and
gives a client of it: the whole path is the real one. `capture_trace` has its own tap, since structlog's own capture
swaps process-wide state and sees other threads' events.
"""

from __future__ import annotations

import contextlib
import fnmatch
import select
import tempfile
import threading
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Generic, TypeVar, cast

import trio

from apcrt import trace
from apcrt.rpc.interface import Interface
from apcrt.rpc.runtime import Runtime
from apcrt.rpc.server import Server
from apcrt.status import RpcError
from apcrt.transport import READ, WRITE, Stream

__all__ = ["CapturedTrace", "InProcess", "StreamAdapter", "capture_trace", "in_process"]

I = TypeVar("I", bound=Interface)


class InProcess(Generic[I]):
    """What `in_process` returns: `with` or `async with` it for a client of the interface.

    In a `with` block `async def` managers run on a thread of the server; in an `async with` block in the test's own
    trio run.
    """

    def __init__(self, interface: type[I], manager: object, endpoint: str | None, settings: dict[str, object]) -> None:
        self._interface = interface
        self._manager = manager
        self._endpoint = endpoint
        self._settings = settings
        self._stack = contextlib.ExitStack()
        self._async_stack = contextlib.AsyncExitStack()

    def __enter__(self) -> I:
        with self._stack:
            endpoint = self._endpoint or self._private_endpoint(self._stack)
            runtime = self._stack.enter_context(Runtime(None, **self._settings))
            server = self._stack.enter_context(self._server(runtime))
            bound = server.start(endpoint)
            client = self._interface(runtime.binding(bound[0]))
            self._stack = self._stack.pop_all()
        return client

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, where)

    async def __aenter__(self) -> I:
        async with self._async_stack:
            endpoint = self._endpoint or self._private_endpoint(self._async_stack)
            runtime = await self._async_stack.enter_async_context(Runtime(None, **self._settings))
            nursery = await self._async_stack.enter_async_context(trio.open_nursery())
            self._async_stack.callback(nursery.cancel_scope.cancel)
            server = self._server(runtime)
            bound: list[str] = await nursery.start(server.serve, endpoint)
            client = self._interface(runtime.binding(bound[0]))
            self._async_stack = self._async_stack.pop_all()
        return client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self._async_stack.__aexit__(kind, error, where)

    def _server(self, runtime: Runtime) -> Server:
        server = runtime.server()
        server.register(self._interface, self._manager)
        return server

    @staticmethod
    def _private_endpoint(stack: contextlib.ExitStack | contextlib.AsyncExitStack) -> str:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="apcrt-"))
        return f"ncacn_unix_stream:[{directory}/s]"


def in_process(interface: type[I], manager: object, *, endpoint: str | None = None, **settings: object) -> InProcess[I]:
    """Serve a manager here and be its client.

    Write `with in_process(FileRep, Files()) as files:` and call `files.read(...)`.

    Args:
        interface: what the manager serves.
        manager: any object with routines marked for all operations.
        endpoint: a string binding to serve on instead of a private Unix socket.
        **settings: overrides of the configuration, as `Runtime` takes them.
    """
    return InProcess(interface, manager, endpoint, settings)


class CapturedTrace:
    """The events that were emitted while `capture_trace` was open, from all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: list[tuple[str, dict[str, object]]] = []

    def events(self, pattern: str = "*", **keys: object) -> list[dict[str, object]]:
        """The events whose name matches (`call.*`) and whose keys have these values, in order.

        Each is a dictionary of its keys, and `event` for its name.
        """
        with self._lock:
            found = list(self._events)
        return [
            {"event": name, **values}
            for name, values in found
            if fnmatch.fnmatchcase(name, pattern) and all(values.get(key) == value for key, value in keys.items())
        ]

    def tap(self, _level: int, event: str, keys: dict[str, object]) -> None:
        """Take one event; called by `apcrt.trace`."""
        with self._lock:
            self._events.append((event, dict(keys)))


@contextlib.contextmanager
def capture_trace(level: int = trace.DEBUG) -> Generator[CapturedTrace, None, None]:
    """Capture the events of at least this level, from all threads, while the block lasts."""
    captured = CapturedTrace()
    tap = captured.tap
    trace.add_tap(tap, level)
    try:
        yield captured
    finally:
        trace.remove_tap(tap)


class StreamAdapter(trio.abc.HalfCloseableStream):
    """A transport's `Stream` as a trio stream, so that trio's stream checks can be run on any transport.

    Owns the stream. One task may send and one receive at a time.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._sending = False
        self._receiving = False
        self._closed = False
        self._sent_eof = False
        self._waits: set[int] = set()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check_open(sending=True)
            rest = memoryview(data).cast("B")
            while len(rest):
                taken = self._try(lambda: self._stream.send((rest,)))  # noqa: B023 - called at once
                rest = rest[taken or 0 :]
                if not taken:
                    await self._ready(read=False)
                    self._check_open(sending=True)
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check_open(sending=True)
            await self._ready(read=False)
            self._check_open(sending=False)
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint()
        self._check_open(sending=False)
        self._sent_eof = True
        self._stream.shutdown_send()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        given = cast("object", max_bytes)  # trio's own checks pass what the annotation forbids
        if not isinstance(given, int | None) or isinstance(given, bool):
            raise TypeError("max_bytes is a whole number of bytes, or None")
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes is at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            buffer = bytearray(max_bytes or 65536)
            while True:
                self._check_open(sending=False)
                received = self._try(lambda: self._stream.recv_into((memoryview(buffer),)))
                if received is not None:
                    return bytes(buffer[:received])
                await self._ready(read=True)
        finally:
            self._receiving = False

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            for waited in self._waits:
                trio.lowlevel.notify_closing(waited)
            self._stream.close()
        await trio.lowlevel.checkpoint()

    def _check_open(self, *, sending: bool) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if sending and self._sent_eof:
            raise trio.ClosedResourceError("the end of file was sent already")

    def _try(self, operation: Callable[[], int | None]) -> int | None:
        try:
            return operation()
        except RpcError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def _ready(self, *, read: bool) -> None:
        if self._stream.arm(read, not read):
            return
        # A set of its own for each wait: any one of the descriptors will do, and both directions may name the same.
        with select.epoll() as polled:
            for descriptor, interest in self._stream.interest(read, not read):
                polled.register(descriptor, _events(interest))
            self._waits.add(polled.fileno())
            try:
                await trio.lowlevel.wait_readable(polled.fileno())
            finally:
                self._waits.discard(polled.fileno())


def _events(interest: int) -> int:
    return (select.EPOLLIN if interest & READ else 0) | (select.EPOLLOUT if interest & WRITE else 0)

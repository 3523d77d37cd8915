"""The runtime: what an application opens, and what owns everything else.

What lives here: `Runtime`. What must not: global state; an application may have several, and importing starts nothing.

How it works. Entering starts the I/O thread. Bindings and servers are made from the runtime and end with it. Leaving
drains: servers stop listening, and calls get up to the drain limit to end; then what is left is cancelled, and every
thread is joined. Leaving by an exception does not drain.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import threading
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, cast

import trio

from apcrt import trace
from apcrt.apc import lowlevel
from apcrt.config import Config, TraceConfig, binding_setting, load
from apcrt.engine.io_thread import IoThread
from apcrt.rpc._census import Census
from apcrt.rpc.binding import Binding
from apcrt.rpc.server import Server
from apcrt.rpc.string_binding import StringBinding
from apcrt.status import RpcUsageError, Status
from apcrt.transport import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Runtime"]

CONFIGURED: Final = "configured"
"""Stands for what the configuration says."""

_serial = itertools.count(1)
_open: weakref.WeakSet[Runtime] = weakref.WeakSet()


class Runtime:
    """Calls and servers of one application: `with apcrt.Runtime() as runtime:`, or `async with` on a trio thread.

    Args:
        config: a TOML file's path, or a `Config`; None reads the environment only.
        **overrides: settings that go before file and environment, as `apcrt.config.load` takes them.

    All methods may be called from any thread.
    """

    def __init__(self, config: str | os.PathLike[str] | Config | None = None, **overrides: object) -> None:
        self.config: Config = config if isinstance(config, Config) else load(config, environ=None, **overrides)
        self.name: str = f"r{next(_serial)}"
        self._registry = Registry(self.config.transports.options, self.config.transports.chosen)
        self._io: IoThread | None = None
        self._lock = threading.Lock()
        self._census = Census()
        self._bindings: dict[tuple[object, ...], Binding] = {}
        self._servers: list[Server] = []
        self._closed = False

    # Life

    def __enter__(self) -> Self:
        if lowlevel.in_trio_run():
            raise RpcUsageError(
                Status.RPC_S_CANNOT_SUPPORT, "on a thread that runs trio: async with apcrt.Runtime(...)"
            )
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close(drain=error is None)

    async def __aenter__(self) -> Self:
        lowlevel.ensure_pump()
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self._drain_async()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._end)

    def close(self, *, drain: bool = True) -> None:
        """End everything: what leaving the block does. Blocks; idempotent.

        Args:
            drain: let calls under way end by themselves first, up to the configured limit (seconds).
        """
        try:
            if drain and not self._closed:
                self._drain()
        finally:
            self._end()

    # What it owns

    def binding(
        self,
        name_or_string: str,
        /,
        *,
        send_window: int | str | None = CONFIGURED,
        call_timeout: float | str | None = CONFIGURED,
        noncausal: bool | None = None,
    ) -> Binding:
        """A binding by the name that the configuration gives it, or by its string. Connects nothing.

        Args:
            name_or_string: such as "files" or "ncacn_ip_tcp:host[4747]".
            send_window: bytes that a call may have pushed and not sent, as a number or as "4 MiB"; None for no limit.
                What the configuration says by default.
            call_timeout: seconds of silence that the blocking face bears; None for any. By default as configured.
            noncausal: give up the order of one thread's calls.

        Raises:
            ConfigError: (87) a window or time-out that is none.
            RpcUsageError: 1700 and others for a bad string, 1703 for a protocol sequence that no transport serves,
                1708 RPC_S_NO_ENDPOINT_FOUND for one without an endpoint.
        """
        if not isinstance(cast("object", name_or_string), str):
            raise RpcUsageError(
                Status.RPC_S_INVALID_ARG, f"a binding is named by a string, not by {type(name_or_string).__name__}"
            )
        configured = self.config.binding(name_or_string)
        string = StringBinding.parse(configured.string)
        transport = self._registry.find(string.protocol_sequence)
        if not string.endpoint:
            raise RpcUsageError(
                Status.RPC_S_NO_ENDPOINT_FOUND,
                f"{string} names no endpoint; write {string.protocol_sequence}:host[endpoint]",
            )
        window = configured.send_window if send_window == CONFIGURED else binding_setting("send_window", send_window)
        silence = (
            configured.call_timeout if call_timeout == CONFIGURED else binding_setting("call_timeout", call_timeout)
        )
        order = configured.noncausal if noncausal is None else noncausal
        key = (string, window, silence, order)
        io = self.io
        with self._lock:
            binding = self._bindings.get(key)
            if binding is None or binding.closed:
                binding = self._bindings[key] = Binding(
                    io, transport, string, self._census, send_window=window, call_timeout=silence, noncausal=order
                )
            return binding

    def server(self, *, max_calls: int | None = None, dispatch_threads: int | None = None) -> Server:
        """A server, which serves nothing yet.

        Args:
            max_calls: calls at a time; a further one is refused with 1723 RPC_S_SERVER_TOO_BUSY.
            dispatch_threads: how many plain managers run at a time.
        """
        settings = self.config.server
        server = Server(
            self.io,
            self._registry,
            self._census,
            name=f"{self.name}-server",
            max_calls=settings.max_calls if max_calls is None else max_calls,
            max_request=settings.max_request,
            half_open_time=settings.half_open_time,
            dispatch_threads=self.config.runtime.dispatch_threads if dispatch_threads is None else dispatch_threads,
        )
        with self._lock:
            self._servers.append(server)
        return server

    @property
    def io(self) -> IoThread:
        """The I/O thread of an open runtime.

        Raises:
            RpcUsageError: 1702, the runtime is not open.
        """
        if self._io is None or self._closed:
            raise RpcUsageError(
                Status.RPC_S_INVALID_BINDING, "the runtime is not open: with apcrt.Runtime() as runtime: ..."
            )
        return self._io

    # Inside

    def _start(self) -> None:
        if self._io is not None:
            raise RpcUsageError(Status.RPC_S_CANNOT_SUPPORT, "a runtime is opened once; make another one")
        if self.config.trace.level != TraceConfig().level:
            trace.configure(level=self.config.trace.level)
        self._io = IoThread(
            f"apcrt-io-{self.name}",
            keeper_interval=self.config.runtime.keeper_interval,
            overdue_after=self.config.apc.warn_after,
        )
        _open.add(self)
        if trace.level <= trace.INFO:
            trace.emit(trace.INFO, "runtime.started", runtime=self.name)

    def _drain(self) -> None:
        self._stop_servers()
        self._census.wait(self.config.runtime.drain_limit)

    async def _drain_async(self) -> None:
        await trio.to_thread.run_sync(self._stop_servers)
        with trio.move_on_after(self.config.runtime.drain_limit):
            await self._census.wait_async()

    def _stop_servers(self) -> None:
        for server in list(self._servers):
            server.stop()

    def _end(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            servers, bindings = list(self._servers), list(self._bindings.values())
        _open.discard(self)
        steps: list[Callable[[], None]] = [server.close for server in servers]
        steps += [binding.close for binding in bindings]
        if self._io is not None:
            steps.append(self._io.stop)
        failure: BaseException | None = None
        for step in steps:
            try:
                step()
            except BaseException as error:  # noqa: BLE001 - the other steps have to be taken all the same; raised below
                failure = failure or error
        if trace.level <= trace.INFO:
            trace.emit(trace.INFO, "runtime.closed", runtime=self.name)
        if failure is not None:
            raise failure

    def abandon(self) -> None:
        """Let go at the interpreter's end of what was never left: say so to peers, and wait for nobody's code."""
        trace.emit(trace.WARNING, "runtime.left_open", runtime=self.name)
        for step in (*(server.stop for server in self._servers), *(one.close for one in self._bindings.values())):
            with contextlib.suppress(Exception):
                step()
        if self._io is not None:
            self._io.stop()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._io is not None else "not open yet"
        return f"<Runtime {self.name} {state}, {self._census.count} calls under way>"


@atexit.register
def _abandon_all() -> None:
    for runtime in list(_open):
        runtime.abandon()

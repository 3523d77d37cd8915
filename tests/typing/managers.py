"""Managers: objects whose routines say which operation they serve."""

from __future__ import annotations

from pathlib import Path

import trio

import apcrt
from apcrt import AsyncEvent, AsyncFlags, Status, apc, notify, testing
from tests.typing.filerep import Entry, FileRep, Mixed


class Files:
    """Plain, async and handed-off routines side by side."""

    def __init__(self, worker: apc.ApcThread) -> None:
        self.worker = worker

    @FileRep.mixed.manager
    def mixed(self, call: apcrt.ServerHandle[Mixed], a: int, b: int) -> Mixed:
        return Mixed(a + b, 0)

    @FileRep.write.manager
    async def write(self, call: apcrt.ServerHandle[int], name: str, data: apcrt.InPipe[int]) -> int:
        return sum([len(chunk) async for chunk in data])

    @FileRep.read.manager
    def read(self, call: apcrt.ServerHandle[int], name: str, data: apcrt.OutPipe[int]) -> int | apcrt.Pending:
        self.worker.queue_user_apc(Sender, call, name, data, self.worker)
        return apcrt.PENDING

    @FileRep.remove.manager
    def remove(self, call: apcrt.ServerHandle[None], name: str) -> None:
        if call.test_cancel():
            raise apcrt.RpcError(Status.RPC_S_CALL_CANCELLED)
        Path(name).unlink()

    @FileRep.entries.manager
    def entries(self, call: apcrt.ServerHandle[None], data: apcrt.OutPipe[Entry]) -> None:
        data.write([Entry(path.stat().st_size, 0) for path in Path().iterdir()])
        data.write_eof()

    @FileRep.filter.manager
    async def filter(self, call: apcrt.ServerHandle[None], factor: float, data: apcrt.InOutPipe[float]) -> None:
        values = [factor * value async for chunk in data for value in chunk]
        await data.send(values)
        await data.send_eof()


class Sender:
    """Runs on the worker only."""

    def __init__(
        self, call: apcrt.ServerHandle[int], name: str, data: apcrt.OutPipe[int], worker: apc.ApcThread
    ) -> None:
        self.data, self.total, self.ended = data, 0, False
        call.notification = notify.Apc(self.on_event, thread=worker)
        call.flags = AsyncFlags.NOTIFY_ON_SEND_COMPLETE
        try:
            self.source = Path(name).open("rb")  # noqa: SIM115 - closed when the call ends
        except OSError as error:
            call.abort_call(Status.from_oserror(error))
            return
        self.push()

    def push(self) -> None:
        chunk = self.source.read(65536)
        self.ended, self.total = not chunk, self.total + len(chunk)
        self.data.push(chunk)

    def on_event(self, call: apcrt.ServerHandle[int], event: AsyncEvent) -> None:
        try:
            if self.ended:
                call.complete_call(self.total)
            else:
                self.push()
        except apcrt.RpcError:
            self.source.close()


def worker_main() -> None:
    while True:
        apc.sleep_ex(None, alertable=True)


def serve() -> None:
    with apcrt.Runtime() as runtime, apc.open_apc_threads() as threads:
        worker = threads.start(worker_main)
        with runtime.server(max_calls=100) as server:
            server.register(FileRep, Files(worker))
            bindings: list[str] = server.start("ncalrpc:[files]", "ncacn_ip_tcp:[0]")
            print(bindings)
            server.wait()


async def serve_on_trio() -> None:
    async with apcrt.Runtime("apcrt.toml") as runtime, apc.open_apc_threads() as threads:
        server = runtime.server()
        server.register(FileRep, Files(threads.start(worker_main)))
        async with trio.open_nursery() as nursery:
            bindings: list[str] = await nursery.start(server.serve, "ncalrpc:[files]")
            print(bindings)


def a_users_test(manager: Files) -> None:
    received = bytearray()
    with testing.in_process(FileRep, manager) as files, testing.capture_trace() as trace:
        files.read("nope", apcrt.OutPipe(sink=received))
    assert trace.events("call.failed")

"""The four faces, against plain, async and handed-off managers, over both kinds of sockets."""

from __future__ import annotations

import array
import io
from collections.abc import Iterator

import numpy as np
import pytest
import trio

import apcrt
from apcrt import apc, notify, testing
from tests.rpc.sample import Async, Mixed, Plain, Record, Sample, Worker, pattern

SIZES = [0, 1, 7, 1000, 65536, 1_000_003]


def worker_main() -> None:
    while True:
        apc.sleep_ex(None, alertable=True)


@pytest.fixture(params=["plain", "async", "worker"])
def manager(request: pytest.FixtureRequest) -> Iterator[Plain]:
    if request.param == "worker":
        with apc.open_apc_threads() as threads:
            worker = Worker(threads.start(worker_main))
            yield worker
            assert worker.wrong_thread == 0
            threads.cancel()
    else:
        yield Plain() if request.param == "plain" else Async()


@pytest.fixture(params=["unix", "tcp"])
def client(request: pytest.FixtureRequest, manager: Plain) -> Iterator[Sample]:
    endpoint = "ncacn_ip_tcp:[0]" if request.param == "tcp" else None
    with testing.in_process(Sample, manager, endpoint=endpoint) as sample:
        yield sample


@pytest.mark.feature("CALL-10", "SRV-02")
def test_blocking_calls(client: Sample) -> None:
    assert client.add(1, 2) == 3
    assert client.mixed(1, b=2) == Mixed(3, 1)
    assert client.find(3, [1, 2, 3], "hint") == 10
    assert client.find(0, [], None) == 0


@pytest.mark.feature("PIPE-02", "PIPE-03", "PIPE-04", "PIPE-12")
@pytest.mark.parametrize("size", SIZES)
def test_blocking_pipes(client: Sample, manager: Plain, size: int) -> None:
    received = bytearray()
    assert client.read(size, 4000, apcrt.OutPipe(sink=received)) == size
    assert received == pattern(size)
    assert client.write("f", apcrt.InPipe(source=io.BytesIO(pattern(size)))) == size
    assert manager.written["f"] == pattern(size)


@pytest.mark.feature("PIPE-02", "PIPE-09")
def test_elements(client: Sample) -> None:
    doubled: list[int] = []
    count = client.double(3, apcrt.InOutPipe(source=range(10_000), sink=doubled))
    assert count == 10_000
    assert doubled == [2 * value + 3 for value in range(10_000)]
    numbers = np.arange(1000, dtype=np.uint64)
    out = bytearray()
    assert client.double(0, apcrt.InOutPipe(source=numbers, sink=out)) == 1000
    assert (np.frombuffer(out, np.uint64) == 2 * numbers).all()
    records: list[Record] = []
    given = [Record(i, i & 0xFFFF, i & 255) for i in range(300)]
    assert client.records(apcrt.InOutPipe(source=given, sink=records)) == 300
    assert records == [Record(r.id + 1, r.kind ^ 0xFFFF, (r.tag + 1) & 255) for r in given]
    c: list[int] = []
    d = bytearray()
    reply = client.several(
        apcrt.InPipe(source=b"abc"),
        apcrt.InPipe(source=array.array("H", [1, 2])),
        apcrt.OutPipe(sink=c),
        apcrt.OutPipe(sink=d),
    )
    assert reply == Mixed(3, 2)
    assert c == [2, 3]
    assert d == bytes(value ^ 0x55 for value in b"abc")


@pytest.mark.feature("SRV-04")
def test_failures(client: Sample) -> None:
    for how, status in ((0, apcrt.Status.RPC_S_CALL_FAILED), (5, 5), (2, 2), (1917, 1917), (123456, 123456)):
        with pytest.raises(apcrt.RpcFault) as caught:
            client.fail(how)
        assert caught.value.status == status
    assert client.fail(1) is None
    assert client.add(3, 4) == 7


class Download:
    """As in the documentation: pulls into its own buffer on the issuing thread."""

    def __init__(self, client: Sample, size: int, piece: int) -> None:
        self.thread = apc.current_thread()
        self.received, self.buffer, self.done = bytearray(), bytearray(3000), False
        self.events: list[apcrt.AsyncEvent] = []
        self.wrong_thread = 0
        self.data: apcrt.OutPipe[int] = apcrt.OutPipe()
        self.handle = apcrt.AsyncHandle[int](notification=notify.Apc(self.on_event))
        client.read.begin(self.handle, size, piece, self.data)
        self.pull()

    def pull(self) -> None:
        while True:
            status, count = self.data.pull(self.buffer)
            if status is apcrt.Status.RPC_S_ASYNC_CALL_PENDING or not count:
                return
            self.received += self.buffer[:count]

    def on_event(self, handle: apcrt.AsyncHandle[int], event: apcrt.AsyncEvent) -> None:
        assert handle is self.handle
        self.wrong_thread += apc.current_thread() is not self.thread
        self.events.append(event)
        if event is apcrt.AsyncEvent.CALL_COMPLETE:
            self.done = True
        elif event is apcrt.AsyncEvent.RECEIVE_COMPLETE:
            self.pull()


class Upload:
    def __init__(self, client: Sample, name: str, content: bytes, piece: int) -> None:
        self.content, self.piece, self.position = content, piece, 0
        self.done = self.ended = False
        self.events: list[apcrt.AsyncEvent] = []
        self.data: apcrt.InPipe[int] = apcrt.InPipe()
        self.handle = apcrt.AsyncHandle[int](
            notification=notify.Apc(self.on_event), flags=apcrt.AsyncFlags.NOTIFY_ON_SEND_COMPLETE
        )
        client.write.begin(self.handle, name, self.data)

    def on_event(self, handle: apcrt.AsyncHandle[int], event: apcrt.AsyncEvent) -> None:
        self.events.append(event)
        if event is apcrt.AsyncEvent.CALL_COMPLETE:
            self.done = True
        elif event is apcrt.AsyncEvent.SEND_COMPLETE and not self.ended:
            chunk = self.content[self.position : self.position + self.piece]
            self.position += len(chunk)
            if not chunk:
                self.ended, handle.flags = True, apcrt.AsyncFlags.NONE
            self.data.push(chunk)


@pytest.mark.feature("CALL-01", "CALL-07", "NOTE-03", "NOTE-11", "PIPE-06", "PIPE-05", "PIPE-01")
@pytest.mark.parametrize("size", SIZES)
def test_faithful_download(client: Sample, size: int) -> None:
    several = [Download(client, size, 5000) for _ in range(3)]
    while not all(one.done for one in several):
        assert apc.sleep_ex(10, alertable=True) == apc.WAIT_IO_COMPLETION
    for one in several:
        assert one.received == pattern(size)
        assert one.events[-1] is apcrt.AsyncEvent.CALL_COMPLETE
        assert one.events.count(apcrt.AsyncEvent.CALL_COMPLETE) == 1
        assert one.wrong_thread == 0
        assert one.handle.get_call_status() == 0
        assert one.handle.complete_call() == size


@pytest.mark.feature("NOTE-10", "PIPE-15", "PIPE-16")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [997, 70_000])
def test_faithful_upload(client: Sample, manager: Plain, size: int, piece: int) -> None:
    if size > 100_000 and piece < 1000:
        size = 100_000
    one = Upload(client, "f", pattern(size), piece)
    while not one.done:
        assert apc.sleep_ex(10, alertable=True) == apc.WAIT_IO_COMPLETION
    assert one.handle.complete_call() == size
    assert manager.written["f"] == pattern(size)
    pushes = -(-size // piece)
    assert one.events == [apcrt.AsyncEvent.SEND_COMPLETE] * (1 + pushes) + [apcrt.AsyncEvent.CALL_COMPLETE]


@pytest.fixture(params=["plain", "async"])
def own_run_manager(request: pytest.FixtureRequest) -> Plain:
    return Plain() if request.param == "plain" else Async()


async def test_trio_face(own_run_manager: Plain) -> None:
    async with testing.in_process(Sample, own_run_manager) as client:
        assert await client.add.call(1, 2) == 3
        assert await client.mixed.call(1, b=2) == Mixed(3, 1)
        for size in SIZES:
            data: apcrt.OutPipe[int] = apcrt.OutPipe()
            received = bytearray()
            with trio.fail_after(20):
                async with client.read.open(size, 4000, data) as call:
                    async for chunk in data:
                        received += chunk
            assert call.reply == size
            assert received == pattern(size)
            upload: apcrt.InPipe[int] = apcrt.InPipe()
            with trio.fail_after(20):
                async with client.write.open("t", upload) as sent:
                    await upload.send(pattern(size))
                    await upload.send_eof()
            assert sent.reply == size
            assert own_run_manager.written["t"] == pattern(size)
        sink: list[int] = []
        assert await client.double.call(1, apcrt.InOutPipe(source=range(5000), sink=sink)) == 5000
        assert sink == [2 * value + 1 for value in range(5000)]
        with pytest.raises(apcrt.RpcFault):
            await client.fail.call(5)


async def test_faithful_on_trio(own_run_manager: Plain) -> None:
    async with testing.in_process(Sample, own_run_manager) as client:
        downs = [Download(client, 300_000, 7000) for _ in range(3)]
        ups = [Upload(client, f"u{i}", pattern(200_000), 30_000) for i in range(3)]
        with trio.fail_after(20):
            calls: list[Download | Upload] = [*downs, *ups]
            while not all(one.done for one in calls):
                await apc.aio.sleep_ex(None, alertable=True)
        for down in downs:
            assert down.received == pattern(300_000)
            assert down.wrong_thread == 0
            assert down.handle.complete_call() == 300_000
        for up in ups:
            assert up.handle.complete_call() == 200_000


async def test_blocking_verbs_refuse_a_trio_thread(own_run_manager: Plain) -> None:
    async with testing.in_process(Sample, own_run_manager) as client:
        with pytest.raises(apcrt.RpcUsageError, match=r"add\.call"):
            client.add(1, 2)
        data: apcrt.OutPipe[int] = apcrt.OutPipe()
        with pytest.raises(apcrt.RpcUsageError, match="async with"):
            with client.read.open(10, 10, data):
                pass
        async with client.read.open(10, 10, data) as call:
            buffer = bytearray(20)
            total = 0
            while count := await data.receive_into(buffer):
                total += count
        assert (call.reply, total) == (10, 10)

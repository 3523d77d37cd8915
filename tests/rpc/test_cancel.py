"""Cancelling: gently and abortively, in every phase of a call, from other threads, by trio scopes and by time-outs."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import trio
import trio.testing

import apcrt
from apcrt import AsyncEvent, AsyncFlags, Status, apc, testing, wire
from apcrt.rpc._open import OpenedCall
from apcrt_transports.socket import SocketTransport
from tests.rpc.helpers import FakeServer, RawPeer, Recorder, client_of, nothing_comes, status_of
from tests.rpc.sample import Plain, Sample, pattern

CC, SC, RC = AsyncEvent.CALL_COMPLETE, AsyncEvent.SEND_COMPLETE, AsyncEvent.RECEIVE_COMPLETE
PENDING = Status.RPC_S_ASYNC_CALL_PENDING
CANCELLED = Status.RPC_S_CALL_CANCELLED


@pytest.fixture
def manager() -> Plain:
    return Plain()


@pytest.fixture
def client(manager: Plain) -> Iterator[Sample]:
    with testing.in_process(Sample, manager) as sample:
        yield sample


def until(condition: Callable[[], object]) -> None:
    """Look until something holds that no event tells of; every look makes progress by itself."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        apc.sleep_ex(0.001)


def fill_the_window(up: apcrt.InPipe[int]) -> int:
    """Push until a push is refused; returns how many bytes were taken."""
    pushed = 0
    piece = bytes(256 << 10)
    try:
        while pushed < 256 << 20:
            up.push(piece)
            pushed += len(piece)
    except apcrt.SendWindowFull:
        return pushed
    raise AssertionError("nothing was refused")


def late(call: apcrt.ServerHandle[int]) -> None:
    """Answer a call whose client has cancelled, whether the server knows that already or not."""
    try:
        call.complete_call(666)
    except apcrt.RpcUsageError as error:
        if error.status != Status.RPC_S_INVALID_ASYNC_HANDLE:
            raise


# --------------------------------------------------------------------------------------------------------------- gentle


@pytest.mark.feature("CANC-01")
@pytest.mark.parametrize("answer", [0, 5, CANCELLED])
def test_a_gentle_cancel_informs_the_server_and_waits_for_it(client: Sample, manager: Plain, answer: int) -> None:
    one = Recorder[int]()
    client.hold.begin(one.handle)
    assert manager.inside.wait(10)
    held = manager.held[0]
    assert not held.test_cancel()
    one.handle.cancel_call(abort=False)
    one.handle.cancel_call(abort=False)
    until(held.test_cancel)
    assert held.test_cancel()
    nothing_comes(one)
    assert one.handle.get_call_status() == PENDING
    if answer:
        held.abort_call(answer)
    else:
        held.complete_call(42)
    one.wait()
    assert one.events == [CC]
    assert one.handle.get_call_status() == answer
    if answer:
        assert status_of(one.handle.complete_call) == answer
    else:
        assert one.handle.complete_call() == 42
    assert client.add(1, 2) == 3


@pytest.mark.feature("CANC-01", "CANC-05")
def test_a_gentle_cancel_of_a_download_lets_the_data_through() -> None:
    """The server sees the cancel between its pushes, ends the stream early, and the client gets all that was sent."""
    half = threading.Event()
    seen = threading.Event()

    class Half(Plain):
        @Sample.read.manager
        def read(self, call: apcrt.ServerHandle[int], size: int, piece: int, data: apcrt.OutPipe[int]) -> int:
            data.push(pattern(piece))
            half.set()
            until(call.test_cancel)
            seen.set()
            data.write_eof()
            return piece

    with testing.in_process(Sample, Half()) as client:
        down: apcrt.OutPipe[int] = apcrt.OutPipe()
        one = Recorder[int]()
        client.read.begin(one.handle, 10_000, 100, down)
        assert half.wait(10)
        one.handle.cancel_call(abort=False)
        assert seen.wait(10)
        received = bytearray()
        while True:
            status, count = down.pull(buffer := bytearray(64))
            if status is PENDING:
                one.wait_next()
            elif count:
                received += buffer[:count]
            else:
                break
        assert received == pattern(100)
        one.wait()
        assert one.handle.complete_call() == 100


@pytest.mark.feature("CANC-01", "CANC-05")
def test_a_gentle_cancel_before_the_connection_is_there_is_not_lost() -> None:
    answer = threading.Event()
    cancelled = threading.Event()

    def script(peer: RawPeer) -> None:
        peer.hold_replies = True
        peer.until(wire.ReplyReady)
        assert answer.wait(10)
        peer.hold_replies = False
        peer.socket.sendall(peer.held[0])
        peer.until(wire.CancelRequested)
        cancelled.set()
        peer.fault(CANCELLED)
        peer.until_closed()

    with FakeServer(script) as server, client_of(server.binding) as client:
        one = Recorder[int]()
        client.add.begin(one.handle, 1, 2)
        one.handle.cancel_call(abort=False)
        nothing_comes(one)
        answer.set()
        assert cancelled.wait(10)
        one.wait()
        assert status_of(one.handle.complete_call) == CANCELLED


@pytest.mark.feature("CANC-01", "CANC-05")
def test_a_gentle_cancel_passes_what_is_queued() -> None:
    """A stalled upload: the cancel goes out between two fragments, ahead of what waits in the window."""
    stalled, go_on = threading.Event(), threading.Event()
    before: list[int] = []

    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestStarted)
        stalled.set()
        assert go_on.wait(10)
        taken = 0
        while True:
            event = peer.event()
            assert event is not None
            if isinstance(event, wire.RequestData):
                taken += len(event.data)
            elif isinstance(event, wire.CancelRequested):
                break
        before.append(taken)
        peer.fault(CANCELLED)
        peer.until_closed()

    with FakeServer(script) as server, client_of(server.binding, send_window=64 << 20) as client:
        up: apcrt.InPipe[int] = apcrt.InPipe()
        one = Recorder[int]()
        client.write.begin(one.handle, "f", up)
        assert stalled.wait(10)
        pushed = fill_the_window(up)
        one.handle.cancel_call(abort=False)
        go_on.set()
        one.wait()
        assert one.handle.get_call_status() == CANCELLED
        assert before[0] < pushed - (32 << 20)


@pytest.mark.feature("CANC-06")
def test_the_time_out_pattern(client: Sample, manager: Plain) -> None:
    """First gently; when that does not help, abortively."""
    one = Recorder[int]()
    client.hold.begin(one.handle)
    assert manager.inside.wait(10)
    assert apc.sleep_ex(0.01, alertable=True) == apc.WAIT_OBJECT_0
    one.handle.cancel_call(abort=False)
    assert apc.sleep_ex(0.01, alertable=True) == apc.WAIT_OBJECT_0
    one.handle.cancel_call(abort=True)
    one.wait()
    assert status_of(one.handle.complete_call) == CANCELLED
    until(manager.held[0].test_cancel)
    assert status_of(lambda: manager.held[0].complete_call(1)) == Status.RPC_S_INVALID_ASYNC_HANDLE
    assert client.add(1, 2) == 3


# ------------------------------------------------------------------------------------------ abortive, in every phase


class Scene:
    """A call that stands in one phase and stays there, until the scene is left."""

    def __init__(self, client: Sample, manager: Plain | None) -> None:
        self.client = client
        self.manager = manager
        self.one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
        self.up: apcrt.InPipe[int] = apcrt.InPipe()
        self.down: apcrt.OutPipe[int] = apcrt.OutPipe()


def connecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """The connect does not come to an end."""
    stuck = threading.Event()

    async def never(*_: object) -> None:
        stuck.set()
        await trio.sleep_forever()

    monkeypatch.setattr(SocketTransport, "connect", never)
    with client_of("ncacn_ip_tcp:127.0.0.1[1]") as client:
        scene = Scene(client, None)
        client.write.begin(scene.one.handle, "f", scene.up)
        assert stuck.wait(10)
        yield scene


def binding(_monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """The server accepts, reads the bind, and does not answer."""
    seen = threading.Event()

    def script(peer: RawPeer) -> None:
        peer.hold_replies = True
        peer.until(wire.ReplyReady)
        seen.set()
        peer.until_closed()

    with FakeServer(script) as server, client_of(server.binding) as client:
        scene = Scene(client, None)
        client.write.begin(scene.one.handle, "f", scene.up)
        assert seen.wait(10)
        yield scene


def waiting_for_the_reply(_monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    manager = Plain()
    with testing.in_process(Sample, manager) as client:
        scene = Scene(client, manager)
        client.hold.begin(scene.one.handle)
        assert manager.inside.wait(10)
        yield scene


def between_two_pushes(_monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with testing.in_process(Sample, Plain()) as client:
        scene = Scene(client, None)
        client.write.begin(scene.one.handle, "f", scene.up)
        scene.one.wait_for(SC)
        scene.up.push(b"abc")
        yield scene


def pushing_with_a_full_window(_monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """The server has stopped reading, and pushes are refused."""

    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestStarted)
        hold.wait(10)
        peer.until_closed()

    hold = threading.Event()
    with FakeServer(script) as server, client_of(server.binding) as client:
        scene = Scene(client, None)
        client.write.begin(scene.one.handle, "f", scene.up)
        scene.one.wait_for(SC)
        fill_the_window(scene.up)
        yield scene
        hold.set()


def with_a_pull_pending(_monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestEnd)
        peer.respond(b"\x04\0\0\0abcd", last=False)
        sent.set()
        peer.until_closed()

    sent = threading.Event()
    with FakeServer(script) as server, client_of(server.binding) as client:
        scene = Scene(client, None)
        client.read.begin(scene.one.handle, 8, 4, scene.down)
        assert sent.wait(10)
        assert scene.down.pull(bytearray(4)) == (0, 4)
        assert scene.down.pull(bytearray(4)) == (PENDING, 0)
        yield scene


def between_end_and_reply(_monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """All data has gone; only the results are missing."""

    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestEnd)
        seen.set()
        peer.until_closed()

    seen = threading.Event()
    with FakeServer(script) as server, client_of(server.binding) as client:
        scene = Scene(client, None)
        client.write.begin(scene.one.handle, "f", scene.up)
        scene.up.push(b"abc")
        scene.up.push(b"")
        assert seen.wait(10) or apc.sleep_ex(0, alertable=True) is None
        yield scene


PHASES = [
    connecting,
    binding,
    waiting_for_the_reply,
    between_two_pushes,
    pushing_with_a_full_window,
    with_a_pull_pending,
    between_end_and_reply,
]


@pytest.fixture(params=PHASES, ids=lambda phase: phase.__name__)
def scene(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    yield from request.param(monkeypatch)


@pytest.mark.feature("CANC-02", "CANC-05", "CALL-07")
def test_an_abortive_cancel_ends_the_call_at_once(scene: Scene) -> None:
    one = scene.one
    one.handle.cancel_call(abort=True)
    assert one.handle.get_call_status() == CANCELLED
    one.wait()
    nothing_comes(one)
    assert one.events[-1] is CC
    assert one.count(CC) == 1
    with pytest.raises(apcrt.RpcCancelled) as caught:
        one.handle.complete_call()
    assert caught.value.status == CANCELLED
    assert one.handle.get_call_status() == Status.RPC_S_INVALID_ASYNC_HANDLE


@pytest.mark.feature("CANC-02", "CANC-05")
def test_the_pipes_of_a_cancelled_call_say_so(scene: Scene) -> None:
    scene.one.handle.cancel_call(abort=True)
    if scene.up.live:
        assert status_of(lambda: scene.up.push(b"more")) == CANCELLED
    if scene.down.live:
        assert status_of(lambda: scene.down.pull(bytearray(8))) == CANCELLED
    scene.one.wait()
    assert scene.one.count(CC) == 1  # it was told by notification, and the pipes only say it again
    assert status_of(scene.one.handle.complete_call) == CANCELLED


@pytest.mark.feature("CANC-03", "CANC-05")
def test_from_another_thread_and_twice(scene: Scene) -> None:
    """The issuing thread sleeps alertably; it is woken by the call-complete."""
    one = scene.one
    threads = [threading.Thread(target=one.handle.cancel_call, kwargs={"abort": True}) for _ in range(2)]
    for thread in threads:
        thread.start()
    one.wait()
    for thread in threads:
        thread.join()
    one.handle.cancel_call(abort=True)
    one.handle.cancel_call(abort=False)
    nothing_comes(one)
    assert one.count(CC) == 1
    assert one.threads == [apc.current_thread()] * len(one.threads)
    assert status_of(one.handle.complete_call) == CANCELLED


@pytest.mark.feature("CANC-01", "CANC-06", "CANC-05")
def test_gently_and_then_abortively(scene: Scene) -> None:
    scene.one.handle.cancel_call(abort=False)
    assert scene.one.handle.get_call_status() == PENDING
    scene.one.handle.cancel_call(abort=True)
    scene.one.wait()
    assert status_of(scene.one.handle.complete_call) == CANCELLED


@pytest.mark.feature("CANC-02", "CALL-06")
def test_the_handle_can_be_used_again(client: Sample, manager: Plain) -> None:
    """And what the server still answers to the cancelled call goes nowhere."""
    one = Recorder[int]()
    for number in range(3):
        manager.inside.clear()
        client.hold.begin(one.handle)
        assert manager.inside.wait(10)
        one.handle.cancel_call(abort=True)
        one.wait_for(CC, 2 * number + 1)
        assert status_of(one.handle.complete_call) == CANCELLED
        client.add.begin(one.handle, number, 1)
        late(manager.held[-1])
        one.wait_for(CC, 2 * number + 2)
        assert one.handle.complete_call() == number + 1


@pytest.mark.feature("CANC-02")
def test_a_late_reply_is_discarded() -> None:
    """The reply crosses the cancel: the call stays cancelled, and the next one gets its own answer."""
    seen, replied = threading.Event(), threading.Event()

    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestEnd)
        if server.connections > 1:
            peer.respond((3).to_bytes(4, "little"))
        else:
            seen.set()
            assert replied.wait(10)
            try:
                peer.respond((666).to_bytes(4, "little"))
            except OSError:
                return
        peer.until_closed()

    with FakeServer(script) as server, client_of(server.binding) as client:
        one = Recorder[int]()
        client.add.begin(one.handle, 1, 2)
        assert seen.wait(10)
        one.handle.cancel_call(abort=True)
        replied.set()
        one.wait()
        assert status_of(one.handle.complete_call) == CANCELLED
        assert client.add(1, 2) == 3
        nothing_comes(one)


@pytest.mark.feature("CANC-03")
@pytest.mark.parametrize("abort", [True, False])
def test_after_completion_a_cancel_has_no_effect(client: Sample, abort: bool) -> None:
    """Between call-complete and completion, the outcome stands."""
    one = Recorder[int]()
    client.add.begin(one.handle, 1, 2)
    one.wait()
    one.handle.cancel_call(abort=abort)
    nothing_comes(one)
    assert one.handle.get_call_status() == 0
    assert one.handle.complete_call() == 3
    client.fail.begin(failing := apcrt.AsyncHandle[None](), 5)
    until(lambda: failing.get_call_status() != PENDING)
    failing.cancel_call(abort=abort)
    assert status_of(failing.complete_call) == 5
    assert client.add(1, 2) == 3


@pytest.mark.feature("CANC-02", "SRV-12")
def test_the_server_learns_of_an_abortive_cancel(client: Sample, manager: Plain) -> None:
    one = Recorder[int]()
    client.hold.begin(one.handle)
    assert manager.inside.wait(10)
    one.handle.cancel_call(abort=True)
    until(manager.held[0].test_cancel)
    one.wait()
    assert status_of(one.handle.complete_call) == CANCELLED


# --------------------------------------------------------------------------------------------------------- trio scopes


class Stuck:
    """A manager whose every routine stays where it is, and says how it was left."""

    def __init__(self) -> None:
        self.inside = trio.Event()
        self.cancelled = trio.Event()

    async def stay(self) -> None:
        self.inside.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled.set()
            raise


class Nowhere(Plain):
    """Async routines that stay; made on the run that serves."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck = Stuck()

    @Sample.add.manager
    async def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
        await self.stuck.stay()
        return 0

    @Sample.write.manager
    async def write(self, call: apcrt.ServerHandle[int], name: str, data: apcrt.InPipe[int]) -> int:
        await self.stuck.stay()
        return 0

    @Sample.read.manager
    async def read(self, call: apcrt.ServerHandle[int], size: int, piece: int, data: apcrt.OutPipe[int]) -> int:
        await self.stuck.stay()
        return 0


@pytest.fixture
def nowhere() -> Nowhere:
    return Nowhere()


@pytest.fixture
async def stuck_client(nowhere: Nowhere) -> AsyncIterator[Sample]:
    async with testing.in_process(Sample, nowhere) as sample:
        yield sample


async def cancelled_inside(nowhere: Nowhere, verb: Callable[[], object]) -> None:
    """Run an async function until the manager stands still, cancel it, and see that it ends."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(verb)  # type: ignore[arg-type]
            await nowhere.stuck.inside.wait()
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()


@pytest.mark.feature("CANC-02", "CANC-05", "SRV-12")
async def test_a_scope_around_a_call(nowhere: Nowhere, stuck_client: Sample) -> None:
    async def call() -> None:
        await stuck_client.add.call(1, 2)

    await cancelled_inside(nowhere, call)
    with trio.fail_after(10):
        await nowhere.stuck.cancelled.wait()  # the manager's own scope
    with trio.fail_after(10):
        assert await stuck_client.mixed.call(1, 2) == (3, 1)


@pytest.mark.feature("CANC-05", "SRV-12")
async def test_a_scope_around_a_call_with_ends(nowhere: Nowhere, stuck_client: Sample) -> None:
    async def upload() -> None:
        await stuck_client.write.call("f", apcrt.InPipe(source=bytes(64 << 20)))

    await cancelled_inside(nowhere, upload)
    with trio.fail_after(10):
        await nowhere.stuck.cancelled.wait()


@pytest.mark.feature("CANC-05", "SRV-12")
@pytest.mark.parametrize("verb", ["send", "receive_into", "iterate", "leave"])
async def test_a_scope_around_an_open_block(nowhere: Nowhere, stuck_client: Sample, verb: str) -> None:
    async def inside() -> None:
        if verb in ("send", "leave"):
            up: apcrt.InPipe[int] = apcrt.InPipe()
            async with stuck_client.write.open("f", up):
                while verb == "send":
                    await up.send(bytes(1 << 20))
                await up.send_eof()
        else:
            down: apcrt.OutPipe[int] = apcrt.OutPipe()
            async with stuck_client.read.open(1, 1, down):
                if verb == "receive_into":
                    await down.receive_into(bytearray(1))
                async for _ in down:
                    raise AssertionError("there is no data")

    await cancelled_inside(nowhere, inside)
    with trio.fail_after(10):
        await nowhere.stuck.cancelled.wait()
        assert await stuck_client.mixed.call(1, 2) == (3, 1)


@pytest.mark.feature("CANC-05")
@pytest.mark.parametrize("verb", ["send", "receive_into"])
async def test_a_scope_around_one_verb_leaves_the_call_alive(verb: str) -> None:
    """A cancelled wait has consumed nothing: the stream goes on where it stands."""
    manager = Plain()
    gate = trio.Event()

    class Gated(Plain):
        @Sample.write.manager
        async def write(self, call: apcrt.ServerHandle[int], name: str, data: apcrt.InPipe[int]) -> int:
            await gate.wait()
            total = 0
            async for chunk in data:
                total += len(chunk)
            return total

        @Sample.read.manager
        async def read(self, call: apcrt.ServerHandle[int], size: int, piece: int, data: apcrt.OutPipe[int]) -> int:
            await gate.wait()
            await data.send(pattern(size))
            await data.send_eof()
            return size

    manager = Gated()
    async with testing.in_process(Sample, manager) as client:
        with trio.fail_after(10):
            if verb == "send":
                up: apcrt.InPipe[int] = apcrt.InPipe()
                async with client.write.open("f", up) as call:
                    pushed = 0
                    piece = bytes(256 << 10)  # one piece: taken or not
                    while True:
                        with trio.move_on_after(0.05) as scope:
                            await up.send(piece)
                            pushed += len(piece)
                        if scope.cancelled_caught:
                            break
                    gate.set()
                    await up.send(b"end")
                    await up.send_eof()
                assert call.reply == pushed + 3
            else:
                down: apcrt.OutPipe[int] = apcrt.OutPipe()
                async with client.read.open(5000, 1, down) as call:
                    buffer = bytearray(8000)
                    with trio.move_on_after(0.01) as scope:
                        await down.receive_into(buffer)
                    assert scope.cancelled_caught
                    gate.set()
                    received = bytearray()
                    while count := await down.receive_into(buffer):
                        received += buffer[:count]
                assert received == pattern(5000)
                assert call.reply == 5000


@pytest.mark.feature("CANC-05")
async def test_cancelled_while_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(SocketTransport, "connect", never)
    async with apcrt.Runtime() as runtime:
        client = Sample(runtime.binding("ncacn_ip_tcp:127.0.0.1[1]"))
        with trio.fail_after(10):
            with trio.move_on_after(0.01) as scope:
                await client.add.call(1, 2)
            assert scope.cancelled_caught
            up: apcrt.InPipe[int] = apcrt.InPipe()
            with trio.move_on_after(0.01) as scope:
                async with client.write.open("f", up):
                    await up.send(bytes(8 << 20))
            assert scope.cancelled_caught
        assert client.binding.running == 0


@pytest.mark.feature("CANC-05")
async def test_leaving_a_block_early() -> None:
    """An output that was not drained: cancelled quietly. An input without its end: 1917. An exception: it passes."""
    async with testing.in_process(Sample, Plain()) as client:
        with trio.fail_after(10):
            down: apcrt.OutPipe[int] = apcrt.OutPipe()
            async with client.read.open(10 << 20, 1000, down) as call:
                async for _ in down:
                    break
            assert status_of(lambda: call.reply) == CANCELLED
            up: apcrt.InPipe[int] = apcrt.InPipe()
            with pytest.raises(apcrt.RpcUsageError) as caught:
                async with client.write.open("f", up) as call:
                    await up.send(b"half")
            assert caught.value.status == Status.RPC_X_PIPE_DISCIPLINE_ERROR
            assert status_of(lambda: call.reply) == CANCELLED
            up = apcrt.InPipe()
            with pytest.raises(KeyError):
                async with client.write.open("f", up):
                    raise KeyError
            assert await client.add.call(1, 2) == 3


@pytest.mark.feature("CANC-05")
def test_leaving_a_block_early_on_a_plain_thread(client: Sample) -> None:
    down: apcrt.OutPipe[int] = apcrt.OutPipe()
    with client.read.open(10 << 20, 1000, down) as call:
        next(iter(down))
    assert status_of(lambda: call.reply) == CANCELLED
    up: apcrt.InPipe[int] = apcrt.InPipe()

    def half() -> None:
        with client.write.open("f", up):
            up.write(b"half")

    assert status_of(half) == Status.RPC_X_PIPE_DISCIPLINE_ERROR
    up = apcrt.InPipe()
    with pytest.raises(KeyError), client.write.open("f", up):
        raise KeyError
    assert client.add(1, 2) == 3


@pytest.mark.feature("CANC-02")
@pytest.mark.parametrize("abort", [True, False])
def test_cancelling_a_block_from_another_thread(client: Sample, manager: Plain, abort: bool) -> None:
    def cancel(call: object) -> None:
        assert isinstance(call, OpenedCall)
        call.cancel(abort=abort)
        if not abort:
            until(manager.held[0].test_cancel)
            manager.held[0].abort_call(CANCELLED)

    def block() -> None:
        with client.hold.open() as call:
            assert manager.inside.wait(10)
            thread = threading.Thread(target=cancel, args=(call,))
            thread.start()
        thread.join()

    assert status_of(block) == CANCELLED


# ------------------------------------------------------------------------------------------------------------ time-outs


@pytest.mark.feature("BIND-04", "CANC-06")
def test_the_call_time_out_of_the_blocking_face() -> None:
    """A silent server: 1818 after that many seconds, for a reply, for a pull and for a block."""

    def script(peer: RawPeer) -> None:
        peer.until_closed()

    with FakeServer(script) as server, client_of(server.binding, call_timeout=0.05) as client:
        assert status_of(lambda: client.add(1, 2)) == CANCELLED
        assert status_of(lambda: client.write("f", apcrt.InPipe(source=b"abc"))) == CANCELLED
        assert status_of(lambda: client.read(1, 1, apcrt.OutPipe(sink=bytearray()))) == CANCELLED

        def block() -> None:
            with client.add.open(1, 2):
                pass

        assert status_of(block) == CANCELLED
        assert client.binding.running == 0


@pytest.mark.feature("BIND-04")
def test_the_call_time_out_of_a_stalled_upload() -> None:
    """The server takes nothing any more: a write that waits for room gives up too."""

    hold = threading.Event()

    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestStarted)
        hold.wait(15)

    with FakeServer(script) as server:
        with client_of(server.binding, call_timeout=0.1) as client:
            try:
                assert status_of(lambda: client.write("f", apcrt.InPipe(source=bytes(64 << 20)))) == CANCELLED
            finally:
                hold.set()


@pytest.mark.feature("BIND-04")
def test_the_call_time_out_begins_again_with_every_sign_of_life() -> None:
    """Data that trickles in for longer than the time-out, each piece well within it."""

    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestEnd)
        for _ in range(12):
            time.sleep(0.1)
            peer.respond(b"\x04\0\0\0abcd", last=False)
        peer.respond(bytes(4) + (48).to_bytes(4, "little"))
        peer.until_closed()

    with FakeServer(script) as server, client_of(server.binding, call_timeout=1.0) as client:
        received = bytearray()
        assert client.read(48, 4, apcrt.OutPipe(sink=received)) == 48
        assert received == b"abcd" * 12


@pytest.mark.feature("BIND-04")
def test_asynchronous_calls_have_no_time_out() -> None:
    answer = threading.Event()

    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestEnd)
        assert answer.wait(10)
        peer.respond((3).to_bytes(4, "little"))
        peer.until_closed()

    with FakeServer(script) as server, client_of(server.binding, call_timeout=0.01) as client:
        one = Recorder[int]()
        client.add.begin(one.handle, 1, 2)
        assert apc.sleep_ex(0.1, alertable=True) == apc.WAIT_OBJECT_0
        answer.set()
        one.wait()
        assert one.handle.complete_call() == 3

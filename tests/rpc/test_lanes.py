"""Which connection carries a call: lanes, idle connections, and calls that move from one connection to another.

The moments that matter lie between two locks. The tests stop the code there: by a peer that answers when it is told
to, or by a step of the engine that runs something else first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing

import apcrt
from apcrt import Status, testing, trace, wire
from apcrt.engine.client import IDLE_KEPT, ClientConnection, ClientExchange, ConnectionPool
from apcrt.rpc.binding import Binding
from tests.rpc.helpers import CEILING, Counted, FakeServer, RawPeer, Recorder, alertable_until, client_of, status_of
from tests.rpc.sample import Plain, Sample, pattern

CANCELLED = Status.RPC_S_CALL_CANCELLED
ENDPOINT = "ncacn_ip_tcp:[0]"
NOUGHT = bytes(4)  # a reply of one UInt32


@pytest.fixture
def manager() -> Plain:
    return Plain()


@pytest.fixture
def client(manager: Plain) -> Iterator[Sample]:
    with testing.in_process(Sample, manager) as sample:
        yield sample


def pool_of(binding: Binding) -> ConnectionPool:
    return binding.pool(Sample.syntax)


def idle(pool: ConnectionPool) -> list[ClientConnection]:
    return list(pool._idle)


class Once:
    """Does something before a step of the engine, once. Set `before` to what it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type[object], step: str) -> None:
        self.before: Callable[[], object] | None = None
        self.done = False
        original: Callable[..., Any] = getattr(owner, step)

        def stopped(*args: object) -> Any:
            before, self.before = self.before, None
            if before is not None:
                before()
                self.done = True
            return original(*args)

        monkeypatch.setattr(owner, step, stopped)


def elsewhere(function: Callable[[], object]) -> None:
    """Do something on another thread, to its end."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


# ---------------------------------------------------------------------------------- cancelled before there was a link


class Gated:
    """A server that answers a bind when it is told to, and `hold` when it is told to; everything else at once."""

    def __init__(self) -> None:
        self.bind = threading.Event()
        self.held = threading.Event()
        self.answer = threading.Event()

    def __call__(self, peer: RawPeer) -> None:
        assert self.bind.wait(CEILING)
        while (event := peer.event()) is not None:
            if isinstance(event, wire.RequestEnd):
                assert peer.request is not None
                if Sample.operations[peer.request.opnum].name == "hold":
                    self.held.set()
                    assert self.answer.wait(CEILING)
                peer.respond(NOUGHT)


@pytest.mark.feature("ORD-02", "CANC-02")
def test_a_call_cancelled_before_its_connection_was_bound_leaves_one_lane() -> None:
    """The connection is its thread's, or idle, but not both: no two threads share it."""
    gated = Gated()
    with FakeServer(gated) as server, client_of(server.binding, call_timeout=2) as client:
        with Counted("connection.opened") as opened:
            early, held = Recorder[int](), Recorder[int]()
            client.add.begin(early.handle, 1, 2)
            early.handle.cancel_call(abort=True)
            early.wait()
            assert status_of(early.handle.complete_call) == CANCELLED
            gated.bind.set()
            opened.wait()
        client.hold.begin(held.handle)
        assert gated.held.wait(CEILING)
        replies: list[int] = []
        try:
            elsewhere(lambda: replies.append(client.add(3, 4)))
        finally:
            gated.answer.set()
        assert replies == [0]
        held.wait()
        assert held.handle.complete_call() == 0


@pytest.mark.feature("CANC-02", "LIFE-01")
def test_connections_of_cancelled_calls_are_kept_once_and_not_all_of_them() -> None:
    gated = Gated()
    count = IDLE_KEPT + 4
    with (
        FakeServer(gated) as server,
        apcrt.Runtime() as runtime,
        Counted("connection.opened") as opened,
        Counted("connection.closed") as closed,
    ):
        binding = runtime.binding(server.binding, noncausal=True)
        client = Sample(binding)
        calls = [Recorder[int]() for _ in range(count)]
        for one in calls:
            client.add.begin(one.handle, 1, 2)
        for one in calls:
            one.handle.cancel_call(abort=True)
            one.wait()
        pool = pool_of(binding)
        assert pool.connections() == count
        assert idle(pool) == []  # nothing that is not bound yet
        gated.bind.set()
        opened.wait(count)
        closed.wait(count - IDLE_KEPT)
        kept = idle(pool)
        assert len(set(kept)) == len(kept) == pool.connections() == IDLE_KEPT
        assert all(one.claims == 0 and one.exchange is None for one in kept)
        assert client.add(3, 4) == 0
        alertable_until(lambda: len(idle(pool)) == IDLE_KEPT)


@pytest.mark.feature("CANC-02")
def test_a_lane_ends_with_its_last_call(client: Sample) -> None:
    """An idle connection is anybody's, and one of its own serves the next thread: none is opened for it."""
    assert client.add(1, 2) == 3
    pool = pool_of(client.binding)
    alertable_until(lambda: idle(pool))
    assert pool._lanes == {}
    replies: list[int] = []
    elsewhere(lambda: replies.append(client.add(3, 4)))
    assert replies == [7]
    assert pool.connections() == 1


# ------------------------------------------------------------------------------------------- from one lane to another


@pytest.mark.feature("CANC-02", "CANC-03")
def test_a_call_cancelled_on_its_way_to_another_connection_is_not_sent(client: Sample, manager: Plain) -> None:
    """Three calls of one thread. The first is cancelled, the others have to move, and the second is cancelled then."""
    keep: Recorder[int] = Recorder()
    up: apcrt.InPipe[int] = apcrt.InPipe()
    client.write.begin(keep.handle, "keeps the association group", up)
    first, second, third, fourth = (Recorder[int]() for _ in range(4))
    client.hold.begin(first.handle)
    assert manager.inside.wait(CEILING)
    client.add.begin(second.handle, 1, 1)
    client.add.begin(third.handle, 2, 2)
    done: list[str] = []

    def tap(_level: int, event: str, _keys: dict[str, object]) -> None:
        if event == "call.cancelled" and not done:
            done.append(event)
            elsewhere(lambda: second.handle.cancel_call(abort=True))

    trace.add_tap(tap, trace.DEBUG)
    try:
        first.handle.cancel_call(abort=True)
    finally:
        trace.remove_tap(tap)
    assert done
    client.add.begin(fourth.handle, 3, 3)
    for one in (first, second, third, fourth):
        one.wait()
        assert len(one.events) == 1
    assert status_of(first.handle.complete_call) == CANCELLED
    assert status_of(second.handle.complete_call) == CANCELLED
    assert (third.handle.complete_call(), fourth.handle.complete_call()) == (4, 6)
    assert len(manager.threads) == 2, "the cancelled call was sent"
    up.push(b"")
    keep.wait()
    assert keep.handle.complete_call() == 0
    pool = pool_of(client.binding)
    alertable_until(lambda: len(idle(pool)) == pool.connections())
    assert all(one.exchange is None and one.claims == 0 for one in idle(pool))


@pytest.mark.feature("CANC-02", "ORD-01")
def test_a_call_whose_lane_has_just_closed_gets_another_connection(
    client: Sample, manager: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the choice of a connection and its lock another thread closes it: the new call is innocent."""
    first, second = Recorder[int](), Recorder[int]()
    once = Once(monkeypatch, ClientConnection, "submit")
    client.hold.begin(first.handle)
    assert manager.inside.wait(CEILING)
    once.before = lambda: elsewhere(lambda: first.handle.cancel_call(abort=True))
    client.add.begin(second.handle, 1, 2)
    assert once.done
    second.wait()
    assert second.handle.complete_call() == 3
    first.wait()
    assert status_of(first.handle.complete_call) == CANCELLED
    assert client.binding.running == 0


# ------------------------------------------------------------------------------------- pipes of a call that is moving


class ForgetsTheGroup:
    """A server that serves an `add`, closes, and forgets the association group: the next bind for it is refused.

    It answers later binds when it is told to (`bind`).
    """

    def __init__(self) -> None:
        self.bind = threading.Event()
        self.connections = 0
        self.refused = 0
        self.data = b""

    def __call__(self, peer: RawPeer) -> None:
        self.connections += 1
        if self.connections == 1:
            peer.until(wire.RequestEnd)
            reply = peer.response(NOUGHT)
            peer.wire.closed()
            peer.socket.sendall(reply)
            return
        assert self.bind.wait(CEILING)
        served = 0
        while self._request(peer):
            assert peer.request is not None
            if Sample.operations[peer.request.opnum].name == "read":
                peer.respond(b"\4\0\0\0abcd\0\0\0\0\4\0\0\0")
            else:
                peer.respond(b"\7" + bytes(7))
            served += 1
        if not served:
            self.refused += 1

    def _request(self, peer: RawPeer) -> bool:
        """Take a whole request; False when the client leaves instead."""
        while (event := peer.event()) is not None:
            if isinstance(event, wire.RequestData):
                self.data += event.data
            if isinstance(event, wire.RequestEnd):
                return True
        return False


def lose_the_group(client: Sample) -> None:
    """Have a binding join a group and lose its only connection, which takes the group with it."""
    with Counted("connection.closed") as closed:
        assert client.add(1, 2) == 0
        closed.wait()


class Stopped:
    """Stops the I/O thread when it is about to have another connection carry a call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moving, self.go = threading.Event(), threading.Event()
        original = ClientConnection.resubmit

        def resubmit(connection: ClientConnection, exchange: ClientExchange) -> None:
            if threading.current_thread().name.startswith("apcrt-io-"):
                self.moving.set()
                assert self.go.wait(CEILING)
            original(connection, exchange)

        monkeypatch.setattr(ClientConnection, "resubmit", resubmit)

    def wait(self) -> None:
        assert self.moving.wait(CEILING)


@pytest.mark.feature("PIPE-14")
def test_a_push_into_a_call_that_is_moving_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ForgetsTheGroup()
    with FakeServer(script) as server, client_of(server.binding) as client:
        lose_the_group(client)
        stopped = Stopped(monkeypatch)
        one = Recorder[int]()
        up: apcrt.InPipe[int] = apcrt.InPipe()
        client.write.begin(one.handle, "f", up)
        script.bind.set()
        try:
            stopped.wait()
            up.push(b"abc")
            up.push(b"defg")
        finally:
            stopped.go.set()
        up.push(b"")
        one.wait()
        assert one.handle.complete_call() == 7
        assert script.data.endswith(b"\3\0\0\0abc\0\4\0\0\0defg\0\0\0\0")
        assert pool_of(client.binding).connections() == 1
    assert script.refused == 1


@pytest.mark.feature("PIPE-06")
def test_a_pull_from_a_call_that_is_moving_is_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ForgetsTheGroup()
    with FakeServer(script) as server, client_of(server.binding) as client:
        lose_the_group(client)
        stopped = Stopped(monkeypatch)
        one = Recorder[int]()
        down: apcrt.OutPipe[int] = apcrt.OutPipe()
        buffer = bytearray(10)
        client.read.begin(one.handle, 4, 4, down)
        script.bind.set()
        try:
            stopped.wait()
            assert down.pull(buffer) == (Status.RPC_S_ASYNC_CALL_PENDING, 0)
        finally:
            stopped.go.set()
        one.wait_for(apcrt.AsyncEvent.RECEIVE_COMPLETE)
        assert down.pull(buffer) == (Status.RPC_S_OK, 4)
        assert buffer[:4] == b"abcd"
        assert down.pull(buffer) == (Status.RPC_S_OK, 0)
        one.wait()
        assert one.handle.complete_call() == 4
    assert script.refused == 1


@pytest.mark.feature("CANC-02")
def test_a_call_cancelled_while_it_is_moving_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ForgetsTheGroup()
    with FakeServer(script) as server, client_of(server.binding) as client:
        lose_the_group(client)
        stopped = Stopped(monkeypatch)
        one = Recorder[int]()
        client.write.begin(one.handle, "f", apcrt.InPipe())
        script.bind.set()
        try:
            stopped.wait()
            one.handle.cancel_call(abort=True)
        finally:
            stopped.go.set()
        one.wait()
        assert status_of(one.handle.complete_call) == CANCELLED
        down: apcrt.OutPipe[int] = apcrt.OutPipe(sink=bytearray())
        assert client.read(4, 4, down) == 4
        assert script.data == b"\4\0\0\0\4\0\0\0"
        assert client.binding.running == 0


@pytest.mark.feature("PIPE-06", "PIPE-14")
async def test_verbs_that_wait_go_on_when_their_call_has_moved() -> None:
    """They wait on the connection whose bind is refused, and are woken by the one that has the data."""
    script = ForgetsTheGroup()
    with FakeServer(script) as server, trio.fail_after(CEILING):
        async with apcrt.Runtime(runtime__drain_limit=0.5) as runtime:
            client = Sample(runtime.binding(server.binding, send_window=1000))
            await trio.to_thread.run_sync(lose_the_group, client)
            found = bytearray()

            async def download() -> None:
                down: apcrt.OutPipe[int] = apcrt.OutPipe()
                async with client.read.open(4, 4, down) as call:
                    async for chunk in down:
                        found.extend(chunk)
                assert call.reply == 4

            async def upload() -> None:
                up: apcrt.InPipe[int] = apcrt.InPipe()
                async with client.write.open("f", up) as call:
                    await up.send(bytes(1000))
                    await up.send(pattern(1000))
                    await up.send_eof()
                assert call.reply == 7

            async with trio.open_nursery() as nursery:
                nursery.start_soon(download)
                nursery.start_soon(upload)
                await trio.testing.wait_all_tasks_blocked()
                script.bind.set()
            assert found == b"abcd"
            assert pattern(1000) in script.data
    assert script.refused >= 1


# ----------------------------------------------------------------------------------------------- after the very end


@pytest.mark.feature("PIPE-11", "CALL-06")
def test_a_pull_after_the_end_is_1918_until_the_reply_is_taken_and_1915_then(client: Sample) -> None:
    one = Recorder[int]()
    down: apcrt.OutPipe[int] = apcrt.OutPipe()
    found = bytearray()
    buffer = bytearray(100)
    client.read.begin(one.handle, 10, 10, down)
    while True:
        status, count = down.pull(buffer)
        if status is Status.RPC_S_ASYNC_CALL_PENDING:
            one.wait_next()
        elif count:
            found += buffer[:count]
        else:
            break
    one.wait()
    assert status_of(lambda: down.pull(buffer)) == Status.RPC_X_PIPE_EMPTY
    assert one.handle.complete_call() == 10
    assert status_of(lambda: down.pull(buffer)) == Status.RPC_S_INVALID_ASYNC_CALL
    assert found == pattern(10)


@pytest.mark.feature("PIPE-11", "CALL-06")
def test_a_push_after_the_end_is_1916_until_the_reply_is_taken_and_1915_then(client: Sample) -> None:
    one = Recorder[int]()
    up: apcrt.InPipe[int] = apcrt.InPipe()
    client.write.begin(one.handle, "f", up)
    up.push(b"")
    assert status_of(lambda: up.push(b"x")) == Status.RPC_X_PIPE_CLOSED
    one.wait()
    assert status_of(lambda: up.push(b"x")) == Status.RPC_X_PIPE_CLOSED
    assert status_of(lambda: up.push(b"")) == Status.RPC_X_PIPE_CLOSED
    assert one.handle.complete_call() == 0
    assert status_of(lambda: up.push(b"x")) == Status.RPC_S_INVALID_ASYNC_CALL

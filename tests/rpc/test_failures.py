"""Failures of links, peers and managers: the right status by progress, each told once, and nothing left behind."""

from __future__ import annotations

import contextlib
import gc
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import trio
import trio.testing

import apcrt
from apcrt import AsyncEvent, AsyncFlags, Status, apc, notify, testing, wire
from tests.rpc.helpers import FakeServer, RawPeer, Recorder, Vanishing, client_of, nothing_comes, status_of
from tests.rpc.sample import Plain, Sample
from tests.rpc.server_process import Child

CC, SC, RC = AsyncEvent.CALL_COMPLETE, AsyncEvent.SEND_COMPLETE, AsyncEvent.RECEIVE_COMPLETE
PENDING = Status.RPC_S_ASYNC_CALL_PENDING
FREE = Status.RPC_S_INVALID_ASYNC_HANDLE


@pytest.fixture(autouse=True)
def _nothing_is_left(_own_port: None, no_leaked_descriptors: object) -> None:
    """No test here may leave a descriptor open."""


@pytest.fixture
def _own_port() -> None:
    """The Port of this thread, which is made at the first wait and stays, is no leak."""
    _ = apc.current_thread().port


def failure_of(client: Sample) -> apcrt.RpcError:
    """How a call without pipes fails, by both faces that a plain thread has; the same way."""
    one = Recorder[int]()
    client.add.begin(one.handle, 1, 2)
    one.wait()
    assert one.events == [CC]
    status = one.handle.get_call_status()
    with pytest.raises(apcrt.RpcError) as caught:
        one.handle.complete_call()
    assert caught.value.status == status
    assert status_of(lambda: client.add(1, 2)) == status
    return caught.value


def until(condition: Callable[[], object]) -> None:
    """Look until something holds that no event tells of."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def pull_until_it_fails(down: apcrt.OutPipe[int], one: Recorder[int]) -> int:
    """Pull, waiting where nothing is there, until a pull raises; gives its status."""
    buffer = bytearray(64 << 10)
    while True:
        try:
            status, count = down.pull(buffer)
        except apcrt.RpcError as error:
            return error.status
        if status is PENDING:
            one.wait_next()
        else:
            assert count, "the stream has ended well"


def told_once(one: Recorder[int], status: int) -> None:
    """A verb has raised: either it was the first to tell, and that was all; or call-complete was on its way before."""
    if one.handle.get_call_status() != FREE:
        one.wait()
        assert one.handle.get_call_status() == status
        assert status_of(one.handle.complete_call) == status
        assert one.count(CC) == 1
    else:
        nothing_comes(one)
        assert one.count(CC) == 0


# ------------------------------------------------------------------------------------------------- nobody to talk to


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.feature("ERR-01", "ERR-02", "CALL-07")
@pytest.mark.parametrize("kind", ["tcp", "unix", "name"])
def test_no_server_is_1722(kind: str, tmp_path: Path) -> None:
    binding = {
        "tcp": f"ncacn_ip_tcp:127.0.0.1[{closed_port()}]",
        "unix": f"ncacn_unix_stream:[{tmp_path}/nobody]",
        "name": "ncacn_ip_tcp:no-such-host.invalid[1]",
    }[kind]
    with apcrt.Runtime() as runtime:
        error = failure_of(Sample(runtime.binding(binding)))
        assert error.status == Status.RPC_S_SERVER_UNAVAILABLE
        assert isinstance(error, apcrt.RpcUnavailable)
        assert isinstance(error.__cause__, OSError)


@pytest.mark.feature("ERR-01", "ERR-02")
async def test_no_server_is_1722_in_trio() -> None:
    async with apcrt.Runtime() as runtime:
        client = Sample(runtime.binding(f"ncacn_ip_tcp:127.0.0.1[{closed_port()}]"))
        with trio.fail_after(10):
            with pytest.raises(apcrt.RpcUnavailable) as caught:
                await client.add.call(1, 2)
            assert caught.value.status == Status.RPC_S_SERVER_UNAVAILABLE
            with pytest.raises(apcrt.RpcUnavailable) as caught:
                async with client.write.open("f", up := apcrt.InPipe[int]()):
                    await up.send_eof()
            assert caught.value.status == Status.RPC_S_SERVER_UNAVAILABLE


@pytest.mark.feature("ERR-01")
def test_a_refused_interface_is_1717() -> None:
    with FakeServer(RawPeer.until_closed, refuse=True) as server, client_of(server.binding) as client:
        assert failure_of(client).status == Status.RPC_S_UNKNOWN_IF


@pytest.mark.feature("ERR-01", "SRV-09")
def test_an_unknown_version_is_1717() -> None:
    class Newer(apcrt.Interface, uuid="0f6f7b1c-21a4-4d2c-8f0e-5b1d7c9a3e10", version="1.3"):
        @apcrt.operation
        def add(self, x: apcrt.ndr.UInt32, y: apcrt.ndr.UInt32) -> apcrt.ndr.UInt32:
            raise NotImplementedError

    class Older(apcrt.Interface, uuid="0f6f7b1c-21a4-4d2c-8f0e-5b1d7c9a3e10", version="1.1"):
        @apcrt.operation
        def add(self, x: apcrt.ndr.UInt32, y: apcrt.ndr.UInt32) -> apcrt.ndr.UInt32:
            raise NotImplementedError

        @apcrt.operation(opnum=77)
        def absent(self) -> None:
            raise NotImplementedError

    with testing.in_process(Sample, Plain()) as client:
        assert status_of(lambda: Newer(client.binding).add(1, 2)) == Status.RPC_S_UNKNOWN_IF
        older = Older(client.binding)
        assert older.add(1, 2) == 3
        assert status_of(older.absent) == Status.RPC_S_PROCNUM_OUT_OF_RANGE
        assert older.add(1, 2) == 3


# --------------------------------------------------------------------------------------- a server that goes away


def at_accept(peer: RawPeer) -> None:
    """At once."""


def after_the_bind(peer: RawPeer) -> None:
    peer.hold_replies = True
    peer.until(wire.ReplyReady)


def in_the_middle_of_the_answer_to_the_bind(peer: RawPeer) -> None:
    after_the_bind(peer)
    peer.socket.sendall(peer.held[0][:20])


def with_the_request_begun(peer: RawPeer) -> None:
    peer.until(wire.RequestStarted)


def with_the_request_complete(peer: RawPeer) -> None:
    peer.until(wire.RequestEnd)


def in_the_middle_of_the_reply(peer: RawPeer) -> None:
    peer.until(wire.RequestEnd)
    peer.socket.sendall(peer.response(bytes(4))[:-2])


def after_a_part_of_the_reply(peer: RawPeer) -> None:
    peer.until(wire.RequestEnd)
    peer.respond(bytes(8), last=False)


NOT_EXECUTED = [at_accept, after_the_bind, in_the_middle_of_the_answer_to_the_bind]
MAYBE_EXECUTED = [
    with_the_request_begun,
    with_the_request_complete,
    in_the_middle_of_the_reply,
    after_a_part_of_the_reply,
]


@pytest.mark.feature("ERR-01", "ERR-02", "CALL-07")
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("stage", NOT_EXECUTED)
def test_before_the_request_was_sent_it_is_1727(stage: Callable[[RawPeer], None], reset: bool) -> None:
    def script(peer: RawPeer) -> None:
        stage(peer)
        if reset:
            peer.reset()

    with FakeServer(script) as server, client_of(server.binding) as client:
        # A reset that outruns the look at the new connection is "never connected"; both say: did not execute.
        allowed = {Status.RPC_S_CALL_FAILED_DNE} | ({Status.RPC_S_SERVER_UNAVAILABLE} if reset else set())
        one = Recorder[int]()
        client.add.begin(one.handle, 1, 2)
        one.wait()
        assert one.events == [CC]
        assert status_of(one.handle.complete_call) in allowed
        with pytest.raises(apcrt.RpcUnavailable) as caught:
            client.add(1, 2)
        assert caught.value.status in allowed


@pytest.mark.feature("ERR-01", "ERR-02", "CALL-07")
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("stage", MAYBE_EXECUTED)
def test_once_the_request_was_sent_it_is_1726(stage: Callable[[RawPeer], None], reset: bool) -> None:
    def script(peer: RawPeer) -> None:
        stage(peer)
        if reset:
            peer.reset()

    with FakeServer(script) as server, client_of(server.binding) as client:
        error = failure_of(client)
        assert error.status == Status.RPC_S_CALL_FAILED
        assert isinstance(error, apcrt.RpcUnavailable)


@pytest.mark.feature("ERR-02")
def test_a_server_that_has_closed_an_idle_connection() -> None:
    """The next call takes another connection and does not even notice."""

    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestEnd)
        peer.respond((3).to_bytes(4, "little"))
        peer.socket.shutdown(socket.SHUT_RDWR)
        closed.release()

    closed = threading.Semaphore(0)
    with FakeServer(script) as server, client_of(server.binding) as client:
        for number in range(4):
            assert client.add(1, 2) == 3
            assert closed.acquire(timeout=10)
            assert server.connections == number + 1


@pytest.mark.feature("ERR-02")
def test_a_lost_call_does_not_take_the_next_one_with_it() -> None:
    """Two causal calls on one connection: the first may have been executed, the second was not even sent."""

    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestEnd)
        both.wait(10)

    both = threading.Event()
    with FakeServer(script) as server, client_of(server.binding) as client:
        first, second = Recorder[int](), Recorder[int]()
        client.add.begin(first.handle, 1, 2)
        client.add.begin(second.handle, 3, 4)
        both.set()
        first.wait()
        second.wait()
        assert status_of(first.handle.complete_call) == Status.RPC_S_CALL_FAILED
        assert status_of(second.handle.complete_call) in (Status.RPC_S_CALL_FAILED_DNE, Status.RPC_S_CALL_FAILED)


# -------------------------------------------------------------------------------------------------- broken protocol


def rubbish(peer: RawPeer) -> None:
    peer.socket.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def another_version(peer: RawPeer) -> None:
    peer.socket.sendall(bytes([9]) + peer.response(bytes(4))[1:])


def another_call(peer: RawPeer) -> None:
    answer = bytearray(peer.response(bytes(4)))
    answer[12:16] = struct.pack("<I", 999)
    peer.socket.sendall(answer)


def an_unexpected_kind(peer: RawPeer) -> None:
    answer = bytearray(peer.response(bytes(4)))
    answer[2] = 0  # a request, from a server
    peer.socket.sendall(answer)


def a_length_below_the_header(peer: RawPeer) -> None:
    answer = bytearray(peer.response(bytes(4)))
    answer[8:10] = struct.pack("<H", 10)
    peer.socket.sendall(answer)


@pytest.mark.feature("ERR-01")
@pytest.mark.parametrize(
    "garbage", [rubbish, another_version, another_call, an_unexpected_kind, a_length_below_the_header]
)
def test_a_server_that_breaks_the_protocol_is_1728(garbage: Callable[[RawPeer], None]) -> None:
    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestEnd)
        garbage(peer)
        peer.until_closed()

    with FakeServer(script) as server, client_of(server.binding) as client:
        assert failure_of(client).status == Status.RPC_S_PROTOCOL_ERROR


@pytest.mark.feature("ERR-01")
def test_rubbish_instead_of_an_answer_to_the_bind() -> None:
    def script(peer: RawPeer) -> None:
        peer.hold_replies = True
        peer.until(wire.ReplyReady)
        rubbish(peer)
        peer.until_closed()

    with FakeServer(script) as server, client_of(server.binding) as client:
        assert failure_of(client).status == Status.RPC_S_PROTOCOL_ERROR


@pytest.mark.feature("ERR-01")
@pytest.mark.parametrize("stub", [b"", b"\0\0", bytes(3)])
def test_results_that_are_too_short_are_1783(stub: bytes) -> None:
    def script(peer: RawPeer) -> None:
        while True:
            event = peer.event()
            if event is None:
                return
            if isinstance(event, wire.RequestEnd):
                peer.respond(stub)

    with FakeServer(script) as server, client_of(server.binding) as client:
        assert failure_of(client).status == Status.RPC_X_BAD_STUB_DATA


@pytest.mark.feature("ERR-01", "ERR-03")
@pytest.mark.parametrize(
    "stub",
    [
        b"",
        b"\x04\0\0\0",
        b"\x04\0\0\0ab",
        b"\x04\0\0\0abcd",
        b"\x02\0\0\0ab",
        b"\0\0",
    ],
)
def test_a_pipe_that_ends_without_its_terminator_is_1783(stub: bytes) -> None:
    """By both faces; and the pull that finds out has told it, so that no call-complete follows."""

    def script(peer: RawPeer) -> None:
        while True:
            event = peer.event()
            if event is None:
                return
            if isinstance(event, wire.RequestEnd):
                peer.respond(stub)

    with FakeServer(script) as server, client_of(server.binding) as client:
        assert status_of(lambda: client.read(4, 4, apcrt.OutPipe(sink=bytearray()))) == Status.RPC_X_BAD_STUB_DATA
        one = Recorder[int]()
        down: apcrt.OutPipe[int] = apcrt.OutPipe()
        client.read.begin(one.handle, 4, 4, down)
        assert pull_until_it_fails(down, one) == Status.RPC_X_BAD_STUB_DATA
        nothing_comes(one)
        assert one.count(CC) == 0
        assert one.handle.get_call_status() == FREE
        assert status_of(one.handle.complete_call) == FREE


@pytest.mark.feature("ERR-01")
def test_a_chunk_of_impossible_size_costs_no_memory() -> None:
    """A count of 2^32 - 1 elements: only what arrives is stored, and the end of the message is an error."""

    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestEnd)
        peer.respond(b"\xff\xff\xff\xffabcd")
        peer.until_closed()

    with FakeServer(script) as server, client_of(server.binding) as client:
        sink = bytearray()
        assert status_of(lambda: client.read(4, 4, apcrt.OutPipe(sink=sink))) == Status.RPC_X_BAD_STUB_DATA
        assert bytes(sink) in (b"", b"abcd")


# ------------------------------------------------------------------------------------- faults in the middle of streams


@pytest.mark.feature("ERR-01", "ERR-03", "CALL-07")
@pytest.mark.parametrize("pushing", [True, False], ids=["by a push", "by call-complete"])
def test_a_fault_in_the_middle_of_an_upload(pushing: bool) -> None:
    """Told once: by the push that meets it, or by call-complete when nobody pushes."""

    def script(peer: RawPeer) -> None:
        peer.until_data(1)
        peer.fault(5)
        faulted.set()
        peer.until_closed()

    faulted = threading.Event()
    with FakeServer(script) as server, client_of(server.binding) as client:
        one = Recorder[int]()
        up: apcrt.InPipe[int] = apcrt.InPipe()
        client.write.begin(one.handle, "f", up)
        assert faulted.wait(10)
        if not pushing:
            one.wait()
            assert one.handle.get_call_status() == 5
            assert status_of(lambda: up.push(b"more")) == 5
            assert status_of(one.handle.complete_call) == 5
        else:
            failure = None
            while failure is None:
                try:
                    up.push(bytes(64 << 10))
                except apcrt.SendWindowFull:
                    apc.sleep_ex(0.001)
                except apcrt.RpcError as error:
                    failure = error.status
            assert failure == 5
            told_once(one, 5)
        nothing_comes(one)
        assert one.count(CC) <= 1
        assert one.handle.get_call_status() == FREE


@pytest.mark.feature("ERR-01")
@pytest.mark.parametrize("face", ["blocking", "block"])
def test_a_fault_ends_a_blocking_upload_that_waits_for_room(face: str) -> None:
    """The server reads nothing any more, but answers: the writer must see it although it waits to write."""

    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestStarted)
        peer.fault(5)
        done.wait(10)

    done = threading.Event()
    with FakeServer(script) as server, client_of(server.binding) as client:
        try:
            if face == "blocking":
                assert status_of(lambda: client.write("f", apcrt.InPipe(source=bytes(64 << 20)))) == 5
            else:
                up: apcrt.InPipe[int] = apcrt.InPipe()
                with pytest.raises(apcrt.RpcFault) as caught, client.write.open("f", up):
                    up.write(bytes(64 << 20))
                assert caught.value.status == 5
        finally:
            done.set()


@pytest.mark.feature("ERR-01")
async def test_a_fault_ends_an_awaiting_upload_that_waits_for_room() -> None:
    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestStarted)
        peer.fault(5)
        done.wait(10)

    done = threading.Event()
    with FakeServer(script) as server:
        async with apcrt.Runtime() as runtime:
            client = Sample(runtime.binding(server.binding))
            try:
                with trio.fail_after(10), pytest.raises(apcrt.RpcFault) as caught:
                    await client.write.call("f", apcrt.InPipe(source=bytes(64 << 20)))
                assert caught.value.status == 5
            finally:
                done.set()


@pytest.mark.feature("ERR-01", "ERR-03")
def test_a_fault_in_the_middle_of_a_download() -> None:
    """Everything before it is delivered or not; then the fault, once."""

    def script(peer: RawPeer) -> None:
        while True:
            event = peer.event()
            if event is None:
                return
            if isinstance(event, wire.RequestEnd):
                peer.respond(b"\x08\0\0\0abcd", last=False)
                peer.fault(5)

    with FakeServer(script) as server, client_of(server.binding) as client:
        received = bytearray()
        assert status_of(lambda: client.read(8, 8, apcrt.OutPipe(sink=received))) == 5
        assert bytes(received) in (b"", b"abcd")
        one = Recorder[int]()
        down: apcrt.OutPipe[int] = apcrt.OutPipe()
        client.read.begin(one.handle, 8, 8, down)
        assert pull_until_it_fails(down, one) == 5
        told_once(one, 5)
        assert status_of(lambda: down.pull(bytearray(1))) == 5


@pytest.mark.feature("ERR-03", "CALL-07")
@pytest.mark.parametrize("told", ["pull", "notification"])
def test_a_link_that_is_lost_in_a_download_is_told_once(told: str) -> None:
    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestEnd)
        peer.respond(b"\x08\0\0\0abcd", last=False)
        sent.set()
        assert close.wait(10)
        peer.socket.shutdown(socket.SHUT_RDWR)
        closed.set()

    sent, close, closed = threading.Event(), threading.Event(), threading.Event()
    with FakeServer(script) as server, client_of(server.binding) as client:
        one = Recorder[int]()
        down: apcrt.OutPipe[int] = apcrt.OutPipe()
        client.read.begin(one.handle, 8, 8, down)
        assert sent.wait(10)
        assert down.pull(bytearray(8)) == (0, 4)
        if told == "notification":
            assert down.pull(bytearray(8)) == (PENDING, 0)
            close.set()
            one.wait()
            assert one.events[-1] is CC  # AMB-09: on the client a failure is no receive-complete
            assert RC not in one.events
            assert status_of(lambda: down.pull(bytearray(8))) == Status.RPC_S_CALL_FAILED
            assert status_of(one.handle.complete_call) == Status.RPC_S_CALL_FAILED
        else:
            close.set()
            assert closed.wait(10)
            assert status_of(lambda: down.pull(bytearray(8))) == Status.RPC_S_CALL_FAILED
            told_once(one, Status.RPC_S_CALL_FAILED)
        nothing_comes(one)
        assert one.handle.get_call_status() == FREE


@pytest.mark.feature("ERR-03", "CALL-07")
def test_a_link_that_is_lost_in_an_upload_is_told_once() -> None:
    def script(peer: RawPeer) -> None:
        peer.until_data(100_000)
        peer.reset()

    with FakeServer(script) as server, client_of(server.binding) as client:
        one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
        up: apcrt.InPipe[int] = apcrt.InPipe()
        client.write.begin(one.handle, "f", up)
        inline = None
        pushed = 0
        while inline is None and not one.done:
            try:
                up.push(bytes(64 << 10))
                pushed += 1
            except apcrt.SendWindowFull:
                pass
            except apcrt.RpcError as error:
                inline = error.status
                break
            one.wait_next()
        nothing_comes(one)
        if one.done:
            assert status_of(one.handle.complete_call) == Status.RPC_S_CALL_FAILED
        else:
            assert inline == Status.RPC_S_CALL_FAILED
        assert one.count(CC) == (inline is None or one.done)
        assert one.handle.get_call_status() == FREE


# -------------------------------------------------------------------------------------------------- a killed process


@pytest.fixture(params=["unix", "tcp"])
def child(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Child, str]]:
    endpoint = "ncacn_ip_tcp:[0]" if request.param == "tcp" else f"ncacn_unix_stream:[{tmp_path}/s]"
    with Child("tests.rpc.server_process", endpoint) as process:
        yield process, process.line()


@pytest.mark.feature("ERR-02", "CALL-07", "SRV-12")
@pytest.mark.parametrize("what", ["call", "upload", "download"])
def test_a_server_process_killed_in_the_middle(child: tuple[Child, str], what: str) -> None:
    process, binding = child
    with client_of(binding) as client:
        one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
        up: apcrt.InPipe[int] = apcrt.InPipe()
        down: apcrt.OutPipe[int] = apcrt.OutPipe()
        assert client.add(1, 2) == 3
        if what == "call":
            client.hold.begin(one.handle)
        elif what == "upload":
            client.write.begin(one.handle, "f", up)
            for number in range(1, 20):
                one.wait_for(SC, number)
                up.push(bytes(64 << 10))
        else:
            client.read.begin(one.handle, 64 << 20, 64 << 10, down)
            total = 0
            while total < 4 << 20:
                status, count = down.pull(bytearray(64 << 10))
                total += count
                if status is PENDING:
                    one.wait_next()
        process.kill()
        if what == "download":
            assert pull_until_it_fails(down, one) == Status.RPC_S_CALL_FAILED
            told_once(one, Status.RPC_S_CALL_FAILED)
        else:
            one.wait()
            assert status_of(one.handle.complete_call) == Status.RPC_S_CALL_FAILED
        assert one.count(CC) <= 1
        assert status_of(lambda: client.add(1, 2)) in (
            Status.RPC_S_SERVER_UNAVAILABLE,
            Status.RPC_S_CALL_FAILED_DNE,
            Status.RPC_S_CALL_FAILED,
        )
        assert status_of(lambda: client.add(1, 2)) == Status.RPC_S_SERVER_UNAVAILABLE


@pytest.mark.feature("ERR-02")
@pytest.mark.parametrize("what", ["upload", "download"])
async def test_a_server_process_killed_under_trio(tmp_path: Path, what: str) -> None:
    with Child("tests.rpc.server_process", f"ncacn_unix_stream:[{tmp_path}/s]") as process:
        binding = await trio.to_thread.run_sync(process.line)
        async with apcrt.Runtime() as runtime:
            client = Sample(runtime.binding(binding))
            moved = 0

            def count() -> None:
                nonlocal moved
                moved += 1
                if moved == 20:
                    process.process.kill()

            async def upload() -> None:
                up: apcrt.InPipe[int] = apcrt.InPipe()
                async with client.write.open("f", up):
                    while True:
                        await up.send(bytes(256 << 10))
                        count()

            async def download() -> None:
                down: apcrt.OutPipe[int] = apcrt.OutPipe()
                buffer = bytearray(1 << 16)
                async with client.read.open(1 << 30, 1 << 16, down):
                    while await down.receive_into(buffer):
                        count()

            with trio.fail_after(15), pytest.raises(apcrt.RpcUnavailable) as caught:
                await (upload() if what == "upload" else download())
            assert caught.value.status == Status.RPC_S_CALL_FAILED
            assert moved >= 20


# ------------------------------------------------------------------------------------------- a client that goes away


class Watched(Plain):
    """Says how its streams end."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()
        self.outcome: apcrt.RpcError | None = None
        self.received = 0
        self.cancelled = False

    @Sample.write.manager
    def write(self, call: apcrt.ServerHandle[int], name: str, data: apcrt.InPipe[int]) -> int:
        try:
            for chunk in data:
                self.received += len(chunk)
                self.inside.set()
        except apcrt.RpcError as error:
            self.outcome = error
            raise
        finally:
            self.ended.set()
        return self.received

    @Sample.read.manager
    def read(self, call: apcrt.ServerHandle[int], size: int, piece: int, data: apcrt.OutPipe[int]) -> int:
        try:
            while True:
                data.write(bytes(piece))
                self.inside.set()
        except apcrt.RpcError as error:
            self.outcome = error
            raise
        finally:
            self.ended.set()


class WatchedAsync(Watched):
    """The same as tasks; a disconnect cancels their scope, whatever they wait for."""

    @Sample.write.manager
    async def write(self, call: apcrt.ServerHandle[int], name: str, data: apcrt.InPipe[int]) -> int:
        await data.receive_into(bytearray(1))
        return await self.stay()

    @Sample.read.manager
    async def read(self, call: apcrt.ServerHandle[int], size: int, piece: int, data: apcrt.OutPipe[int]) -> int:
        await data.send(bytes(piece))
        return await self.stay()

    @Sample.add.manager
    async def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
        return await self.stay()

    async def stay(self) -> NoReturn:
        self.inside.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled = True
            raise
        finally:
            self.ended.set()


@pytest.fixture(params=["plain", "async"])
def watched(request: pytest.FixtureRequest) -> Watched:
    return WatchedAsync() if request.param == "async" else Watched()


@pytest.fixture
def served(watched: Watched) -> Iterator[tuple[apcrt.Server, str]]:
    with apcrt.Runtime() as runtime, runtime.server(dispatch_threads=2) as server:
        server.register(Sample, watched)
        yield server, server.start("ncacn_ip_tcp:[0]")[0]
        until(lambda: server.running == 0)


@pytest.mark.feature("SRV-12", "ERR-03")
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("what", ["upload", "download"])
def test_a_client_that_vanishes_ends_its_manager(
    watched: Watched, served: tuple[apcrt.Server, str], what: str, reset: bool
) -> None:
    """A plain manager's pull or push fails; an async one is cancelled; and the server serves on."""
    server, binding = served
    for _ in range(4):  # more often than there are dispatch threads
        watched.inside.clear()
        watched.ended.clear()
        client = Vanishing(binding)
        if what == "upload":
            client.upload(b"abc")
        else:
            client.download(1 << 30, 1 << 16)
        assert watched.inside.wait(10)
        client.vanish(reset=reset)
        assert watched.ended.wait(10)
        if isinstance(watched, WatchedAsync):
            assert watched.cancelled
        else:
            assert watched.outcome is not None
            assert watched.outcome.status == Status.RPC_S_CALL_FAILED
            assert isinstance(watched.outcome, apcrt.RpcUnavailable)
    until(lambda: server.running == 0)


@pytest.mark.feature("SRV-12")
def test_a_client_that_vanishes_while_its_manager_does_something_else() -> None:
    manager = WatchedAsync()
    with apcrt.Runtime() as runtime, runtime.server() as server:
        server.register(Sample, manager)
        client = Vanishing(server.start("ncacn_ip_tcp:[0]")[0])
        client.request("add", struct.pack("<II", 1, 2), last=True)
        assert manager.inside.wait(10)
        client.vanish(reset=False)
        assert manager.ended.wait(10)
        assert manager.cancelled
        until(lambda: server.running == 0)


@pytest.mark.feature("SRV-12")
@pytest.mark.parametrize("what", ["upload", "download", "call"])
def test_a_client_that_vanishes_from_a_call_that_was_handed_off(what: str) -> None:
    """A worker that waits alertably is told, by the event it waits for; its next verb says why."""
    with apc.open_apc_threads() as threads:
        finished: list[int] = []
        ready = threading.Event()
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                apc.sleep_ex(10, alertable=True)

        worker = threads.start(work)

        class Handed(Plain):
            @Sample.write.manager
            def write(self, call: apcrt.ServerHandle[int], name: str, data: apcrt.InPipe[int]) -> int | apcrt.Pending:
                worker.queue_user_apc(pull, call, data)
                return apcrt.PENDING

            @Sample.read.manager
            def read(
                self, call: apcrt.ServerHandle[int], size: int, piece: int, data: apcrt.OutPipe[int]
            ) -> int | apcrt.Pending:
                worker.queue_user_apc(push, call, data)
                return apcrt.PENDING

        def pull(call: apcrt.ServerHandle[int], data: apcrt.InPipe[int]) -> None:
            def again(call: apcrt.ServerHandle[int], _event: AsyncEvent | None) -> None:
                try:
                    while data.pull(bytearray(10))[0] == 0:
                        pass
                    ready.set()
                except apcrt.RpcError as error:
                    finished.append(error.status)
                    finished.append(status_of(lambda: call.complete_call(0)))
                    over.set()

            call.notification = notify.Apc(again, thread=worker)
            again(call, None)

        def push(call: apcrt.ServerHandle[int], data: apcrt.OutPipe[int]) -> None:
            def again(call: apcrt.ServerHandle[int], _event: AsyncEvent | None) -> None:
                if finished:
                    return  # send-completes of earlier pushes
                try:
                    while True:
                        data.push(bytes(1 << 16))
                except apcrt.SendWindowFull:
                    ready.set()
                except apcrt.RpcError as error:
                    finished.append(error.status)
                    finished.append(status_of(lambda: call.complete_call(0)))
                    over.set()

            call.notification = notify.Apc(again, thread=worker)
            call.flags = AsyncFlags.NOTIFY_ON_SEND_COMPLETE
            again(call, None)

        manager = Handed()
        with apcrt.Runtime() as runtime, runtime.server() as server:
            server.register(Sample, manager)
            client = Vanishing(server.start("ncacn_ip_tcp:[0]")[0])
            if what == "call":
                client.request("hold", b"", last=True)
                assert manager.inside.wait(10)
                client.vanish(reset=False)
                until(manager.held[0].test_cancel)
                with contextlib.suppress(apcrt.RpcUsageError):  # it may still be sent, to nobody
                    manager.held[0].complete_call(0)
                assert status_of(lambda: manager.held[0].complete_call(0)) == FREE
                over.set()
                worker.queue_user_apc(bool)
            else:
                client.upload(b"abc") if what == "upload" else client.download(1 << 30, 1)
                assert ready.wait(10)
                client.vanish(reset=True)
                assert over.wait(10)
                assert finished == [Status.RPC_S_CALL_FAILED, FREE]
            until(lambda: server.running == 0)


@pytest.mark.feature("SRV-12")
def test_a_client_process_killed_in_the_middle(watched: Watched, served: tuple[apcrt.Server, str]) -> None:
    server, binding = served
    for what in ("upload", "download"):
        watched.inside.clear()
        watched.ended.clear()
        with Child("tests.rpc.client_process", binding, what) as client:
            assert client.line() == "begun"
            assert watched.inside.wait(10)
            client.kill()
            assert watched.ended.wait(10)
    until(lambda: server.running == 0)


# ------------------------------------------------------------------------------------------------ managers that raise


class Raising(Plain):
    def __init__(self, error: Exception, when: str) -> None:
        super().__init__()
        self.error, self.when = error, when

    @Sample.read.manager
    def read(self, call: apcrt.ServerHandle[int], size: int, piece: int, data: apcrt.OutPipe[int]) -> int:
        if self.when == "before":
            raise self.error
        data.write(bytes(piece))
        if self.when == "in the stream":
            raise self.error
        data.write_eof()
        raise self.error

    @Sample.add.manager
    def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
        if self.when == "completed":
            call.complete_call(x + y)
        raise self.error


class RaisingAsync(Raising):
    @Sample.read.manager
    async def read(self, call: apcrt.ServerHandle[int], size: int, piece: int, data: apcrt.OutPipe[int]) -> int:
        if self.when == "before":
            raise self.error
        await data.send(bytes(piece))
        if self.when == "in the stream":
            raise self.error
        await data.send_eof()
        raise self.error


ERRORS: list[tuple[Exception, int, int]] = [
    (ValueError("on purpose"), Status.RPC_S_CALL_FAILED, 1),
    (apcrt.RpcError(5), 5, 0),
    (apcrt.RpcError(0xABCD), 0xABCD, 0),
    (apcrt.RpcError(1818), 1818, 0),
    (apcrt.RpcError(0), Status.RPC_S_CALL_FAILED, 0),
    (FileNotFoundError(2, "gone"), Status.RPC_S_CALL_FAILED, 1),
]


@pytest.mark.feature("SRV-04", "ERR-01")
@pytest.mark.parametrize("kind", [Raising, RaisingAsync])
@pytest.mark.parametrize("when", ["before", "in the stream", "after the stream"])
@pytest.mark.parametrize(("error", "status", "reports"), ERRORS, ids=lambda value: repr(value)[:30])
def test_what_a_manager_raises(kind: type[Raising], when: str, error: Exception, status: int, reports: int) -> None:
    """The client gets a status; what went wrong, with its traceback, is in the server's trace only."""
    with testing.in_process(Sample, kind(error, when)) as client, testing.capture_trace() as trace:
        with pytest.raises(apcrt.RpcFault) as caught:
            client.read(10, 10, apcrt.OutPipe(sink=bytearray()))
        assert caught.value.status == status
        assert "on purpose" not in str(caught.value)
        assert client.mixed(1, 2) == (3, 1)
        raised = trace.events("manager.raised")
        assert len(raised) == reports
        if reports:
            assert "Traceback" in str(raised[0]["traceback"])


@pytest.mark.feature("SRV-04", "SRV-02")
def test_raising_after_the_call_was_completed() -> None:
    """The client has its reply; the error is reported where it happened, and hurts nobody."""
    with testing.in_process(Sample, Raising(ValueError("late"), "completed")) as client:
        for _ in range(3):
            assert client.add(1, 2) == 3
        assert client.mixed(1, 2) == (3, 1)


@pytest.mark.feature("SRV-04", "SRV-03")
def test_a_reply_that_cannot_be_encoded() -> None:
    class Wrong(Plain):
        @Sample.add.manager
        def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
            return -1

    with testing.in_process(Sample, Wrong()) as client, testing.capture_trace() as trace:
        with pytest.raises(apcrt.RpcFault):
            client.add(1, 2)
        assert trace.events("manager.raised")
        assert client.mixed(1, 2) == (3, 1)


@pytest.mark.feature("SRV-03")
@pytest.mark.parametrize("status", [1, 5, 1917, 0xC0FFEE, 0xFFFFFFFF])
def test_aborting_after_the_hand_off(status: int) -> None:
    manager = Plain()
    with testing.in_process(Sample, manager) as client:
        one = Recorder[int]()
        client.hold.begin(one.handle)
        assert manager.inside.wait(10)
        manager.held[0].abort_call(status)
        one.wait()
        assert status_of(one.handle.complete_call) == status


# ------------------------------------------------------------------------------ notifications that cannot be delivered


@pytest.mark.feature("CALL-11", "NOTE-04")
def test_a_notification_for_a_thread_that_has_ended() -> None:
    """Undeliverable: it is traced, and the status of the call is right all the same."""
    manager = Plain()
    with testing.in_process(Sample, manager) as client, testing.capture_trace() as trace:
        with apc.open_apc_threads() as threads:
            gone = threads.start(bool)
        one = Recorder[int](thread=gone)
        client.add.begin(one.handle, 1, 2)
        until(lambda: one.handle.get_call_status() != PENDING)
        assert one.handle.get_call_status() == 0
        assert one.handle.complete_call() == 3
        assert one.events == []
        until(lambda: trace.events("call.undeliverable"))


@pytest.mark.feature("CALL-11")
def test_a_thread_that_ends_with_a_call_outstanding() -> None:
    """The call ends with 1818, which whoever has the handle can see."""
    manager = Plain()
    with testing.in_process(Sample, manager) as client:
        one = Recorder[int]()

        def issue() -> None:
            client.hold.begin(one.handle)
            assert manager.inside.wait(10)

        with apc.open_apc_threads() as threads:
            threads.start(issue)
        until(lambda: one.handle.get_call_status() != PENDING)
        assert one.handle.get_call_status() == Status.RPC_S_CALL_CANCELLED
        assert status_of(one.handle.complete_call) == Status.RPC_S_CALL_CANCELLED
        assert client.binding.running == 0
        assert client.add(1, 2) == 3


@pytest.mark.feature("CALL-11", "LIFE-02")
def test_a_thread_that_ends_before_its_call_has_a_connection() -> None:
    """The connection comes later, and there is no thread to drive it: the call ends all the same, unasked."""
    ended = threading.Event()

    def script(peer: RawPeer) -> None:
        peer.hold_replies = True
        peer.until(wire.ReplyReady)
        assert ended.wait(10)
        peer.hold_replies = False
        peer.socket.sendall(peer.held[0])
        while True:
            event = peer.event()
            if event is None:
                return
            if isinstance(event, wire.RequestEnd):
                peer.respond((3).to_bytes(4, "little"))

    with FakeServer(script) as server, client_of(server.binding) as client:
        one = Recorder[int]()
        with apc.open_apc_threads() as threads:
            threads.start(client.add.begin, one.handle, 1, 2)
        ended.set()
        until(lambda: client.binding.running == 0)
        assert one.handle.get_call_status() in (0, Status.RPC_S_CALL_CANCELLED)


# ------------------------------------------------------------------------------------------------------ nothing is left


@pytest.mark.feature("LIFE-01", "LIFE-02")
def test_failures_leave_nothing_behind(no_leaked_descriptors: Callable[[], dict[int, str]]) -> None:
    """Calls, connections and memory of a few hundred failed calls are gone when they are over."""

    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestStarted)
        if server.connections % 2:
            peer.reset()

    with FakeServer(script) as server, client_of(server.binding) as client:
        for _ in range(100):
            status = status_of(lambda: client.write("f", apcrt.InPipe(source=bytes(100_000))))
            assert status in (Status.RPC_S_CALL_FAILED, Status.RPC_S_CALL_FAILED_DNE)
        assert client.binding.running == 0
        gc.collect()
        # Not one of them is kept for good; a few may be on other threads' stacks at this moment.
        assert sum(1 for found in gc.get_objects() if type(found).__name__ == "ClientCall") < 10
        assert len(no_leaked_descriptors()) < 20

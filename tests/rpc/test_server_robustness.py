"""What a server survives: clients that do not read or do not stay, managers that raise anything, and being full."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

import apcrt
from apcrt import Status, apc, ndr, testing, wire
from apcrt.status import FaultStatus
from apcrt.transport import TransportError
from tests.rpc.helpers import CEILING, FakeServer, RawPeer, Recorder, Vanishing, alertable_until, client_of, status_of
from tests.rpc.sample import Async, Plain, Sample

CANCELLED = Status.RPC_S_CALL_CANCELLED
FAILED = Status.RPC_S_CALL_FAILED
TOO_BUSY = Status.RPC_S_SERVER_TOO_BUSY
ENDPOINT = "ncacn_ip_tcp:[0]"


def until(condition: Callable[[], object]) -> None:
    """Look until something holds that no event tells of."""
    deadline = time.monotonic() + CEILING
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


@contextlib.contextmanager
def serving(manager: object, **limits: int) -> Iterator[tuple[apcrt.Server, Sample]]:
    """A server, which the test looks into, and a client of it whose blocking calls do not wait for ever."""
    with apcrt.Runtime(runtime__drain_limit=0.5) as runtime, runtime.server(**limits) as server:
        server.register(Sample, manager)
        yield server, Sample(runtime.binding(server.start(ENDPOINT)[0], call_timeout=CEILING / 2))


# ---------------------------------------------------------------------------------------- clients that do not read


class Long(apcrt.Interface, uuid="0f6f7b1c-21a4-4d2c-8f0e-5b1d7c9a3e11", version="1.0"):
    @apcrt.operation
    def text(self, size: ndr.UInt32) -> ndr.WString:
        raise NotImplementedError


class LongText:
    def __init__(self) -> None:
        self.calls = 0

    @Long.text.manager
    def text(self, call: apcrt.ServerHandle[str], size: int) -> str:
        self.calls += 1
        return "x" * size


class Pipelining:
    """A client that sends requests and leaves the replies where they are."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(CEILING)
        self.socket.connect(str(path))
        self.wire = wire.ClientAssociation()
        self.socket.sendall(self.wire.bind([wire.PresentationContext(0, Long.syntax, (wire.NDR20,))]))
        assert any(isinstance(event, wire.Bound) for event in self.wire.receive(memoryview(self.socket.recv(65536))))
        self.sent = 0

    def request(self, size: int) -> None:
        self.sent += 1
        stub = struct.pack("<I", size)
        head = struct.pack("<BBBBIHHI", 5, 0, 0, 3, 0x10, 24 + len(stub), 0, self.sent + 1)
        self.socket.sendall(head + struct.pack("<IHH", len(stub), 0, 0) + stub)

    def replies(self) -> Iterator[int]:
        """Read, PDU by PDU: the call identifier of each response that is over."""
        data = bytearray()
        while True:
            while len(data) >= 16 and len(data) >= (length := int.from_bytes(data[8:10], "little")):
                if data[3] & 2:
                    yield int.from_bytes(data[12:16], "little")
                del data[:length]
            more = self.socket.recv(1 << 20)
            assert more
            data += more


@pytest.mark.feature("LIFE-01")
def test_a_client_that_reads_no_replies_is_not_served_any_further(tmp_path: Path) -> None:
    """What waits for it is one reply, however many requests it sends; when it reads, all of them are answered."""
    size, limit = 100_000, 60
    manager = LongText()
    with apcrt.Runtime(runtime__drain_limit=0.5) as runtime, runtime.server() as server:
        server.register(Long, manager)
        server.start(f"ncacn_unix_stream:[{tmp_path}/s]")
        client = Pipelining(tmp_path / "s")
        with client.socket:
            (connection,) = server._connections

            def stuck() -> bool:
                with connection.lock:
                    return connection.exchange is None and bool(connection.send_queue) and not connection.wants_read()

            def answered() -> bool:
                return manager.calls == client.sent and not server.running

            while client.sent < limit and not stuck():
                client.request(size)
                until(lambda: answered() or stuck())
            ran = manager.calls
            assert ran < limit
            assert connection.queued_bytes < 2 * size + 1000
            client.request(size)
            assert stuck()
            assert manager.calls == ran
            replies = client.replies()
            assert [next(replies) for _ in range(client.sent)] == list(range(2, client.sent + 2))
            assert manager.calls == client.sent == ran + 1
        until(lambda: not server._connections)


# ------------------------------------------------------------------------------------------ clients that do not stay


class InANursery(Async):
    """`hold` waits in a nursery with tasks of its own, and says what has become of it."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()
        self.raised: list[BaseException] = []

    @Sample.hold.manager
    async def hold(self, call: apcrt.ServerHandle[int]) -> int:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(trio.sleep_forever)
                self.inside.set()
        except BaseException as error:
            self.raised.append(error)
            raise
        finally:
            self.ended.set()
        return 0


@pytest.mark.feature("SRV-12", "LIFE-01")
@pytest.mark.parametrize("how", ["closes", "resets", "half-closes"])
def test_a_client_that_goes_ends_the_nursery_of_its_manager(how: str) -> None:
    manager = InANursery()
    with serving(manager) as (server, client):
        raw = Vanishing(server.endpoints[0])
        with raw.socket:
            raw.request("hold", b"", last=True)
            assert manager.inside.wait(CEILING)
            assert server.running == 1
            if how == "half-closes":
                raw.socket.shutdown(socket.SHUT_WR)
            else:
                raw.vanish(reset=how == "resets")
            assert manager.ended.wait(CEILING)
            until(lambda: not server.running and not server._connections)
            if how == "half-closes":
                (fault,) = raw.events()
                assert isinstance(fault, wire.FaultReceived)
                assert fault.status == CANCELLED
        assert client.mixed(1, 2) == (3, 1)


@pytest.mark.feature("SRV-12")
async def test_a_client_that_goes_ends_the_nursery_of_a_manager_in_the_callers_run() -> None:
    manager = InANursery()
    with trio.fail_after(CEILING):
        async with apcrt.Runtime() as runtime, trio.open_nursery() as nursery:
            server = runtime.server()
            server.register(Sample, manager)
            (bound,) = await nursery.start(server.serve, ENDPOINT)
            raw = await trio.to_thread.run_sync(Vanishing, bound)
            raw.request("hold", b"", last=True)
            await trio.to_thread.run_sync(manager.inside.wait, CEILING)
            raw.vanish(reset=False)
            await trio.to_thread.run_sync(manager.ended.wait, CEILING)
            assert manager.ended.is_set()
            await trio.to_thread.run_sync(until, lambda: not server.running and not server._connections)
            nursery.cancel_scope.cancel()


@pytest.mark.feature("LIFE-01")
def test_nothing_is_kept_of_many_short_connections() -> None:
    with serving(Plain()) as (server, client):
        port = int(server.endpoints[0].partition("[")[2].rstrip("]"))
        for number in range(50):
            with socket.create_connection(("127.0.0.1", port)) as one:
                if number % 2:
                    one.sendall(b"\5\0\x0b")
        assert client.add(1, 2) == 3
        client.binding.close()
        until(lambda: not server._connections)
        until(lambda: not server._half_open)


@pytest.mark.feature("LIFE-01")
def test_who_connects_and_does_not_bind_is_not_waited_for() -> None:
    with (
        apcrt.Runtime(server__half_open_time=0.05) as runtime,
        runtime.server() as server,
    ):
        server.register(Sample, Plain())
        (bound,) = server.start(ENDPOINT)
        port = int(bound.partition("[")[2].rstrip("]"))
        stays = Vanishing(bound)
        with socket.create_connection(("127.0.0.1", port)) as mute, stays.socket:
            mute.settimeout(CEILING)
            assert mute.recv(1) == b""
            until(lambda: not server._half_open)  # and the one that has bound was looked at as well
            until(lambda: len(server._connections) == 1)
            stays.request("add", struct.pack("<II", 1, 2), last=True)
            assert any(isinstance(event, wire.ResponseEnd) for event in stays.events())


# ------------------------------------------------------------------------------------- managers that raise anything


class Exits(Plain):
    """Leaves the program, in a manner of speaking."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    @Sample.add.manager
    def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
        raise self.error


class ExitsAsync(Exits):
    @Sample.add.manager
    async def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
        raise self.error


class ExitsNursery(Exits):
    @Sample.add.manager
    async def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise self.error


@pytest.mark.feature("SRV-04")
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (Exits, SystemExit(3)),
        (ExitsAsync, SystemExit(3)),
        (ExitsNursery, SystemExit(3)),
        (Exits, KeyboardInterrupt()),
        (Exits, GeneratorExit()),
    ],
    ids=["exit", "exit async", "exit nursery", "interrupt", "generator exit"],
)
def test_a_manager_cannot_end_the_thread_that_runs_it(kind: type[Exits], error: BaseException) -> None:
    with serving(kind(error), dispatch_threads=1) as (_, client), testing.capture_trace() as trace:
        for _ in range(3):
            with pytest.raises(apcrt.RpcFault) as caught:
                client.add(1, 2)
            assert caught.value.status == FAILED
            assert caught.value.fault_code == FaultStatus.NCA_S_FAULT_UNSPEC
        assert client.mixed(1, 2) == (3, 1)
        raised = trace.events("manager.raised")
        assert [event["error"] for event in raised] == [repr(error)] * 3
        assert all("Traceback" in str(event["traceback"]) for event in raised)


class Weird:
    def __index__(self) -> int:
        raise ZeroDivisionError("on purpose")


class Replies(Plain):
    """`add` replies with whatever it was given."""

    reply: object = None

    @Sample.add.manager
    def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
        return self.reply  # type: ignore[return-value]


class RepliesAsync(Replies):
    @Sample.add.manager
    async def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
        return self.reply  # type: ignore[return-value]


@pytest.mark.feature("SRV-04", "SRV-03")
@pytest.mark.parametrize("kind", [Replies, RepliesAsync])
def test_a_reply_whose_encoding_raises(kind: type[Replies]) -> None:
    """Whatever is returned in place of a number, the client gets a fault, and the server goes on."""
    manager = kind()
    with serving(manager, dispatch_threads=1) as (server, client):
        for manager.reply in (None, "abc", -1, 1.5, 1 << 40, object(), Weird(), [1], b"x"):
            with testing.capture_trace() as trace:
                with pytest.raises(apcrt.RpcFault):
                    client.add(1, 2)
                assert len(trace.events("manager.raised")) == 1
        manager.reply = 5
        assert client.add(1, 2) == 5
        until(lambda: not server.running)
        assert client.binding.pool(Sample.syntax).connections() == 1


@pytest.mark.feature("SRV-04")
def test_an_unforeseen_error_in_a_reply_is_an_unspecified_fault() -> None:
    manager = Replies()
    manager.reply = Weird()
    with serving(manager) as (_, client):
        with pytest.raises(apcrt.RpcFault) as caught:
            client.add(1, 2)
        assert (caught.value.status, caught.value.fault_code) == (FAILED, FaultStatus.NCA_S_FAULT_UNSPEC)


@pytest.mark.feature("SRV-03", "SRV-02")
def test_a_reply_that_cannot_be_encoded_leaves_a_handed_off_call_alive() -> None:
    """Its owner is told, and may complete it again."""
    manager = Plain()
    with serving(manager) as (_, client):
        one = Recorder[int]()
        client.hold.begin(one.handle)
        assert manager.inside.wait(CEILING)
        with pytest.raises(ZeroDivisionError):
            manager.held[0].complete_call(Weird())  # type: ignore[arg-type]
        manager.held[0].complete_call(5)
        one.wait()
        assert one.handle.complete_call() == 5


class GroupRaising(Async):
    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = errors

    @Sample.add.manager
    async def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
        async def fail(error: Exception) -> None:  # at once: the failure of one would cancel the other's wait
            raise error

        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            for error in self.errors:
                (inner if x else outer).start_soon(fail, error)
        return 0


@pytest.mark.feature("SRV-04", "ERR-01")
@pytest.mark.parametrize("nested", [0, 1])
def test_an_error_out_of_a_nursery_is_its_client_s(nested: int) -> None:
    with serving(GroupRaising(apcrt.RpcError(5))) as (_, client), testing.capture_trace() as trace:
        assert status_of(lambda: client.add(nested, 0)) == 5
        assert client.mixed(1, 2) == (3, 1)
        assert trace.events("manager.raised") == []


@pytest.mark.feature("SRV-04", "ERR-01")
@pytest.mark.parametrize(
    "errors",
    [(apcrt.RpcError(5), ValueError("other")), (ValueError("only"),)],
    ids=["two", "one that is no status"],
)
def test_other_errors_out_of_a_nursery_are_an_unspecified_fault(errors: tuple[Exception, ...]) -> None:
    with serving(GroupRaising(*errors)) as (_, client), testing.capture_trace() as trace:
        assert status_of(lambda: client.add(1, 0)) == FAILED
        assert client.mixed(1, 2) == (3, 1)
        assert len(trace.events("manager.raised")) == 1


# ----------------------------------------------------------------------------------------- managers and their server


class Closer(Plain):
    """Does to its own server what `x` says."""

    server: apcrt.Server

    def attempt(self, x: int) -> int:
        verbs: list[Callable[[], object]] = [self.server.close, self.server.wait, lambda: self.server.wait(1)]
        return status_of(verbs[x])

    @Sample.add.manager
    def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
        return self.attempt(x)


class CloserAsync(Closer):
    @Sample.add.manager
    async def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
        return self.attempt(x)


@pytest.mark.feature("SRV-07")
@pytest.mark.parametrize("kind", [Closer, CloserAsync])
def test_a_manager_cannot_wait_for_its_own_server(kind: type[Closer]) -> None:
    manager = kind()
    with serving(manager) as (server, client):
        manager.server = server
        assert [client.add(verb, 0) for verb in range(3)] == [Status.RPC_S_CANNOT_SUPPORT] * 3
        assert client.mixed(1, 2) == (3, 1)


class Stops(Closer):
    def attempt(self, x: int) -> int:
        self.server.stop()
        return x


@pytest.mark.feature("SRV-07")
def test_a_manager_may_stop_its_server() -> None:
    manager = Stops()
    with serving(manager) as (server, client):
        manager.server = server
        assert client.add(4, 0) == 4
        assert server.wait(CEILING)


@pytest.mark.feature("SRV-01", "SRV-06")
def test_async_managers_that_are_registered_while_the_server_listens() -> None:
    with apcrt.Runtime(runtime__drain_limit=0.5) as runtime, runtime.server() as server:
        (bound,) = server.start(ENDPOINT)
        manager = Async()
        server.register(Sample, manager)
        client = Sample(runtime.binding(bound, call_timeout=CEILING / 2))
        assert client.mixed(1, 2) == (3, 1)
        assert client.add(1, 2) == 3
        sink = bytearray()
        assert client.read(1000, 100, apcrt.OutPipe(sink=sink)) == len(sink) == 1000
        server.unregister(Sample)
        server.register(Sample, Async())
        assert client.add(3, 4) == 7


# ------------------------------------------------------------------------------------------------------- being full


class Busy(Plain):
    """`add` occupies a dispatch thread until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.busy = threading.Semaphore(0)

    @Sample.add.manager
    def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
        self.busy.release()
        assert self.release.wait(CEILING)
        return x + y


@pytest.mark.feature("SRV-08", "ERR-01")
def test_calls_beyond_the_limit_are_refused_while_every_dispatch_thread_is_busy() -> None:
    """The two that run and the one that waits are within the limit, and served; those beyond are told at once."""
    manager = Busy()
    with apcrt.Runtime(runtime__drain_limit=0.5) as runtime, runtime.server(max_calls=3, dispatch_threads=2) as server:
        server.register(Sample, manager)
        client = Sample(runtime.binding(server.start(ENDPOINT)[0], noncausal=True, call_timeout=2))
        within = [Recorder[int]() for _ in range(3)]
        for number, one in enumerate(within[:2]):
            client.add.begin(one.handle, number, 1)
        try:
            for _ in range(2):
                assert manager.busy.acquire(timeout=CEILING)
            client.add.begin(within[2].handle, 2, 1)
            until(lambda: server.running == 3)
            for _ in range(3):
                assert status_of(lambda: client.mixed(1, 2)) == TOO_BUSY
            assert status_of(lambda: client.write("f", apcrt.InPipe(source=bytes(1 << 20)))) == TOO_BUSY
            assert not any(one.done for one in within)
            assert not manager.busy.acquire(blocking=False)
        finally:
            manager.release.set()
        alertable_until(lambda: all(one.done for one in within))
        assert [one.handle.complete_call() for one in within] == [1, 2, 3]
        assert client.mixed(1, 2) == (3, 1)


@pytest.mark.feature("SRV-08")
def test_a_single_dispatch_thread_that_is_busy() -> None:
    manager = Busy()
    with serving(manager, max_calls=1, dispatch_threads=1) as (_, client):
        for _ in range(3):  # the relief comes and goes
            manager.release.clear()
            one = Recorder[int]()
            client.add.begin(one.handle, 1, 2)
            assert manager.busy.acquire(timeout=CEILING)
            refused: list[int] = []
            thread = threading.Thread(target=lambda: refused.append(status_of(lambda: client.mixed(1, 2))))  # noqa: B023
            thread.start()
            thread.join()
            manager.release.set()
            one.wait()
            assert one.handle.complete_call() == 3
            assert refused == [TOO_BUSY]
            until(lambda: client.binding.running == 0)


# --------------------------------------------------------------------------------------------------- serving in trio


@pytest.mark.feature("SRV-06")
async def test_serving_on_a_taken_endpoint_raises_the_bare_error() -> None:
    async with apcrt.Runtime() as runtime, trio.open_nursery() as nursery:
        first, second = runtime.server(), runtime.server()
        first.register(Sample, Async())
        (bound,) = await nursery.start(first.serve, ENDPOINT)
        with pytest.raises(TransportError) as caught:
            await nursery.start(second.serve, bound)
        assert caught.value.status == Status.RPC_S_DUPLICATE_ENDPOINT
        assert await Sample(runtime.binding(bound)).add.call(1, 2) == 3
        nursery.cancel_scope.cancel()


@pytest.mark.feature("SRV-07")
async def test_stopping_on_a_trio_thread_does_not_block_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listeners close when the I/O thread gets to it: here it is kept from it until `stop` has returned."""
    returned = threading.Event()
    with trio.fail_after(CEILING):
        async with apcrt.Runtime() as runtime, trio.open_nursery() as nursery:
            server = runtime.server()
            server.register(Sample, Async())
            (bound,) = await nursery.start(server.serve, ENDPOINT)
            original = server._stop_listening

            async def late(scopes: list[trio.CancelScope]) -> None:
                assert await trio.to_thread.run_sync(returned.wait, CEILING)
                await original(scopes)

            monkeypatch.setattr(server, "_stop_listening", late)
            client = Sample(runtime.binding(bound))
            assert await client.add.call(1, 2) == 3
            server.stop()
            server.stop()
            returned.set()
            with pytest.raises(apcrt.RpcError):
                await client.add.call(1, 2)
            assert await trio.to_thread.run_sync(server.wait, CEILING)
            nursery.cancel_scope.cancel()


# ----------------------------------------------------------------------------------------- ends that say they are one


@pytest.mark.feature("CANC-02", "ERR-01")
@pytest.mark.parametrize("what", ["binding", "runtime"])
@pytest.mark.parametrize("face", ["blocking", "asynchronous"])
def test_a_call_that_is_shut_down_says_it_was_cancelled(what: str, face: str) -> None:
    asked = threading.Event()

    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestEnd)
        asked.set()
        peer.until_closed()

    runtime = apcrt.Runtime()
    with FakeServer(script) as server, runtime:
        client = Sample(runtime.binding(server.binding))
        ends: list[apcrt.RpcError] = []
        one = Recorder[int]()

        def call() -> None:
            with pytest.raises(apcrt.RpcError) as caught:
                client.hold()
            ends.append(caught.value)

        thread = threading.Thread(target=call)
        if face == "blocking":
            thread.start()
        else:
            client.hold.begin(one.handle)
        assert asked.wait(CEILING)
        if what == "binding":
            client.binding.close()
        else:
            runtime.close(drain=False)
        if face == "blocking":
            thread.join()
        else:
            one.wait()
            with pytest.raises(apcrt.RpcError) as caught:
                one.handle.complete_call()
            ends.append(caught.value)
        assert isinstance(ends[0], apcrt.RpcCancelled)
        assert ends[0].status == CANCELLED


@pytest.mark.feature("CANC-02", "ERR-01")
def test_a_call_that_was_still_connecting_says_it_was_cancelled() -> None:
    """The listener has not accepted, so the bind stays unanswered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        one = Recorder[int]()
        with client_of(f"ncacn_ip_tcp:127.0.0.1[{port}]") as client:
            client.add.begin(one.handle, 1, 2)
        one.wait()
        with pytest.raises(apcrt.RpcCancelled) as caught:
            one.handle.complete_call()
        assert caught.value.status == CANCELLED


@pytest.mark.feature("CALL-11", "ERR-01")
def test_a_call_whose_thread_has_ended_says_it_was_cancelled() -> None:
    asked = threading.Event()

    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestEnd)
        asked.set()
        peer.until_closed()

    with FakeServer(script) as server, client_of(server.binding) as client:
        one = Recorder[int]()

        def issue() -> None:
            client.hold.begin(one.handle)
            assert asked.wait(CEILING)

        with apc.open_apc_threads() as threads:
            threads.start(issue)
        until(lambda: one.handle.get_call_status() != Status.RPC_S_ASYNC_CALL_PENDING)
        with pytest.raises(apcrt.RpcCancelled) as caught:
            one.handle.complete_call()
        assert caught.value.status == CANCELLED

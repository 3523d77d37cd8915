"""Runtimes and servers: their lives, their limits, and that they leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

import apcrt
from apcrt import Status, apc, testing
from apcrt.apc import lowlevel
from apcrt.config import Config, RuntimeConfig
from tests.rpc.helpers import Counted, FakeServer, RawPeer, Recorder, alertable_until, nothing_comes, status_of
from tests.rpc.sample import Async, Plain, Sample
from tests.rpc.server_process import ROOT

CANCELLED = Status.RPC_S_CALL_CANCELLED
ENDPOINT = "ncacn_ip_tcp:[0]"


def draining(seconds: float) -> Config:
    return Config(runtime=RuntimeConfig(drain_limit=seconds))


def apcrt_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("apcrt-")]


# ------------------------------------------------------------------------------------------------------- nothing hidden


@pytest.mark.feature("LIFE-02")
def test_importing_starts_nothing() -> None:
    """No thread, no descriptor, no trio loop, no transport; and structlog is left alone."""
    program = """
import os, sys, threading
before = len(os.listdir("/proc/self/fd"))
import apcrt, apcrt.testing, apcrt.config, apcrt.trace, apcrt.transport
apcrt.Runtime()
import structlog
print(threading.active_count(), len(os.listdir("/proc/self/fd")) - before, "apcrt_transports" in sys.modules,
      structlog.is_configured())
"""
    path = f"{ROOT}:{ROOT / 'transports'}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.split() == ["1", "0", "False", "False"], done.stderr
    assert done.stderr == ""


@pytest.mark.feature("LIFE-02")
def test_a_program_that_leaves_cleanly_says_nothing() -> None:
    """A call, a stream, and the end: nothing on standard error, and the interpreter comes down by itself."""
    program = """
import apcrt
from apcrt import testing
from tests.rpc.sample import Plain, Sample
with testing.in_process(Sample, Plain()) as client:
    assert client.add(1, 2) == 3
    sink = bytearray()
    assert client.read(100000, 1000, apcrt.OutPipe(sink=sink)) == 100000
"""
    path = f"{ROOT}:{ROOT / 'transports'}"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


LEFT_OPEN = """
import sys
import apcrt
from tests.rpc.sample import Async, Sample
runtime = apcrt.Runtime().__enter__()
server = runtime.server()
server.register(Sample, Async())
(bound,) = server.start("ncacn_ip_tcp:[0]")
print(Sample(runtime.binding(bound)).add(1, 2), flush=True)
if sys.argv[1] == "raise":
    raise ValueError("on purpose")
if sys.argv[1] == "exit":
    sys.exit(3)
if sys.argv[1] == "held":
    Sample(runtime.binding(bound)).hold.begin(apcrt.AsyncHandle())
"""


@pytest.mark.feature("LIFE-02")
@pytest.mark.parametrize(("how", "status"), [("return", 0), ("raise", 1), ("exit", 3), ("held", 0)])
def test_a_program_that_leaves_a_runtime_open_ends_and_is_told(how: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN, how],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'transports'}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (status, "3\n"), done.stderr
    complaints = done.stderr.splitlines()
    assert len([line for line in complaints if "runtime.left_open" in line]) == 1
    assert ("ValueError: on purpose" in complaints) == (how == "raise")
    assert len(complaints) == 1 or how == "raise"


# ----------------------------------------------------------------------------------------------------------- a runtime


@pytest.mark.feature("LIFE-02")
def test_a_runtime_has_one_thread_until_it_is_left() -> None:
    runtime = apcrt.Runtime()
    assert apcrt_threads() == []
    with runtime:
        assert len(apcrt_threads()) == 1
    assert apcrt_threads() == []
    runtime.close()
    runtime.close(drain=False)


@pytest.mark.feature("LIFE-02")
def test_a_runtime_is_used_between_entering_and_leaving() -> None:
    runtime = apcrt.Runtime()
    assert status_of(lambda: runtime.binding("ncacn_ip_tcp:[1]")) == Status.RPC_S_INVALID_BINDING
    assert status_of(runtime.server) == Status.RPC_S_INVALID_BINDING
    with runtime:
        runtime.binding("ncacn_ip_tcp:[1]")
        assert status_of(runtime.__enter__) == Status.RPC_S_CANNOT_SUPPORT
    assert status_of(lambda: runtime.binding("ncacn_ip_tcp:[1]")) == Status.RPC_S_INVALID_BINDING
    assert status_of(runtime.server) == Status.RPC_S_INVALID_BINDING
    assert status_of(runtime.__enter__) == Status.RPC_S_CANNOT_SUPPORT


def test_several_runtimes() -> None:
    with apcrt.Runtime() as one, apcrt.Runtime() as two, one.server() as server:
        server.register(Sample, Plain())
        bound = server.start(ENDPOINT)[0]
        assert Sample(one.binding(bound)).add(1, 2) == 3
        assert Sample(two.binding(bound)).add(3, 4) == 7


def test_a_binding_is_shared_by_its_string_and_options() -> None:
    with apcrt.Runtime() as runtime:
        one = runtime.binding("ncacn_ip_tcp:[1]")
        assert runtime.binding("ncacn_ip_tcp:[1]") is one
        assert runtime.binding("ncacn_ip_tcp:[1]", noncausal=True) is not one
        assert runtime.binding("ncacn_ip_tcp:[1]", send_window=None).send_window is None
        assert runtime.binding("ncacn_ip_tcp:[1]", call_timeout=2.5).call_timeout == 2.5
        assert str(one) == "ncacn_ip_tcp:[1]"


@pytest.mark.feature("BIND-04")
def test_a_binding_that_was_closed_can_be_had_again() -> None:
    with apcrt.Runtime() as runtime, runtime.server() as server:
        server.register(Sample, Plain())
        bound = server.start(ENDPOINT)[0]
        first = runtime.binding(bound)
        assert Sample(first).add(1, 2) == 3
        first.close()
        first.close()
        second = runtime.binding(bound)
        assert second is not first
        assert (first.closed, second.closed) == (True, False)
        assert Sample(second).add(3, 4) == 7
        assert status_of(lambda: Sample(first).add(1, 2)) == Status.RPC_S_INVALID_BINDING
        assert runtime.binding(bound) is second


@pytest.mark.feature("CALL-03", "LIFE-02")
@pytest.mark.parametrize("what", ["binding", "connections"])
def test_a_call_that_is_refused_is_not_counted(what: str) -> None:
    """Leaving the runtime would wait for it."""
    with apcrt.Runtime() as other, other.server() as server, apcrt.Runtime() as runtime:
        server.register(Sample, Plain())
        client = Sample(runtime.binding(server.start(ENDPOINT)[0]))
        assert client.add(1, 2) == 3
        if what == "binding":
            client.binding.close()
            status = Status.RPC_S_INVALID_BINDING
        else:
            client.binding.pool(Sample.syntax).close()  # as another thread does between the two steps of a call
            status = Status.RPC_S_CALL_FAILED_DNE
        one = Recorder[int]()
        assert status_of(lambda: client.add(1, 2)) == status
        assert status_of(lambda: client.add.begin(one.handle, 1, 2)) == status
        assert one.handle.get_call_status() == Status.RPC_S_INVALID_ASYNC_HANDLE
        nothing_comes(one)
        assert client.binding.running == 0
        assert repr(runtime).endswith("open, 0 calls under way>")


class Late(Plain):
    """`read` sends what it has when `step` lets it, says so, and replies when `step` lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.sent = threading.Semaphore(0), threading.Semaphore(0)

    @Sample.read.manager
    def read(self, call: apcrt.ServerHandle[int], size: int, piece: int, data: apcrt.OutPipe[int]) -> int:
        assert self.step.acquire(timeout=10)
        data.write(bytes(size))
        data.write_eof()
        self.sent.release()
        assert self.step.acquire(timeout=10)
        return size


@pytest.mark.feature("NOTE-03")
def test_a_thread_that_uses_blocking_verbs_owes_no_completions() -> None:
    """A reply that nobody has asked for yet waits for it. What a call that reports by APC gets is a debt."""
    manager = Late()
    size = 1 << 16
    name = apc.current_thread().name

    def warnings() -> int:
        now = time.monotonic()
        with testing.capture_trace() as trace:
            for later in (100, 200):
                lowlevel.check_overdue(now + later, 10)
        return len(trace.events("thread.overdue", thread=name))

    with testing.in_process(Sample, manager, apc__warn_after=None) as client:
        down: apcrt.OutPipe[int] = apcrt.OutPipe()
        with client.read.open(size, size, down) as call, Counted("call.completed") as completed:
            manager.step.release()
            assert sum(len(chunk) for chunk in down) == size
            manager.step.release()
            completed.wait()  # by the server
            assert warnings() == 0
        assert call.reply == size
        assert manager.sent.acquire(timeout=10)

        one = Recorder[int]()
        down = apcrt.OutPipe()
        client.read.begin(one.handle, size, size, down)
        assert down.pull(bytearray(size)) == (Status.RPC_S_ASYNC_CALL_PENDING, 0)
        manager.step.release()
        assert manager.sent.acquire(timeout=10)
        assert warnings() == 1
        one.handle.cancel_call(abort=True)
        manager.step.release()


async def test_a_trio_thread_enters_with_async_with() -> None:
    assert status_of(apcrt.Runtime().__enter__) == Status.RPC_S_CANNOT_SUPPORT
    async with apcrt.Runtime() as runtime:
        assert len(apcrt_threads()) == 1
        server = runtime.server()
        server.register(Sample, Plain())
        assert status_of(lambda: server.start(ENDPOINT)) == Status.RPC_S_CANNOT_SUPPORT
    assert apcrt_threads() == []


# ------------------------------------------------------------------------------------------------------------- leaving


def hold(client: Sample, manager: Plain) -> Recorder[int]:
    one = Recorder[int]()
    manager.inside.clear()
    client.hold.begin(one.handle)
    assert manager.inside.wait(10)
    return one


@pytest.mark.feature("LIFE-02", "CANC-05")
def test_leaving_waits_for_calls_under_way() -> None:
    """Drain: the server ends the call while the runtime is being left, and the call completes well."""
    manager = Plain()
    with testing.in_process(Sample, manager) as client:
        with apcrt.Runtime(draining(30)) as runtime:
            one = hold(Sample(runtime.binding(str(client.binding))), manager)
            timer = threading.Timer(0.05, manager.held[0].complete_call, args=(42,))
            timer.start()
        timer.join()
        one.wait()
        assert one.handle.complete_call() == 42


@pytest.mark.feature("LIFE-02", "CANC-05")
def test_after_the_drain_limit_calls_are_cancelled() -> None:
    manager = Plain()
    with testing.in_process(Sample, manager) as client:
        began = time.monotonic()
        with apcrt.Runtime(draining(0.05)) as runtime:
            one = hold(Sample(runtime.binding(str(client.binding))), manager)
        assert 0.05 <= time.monotonic() - began < 5
        one.wait()
        assert one.events == [apcrt.AsyncEvent.CALL_COMPLETE]
        assert status_of(one.handle.complete_call) == CANCELLED


@pytest.mark.feature("LIFE-02")
def test_leaving_by_an_exception_does_not_drain() -> None:
    manager = Plain()
    ones: list[Recorder[int]] = []

    def block(client: Sample) -> None:
        with apcrt.Runtime(draining(30)) as runtime:
            ones.append(hold(Sample(runtime.binding(str(client.binding))), manager))
            raise KeyError

    with testing.in_process(Sample, manager) as client:
        began = time.monotonic()
        with pytest.raises(KeyError):
            block(client)
        assert time.monotonic() - began < 10
        ones[0].wait()
        assert status_of(ones[0].handle.complete_call) == CANCELLED


@pytest.mark.feature("LIFE-02")
@pytest.mark.parametrize("how", ["drained", "by an exception", "cancelled"])
async def test_leaving_in_trio(how: str) -> None:
    manager = Plain()
    async with testing.in_process(Sample, manager) as client:
        one = Recorder[int]()
        with trio.fail_after(10):
            with trio.CancelScope() as scope:
                try:
                    async with apcrt.Runtime(draining(0.05 if how == "drained" else 30)) as runtime:
                        Sample(runtime.binding(str(client.binding))).hold.begin(one.handle)
                        assert await trio.to_thread.run_sync(manager.inside.wait, 10)
                        if how == "by an exception":
                            raise KeyError
                        if how == "cancelled":
                            scope.cancel()
                except KeyError:
                    assert how == "by an exception"
            while not one.done:
                await apc.aio.sleep_ex(None, alertable=True)
        assert status_of(one.handle.complete_call) == CANCELLED


@pytest.mark.feature("LIFE-02")
def test_leaving_while_nobody_answers() -> None:
    """Calls in every phase that a silent server leaves them in; leaving is bounded and ends them all."""
    with FakeServer(RawPeer.until_closed) as server:
        began = time.monotonic()
        with apcrt.Runtime(draining(0.05)) as runtime:
            client = Sample(runtime.binding(server.binding))
            ones = [Recorder[int]() for _ in range(5)]
            for one in ones:
                client.add.begin(one.handle, 1, 2)
            up: apcrt.InPipe[int] = apcrt.InPipe()
            upload = Recorder[int]()
            client.write.begin(upload.handle, "f", up)
            up.push(bytes(100_000))
        assert time.monotonic() - began < 10
        for one in [*ones, upload]:
            one.wait()
            assert status_of(one.handle.complete_call) == CANCELLED
        assert status_of(lambda: up.push(b"x")) == CANCELLED


@pytest.mark.feature("LIFE-02")
def test_a_blocking_call_on_another_thread_ends_when_the_runtime_does() -> None:
    manager = Plain()
    outcome: list[int] = []
    with testing.in_process(Sample, manager) as client:
        runtime = apcrt.Runtime()
        with runtime:
            other = Sample(runtime.binding(str(client.binding)))
            thread = threading.Thread(target=lambda: outcome.append(status_of(other.hold)))
            thread.start()
            assert manager.inside.wait(10)
            runtime.close(drain=False)
            thread.join(10)
        assert outcome == [CANCELLED]


# ------------------------------------------------------------------------------------------------------------- servers


@pytest.mark.feature("SRV-06")
def test_the_errors_of_a_server() -> None:
    with apcrt.Runtime() as runtime:
        for number in (0, -1):
            assert status_of(lambda number=number: runtime.server(max_calls=number)) == Status.RPC_S_MAX_CALLS_TOO_SMALL  # type: ignore[misc]
        assert status_of(lambda: runtime.server(dispatch_threads=0)) == Status.RPC_S_INVALID_ARG
        server = runtime.server()
        assert status_of(lambda: server.unregister(Sample)) == Status.RPC_S_UNKNOWN_IF
        server.register(Sample, Plain())
        assert status_of(lambda: server.register(Sample, Plain())) == Status.RPC_S_TYPE_ALREADY_REGISTERED
        assert status_of(server.start) == Status.RPC_S_NO_PROTSEQS_REGISTERED
        assert status_of(lambda: server.start("ncacn_never:[0]")) == Status.RPC_S_PROTSEQ_NOT_SUPPORTED
        assert status_of(lambda: server.start("ncacn_ip_tcp:[0")) == Status.RPC_S_INVALID_STRING_BINDING
        bound = server.start(ENDPOINT)
        assert server.endpoints == bound
        assert status_of(lambda: server.start(ENDPOINT)) == Status.RPC_S_ALREADY_LISTENING
        assert Sample(runtime.binding(bound[0])).add(1, 2) == 3
        server.stop()
        server.stop()
        assert status_of(lambda: server.start(ENDPOINT)) == Status.RPC_S_NOT_LISTENING
        assert server.wait(0)


@pytest.mark.feature("SRV-06")
def test_an_endpoint_that_is_taken() -> None:
    """1740; and the server that could not have it leaves no thread and no endpoint behind."""
    with apcrt.Runtime() as runtime, runtime.server() as one, runtime.server() as two:
        for server in (one, two):
            server.register(Sample, Plain())
        bound = one.start(ENDPOINT)[0]
        assert status_of(lambda: two.start(ENDPOINT, bound)) == Status.RPC_S_DUPLICATE_ENDPOINT
        assert Sample(runtime.binding(bound)).add(1, 2) == 3


@pytest.mark.feature("SRV-06")
def test_a_manager_without_all_routines_is_refused() -> None:
    class Some:
        @Sample.add.manager
        def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
            return 0

    with apcrt.Runtime() as runtime:
        with pytest.raises(apcrt.RpcUsageError, match=r"mixed, find, write.*@Sample\.mixed\.manager") as caught:
            runtime.server().register(Sample, Some())
        assert caught.value.status == Status.RPC_S_INVALID_ARG


@pytest.mark.feature("SRV-06", "SRV-07")
def test_after_unregistering_the_interface_is_unknown() -> None:
    manager = Plain()
    with apcrt.Runtime() as runtime, runtime.server() as server:
        server.register(Sample, manager)
        bound = server.start(ENDPOINT)[0]
        client = Sample(runtime.binding(bound))
        one = hold(client, manager)
        server.unregister(Sample)
        outcome: list[int] = []
        thread = threading.Thread(target=lambda: outcome.append(status_of(lambda: client.add(1, 2))))
        thread.start()
        thread.join(10)
        assert outcome == [Status.RPC_S_UNKNOWN_IF]
        manager.held[0].complete_call(1)  # the running call goes on
        one.wait()
        assert one.handle.complete_call() == 1


@pytest.mark.feature("SRV-07", "SRV-06")
def test_stopping_lets_running_calls_finish() -> None:
    manager = Plain()
    with apcrt.Runtime() as runtime, runtime.server() as server:
        server.register(Sample, manager)
        client = Sample(runtime.binding(server.start(ENDPOINT)[0]))
        one = hold(client, manager)
        assert not server.wait(0.01)
        server.stop()
        assert not server.wait(0.01)
        with apcrt.Runtime() as another:
            assert status_of(lambda: Sample(another.binding(str(client.binding))).add(1, 2)) in (
                Status.RPC_S_SERVER_UNAVAILABLE,
                Status.RPC_S_SERVER_TOO_BUSY,
            )
        waited: list[bool] = []
        waiter = threading.Thread(target=lambda: waited.append(server.wait(10)))
        waiter.start()
        manager.held[0].complete_call(7)
        waiter.join(10)
        assert waited == [True]
        one.wait()
        assert one.handle.complete_call() == 7
        assert server.running == 0


@pytest.mark.feature("SRV-07")
def test_waiting_before_the_stop() -> None:
    with apcrt.Runtime() as runtime, runtime.server() as server:
        server.register(Sample, Plain())
        server.start(ENDPOINT)
        waited: list[bool] = []
        waiter = threading.Thread(target=lambda: waited.append(server.wait()))
        waiter.start()
        server.stop()
        waiter.join(10)
        assert waited == [True]


@pytest.mark.feature("SRV-07", "LIFE-02")
@pytest.mark.parametrize("kind", [Plain, Async])
def test_closing_a_server_ends_its_calls(kind: Callable[[], Plain]) -> None:
    """Clients of calls that nobody completes get an error; every thread is joined."""
    manager = kind()
    with apcrt.Runtime() as runtime:
        with runtime.server() as server:
            server.register(Sample, manager)
            client = Sample(runtime.binding(server.start(ENDPOINT)[0]))
            one = hold(client, manager)
            assert len(apcrt_threads()) > 1
        assert len(apcrt_threads()) == 1  # the runtime's own
        one.wait()
        assert status_of(one.handle.complete_call) in (CANCELLED, Status.RPC_S_CALL_FAILED)
        assert status_of(lambda: manager.held[0].complete_call(1)) == Status.RPC_S_INVALID_ASYNC_HANDLE
        assert server.running == 0
    assert apcrt_threads() == []


@pytest.mark.feature("LIFE-02")
def test_closing_a_server_while_its_managers_run() -> None:
    """Plain managers in the middle of a stream, async ones asleep: all of them are ended."""
    inside = threading.Semaphore(0)
    outcomes: list[str] = []

    class Busy(Plain):
        @Sample.write.manager
        def write(self, call: apcrt.ServerHandle[int], name: str, data: apcrt.InPipe[int]) -> int:
            inside.release()
            try:
                return sum(len(chunk) for chunk in data)
            except apcrt.RpcError:
                outcomes.append("failed")
                raise

        @Sample.add.manager
        async def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
            inside.release()
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                outcomes.append("cancelled")
                raise

    with apcrt.Runtime() as runtime:
        with runtime.server() as server:
            server.register(Sample, Busy())
            client = Sample(runtime.binding(server.start(ENDPOINT)[0]))
            one, two = Recorder[int](), Recorder[int]()
            up: apcrt.InPipe[int] = apcrt.InPipe()
            client.write.begin(one.handle, "f", up)
            client.add.begin(two.handle, 1, 2)
            up.push(b"abc")
            apc.sleep_ex(0, alertable=True)
            for _ in range(2):
                assert inside.acquire(timeout=10)
        assert sorted(outcomes) == ["cancelled", "failed"]
        for each in (one, two):
            each.wait()
            assert status_of(each.handle.complete_call) in (CANCELLED, Status.RPC_S_CALL_FAILED)


@pytest.mark.feature("SRV-08", "ERR-01")
def test_more_calls_than_allowed_are_refused_with_1723() -> None:
    manager = Plain()
    with apcrt.Runtime() as runtime, runtime.server(max_calls=2) as server:
        server.register(Sample, manager)
        bound = server.start(ENDPOINT)[0]
        client = Sample(runtime.binding(bound, noncausal=True))
        held = [hold(client, manager) for _ in range(2)]
        assert server.running == 2
        for _ in range(3):
            assert status_of(lambda: client.add(1, 2)) == Status.RPC_S_SERVER_TOO_BUSY
        assert (
            status_of(lambda: client.write("f", apcrt.InPipe(source=bytes(10 << 20)))) == Status.RPC_S_SERVER_TOO_BUSY
        )
        manager.held[0].complete_call(0)
        held[0].wait()
        assert client.add(1, 2) == 3
        manager.held[1].complete_call(0)
        held[1].wait()


@pytest.mark.feature("SRV-08")
def test_requests_wait_while_all_dispatch_threads_are_busy() -> None:
    """Fewer threads than calls: the others wait, and none is refused."""
    manager = Plain()
    gate = threading.Event()
    inside = threading.Semaphore(0)

    class Slow(Plain):
        @Sample.add.manager
        def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
            inside.release()
            assert gate.wait(10)
            return x + y

    manager = Slow()
    with apcrt.Runtime() as runtime, runtime.server(dispatch_threads=2) as server:
        server.register(Sample, manager)
        client = Sample(runtime.binding(server.start(ENDPOINT)[0], noncausal=True))
        ones = [Recorder[int]() for _ in range(10)]
        for number, one in enumerate(ones):
            client.add.begin(one.handle, number, 1)
        for _ in range(2):
            assert inside.acquire(timeout=10)
        assert not inside.acquire(timeout=0.05)
        gate.set()
        alertable_until(lambda: all(one.done for one in ones))
        assert [one.handle.complete_call() for one in ones] == list(range(1, 11))


@pytest.mark.feature("SRV-01")
def test_a_call_that_was_handed_off_keeps_no_dispatch_thread() -> None:
    manager = Plain()
    with apcrt.Runtime() as runtime, runtime.server(dispatch_threads=1) as server:
        server.register(Sample, manager)
        client = Sample(runtime.binding(server.start(ENDPOINT)[0], noncausal=True))
        held = [hold(client, manager) for _ in range(5)]
        assert client.add(1, 2) == 3
        for call in reversed(manager.held):
            call.complete_call(1)
        for one in held:
            one.wait()
            assert one.handle.complete_call() == 1


@pytest.mark.feature("SRV-06", "BIND-02")
def test_every_interface_is_served_on_every_endpoint(tmp_path: Path) -> None:
    class Other(apcrt.Interface, uuid="dc3a2f56-3a3c-44ae-8a43-3a8a9c1c9a11", version="1.0"):
        @apcrt.operation
        def twice(self, x: apcrt.ndr.UInt32) -> apcrt.ndr.UInt32:
            raise NotImplementedError

    class Twice:
        @Other.twice.manager
        def twice(self, call: apcrt.ServerHandle[int], x: int) -> int:
            return 2 * x

    with apcrt.Runtime() as runtime, runtime.server() as server:
        server.register(Sample, Plain())
        bound = server.start(ENDPOINT, f"ncacn_unix_stream:[{tmp_path}/s]", ENDPOINT)
        server.register(Other, Twice())
        assert len(set(bound)) == 3
        for one in bound:
            assert Sample(runtime.binding(one)).add(1, 2) == 3
            assert Other(runtime.binding(one)).twice(21) == 42
    assert not (tmp_path / "s").exists()


@pytest.mark.feature("SRV-07", "LIFE-02")
async def test_serving_in_trio_ends_with_its_scope() -> None:
    """The listener is gone, async managers are cancelled, and their clients are told."""
    manager = Async()
    inside = trio.Event()

    class Stays(Async):
        @Sample.add.manager
        async def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
            inside.set()
            await trio.sleep_forever()

    manager = Stays()
    async with apcrt.Runtime() as runtime:
        with trio.fail_after(10):
            one = Recorder[int]()
            async with trio.open_nursery() as nursery:
                server = runtime.server()
                server.register(Sample, manager)
                bound = await nursery.start(server.serve, ENDPOINT)
                Sample(runtime.binding(bound[0])).add.begin(one.handle, 1, 2)
                await inside.wait()
                nursery.cancel_scope.cancel()
            while not one.done:
                await apc.aio.sleep_ex(None, alertable=True)
            assert status_of(one.handle.complete_call) == CANCELLED
            with pytest.raises(apcrt.RpcUnavailable):
                await Sample(runtime.binding(bound[0])).mixed.call(1, 2)
    assert apcrt_threads() == []


@pytest.mark.feature("LIFE-01")
def test_a_thousand_calls_leave_no_connection_too_many() -> None:
    """One thread at a time needs one connection, or two when the I/O thread is still giving back the first."""
    with testing.in_process(Sample, Plain()) as client:
        client.add(0, 0)
        before = open_sockets(), threading.active_count()
        for number in range(1000):
            assert client.add(number, 1) == number + 1
            if number % 10 == 0:
                assert client.write("f", apcrt.InPipe(source=b"x" * number)) == number
        assert open_sockets() <= before[0] + 2
        assert threading.active_count() == before[1]


def open_sockets() -> int:
    """How many there are in this process. (The Ports of threads are made at need and stay: they are not counted.)"""
    return sum(
        os.readlink(entry).startswith("socket:") for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()
    )

"""What must not lose a call: Ctrl-C between two steps, cancels on the way, managers that raise anything, busy servers.

What lives here: the moments in between, each brought about by hand. What must not: broken links and killed processes,
which are in `test_failures.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio

import apcrt
from apcrt import apc, notify, testing
from apcrt.status import Status
from tests.apc.faces import until
from tests.rpc.helpers import Recorder, status_of
from tests.rpc.sample import Plain, Sample

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("call", ["_recvmsg_into", "_sendmsg"])
def test_ctrl_c_in_the_middle_of_connection_work_takes_effect_after_it(call: str) -> None:
    """The bytes that were moved are accounted for; this call and the next one of the thread complete."""
    with testing.in_process(Sample, Plain()) as client:
        assert client.add(1, 1) == 2
        (pool,) = client.binding._pools.values()
        (connection,) = pool._all
        stream = connection.stream
        original = getattr(stream, call)

        def once(*arguments: object) -> object:
            setattr(stream, call, original)
            moved = original(*arguments)
            signal.raise_signal(signal.SIGINT)
            return moved

        setattr(stream, call, once)
        first = Recorder[int]()
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - in the first or the second of them
            client.add.begin(first.handle, 2, 3)
            first.wait()
        first.wait()
        assert first.handle.complete_call() == 5
        assert client.add(4, 5) == 9
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_undisturbed_leaves_other_threads_and_nesting_alone() -> None:
    from apcrt.apc.lowlevel import undisturbed

    assert undisturbed(lambda: undisturbed(signal.getsignal, signal.SIGINT)) is not signal.default_int_handler
    found: list[object] = []
    worker = threading.Thread(target=lambda: found.append(undisturbed(signal.getsignal, signal.SIGINT)))
    worker.start()
    worker.join()
    assert found == [signal.default_int_handler]


def test_a_call_cancelled_before_its_connection_is_bound_leaves_the_connection_to_one_thread() -> None:
    manager = Plain()
    with testing.in_process(Sample, manager) as client:
        given_up = apcrt.AsyncHandle[int]()
        client.add.begin(given_up, 1, 2)
        given_up.cancel_call(abort=True)
        assert status_of(given_up.complete_call) == Status.RPC_S_CALL_CANCELLED
        held = Recorder[int]()
        client.hold.begin(held.handle)
        until(lambda: manager.held)
        others: list[int] = []
        worker = threading.Thread(target=lambda: others.append(client.add(3, 4)))
        worker.start()
        worker.join(10)
        assert others == [7]
        manager.held.pop().complete_call(1)
        held.wait()
        assert held.handle.complete_call() == 1


def test_a_call_cancelled_while_it_changes_its_connection_is_not_sent() -> None:
    """Three calls of one lane; the first is aborted, which closes the connection, and the second on its way from it."""
    manager = Plain()
    with testing.in_process(Sample, manager) as client:
        handles = [apcrt.AsyncHandle[int]() for _ in range(3)]
        client.hold.begin(handles[0])
        client.add.begin(handles[1], 1, 1)
        client.add.begin(handles[2], 2, 2)
        until(lambda: manager.held)

        def tap(_level: int, event: str, _keys: dict[str, object]) -> None:
            if event == "call.cancelled":
                apcrt.trace.remove_tap(tap)
                worker = threading.Thread(target=lambda: handles[1].cancel_call(abort=True))
                worker.start()
                worker.join()

        apcrt.trace.add_tap(tap)
        handles[0].cancel_call(abort=True)
        after = Recorder[int]()
        client.add.begin(after.handle, 3, 3)
        after.wait()
        assert after.handle.complete_call() == 6
        assert [status_of(handles[0].complete_call), status_of(handles[1].complete_call)] == [1818, 1818]
        assert handles[2].complete_call() == 4


class Raising(Plain):
    """Raises what it is told to."""

    raises: BaseException = SystemExit(3)

    @Sample.add.manager
    def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
        raise self.raises


class RaisingInATask(Plain):
    """The same out of a nursery."""

    raises: BaseException = SystemExit(3)

    @Sample.add.manager
    async def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise self.raises


@pytest.mark.feature("SRV-04")
@pytest.mark.parametrize("kind", [Raising, RaisingInATask])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SystemExit(3), Status.RPC_S_CALL_FAILED),
        (ZeroDivisionError(), Status.RPC_S_CALL_FAILED),
        (apcrt.RpcError(5), Status.ERROR_ACCESS_DENIED),
    ],
)
def test_whatever_a_manager_raises_is_its_clients(
    kind: type[Raising | RaisingInATask], error: BaseException, status: int
) -> None:
    manager = kind()
    manager.raises = error
    with testing.capture_trace(), testing.in_process(Sample, manager, runtime__dispatch_threads=1) as client:
        for _ in range(3):  # more than there are threads: none is lost
            assert status_of(lambda: client.add(1, 2)) == status
        assert client.mixed(1, 2).result == 1


def test_a_client_that_goes_ends_a_manager_with_a_nursery() -> None:
    class Sleeping(Plain):
        @Sample.hold.manager
        async def hold(self, call: apcrt.ServerHandle[int]) -> int:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                begun.set()
            return 1

    begun = threading.Event()
    with apcrt.Runtime() as runtime, runtime.server() as server:
        server.register(Sample, Sleeping())
        (bound,) = server.start("ncacn_ip_tcp:[0]")
        binding = runtime.binding(bound)
        handle = apcrt.AsyncHandle[int]()
        Sample(binding).hold.begin(handle)
        assert begun.wait(10)
        binding.close()
        server.stop()
        assert server.wait(10)
        assert server.running == 0


@pytest.mark.feature("SRV-08")
def test_the_limit_of_calls_holds_while_every_thread_is_busy() -> None:
    go = threading.Event()

    class Busy(Plain):
        @Sample.add.manager
        def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
            assert go.wait(20)
            return x + y

    with apcrt.Runtime() as runtime, runtime.server(max_calls=3, dispatch_threads=2) as server:
        server.register(Sample, Busy())
        (bound,) = server.start("ncacn_ip_tcp:[0]")
        client = Sample(runtime.binding(bound, noncausal=True))
        taken = [Recorder[int]() for _ in range(3)]
        for one in taken:
            client.add.begin(one.handle, 1, 2)
        until(lambda: server.running == 3)
        refused = Recorder[int]()
        client.add.begin(refused.handle, 1, 2)
        refused.wait()
        assert status_of(refused.handle.complete_call) == Status.RPC_S_SERVER_TOO_BUSY
        go.set()
        for one in taken:
            one.wait()
            assert one.handle.complete_call() == 3


def test_async_managers_registered_late_run() -> None:
    class Late(Plain):
        @Sample.add.manager
        async def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
            await trio.lowlevel.checkpoint()
            return x + y

    with apcrt.Runtime() as runtime, runtime.server() as server:
        (bound,) = server.start("ncacn_ip_tcp:[0]")
        server.register(Sample, Late())
        assert Sample(runtime.binding(bound)).add(1, 2) == 3


def test_a_manager_may_stop_its_server_but_not_wait_for_it() -> None:
    class Stopping(Plain):
        @Sample.add.manager
        def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
            assert status_of(server.close) == Status.RPC_S_CANNOT_SUPPORT
            assert status_of(server.wait) == Status.RPC_S_CANNOT_SUPPORT
            server.stop()
            return x + y

    with apcrt.Runtime() as runtime, runtime.server() as server:
        server.register(Sample, Stopping())
        (bound,) = server.start("ncacn_ip_tcp:[0]")
        assert Sample(runtime.binding(bound)).add(1, 2) == 3
        assert server.wait(10)


async def test_serving_on_a_busy_endpoint_raises_what_is_documented() -> None:
    async with apcrt.Runtime() as runtime, trio.open_nursery() as nursery:
        first, second = runtime.server(), runtime.server()
        (bound,) = await nursery.start(first.serve, "ncacn_ip_tcp:[0]")
        with pytest.raises(apcrt.RpcUnavailable) as caught:
            await second.serve(bound)
        assert caught.value.status in (Status.RPC_S_DUPLICATE_ENDPOINT, Status.RPC_S_CANT_CREATE_ENDPOINT)
        first.stop()
        nursery.cancel_scope.cancel()


def test_a_closed_binding_can_be_made_again() -> None:
    with apcrt.Runtime() as runtime, runtime.server() as server:
        server.register(Sample, Plain())
        (bound,) = server.start("ncacn_ip_tcp:[0]")
        binding = runtime.binding(bound)
        assert Sample(binding).add(1, 2) == 3
        binding.close()
        assert status_of(lambda: Sample(binding).add(1, 2)) == Status.RPC_S_INVALID_BINDING
        until(lambda: "0 calls" in repr(runtime))  # the server's end of the first one may be a moment behind
        assert Sample(runtime.binding(bound)).add(1, 2) == 3


def test_settings_of_a_binding_are_checked() -> None:
    with apcrt.Runtime() as runtime:
        assert runtime.binding("ncacn_ip_tcp:[1]", send_window="4 MiB").send_window == 4 << 20
        for wrong in ({"send_window": "rubbish"}, {"send_window": -5}, {"call_timeout": -1.0}):
            assert status_of(lambda wrong=wrong: runtime.binding("ncacn_ip_tcp:[1]", **wrong)) == 87  # type: ignore[misc]
        assert status_of(lambda: runtime.binding(None)) == 87  # type: ignore[arg-type]


@pytest.mark.feature("LIFE-02")
@pytest.mark.parametrize("more", ["", "raise RuntimeError"])
def test_a_program_that_leaves_a_runtime_open_ends(more: str) -> None:
    script = f"""
import apcrt
runtime = apcrt.Runtime()
runtime.__enter__()
runtime.server().start("ncacn_ip_tcp:[0]")
{more}
"""
    path = os.pathsep.join([str(ROOT), str(ROOT / "transports")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == bool(more)
    assert "runtime.left_open" in done.stderr


def test_blocking_verbs_owe_nothing() -> None:
    """A thread that only blocks is not reported for completions that nobody waits for as APCs."""
    with testing.in_process(Sample, Plain()) as client:
        pipe: apcrt.InPipe[int] = apcrt.InPipe()
        with client.write.open("f", pipe):
            pipe.write(bytes(3_000_000))
            port = apc.current_thread().open_port
            assert port is not None
            assert not port.owes()
            pipe.write_eof()


def test_notifications_are_seen_being_queued() -> None:
    with testing.in_process(Sample, Plain()) as client, testing.capture_trace() as trace:
        one = Recorder[int]()
        client.add.begin(one.handle, 1, 2)
        one.wait()
        assert isinstance(one.handle.notification, notify.Apc)
    assert trace.events("apc.queued", thread="MainThread")

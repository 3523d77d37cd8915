"""Ctrl-C, and whatever else a signal handler raises, in the middle of connection work and of a runtime's life.

The signal is raised from within a system call of a connection, which is where it hurts most: bytes have moved, and
nobody has written it down yet. The programs at the end get theirs at moments that a seed chooses.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

import apcrt
from apcrt import AsyncEvent, AsyncFlags, Status, apc, testing
from apcrt.apc import lowlevel
from apcrt_transports.socket import SocketStream
from tests.rpc.helpers import CEILING, Recorder, status_of
from tests.rpc.sample import Plain, Sample, pattern
from tests.rpc.server_process import ROOT

SC, RC = AsyncEvent.SEND_COMPLETE, AsyncEvent.RECEIVE_COMPLETE
FREE = Status.RPC_S_INVALID_ASYNC_HANDLE

BOTH = pytest.mark.parametrize("call", ["send", "recv_into"])


@pytest.fixture
def manager() -> Plain:
    return Plain()


@pytest.fixture
def client(manager: Plain) -> Iterator[Sample]:
    with testing.in_process(Sample, manager) as sample:
        assert sample.add(0, 0) == 0
        yield sample


class Striker:
    """Raises a signal behind the next system call of a kind that this thread makes for any connection."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.strikes = 0

    def __call__(self, call: str, number: int = signal.SIGINT) -> None:
        original: Callable[..., Any] = getattr(SocketStream, call)
        thread = threading.current_thread()
        aimed = self.strikes

        def struck(stream: SocketStream, buffers: object) -> Any:
            result = original(stream, buffers)
            if result and self.strikes == aimed and threading.current_thread() is thread:
                self.strikes += 1
                signal.raise_signal(number)
            return result

        self._monkeypatch.setattr(SocketStream, call, struck)


@pytest.fixture
def strike(monkeypatch: pytest.MonkeyPatch) -> Striker:
    return Striker(monkeypatch)


@contextlib.contextmanager
def handled(number: int, handler: Callable[[int, FrameType | None], object] | int) -> Iterator[None]:
    """Have a signal handled so while the block lasts."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


# ------------------------------------------------------------------------------------------------ connections at work


def begin_and_wait(client: Sample, one: Recorder[int]) -> None:
    client.add.begin(one.handle, 1, 2)
    one.wait()


@BOTH
@pytest.mark.feature("CALL-07", "NOTE-03")
def test_an_asynchronous_call_completes_all_the_same(client: Sample, strike: Striker, call: str) -> None:
    one, two = Recorder[int](), Recorder[int]()
    strike(call)
    with pytest.raises(KeyboardInterrupt):
        begin_and_wait(client, one)
    assert strike.strikes == 1
    client.add.begin(two.handle, 3, 4)
    one.wait()
    two.wait()
    assert (one.handle.complete_call(), two.handle.complete_call()) == (3, 7)
    assert len(one.events) == len(two.events) == 1


@pytest.mark.feature("PIPE-14")
def test_what_a_push_has_taken_is_taken_once(client: Sample, manager: Plain, strike: Striker) -> None:
    one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
    up: apcrt.InPipe[int] = apcrt.InPipe()
    client.write.begin(one.handle, "f", up)
    one.wait_for(SC)
    strike("send")
    with pytest.raises(KeyboardInterrupt):
        up.push(pattern(100_000))
    up.push(pattern(100_000, 100_000))
    up.push(b"")
    one.wait()
    assert one.handle.complete_call() == 200_000
    assert manager.written["f"] == pattern(200_000)


@pytest.mark.feature("PIPE-06")
def test_a_pull_that_was_struck_leaves_the_stream_whole(client: Sample, strike: Striker) -> None:
    """How much the struck pull has moved is lost to its caller, but nothing else is."""
    size = 1 << 20
    one = Recorder[int]()
    down: apcrt.OutPipe[int] = apcrt.OutPipe()
    buffer = bytearray(size)
    client.read.begin(one.handle, size, 50_000, down)

    def pull_all() -> int:
        total = 0
        while True:
            status, count = pull_or_pend(down, buffer)
            total += count
            if status is Status.RPC_S_OK and not count:
                return total
            if status is not Status.RPC_S_OK:
                one.wait_for(RC)
                one.events.remove(RC)

    strike("recv_into")
    with pytest.raises(KeyboardInterrupt):
        pull_all()
    assert pull_all() <= size
    one.wait()
    assert one.handle.complete_call() == size


def pull_or_pend(pipe: apcrt.OutPipe[int], buffer: bytearray) -> tuple[int, int]:
    """Pull, when the pull before was struck: it may have found nothing, and is pending then."""
    try:
        return pipe.pull(buffer)
    except apcrt.RpcUsageError as error:
        if error.status != Status.RPC_X_WRONG_PIPE_ORDER:
            raise
        return Status.RPC_S_ASYNC_CALL_PENDING, 0


@BOTH
@pytest.mark.feature("CANC-02")
def test_a_blocking_call_is_given_up_and_nothing_of_it_is_left(client: Sample, strike: Striker, call: str) -> None:
    strike(call)
    with pytest.raises(KeyboardInterrupt):
        client.add(1, 2)
    assert client.binding.running == 0
    assert client.add(3, 4) == 7
    assert client.binding.running == 0


@pytest.mark.feature("PIPE-03")
def test_a_blocking_read_can_go_on(client: Sample, strike: Striker) -> None:
    down: apcrt.OutPipe[int] = apcrt.OutPipe()
    with client.read.open(1 << 20, 50_000, down) as call:
        strike("recv_into")
        with pytest.raises(KeyboardInterrupt):
            drain(down)
        drain(down)
    assert call.reply == 1 << 20


def drain(pipe: apcrt.OutPipe[int]) -> None:
    buffer = bytearray(1 << 16)
    while pipe.read_into(buffer):
        pass


class Torn(BaseException):
    """What a signal handler of the program raises."""


class TornSofter(Exception):
    """The same, as an ordinary exception."""


@pytest.fixture(params=[Torn, TornSofter])
def torn(request: pytest.FixtureRequest) -> Iterator[type[BaseException]]:
    kind: type[BaseException] = request.param

    def handler(_number: int, _frame: FrameType | None) -> None:
        raise kind

    with handled(signal.SIGUSR1, handler):
        yield kind


def test_what_another_handler_raises_in_a_receive_costs_the_connection(
    client: Sample, strike: Striker, torn: type[BaseException]
) -> None:
    """The reply was received and is lost: the call ends, and neither it nor its successors wait for ever."""
    one = Recorder[int]()
    strike("recv_into", signal.SIGUSR1)
    with pytest.raises(torn):
        begin_and_wait(client, one)
    one.wait()
    assert status_of(one.handle.complete_call) == Status.RPC_S_CALL_FAILED
    assert client.add(3, 4) == 7


def test_what_another_handler_raises_in_a_send_costs_the_connection(
    client: Sample, strike: Striker, torn: type[BaseException]
) -> None:
    """It leaves through `begin`, whose call has never existed then."""
    one = Recorder[int]()
    strike("send", signal.SIGUSR1)
    with pytest.raises(torn):
        client.add.begin(one.handle, 1, 2)
    assert one.handle.get_call_status() == FREE
    assert client.binding.running == 0
    client.add.begin(one.handle, 3, 4)
    one.wait()
    assert one.handle.complete_call() == 7
    assert one.events == [AsyncEvent.CALL_COMPLETE]


# -------------------------------------------------------------------------------------------------------- putting off


def test_it_takes_effect_when_the_work_is_done() -> None:
    steps: list[str] = []

    def work(name: str) -> None:
        signal.raise_signal(signal.SIGINT)
        steps.append(name)

    with pytest.raises(KeyboardInterrupt):
        lowlevel.undisturbed(work, "done")
    assert steps == ["done"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_within_other_work_it_waits_for_all_of_it() -> None:
    steps: list[str] = []

    def inner() -> None:
        signal.raise_signal(signal.SIGINT)
        steps.append("inner")

    def outer() -> None:
        lowlevel.undisturbed(inner)
        steps.append("outer")

    with pytest.raises(KeyboardInterrupt):
        lowlevel.undisturbed(outer)
    assert steps == ["inner", "outer"]
    assert lowlevel.undisturbed(lambda: 5) == 5


def test_a_failure_of_the_work_is_behind_the_ctrl_c() -> None:
    def work() -> None:
        signal.raise_signal(signal.SIGINT)
        raise ValueError("on purpose")

    with pytest.raises(KeyboardInterrupt) as caught:
        lowlevel.undisturbed(work)
    assert isinstance(caught.value.__context__, ValueError)
    with pytest.raises(ValueError, match="quietly"):
        lowlevel.undisturbed(lambda: (_ for _ in ()).throw(ValueError("quietly")).send(None))


def test_a_handler_of_the_program_is_called_once_and_afterwards() -> None:
    steps: list[object] = []

    def work() -> str:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        steps.append("done")
        return "result"

    with handled(signal.SIGINT, lambda number, frame: steps.append((number, frame is not None))):
        assert lowlevel.undisturbed(work) == "result"
        assert steps == ["done", (signal.SIGINT, True)]
        signal.raise_signal(signal.SIGINT)
        assert len(steps) == 3


def test_an_ignored_signal_stays_ignored() -> None:
    def work() -> object:
        signal.raise_signal(signal.SIGINT)
        return signal.getsignal(signal.SIGINT)

    with handled(signal.SIGINT, signal.SIG_IGN):
        assert lowlevel.undisturbed(work) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_work_on_another_thread_puts_nothing_off() -> None:
    inside, release = threading.Event(), threading.Event()

    def work() -> None:
        inside.set()
        release.wait(10)

    thread = threading.Thread(target=lowlevel.undisturbed, args=(work,))
    thread.start()
    try:
        assert inside.wait(10)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert not release.is_set()
    finally:
        release.set()
        thread.join()


def test_a_wait_is_not_put_off(client: Sample) -> None:
    """A signal that comes while the thread waits for a reply ends the wait, and the call lives."""
    one = Recorder[int]()
    client.hold.begin(one.handle)
    main = threading.main_thread().ident
    assert main is not None
    thread = threading.Thread(target=signal.pthread_kill, args=(main, signal.SIGINT))

    def wait() -> None:
        thread.start()
        while True:
            apc.sleep_ex(CEILING, alertable=True)

    with pytest.raises(KeyboardInterrupt):
        wait()
    thread.join()
    assert one.handle.get_call_status() == Status.RPC_S_ASYNC_CALL_PENDING
    one.handle.cancel_call(abort=True)
    one.wait()


# ------------------------------------------------------------------------------------------------ the life of a runtime

PROGRAM = """
import sys, time
import apcrt
from apcrt import apc

def runtime():
    with apcrt.Runtime():
        pass

def server():
    with apcrt.Runtime() as runtime, runtime.server() as server:
        server.start("ncacn_ip_tcp:[0]")

def threads():
    with apc.open_apc_threads() as threads:
        for _ in range(2):
            threads.start(lambda: apc.sleep_ex(0.001, alertable=True))

life = {"runtime": runtime, "server": server, "threads": threads}[sys.argv[1]]
end = time.monotonic() + 3
try:
    print("ready", flush=True)
    while time.monotonic() < end:  # Python itself may swallow an interrupt, in a destructor
        life()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.feature("LIFE-02")
@pytest.mark.parametrize("life", ["runtime", "server", "threads"])
@pytest.mark.parametrize("seed", [1, 2])
def test_ctrl_c_at_any_moment_of_a_life_lets_the_process_end(life: str, seed: int) -> None:
    """What it leaves open it may complain of; but it ends. The moments are in the hands of the system as well."""
    moments = random.Random(seed)
    with contextlib.ExitStack() as stack:
        processes = []
        for _ in range(3):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, life],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                    env={"PYTHONPATH": f"{ROOT}:{ROOT / 'transports'}"},
                )
            )
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(moments.uniform(0, 0.02))
            process.send_signal(signal.SIGINT)
        for process in processes:
            _, complaints = process.communicate(timeout=20)
            assert process.returncode in (0, 130), complaints
            assert "Traceback" not in complaints or "Exception ignored" in complaints, complaints

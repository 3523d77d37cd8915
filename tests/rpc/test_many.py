"""Many calls on many threads: the right thread, nothing lost, nothing twice, in order; and threads with other loops."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import trio

import apcrt
from apcrt import AsyncEvent, AsyncFlags, Status, apc, notify, testing
from tests.rpc.helpers import Recorder, alertable_until, alertable_until_async
from tests.rpc.sample import Async, Mixed, Plain, Sample, pattern

CC, SC, RC = AsyncEvent.CALL_COMPLETE, AsyncEvent.SEND_COMPLETE, AsyncEvent.RECEIVE_COMPLETE
THREADS = 8
COMPLETIONS = 10_400
AT_ONCE = 20  # calls a thread has outstanding


class Issuer:
    """One thread's calls: issues them in order, and writes down what comes back, and where.

    Every fifth call is an upload or a download; the others have no pipes, and keep their order.
    """

    def __init__(self, client: Sample, number: int, calls: int) -> None:
        self.client, self.number, self.calls = client, number, calls
        self.thread = apc.current_thread()
        self.issued = 0
        self.finished: list[int] = []
        self.finished_pipes: list[int] = []
        self.completions = 0
        self.wrong: list[str] = []
        self.outstanding: set[int] = set()

    @property
    def done(self) -> bool:
        return len(self.finished) + len(self.finished_pipes) >= self.calls

    def more(self) -> None:
        """Keep so many calls outstanding."""
        while self.issued < self.calls and len(self.outstanding) < AT_ONCE:
            serial = self.issued
            self.issued += 1
            self.outstanding.add(serial)
            if serial % 10 == 4:
                self.upload(serial)
            elif serial % 10 == 9:
                self.download(serial)
            else:
                handle = apcrt.AsyncHandle[int](notification=notify.Apc(self.on_add), user_info=serial)
                self.client.add.begin(handle, self.number, serial)

    def here(self, what: str, serial: int) -> None:
        """A completion is being run: is this the thread?"""
        self.completions += 1
        if apc.current_thread() is not self.thread:
            self.wrong.append(f"{what} {serial} on {apc.current_thread()}")

    def ended(self, serial: int) -> None:
        if serial not in self.outstanding:
            self.wrong.append(f"call {serial} ended twice")
        self.outstanding.discard(serial)

    def on_add(self, handle: apcrt.AsyncHandle[int], event: AsyncEvent) -> None:
        serial = handle.user_info
        assert isinstance(serial, int)
        self.here("call", serial)
        if event is not CC:
            self.wrong.append(f"call {serial}: {event}")
        if handle.complete_call() != self.number + serial:
            self.wrong.append(f"call {serial}: somebody else's reply")
        self.ended(serial)
        self.finished.append(serial)
        self.more()

    def upload(self, serial: int) -> None:
        pipe: apcrt.InPipe[int] = apcrt.InPipe()
        content = pattern(2000, serial)
        pushed = 0

        def on_event(handle: apcrt.AsyncHandle[int], event: AsyncEvent) -> None:
            nonlocal pushed
            self.here("upload", serial)
            if event is SC:
                if pushed < len(content):
                    pipe.push(content[pushed : pushed + 1000])
                    pushed += 1000
                else:
                    handle.flags = AsyncFlags.NONE
                    pipe.push(b"")
            else:
                if event is not CC or handle.complete_call() != len(content):
                    self.wrong.append(f"upload {serial}: {event}")
                self.ended(serial)
                self.finished_pipes.append(serial)
                self.more()

        handle = apcrt.AsyncHandle[int](notification=notify.Apc(on_event), flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
        self.client.write.begin(handle, f"{self.number}-{serial}", pipe)

    def download(self, serial: int) -> None:
        pipe: apcrt.OutPipe[int] = apcrt.OutPipe()
        received = bytearray()
        buffer = bytearray(700)

        def pull() -> None:
            while True:
                status, count = pipe.pull(buffer)
                if status is Status.RPC_S_ASYNC_CALL_PENDING or not count:
                    return
                received.extend(buffer[:count])

        def on_event(handle: apcrt.AsyncHandle[int], event: AsyncEvent) -> None:
            self.here("download", serial)
            if event is RC:
                pull()
            else:
                if event is not CC or handle.complete_call() != 2000 or received != pattern(2000):
                    self.wrong.append(f"download {serial}: {event}")
                self.ended(serial)
                self.finished_pipes.append(serial)
                self.more()

        handle = apcrt.AsyncHandle[int](notification=notify.Apc(on_event))
        self.client.read.begin(handle, 2000, 600, pipe)
        pull()


def check(issuer: Issuer) -> None:
    assert issuer.wrong == []
    assert issuer.outstanding == set()
    plain = [serial for serial in range(issuer.calls) if serial % 10 not in (4, 9)]
    assert issuer.finished == plain  # in the order in which they were begun
    assert sorted(issuer.finished_pipes) == [serial for serial in range(issuer.calls) if serial % 10 in (4, 9)]


@pytest.fixture(params=[Plain, Async])
def client(request: pytest.FixtureRequest) -> Iterator[Sample]:
    with testing.in_process(Sample, request.param()) as sample:
        yield sample


@pytest.mark.feature("CALL-01", "CALL-07", "NOTE-03", "ORD-02", "LIFE-01")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("face", ["plain", "trio", "mixed"])
def test_ten_thousand_completions_on_eight_threads(client: Sample, face: str) -> None:
    issuers: list[Issuer] = []

    def plain(number: int) -> None:
        issuer = Issuer(client, number, calls)
        issuers.append(issuer)
        issuer.more()
        alertable_until(lambda: issuer.done, 100)

    async def on_trio(number: int) -> None:
        issuer = Issuer(client, number, calls)
        issuers.append(issuer)
        issuer.more()
        with trio.fail_after(100):
            await alertable_until_async(lambda: issuer.done)

    # An upload has four completions, a download two or more, any other call one: at least 14 for 10 calls.
    calls = COMPLETIONS // THREADS * 10 // 14
    with apc.open_apc_threads() as threads:
        for number in range(THREADS):
            if face == "plain" or (face == "mixed" and number % 2):
                threads.start(plain, number)
            else:
                threads.start(on_trio, number)
    assert len({issuer.thread for issuer in issuers}) == THREADS
    for issuer in issuers:
        check(issuer)
    assert sum(issuer.completions for issuer in issuers) >= 10_000
    assert client.binding.running == 0


@pytest.mark.feature("ORD-01")
def test_calls_of_one_thread_are_dispatched_in_order() -> None:
    """Submission order is dispatch order, for calls without pipes of one thread; several threads at once."""
    seen: dict[int, list[int]] = {}
    lock = threading.Lock()

    class Ordered(Plain):
        @Sample.mixed.manager
        def mixed(self, call: apcrt.ServerHandle[Mixed], a: int, b: int) -> Mixed:
            with lock:
                seen.setdefault(a, []).append(b)
            return Mixed(0, 0)

    def issue(client: Sample, number: int) -> None:
        handles = [Recorder[Mixed]() for _ in range(200)]
        for serial, one in enumerate(handles):
            client.mixed.begin(one.handle, number, serial)
        alertable_until(lambda: all(one.done for one in handles))
        for one in handles:
            assert one.handle.complete_call() == Mixed(0, 0)

    with testing.in_process(Sample, Ordered()) as client:
        with apc.open_apc_threads() as threads:
            for number in range(4):
                threads.start(issue, client, number)
    assert seen == {number: list(range(200)) for number in range(4)}


@pytest.mark.feature("ORD-01", "ORD-04")
def test_blocking_calls_keep_their_place_behind_asynchronous_ones() -> None:
    seen: list[int] = []

    class Ordered(Plain):
        @Sample.mixed.manager
        def mixed(self, call: apcrt.ServerHandle[Mixed], a: int, b: int) -> Mixed:
            seen.append(b)
            return Mixed(0, 0)

    with testing.in_process(Sample, Ordered()) as client:
        ones = [Recorder[Mixed]() for _ in range(10)]
        for serial, one in enumerate(ones):
            client.mixed.begin(one.handle, 0, 2 * serial)
            if serial % 3 == 2:
                client.mixed(0, 2 * serial + 1)
        alertable_until(lambda: all(one.done for one in ones))
    assert seen == sorted(seen)
    assert len(seen) == 13


@pytest.mark.feature("ORD-03")
def test_a_noncausal_binding_does_not_serialise() -> None:
    manager = Plain()
    with apcrt.Runtime() as runtime, runtime.server() as server:
        server.register(Sample, manager)
        client = Sample(runtime.binding(server.start("ncacn_ip_tcp:[0]")[0], noncausal=True))
        held, one = Recorder[int](), Recorder[int]()
        client.hold.begin(held.handle)
        assert manager.inside.wait(10)
        client.add.begin(one.handle, 1, 2)
        one.wait()
        assert one.handle.complete_call() == 3
        assert not held.done
        manager.held[0].complete_call(0)
        held.wait()


@pytest.mark.feature("ORD-02")
def test_calls_of_several_threads_run_at_the_same_time() -> None:
    """All of them have to be inside before any may return."""
    barrier = threading.Barrier(6, timeout=10)

    class Meeting(Plain):
        @Sample.add.manager
        def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
            barrier.wait()
            return x

    with apcrt.Runtime() as runtime, runtime.server(dispatch_threads=6) as server:
        server.register(Sample, Meeting())
        client = Sample(runtime.binding(server.start("ncacn_ip_tcp:[0]")[0]))
        replies: queue.SimpleQueue[int] = queue.SimpleQueue()
        with apc.open_apc_threads() as threads:
            for number in range(6):
                threads.start(lambda number=number: replies.put(client.add(number, 0)))  # type: ignore[misc]
        assert sorted(replies.get(timeout=10) for _ in range(6)) == list(range(6))


# --------------------------------------------------------------------------------------------------------- other loops


class ForeignLoop:
    """A loop that knows nothing of apcrt, as a graphical toolkit's: it runs what is posted, and may never block."""

    def __init__(self) -> None:
        self._posted: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.rounds = 0

    def post(self, function: Callable[[], object]) -> None:
        self._posted.put(function)

    def run_until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            self._posted.get(timeout=max(0.01, deadline - time.monotonic()))()
            self.rounds += 1


@pytest.fixture
def loop() -> Iterator[ForeignLoop]:
    foreign = ForeignLoop()
    apc.current_thread().set_wakeup(lambda: foreign.post(apc.test_alert))
    yield foreign
    apc.current_thread().set_wakeup(None)


@pytest.mark.feature("NOTE-03", "CALL-01", "APC-20")
def test_calls_of_a_thread_with_a_foreign_loop(client: Sample, loop: ForeignLoop) -> None:
    """It never waits alertably; completions come by what is posted to it, on its own thread."""
    issuer = Issuer(client, 3, 300)
    loop.post(issuer.more)
    loop.run_until(lambda: issuer.done)
    check(issuer)
    assert issuer.completions >= 400


@pytest.mark.feature("PIPE-13", "NOTE-10")
def test_streams_of_a_thread_with_a_foreign_loop(client: Sample, loop: ForeignLoop) -> None:
    """Several megabytes each way, with the window filled and refused pushes repeated after send-complete."""
    content = pattern(6 << 20)
    up: apcrt.InPipe[int] = apcrt.InPipe()
    sent = 0
    one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)

    def on_event(handle: apcrt.AsyncHandle[int], event: AsyncEvent) -> None:
        nonlocal sent
        one.on_event(handle, event)
        try:
            while event is SC and handle.flags:
                if sent == len(content):
                    handle.flags = AsyncFlags.NONE
                    up.push(b"")
                else:
                    up.push(content[sent : sent + (256 << 10)])
                    sent += 256 << 10
        except apcrt.SendWindowFull:
            return

    one.handle.notification = notify.Apc(on_event)
    client.write.begin(one.handle, "f", up)
    loop.run_until(lambda: one.done)
    assert one.handle.complete_call() == len(content)
    assert set(one.threads) == {apc.current_thread()}

    down: apcrt.OutPipe[int] = apcrt.OutPipe()
    two = Recorder[int]()
    received = bytearray()
    buffer = bytearray(100_000)

    def on_data(handle: apcrt.AsyncHandle[int], event: AsyncEvent) -> None:
        two.on_event(handle, event)
        while event is RC:
            status, count = down.pull(buffer)
            if status is Status.RPC_S_ASYNC_CALL_PENDING or not count:
                return
            received.extend(buffer[:count])

    two.handle.notification = notify.Apc(on_data)
    client.read.begin(two.handle, 6 << 20, 1 << 16, down)
    loop.post(lambda: on_data(two.handle, RC) if not two.events else None)
    two.handle.event = RC
    loop.run_until(lambda: two.done)
    assert two.handle.complete_call() == 6 << 20
    assert received == content


@pytest.mark.feature("NOTE-03")
def test_a_wakeup_set_while_calls_are_outstanding(client: Sample) -> None:
    """The loop takes over, and hands back: no completion is lost on the way."""
    manager_calls = [Recorder[int]() for _ in range(6)]
    pipes: list[apcrt.InPipe[int]] = [apcrt.InPipe() for _ in manager_calls]
    for one, pipe in zip(manager_calls, pipes, strict=True):
        client.write.begin(one.handle, "f", pipe)
    foreign = ForeignLoop()
    apc.current_thread().set_wakeup(lambda: foreign.post(apc.test_alert))
    try:
        for pipe in pipes[:3]:
            pipe.push(b"abc")
            pipe.push(b"")
        foreign.run_until(lambda: all(one.done for one in manager_calls[:3]))
    finally:
        apc.current_thread().set_wakeup(None)
    for pipe in pipes[3:]:
        pipe.push(b"abc")
        pipe.push(b"")
    alertable_until(lambda: all(one.done for one in manager_calls))
    assert [one.handle.complete_call() for one in manager_calls] == [3] * 6


@pytest.mark.feature("NOTE-03", "CALL-01")
def test_asyncio(client: Sample) -> None:
    """As the documentation has it: the wake-up posts `test_alert` to the loop."""

    async def main() -> Issuer:
        running = asyncio.get_running_loop()
        apc.current_thread().set_wakeup(lambda: running.call_soon_threadsafe(apc.test_alert))
        try:
            issuer = Issuer(client, 5, 200)
            finished = running.create_future()

            def look() -> None:
                if issuer.done:
                    finished.set_result(None)
                else:
                    running.call_later(0.002, look)

            issuer.more()
            look()
            await asyncio.wait_for(finished, 10)
            return issuer
        finally:
            apc.current_thread().set_wakeup(None)

    check(asyncio.run(main()))

"""Flow: the send window, gathering, capacity, and what a peer costs that stops reading or writing."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

import apcrt
from apcrt import AsyncEvent, AsyncFlags, Status, apc, notify, testing, wire
from tests.rpc.helpers import FakeServer, RawPeer, Recorder, alertable_until, client_of, nothing_comes, status_of
from tests.rpc.sample import Plain, Sample, pattern
from tests.rpc.server_process import Child

CC, SC, RC = AsyncEvent.CALL_COMPLETE, AsyncEvent.SEND_COMPLETE, AsyncEvent.RECEIVE_COMPLETE
PENDING = Status.RPC_S_ASYNC_CALL_PENDING
WINDOW = 1 << 20


class Stalled:
    """A server that takes a request's beginning and then reads nothing until it is told to; then it takes the rest.

    `received` is the upload's stub after the end, its name and chunk heads included.
    """

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.ended = threading.Event()
        self.received = bytearray()

    def script(self, peer: RawPeer) -> None:
        peer.until(wire.RequestStarted)
        self.begun.set()
        assert self.go_on.wait(15)
        while True:
            event = peer.event()
            if event is None:
                return
            if isinstance(event, wire.RequestData):
                self.received += event.data
            elif isinstance(event, wire.RequestEnd):
                break
        self.ended.set()
        peer.respond(len(self.received).to_bytes(8, "little"))
        peer.until_closed()


@pytest.fixture
def stalled() -> Iterator[tuple[Stalled, FakeServer]]:
    state = Stalled()
    with FakeServer(state.script) as server:
        yield state, server
        state.go_on.set()


def fill(up: apcrt.InPipe[int], size: int = 64 << 10) -> int:
    """Push until a push is refused; gives how many were taken."""
    for number in range(100_000):
        try:
            up.push(bytes([number & 255]) * size)
        except apcrt.SendWindowFull:
            return number
    raise AssertionError("nothing was refused")


# ----------------------------------------------------------------------------------------------------------- the window


@pytest.mark.feature("PIPE-13", "NOTE-10")
def test_a_refused_push_took_nothing_and_a_send_complete_follows(stalled: tuple[Stalled, FakeServer]) -> None:
    state, server = stalled
    with client_of(server.binding) as client:
        one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
        up: apcrt.InPipe[int] = apcrt.InPipe()
        client.write.begin(one.handle, "f", up)
        one.wait_for(SC)
        taken = fill(up)
        assert status_of(lambda: up.push(bytes(64 << 10))) == 1913  # and again
        one.events.clear()
        apc.sleep_ex(0.02, alertable=True)
        before = one.count(SC)
        state.go_on.set()
        alertable_until(lambda: one.count(SC) > before)
        up.push(b"\xaa" * (64 << 10))  # now it is taken: send-complete promises room
        one.handle.flags = AsyncFlags.NONE
        up.push(b"")
        one.wait()
        size = one.handle.complete_call()
        assert size == len(state.received)
        # Each chunk has a count in front, the stub begins with the name, and the end is a count of 0.
        assert size - (taken + 1) * (64 << 10) < 16 * (taken + 8)
        payload = b"".join(bytes([number & 255]) * (64 << 10) for number in range(3))
        for number in range(3):
            assert payload[number << 16 : (number + 1) << 16] in state.received
        assert b"\xaa" * (64 << 10) in state.received


@pytest.mark.feature("PIPE-13")
@pytest.mark.parametrize("window", [1, 1000, 100_000])
def test_what_waits_is_bounded_by_the_window_and_one_push(stalled: tuple[Stalled, FakeServer], window: int) -> None:
    """After a refusal nothing but what was taken is in memory; a small push that still fits is taken."""
    _, server = stalled
    with client_of(server.binding, send_window=window) as client:
        one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
        up: apcrt.InPipe[int] = apcrt.InPipe()
        client.write.begin(one.handle, "f", up)
        one.wait_for(SC)
        fill(up, 64 << 10)
        assert 100 * fill(up, 100) <= 2 * window  # a little may have gone to the kernel meanwhile
        assert fill(up, 1 << 20) == 0
        one.handle.cancel_call(abort=True)
        one.wait()
        assert status_of(one.handle.complete_call) == 1818


@pytest.mark.feature("PIPE-13")
@pytest.mark.parametrize("size", [WINDOW + 1, 5 * WINDOW, 40 * WINDOW])
def test_a_push_with_nothing_outstanding_is_always_taken(stalled: tuple[Stalled, FakeServer], size: int) -> None:
    state, server = stalled
    with client_of(server.binding) as client:
        one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
        up: apcrt.InPipe[int] = apcrt.InPipe()
        client.write.begin(one.handle, "f", up)
        one.wait_for(SC)
        content = pattern(size)
        up.push(content)
        if size == 40 * WINDOW:  # more than any socket takes at once
            assert status_of(lambda: up.push(b"x")) == 1913
        state.go_on.set()
        one.wait_for(SC, 2)
        up.push(content)
        one.handle.flags = AsyncFlags.NONE
        one.wait_for(SC, 3)
        up.push(b"")
        one.wait()
        assert one.handle.complete_call() == len(state.received)
        assert state.received.count(content) == 2


@pytest.mark.feature("PIPE-13")
def test_the_first_push_before_there_is_a_connection_is_taken_too() -> None:
    """AMB-08: whether the request has left already makes no difference to what is taken."""

    def script(peer: RawPeer) -> None:
        peer.hold_replies = True
        peer.until(wire.ReplyReady)
        bound.set()
        peer.until_closed()

    bound = threading.Event()
    with FakeServer(script) as server, client_of(server.binding, send_window=100_000) as client:
        one = Recorder[int]()
        up: apcrt.InPipe[int] = apcrt.InPipe()
        client.write.begin(one.handle, "f", up)
        assert bound.wait(10)
        up.push(bytes(200_000))
        assert status_of(lambda: up.push(b"x")) == 1913
        one.handle.cancel_call(abort=True)
        one.wait()
        assert status_of(one.handle.complete_call) == 1818


@pytest.mark.feature("PIPE-13")
def test_a_window_smaller_than_what_is_gathered_does_not_stop_the_stream() -> None:
    """The refused push waits for bytes in the open fragment: they leave, and send-complete comes."""
    manager = Plain()
    with apcrt.Runtime() as runtime, runtime.server() as server:
        server.register(Sample, manager)
        client = Sample(runtime.binding(server.start("ncacn_ip_tcp:[0]")[0], send_window=1000))
        one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
        up: apcrt.InPipe[int] = apcrt.InPipe()
        client.write.begin(one.handle, "f", up)
        one.wait_for(SC)
        content = pattern(50_000)
        position = refusals = 0
        while position < len(content):
            try:
                up.push(content[position : position + 700])
                position += 700
            except apcrt.SendWindowFull:
                refusals += 1
                one.wait_next()
        assert refusals
        up.push(b"")
        one.wait()
        assert one.handle.complete_call() == 50_000
        assert manager.written["f"] == content
        up = apcrt.InPipe()
        with client.write.open("g", up):
            for first in range(0, 50_000, 700):
                up.write(content[first : first + 700])
            up.write_eof()
        assert manager.written["g"] == content


@pytest.mark.feature("PIPE-14")
def test_without_a_window_everything_is_taken(stalled: tuple[Stalled, FakeServer]) -> None:
    """`send_window=None`: Windows' unbounded buffering, in order."""
    state, server = stalled
    with client_of(server.binding, send_window=None) as client:
        one = Recorder[int]()
        up: apcrt.InPipe[int] = apcrt.InPipe()
        client.write.begin(one.handle, "f", up)
        assert state.begun.wait(10)
        for number in range(400):
            up.push(bytes([number & 255]) * 100_000)
        up.push(b"")
        nothing_comes(one)
        state.go_on.set()
        one.wait()
        assert one.handle.complete_call() == len(state.received)
        position = 0
        for number in range(400):
            position = state.received.find(bytes([number & 255]) * 100_000, position)
            assert position >= 0, number
            position += 100_000


@pytest.mark.feature("PIPE-14")
def test_pushes_without_waiting_arrive_in_order() -> None:
    """Small and large ones mixed, gathered and not: the content is exact."""
    chance = random.Random(7)
    manager = Plain()
    with testing.in_process(Sample, manager) as client:
        for _ in range(5):
            sizes = [chance.choice([1, 7, 100, 5000, 16 << 10, 70_000]) for _ in range(60)]
            content = pattern(sum(sizes))
            up: apcrt.InPipe[int] = apcrt.InPipe()
            one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
            client.write.begin(one.handle, "f", up)
            position = 0
            for size in sizes:
                while True:
                    try:
                        up.push(content[position : position + size])
                        break
                    except apcrt.SendWindowFull:
                        one.wait_next()
                position += size
            up.push(b"")
            one.wait()
            assert one.handle.complete_call() == len(content)
            assert manager.written["f"] == content


@pytest.mark.feature("PIPE-13", "PIPE-14")
async def test_the_server_pushes_against_a_window_too() -> None:
    """A manager's refused push takes nothing either, and its send-complete comes on its worker."""
    refused = threading.Event()
    results: list[int] = []

    async with apc.open_apc_threads() as threads:
        worker = threads.start(_alertable_for_ever)

        class Flooding(Plain):
            @Sample.read.manager
            def read(
                self, call: apcrt.ServerHandle[int], size: int, piece: int, data: apcrt.OutPipe[int]
            ) -> int | apcrt.Pending:
                worker.queue_user_apc(begin, call, size, piece, data)
                return apcrt.PENDING

        def begin(call: apcrt.ServerHandle[int], size: int, piece: int, data: apcrt.OutPipe[int]) -> None:
            content = pattern(size)
            position = 0
            over = False

            def on_event(call: apcrt.ServerHandle[int], _event: AsyncEvent | None) -> None:
                nonlocal position, over
                try:
                    while position < size:
                        data.push(content[position : position + piece])
                        position += piece
                    if not over:
                        over = True
                        call.flags = AsyncFlags.NONE
                        data.push(b"")
                        call.complete_call(position)
                except apcrt.SendWindowFull as full:
                    results.append(full.status)
                    refused.set()

            call.notification = notify.Apc(on_event, thread=worker)
            call.flags = AsyncFlags.NOTIFY_ON_SEND_COMPLETE
            on_event(call, None)

        async with testing.in_process(Sample, Flooding()) as client:
            with trio.fail_after(15):
                down: apcrt.OutPipe[int] = apcrt.OutPipe()
                received = bytearray()
                async with client.read.open(16 << 20, 1 << 16, down) as call:
                    assert await trio.to_thread.run_sync(refused.wait, 10)
                    async for chunk in down:
                        received += chunk
                assert call.reply == 16 << 20
                assert received == pattern(16 << 20)
        assert set(results) == {1913}
        threads.cancel()


def _alertable_for_ever() -> None:
    while True:
        apc.sleep_ex(None, alertable=True)


# ----------------------------------------------------------------------------------------------------------- buffers


@pytest.mark.feature("PIPE-08")
@pytest.mark.parametrize("size", [10, 5000, 16 << 10, 70_000, 3 << 20])
def test_the_buffer_is_the_callers_again_when_push_returns(stalled: tuple[Stalled, FakeServer], size: int) -> None:
    """Overwritten right after the push, while the peer has read nothing: what arrives is what was pushed."""
    state, server = stalled
    with client_of(server.binding, send_window=None) as client:
        one = Recorder[int]()
        up: apcrt.InPipe[int] = apcrt.InPipe()
        client.write.begin(one.handle, "f", up)
        assert state.begun.wait(10)
        buffer = bytearray(size)
        for number in range(1, 9):
            buffer[:] = bytes([number]) * size
            up.push(buffer)
            buffer[:] = b"\xff" * size
        buffer.clear()  # no view of it is left either
        up.push(b"")
        state.go_on.set()
        one.wait()
        assert one.handle.complete_call() == len(state.received)
        assert state.received.count(b"\xff" * 4) == 0
        for number in range(1, 9):
            assert bytes([number]) * size in state.received


@pytest.mark.feature("PIPE-07", "PIPE-01")
def test_a_pull_never_delivers_more_than_there_is_room_for() -> None:
    """And writes nothing behind what it says."""
    chance = random.Random(3)
    with testing.in_process(Sample, Plain()) as client:
        down: apcrt.OutPipe[int] = apcrt.OutPipe()
        received = bytearray()
        with client.read.open(500_000, 777, down) as call:
            while True:
                room = chance.choice([1, 2, 3, 100, 776, 777, 778, 8000, 70_000])
                memory = bytearray(b"\xee" * (room + 16))
                count = down.read_into(memoryview(memory)[8 : 8 + room])
                assert 0 <= count <= room
                assert memory[:8] == b"\xee" * 8
                assert memory[8 + count :] == b"\xee" * (len(memory) - 8 - count)
                if not count:
                    break
                received += memory[8 : 8 + count]
        assert call.reply == 500_000
        assert received == pattern(500_000)


@pytest.mark.feature("PIPE-07")
def test_pulled_elements_do_not_depend_on_how_they_were_pushed() -> None:
    with testing.in_process(Sample, Plain()) as client:
        for piece in (1, 1000, 65536):
            down: apcrt.OutPipe[int] = apcrt.OutPipe()
            received = bytearray()
            with client.read.open(30_000, piece, down):
                while count := down.read_into(buffer := bytearray(4096)):
                    received += buffer[:count]
            assert received == pattern(30_000)


# -------------------------------------------------------------------------------------------------------- send-complete


@pytest.mark.feature("NOTE-10")
def test_overlapping_pushes_may_share_a_send_complete(stalled: tuple[Stalled, FakeServer]) -> None:
    """Never more than one for a push, at least one after the last, and none before the data has left."""
    state, server = stalled
    with client_of(server.binding, send_window=None) as client:
        one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
        up: apcrt.InPipe[int] = apcrt.InPipe()
        client.write.begin(one.handle, "f", up)
        one.wait_for(SC)
        one.events.clear()
        for _ in range(4):
            up.push(bytes(20 << 20))  # the first one does not even leave as a whole
        nothing_comes(one)
        state.go_on.set()
        one.wait_next()
        apc.sleep_ex(0.02, alertable=True)
        assert 1 <= one.count(SC) <= 4
        one.handle.flags = AsyncFlags.NONE
        up.push(b"")
        one.wait()
        assert one.handle.complete_call() == len(state.received)


@pytest.mark.feature("NOTE-10")
@pytest.mark.parametrize("size", [1, 100, 20_000, 100_000, 3_000_000])
def test_serialised_pushes_have_one_send_complete_each(size: int) -> None:
    with testing.in_process(Sample, Plain()) as client:
        one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
        up: apcrt.InPipe[int] = apcrt.InPipe()
        client.write.begin(one.handle, "f", up)
        for number in range(10):
            one.wait_for(SC, number + 1)
            assert one.events == [SC] * (number + 1)
            up.push(bytes(size))
        one.wait_for(SC, 11)
        nothing_comes(one)
        one.handle.flags = AsyncFlags.NONE
        up.push(b"")
        one.wait()
        assert one.events == [SC] * 11 + [CC]
        assert one.handle.complete_call() == 10 * size


@pytest.mark.feature("PIPE-15")
def test_the_null_push_has_a_send_complete_unless_the_flag_is_cleared() -> None:
    with testing.in_process(Sample, Plain()) as client:
        for flag, expected in ((AsyncFlags.NONE, 1), (AsyncFlags.NOTIFY_ON_SEND_COMPLETE, 2)):
            one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
            up: apcrt.InPipe[int] = apcrt.InPipe()
            client.write.begin(one.handle, "f", up)
            one.wait_for(SC)
            one.handle.flags = flag
            up.push(b"")
            one.wait()
            assert one.count(SC) == expected
            assert one.handle.complete_call() == 0


@pytest.mark.feature("NOTE-10")
def test_what_was_gathered_leaves_by_itself() -> None:
    """A thread that pushes a little and then never waits: the data arrives all the same, shortly after."""
    arrived = threading.Event()

    def script(peer: RawPeer) -> None:
        peer.until_data(1)
        peer.until_data(5)
        arrived.set()
        peer.until_closed()

    with FakeServer(script) as server, client_of(server.binding) as client:
        one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
        up: apcrt.InPipe[int] = apcrt.InPipe()
        client.write.begin(one.handle, "f", up)
        one.wait_for(SC)
        up.push(b"hello, this has more than the seven bytes that a fragment may keep")
        assert arrived.wait(10)  # this thread is in no wait of ours
        one.handle.cancel_call(abort=True)
        one.wait()


# --------------------------------------------------------------------------------- what a peer costs that stands still

#: Sockets, both of them in the kernel, are no memory of ours; a runtime's own buffers and the interpreter's are.
ALLOWED = 2 * WINDOW + (4 << 20)
IDLE = 0.02  # seconds of the processor in one second of standing still: the loops' own time-outs, and no more


def measured(what: str, binding: str) -> dict[str, float]:
    with Child("tests.rpc.flow_process", what, binding) as child:
        found: dict[str, float] = json.loads(child.line())
        return found


@pytest.mark.feature("PIPE-13")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", ["push_by_events", "push_and_be_away", "write", "send"])
def test_a_peer_that_stops_pulling_costs_the_sender_a_window(what: str) -> None:
    """512 MiB are offered in pushes of 64 KiB. Memory is bounded, and standing still costs no processor."""
    go_on = threading.Event()

    def script(peer: RawPeer) -> None:
        while True:  # answer every other call, and stall in the upload
            event = peer.event()
            if event is None:
                return
            if isinstance(event, wire.RequestStarted) and Sample.operations[event.opnum].name == "write":
                go_on.wait(40)
                return
            if isinstance(event, wire.RequestEnd):
                peer.respond(bytes(8))

    with FakeServer(script) as stalling:
        found = measured(what, stalling.binding)
        go_on.set()
    assert found["growth"] < ALLOWED, found
    assert found["seconds"] < IDLE, found
    if what == "push_by_events":
        assert found["taken"] < 64 << 20, found
        assert found["refused"], found
        assert found["events"] <= 2, found


@pytest.mark.feature("PIPE-13")
@pytest.mark.timeout(60)
def test_a_client_that_pulls_slowly_costs_itself_little(tmp_path: Path) -> None:
    with Child("tests.rpc.server_process", f"ncacn_unix_stream:[{tmp_path}/s]") as server:
        found = measured("pull_slowly", server.line())
    assert found["growth"] < ALLOWED, found
    assert found["seconds"] < IDLE, found


@pytest.mark.feature("PIPE-13")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_manager_that_pulls_slowly_costs_the_server_little(kind: str, tmp_path: Path) -> None:
    endpoint = "ncacn_ip_tcp:[0]" if kind == "tcp" else f"ncacn_unix_stream:[{tmp_path}/s]"
    with Child("tests.rpc.flow_process", "serve", endpoint) as child, client_of(child.line()) as client:
        up: apcrt.InPipe[int] = apcrt.InPipe()
        one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
        client.write.begin(one.handle, "f", up)
        one.wait_for(SC)
        offered = fill(up) * (64 << 10)
        found: dict[str, float] = json.loads(child.line())
        assert offered > 0
        one.handle.cancel_call(abort=True)
        one.wait()
    assert found["growth"] < ALLOWED, found
    assert found["seconds"] < IDLE, found

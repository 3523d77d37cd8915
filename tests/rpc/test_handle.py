"""Async handles: life, status, completion, and the kinds of notification with their order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import trio

import apcrt
from apcrt import AsyncEvent, AsyncFlags, Status, apc, notify, testing, wire
from tests.rpc.helpers import (
    FakeServer,
    RawPeer,
    Recorder,
    alertable_until,
    alertable_until_async,
    client_of,
    nothing_comes,
    status_of,
)
from tests.rpc.sample import Mixed, Plain, Sample, pattern

CC, SC, RC = AsyncEvent.CALL_COMPLETE, AsyncEvent.SEND_COMPLETE, AsyncEvent.RECEIVE_COMPLETE
PENDING = Status.RPC_S_ASYNC_CALL_PENDING
FREE = Status.RPC_S_INVALID_ASYNC_HANDLE


@pytest.fixture
def manager() -> Plain:
    return Plain()


@pytest.fixture
def client(manager: Plain) -> Iterator[Sample]:
    with testing.in_process(Sample, manager) as sample:
        yield sample


def poll_until_final(handle: apcrt.AsyncHandle[int]) -> int:
    """Poll, as a program without notifications does, giving the processor away between two looks."""
    for _ in range(100_000):
        status = handle.get_call_status()
        if status != PENDING:
            return status
        apc.sleep_ex(0.001)
    raise AssertionError("the call never ended")


# ----------------------------------------------------------------------------------------------------------------- life


@pytest.mark.feature("CALL-02", "CALL-05", "CALL-06")
def test_a_handle_without_a_call() -> None:
    """AMB-11: 1914."""
    handle = apcrt.AsyncHandle[int]()
    assert handle.get_call_status() == FREE
    assert status_of(handle.complete_call) == FREE
    assert status_of(lambda: handle.cancel_call(abort=True)) == FREE
    assert status_of(lambda: handle.cancel_call(abort=False)) == FREE
    assert handle.event is None


@pytest.mark.feature("CALL-01", "CALL-04", "CALL-05", "CALL-06", "CALL-08")
def test_from_begin_to_completion(client: Sample, manager: Plain) -> None:
    """997 for as long as the server has the call, then the final value; completing too early changes nothing."""
    one = Recorder[int]()
    client.hold.begin(one.handle)
    assert manager.inside.wait(10)
    for _ in range(3):
        assert one.handle.get_call_status() == PENDING
        with pytest.raises(apcrt.RpcPending) as early:
            one.handle.complete_call()
        assert early.value.status == PENDING
    nothing_comes(one)
    manager.held[0].complete_call(42)
    one.wait()
    assert [one.handle.get_call_status() for _ in range(3)] == [0, 0, 0]
    assert one.handle.complete_call() == 42
    assert one.handle.get_call_status() == FREE
    assert status_of(one.handle.complete_call) == FREE
    assert status_of(lambda: one.handle.cancel_call(abort=True)) == FREE
    nothing_comes(one)


@pytest.mark.feature("CALL-09", "CALL-03")
def test_a_busy_handle_is_refused_and_goes_on_with_its_call(client: Sample, manager: Plain) -> None:
    one = Recorder[int]()
    client.hold.begin(one.handle)
    assert status_of(lambda: client.add.begin(one.handle, 1, 2)) == FREE
    assert manager.inside.wait(10)
    assert one.handle.get_call_status() == PENDING
    manager.held[0].complete_call(7)
    one.wait()
    # Completed, but not taken: it is busy until then.
    assert status_of(lambda: client.add.begin(one.handle, 1, 2)) == FREE
    assert one.handle.complete_call() == 7
    assert one.events == [CC]


@pytest.mark.feature("CALL-06", "CALL-07")
def test_a_handle_serves_one_call_after_the_other(client: Sample) -> None:
    one = Recorder[int]()
    for number in range(5):
        client.add.begin(one.handle, number, 1)
        one.wait_for(CC, number + 1)
        assert one.handle.complete_call() == number + 1
    one.handle.user_info = "mine"
    one.handle.flags = AsyncFlags.NOTIFY_ON_SEND_COMPLETE
    up: apcrt.InPipe[int] = apcrt.InPipe()
    client.write.begin(one.handle, "f", up)
    one.wait_for(SC)
    up.push(b"")
    alertable_until(lambda: one.count(CC) == 6)
    assert one.handle.complete_call() == 0
    assert one.handle.user_info == "mine"


@pytest.mark.feature("CALL-03", "CALL-09")
@pytest.mark.parametrize(
    ("begin", "status"),
    [
        (lambda c, h: c.add.begin(h, 1), Status.RPC_S_INVALID_ARG),
        (lambda c, h: c.add.begin(h, 1, 2, 3), Status.RPC_S_INVALID_ARG),
        (lambda c, h: c.add.begin(h, 1, z=2), Status.RPC_S_INVALID_ARG),
        (lambda c, h: c.add.begin(h, 1, -1), Status.RPC_S_INVALID_ARG),
        (lambda c, h: c.add.begin(h, 1, 1 << 32), Status.RPC_S_INVALID_ARG),
        (lambda c, h: c.add.begin(h, "1", 2), Status.RPC_S_INVALID_ARG),
        (lambda c, h: c.write.begin(h, None, apcrt.InPipe()), Status.RPC_S_INVALID_ARG),
        (lambda c, h: c.write.begin(h, "f", b"no pipe"), Status.RPC_S_INVALID_ARG),
        (lambda c, h: c.write.begin(h, "f", apcrt.OutPipe()), Status.RPC_S_INVALID_ARG),
        (lambda c, h: c.find.begin(h, 3, [1, 2], None), Status.RPC_S_INVALID_ARG),
    ],
)
def test_begin_that_raises_has_never_been(client: Sample, begin: Callable[[object, object], None], status: int) -> None:
    """No notification follows, the handle is free, and the next call is not hurt."""
    one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
    assert status_of(lambda: begin(client, one.handle)) == status
    assert one.handle.get_call_status() == FREE
    assert one.handle.event is None
    nothing_comes(one)
    client.add.begin(one.handle, 1, 2)
    one.wait()
    assert one.handle.complete_call() == 3
    assert one.events == [CC]


@pytest.mark.feature("CALL-03")
def test_begin_on_a_closed_runtime_raises() -> None:
    with apcrt.Runtime() as runtime:
        client = Sample(runtime.binding("ncacn_ip_tcp:127.0.0.1[1]"))
    one = Recorder[int]()
    with pytest.raises(apcrt.RpcError):
        client.add.begin(one.handle, 1, 2)
    assert one.handle.get_call_status() == FREE
    nothing_comes(one)


@pytest.mark.feature("CALL-01")
def test_several_calls_of_one_thread_are_outstanding(client: Sample) -> None:
    """Pipes, so that each call has a connection of its own."""
    ones = [Recorder[int]() for _ in range(8)]
    pipes: list[apcrt.InPipe[int]] = [apcrt.InPipe() for _ in ones]
    for number, (one, pipe) in enumerate(zip(ones, pipes, strict=True)):
        client.write.begin(one.handle, str(number), pipe)
    assert [one.handle.get_call_status() for one in ones] == [PENDING] * 8
    for number, pipe in reversed(list(enumerate(pipes))):
        pipe.push(bytes(number + 1))
        pipe.push(b"")
    alertable_until(lambda: all(one.done for one in ones))
    assert [one.handle.complete_call() for one in ones] == list(range(1, 9))


@pytest.mark.feature("CALL-05", "CALL-06")
@pytest.mark.parametrize("how", [5, 1723, 0xC0FFEE])
def test_the_outcome_of_a_failed_call(client: Sample, how: int) -> None:
    one = Recorder[None]()
    client.fail.begin(one.handle, how)
    one.wait()
    assert [one.handle.get_call_status() for _ in range(2)] == [how, how]
    with pytest.raises(apcrt.RpcFault) as caught:
        one.handle.complete_call()
    assert caught.value.status == how
    assert one.handle.get_call_status() == FREE
    assert one.events == [CC]


@pytest.mark.feature("CALL-08")
def test_a_void_operation_completes_with_nothing(client: Sample) -> None:
    one = Recorder[None]()
    client.fail.begin(one.handle, 1)
    one.wait()
    assert one.handle.get_call_status() == 0
    completed: object = one.handle.complete_call()
    assert completed is None


@pytest.mark.feature("CALL-05")
def test_several_results(client: Sample) -> None:
    one = Recorder[Mixed]()
    client.mixed.begin(one.handle, 2, 40)
    one.wait()
    assert one.handle.complete_call() == Mixed(42, 2)


# --------------------------------------------------------------------------------------------------- kinds: none, event


@pytest.mark.feature("NOTE-09")
def test_numbers_of_the_events() -> None:
    assert [int(event) for event in AsyncEvent] == [0, 1, 2, 3, 4]
    assert [event.name for event in AsyncEvent] == [
        "CALL_COMPLETE",
        "SEND_COMPLETE",
        "RECEIVE_COMPLETE",
        "CLIENT_DISCONNECT",
        "CLIENT_CANCEL",
    ]
    assert int(AsyncFlags.NOTIFY_ON_SEND_COMPLETE) == 1


@pytest.mark.feature("NOTE-01")
def test_no_notification_and_only_polling(client: Sample) -> None:
    handle = apcrt.AsyncHandle[int]()
    client.add.begin(handle, 20, 22)
    assert poll_until_final(handle) == 0
    assert handle.complete_call() == 42
    assert apc.current_thread().statistics().queued == 0


@pytest.mark.feature("NOTE-01", "PIPE-06")
def test_polling_moves_pipes_too(client: Sample, manager: Plain) -> None:
    """A program that neither waits nor is notified: pulls again once a pending pull might have been answered."""
    down: apcrt.OutPipe[int] = apcrt.OutPipe()
    handle = apcrt.AsyncHandle[int]()
    client.read.begin(handle, 300_000, 5000, down)
    received, buffer, pending = bytearray(), bytearray(7000), False
    for _ in range(100_000):
        handle.get_call_status()
        if pending and handle.event is not RC:
            apc.sleep_ex(0.001)
            continue
        handle.event = None
        status, count = down.pull(buffer)
        pending = status is PENDING
        if not count and not pending:
            break
        received += buffer[:count]
    assert received == pattern(300_000)
    assert poll_until_final(handle) == 0
    assert handle.complete_call() == 300_000

    up: apcrt.InPipe[int] = apcrt.InPipe()
    client.write.begin(handle, "f", up)
    up.push(pattern(5000))
    up.push(b"")
    assert poll_until_final(handle) == 0
    assert handle.complete_call() == 5000
    assert manager.written["f"] == pattern(5000)


@pytest.mark.feature("NOTE-02")
@pytest.mark.parametrize("manual", [False, True], ids=["auto-reset", "manual-reset"])
def test_an_event_is_set_for_each_notification(client: Sample, manager: Plain, manual: bool) -> None:
    event = apc.Event(manual_reset=manual)
    handle = apcrt.AsyncHandle[int](notification=notify.Event(event), flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)

    def next_event() -> AsyncEvent | None:
        assert apc.wait_for_single_object_ex(event, 10) == apc.WAIT_OBJECT_0
        if manual:
            assert event.is_set()
            event.reset()
        assert not event.is_set()
        return handle.event

    up: apcrt.InPipe[int] = apcrt.InPipe()
    client.write.begin(handle, "f", up)
    assert next_event() is SC
    for _ in range(3):
        up.push(b"chunk")
        assert next_event() is SC
    handle.flags = AsyncFlags.NONE
    up.push(b"")
    assert next_event() is CC
    assert handle.complete_call() == 15
    assert not event.is_set()
    assert apc.current_thread().statistics().queued == 0


@pytest.mark.feature("NOTE-02", "PIPE-06")
def test_an_event_tells_of_data(client: Sample) -> None:
    event = apc.Event()
    handle = apcrt.AsyncHandle[int](notification=notify.Event(event))
    down: apcrt.OutPipe[int] = apcrt.OutPipe()
    client.read.begin(handle, 50_000, 1000, down)
    received, buffer = bytearray(), bytearray(4096)
    while True:
        status, count = down.pull(buffer)
        if status is PENDING:
            assert apc.wait_for_single_object_ex(event, 10) == apc.WAIT_OBJECT_0
            assert handle.event in (RC, CC)
        elif count:
            received += buffer[:count]
        else:
            break
    assert received == pattern(50_000)
    while handle.get_call_status() == PENDING:
        assert apc.wait_for_single_object_ex(event, 10) == apc.WAIT_OBJECT_0
    assert handle.complete_call() == 50_000


@pytest.mark.feature("NOTE-02")
async def test_an_event_in_trio() -> None:
    async with testing.in_process(Sample, Plain()) as client:
        event = apc.Event()
        handle = apcrt.AsyncHandle[int](notification=notify.Event(event))
        with trio.fail_after(10):
            client.add.begin(handle, 1, 2)
            await apc.aio.wait_for_single_object_ex(event, None)
        assert handle.complete_call() == 3


# ------------------------------------------------------------------------------------------------------------ kind: APC


@pytest.mark.feature("NOTE-03", "CALL-07")
def test_an_apc_runs_on_the_issuing_thread_and_only_when_it_is_alertable(client: Sample, manager: Plain) -> None:
    one = Recorder[int]()
    client.hold.begin(one.handle)
    assert manager.inside.wait(10)
    manager.held[0].complete_call(1)
    assert poll_until_final(one.handle) == 0  # it is complete, by waits that are not alertable
    assert one.events == []
    assert apc.current_thread().statistics().queued == 1
    assert apc.sleep_ex(0, alertable=True) == apc.WAIT_IO_COMPLETION
    assert one.events == [CC]
    assert one.threads == [apc.current_thread()]
    assert one.handle.complete_call() == 1


@pytest.mark.feature("NOTE-08")
def test_notifications_and_user_apcs_share_one_queue(client: Sample) -> None:
    order: list[object] = []
    handle = apcrt.AsyncHandle[int](notification=notify.Apc(lambda _handle, event: order.append(event)))
    me = apc.current_thread()
    me.queue_user_apc(order.append, "before")
    client.add.begin(handle, 1, 2)
    assert poll_until_final(handle) == 0
    me.queue_user_apc(order.append, "after")
    assert apc.sleep_ex(10, alertable=True) == apc.WAIT_IO_COMPLETION
    assert order == ["before", CC, "after"]
    assert handle.complete_call() == 3


@pytest.mark.feature("NOTE-04", "CALL-07")
def test_an_apc_on_another_thread(client: Sample) -> None:
    """The named thread gets every event; the issuing one none, and it may go on working."""
    finished = threading.Event()

    def worker() -> None:
        while not finished.is_set():
            apc.sleep_ex(10, alertable=True)

    with apc.open_apc_threads() as threads:
        other = threads.start(worker)
        one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE, thread=other)
        done = threading.Event()
        up: apcrt.InPipe[int] = apcrt.InPipe()

        def on_event(handle: apcrt.AsyncHandle[int], event: AsyncEvent) -> None:
            one.on_event(handle, event)
            if event is CC:
                done.set()
            elif one.count(SC) <= 3:
                up.push(b"abc")
            elif one.count(SC) == 4:
                handle.flags = AsyncFlags.NONE
                up.push(b"")

        one.handle.notification = notify.Apc(on_event, thread=other)
        client.write.begin(one.handle, "f", up)
        assert done.wait(10)
        assert one.events == [SC] * 4 + [CC]
        assert set(one.threads) == {other}
        assert one.handle.complete_call() == 9
        assert apc.current_thread().statistics().run == 0 or one.threads.count(apc.current_thread()) == 0
        finished.set()
        other.queue_user_apc(bool)


@pytest.mark.feature("NOTE-03")
async def test_an_async_routine(manager: Plain) -> None:
    async with testing.in_process(Sample, manager) as client:
        seen: list[tuple[AsyncEvent, int]] = []

        async def on_event(handle: apcrt.AsyncHandle[int], event: AsyncEvent) -> None:
            await trio.lowlevel.checkpoint()
            seen.append((event, handle.complete_call()))

        handle = apcrt.AsyncHandle[int](notification=notify.Apc(on_event))
        with trio.fail_after(10):
            client.add.begin(handle, 4, 5)
            await alertable_until_async(lambda: seen)
        assert seen == [(CC, 9)]


# -------------------------------------------------------------------------------------------------- which events, when


@pytest.mark.feature("NOTE-10", "CALL-07")
def test_send_complete_needs_the_flag(client: Sample) -> None:
    one = Recorder[int]()
    up: apcrt.InPipe[int] = apcrt.InPipe()
    client.write.begin(one.handle, "f", up)
    for _ in range(5):
        up.push(bytes(100_000))
        nothing_comes(one)
    up.push(b"")
    one.wait()
    assert one.events == [CC]
    assert one.handle.complete_call() == 500_000


@pytest.mark.feature("NOTE-10")
def test_calls_without_pipes_have_no_send_complete(client: Sample) -> None:
    one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
    client.add.begin(one.handle, 1, 2)
    one.wait()
    assert one.handle.complete_call() == 3
    assert one.events == [CC]


@pytest.mark.feature("NOTE-10", "PIPE-16")
def test_an_out_pipe_call_has_no_send_complete_for_its_request(client: Sample) -> None:
    one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
    down: apcrt.OutPipe[int] = apcrt.OutPipe()
    client.read.begin(one.handle, 10, 10, down)
    received = bytearray()
    while True:
        status, count = down.pull(buffer := bytearray(100))
        if status is PENDING:
            one.wait_next()
        elif count:
            received += buffer[:count]
        else:
            break
    one.wait()
    assert SC not in one.events
    assert one.handle.complete_call() == 10


@pytest.mark.feature("NOTE-11", "PIPE-06")
def test_receive_complete_only_after_a_pending_pull() -> None:
    """Data that nobody asked for makes no event; a pull that came too early makes one, and the next succeeds."""
    first, second = threading.Event(), threading.Event()
    sent = threading.Event()

    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestEnd)
        peer.respond(b"\x04\0\0\0abcd", last=False)
        sent.set()
        assert first.wait(10)
        peer.respond(b"\x08\0\0\0efgh", last=False)
        assert second.wait(10)
        peer.respond(b"ijkl\0\0\0\0\x0c\0\0\0")
        peer.until_closed()

    with FakeServer(script) as server, client_of(server.binding) as client:
        one = Recorder[int]()
        down: apcrt.OutPipe[int] = apcrt.OutPipe()
        client.read.begin(one.handle, 12, 4, down)
        assert sent.wait(10)
        nothing_comes(one)
        assert down.pull(buffer := bytearray(100)) == (0, 4)
        assert one.events == []
        assert down.pull(buffer) == (PENDING, 0)
        nothing_comes(one)
        first.set()
        one.wait_for(RC)
        assert down.pull(buffer) == (0, 4)
        assert buffer[:4] == b"efgh"
        assert down.pull(buffer) == (PENDING, 0)
        nothing_comes(one)
        second.set()
        one.wait_for(RC, 2)
        assert down.pull(buffer) == (0, 4)
        assert down.pull(buffer) == (0, 0)
        one.wait()
        assert one.events == [RC, RC, CC]
        assert one.handle.complete_call() == 12


@pytest.mark.feature("CALL-07", "NOTE-03")
@pytest.mark.parametrize("how", ["reply", "fault", "abort", "lost"])
def test_call_complete_comes_once_and_last(how: str) -> None:
    """However a call ends: one call-complete, after everything else, and nothing after it."""
    inside = threading.Event()

    def script(peer: RawPeer) -> None:
        peer.until(wire.RequestData)
        if how == "reply":
            peer.until(wire.RequestEnd)
            peer.respond(bytes(8))
        elif how == "fault":
            peer.fault(5)
        inside.set()
        if how != "lost":
            peer.until_closed()

    with FakeServer(script) as server, client_of(server.binding) as client:
        one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
        up: apcrt.InPipe[int] = apcrt.InPipe()
        client.write.begin(one.handle, "f", up)
        one.wait_for(SC)
        if how == "reply":
            up.push(b"abc")
            one.wait_for(SC, 2)
            up.push(b"")
        elif how == "abort":
            assert inside.wait(10)
            one.handle.cancel_call(abort=True)
            one.handle.cancel_call(abort=True)
        one.wait()
        nothing_comes(one)
        assert one.events[-1] is CC
        assert one.count(CC) == 1
        expected = {"reply": 0, "fault": 5, "abort": 1818, "lost": 1726}[how]
        assert one.handle.get_call_status() == expected
        if how == "reply":
            assert one.handle.complete_call() == 0
        else:
            assert status_of(one.handle.complete_call) == expected
        nothing_comes(one)


@pytest.mark.feature("CALL-01", "CALL-07")
def test_begin_does_not_wait_for_the_server() -> None:
    """Nobody answers the bind, and `begin` and the pushes return all the same."""
    bind_seen = threading.Event()
    answer = threading.Event()

    def script(peer: RawPeer) -> None:
        peer.hold_replies = True
        peer.until(wire.ReplyReady)
        bind_seen.set()
        assert answer.wait(10)
        peer.hold_replies = False
        peer.socket.sendall(peer.held[0])
        peer.until(wire.RequestEnd)
        peer.respond((5).to_bytes(8, "little"))
        peer.until_closed()

    with FakeServer(script) as server, client_of(server.binding) as client:
        one = Recorder[int](flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
        up: apcrt.InPipe[int] = apcrt.InPipe()
        client.write.begin(one.handle, "f", up)
        up.push(b"hello")
        up.push(b"")
        assert bind_seen.wait(10)
        nothing_comes(one)
        assert one.handle.get_call_status() == PENDING
        answer.set()
        one.wait()
        assert one.events == [SC, CC]  # one for everything that left together
        assert one.handle.complete_call() == 5


@pytest.mark.feature("ORD-02")
@pytest.mark.parametrize("kind", ["none", "event", "apc"])
def test_calls_of_two_threads_do_not_wait_for_each_other(client: Sample, manager: Plain, kind: str) -> None:
    """Whatever the notification: a call that the server holds keeps no other thread's call back."""

    def handle() -> apcrt.AsyncHandle[int]:
        if kind == "event":
            return apcrt.AsyncHandle(notification=notify.Event(apc.Event()))
        return apcrt.AsyncHandle(notification=notify.Apc(lambda *_: None)) if kind == "apc" else apcrt.AsyncHandle()

    held = handle()
    client.hold.begin(held)
    assert manager.inside.wait(10)
    outcome: list[int] = []

    def other() -> None:
        mine = handle()
        client.add.begin(mine, 1, 2)
        for _ in range(2000):
            if mine.get_call_status() != PENDING:
                outcome.append(mine.complete_call())
                return
            apc.sleep_ex(0.001)
        mine.cancel_call(abort=True)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    manager.held[0].complete_call(0)
    assert poll_until_final(held) == 0
    assert held.complete_call() == 0
    assert outcome == [3]

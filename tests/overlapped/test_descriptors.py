"""Pipes, sockets and terminals: reads and writes that the waits of their threads drive."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from apcrt import apc
from apcrt.apc import WAIT_IO_COMPLETION, WAIT_OBJECT_0, ApcError
from apcrt.overlapped import Overlapped, OverlappedFile, OverlappedStatistics
from apcrt.status import Status
from tests.apc.faces import Face, Runner, run, until, until_blocked
from tests.overlapped.helpers import (
    BYTES,
    MESSAGES,
    Pair,
    Results,
    close,
    opened,
    os_pipe,
    packet_sockets,
    read_into,
    stream_sockets,
    terminal,
    write,
)

pytestmark = pytest.mark.usefixtures("no_leaked_descriptors")


@pytest.fixture(params=BYTES, ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Callable[[], Pair]:
    chosen: Callable[[], Pair] = request.param
    return chosen


@pytest.fixture(params=MESSAGES, ids=lambda make: make.__name__)
def make_messages(request: pytest.FixtureRequest) -> Callable[[], Pair]:
    chosen: Callable[[], Pair] = request.param
    return chosen


@pytest.mark.feature("IO-01")
def test_what_completes_at_once_is_an_apc_all_the_same(face: Face, make: Callable[[], Pair]) -> None:
    async def script() -> None:
        results = Results()
        into = bytearray(10)
        with opened(make) as (reader, writer):
            written = writer.write_ex(b"hello", results)
            assert not written.pending
            assert results.calls == []
            read = reader.read_ex(into, results)
            assert results.calls == []
            while len(results.calls) < 2:
                assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
            assert results.calls == [(0, 5), (0, 5)]
            assert results.operations == [written, read]
            assert (written.result(), read.result()) == (5, 5)
            assert into[:5] == b"hello"
            into.clear()  # its memory is ours again

    run(face, script)


@pytest.mark.feature("IO-01")
def test_a_pending_read_completes_on_the_thread_that_issued_it(face: Face, make: Callable[[], Pair]) -> None:
    with opened(make) as (reader, writer):
        into = bytearray(10)
        ran: list[tuple[int, int, int]] = []

        async def script() -> int:
            read = reader.read_ex(into, lambda error, count, _: ran.append((error, count, threading.get_ident())))
            assert read.pending
            with pytest.raises(ApcError) as caught:
                read.result()
            assert caught.value.status == Status.ERROR_IO_INCOMPLETE
            assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
            return threading.get_ident()

        runner = Runner(face, script)
        until_blocked(runner.thread)
        writer.write(b"abc")
        assert ran == [] or ran[0][2] != threading.get_ident()
        ident = runner.result()
        assert ran == [(0, 3, ident)]
        assert into[:3] == b"abc"


def test_an_operation_can_be_waited_for(face: Face, make: Callable[[], Pair]) -> None:
    with opened(make) as (reader, writer):

        async def script() -> None:
            read = reader.read_ex(bytearray(4))
            event = apc.Event()
            assert await face.wait_many([event, read], None) == WAIT_OBJECT_0 + 1
            assert read.result() == 2
            assert await face.wait(read, 0) == WAIT_OBJECT_0  # not consumed

        runner = Runner(face, script)
        until_blocked(runner.thread)
        writer.write(b"ab")
        runner.result()


def test_the_verbs_that_wait(face: Face, make: Callable[[], Pair]) -> None:
    with opened(make) as (reader, writer):

        async def script() -> bytes:
            into = bytearray(100)
            count = await read_into(face, reader, into)
            return bytes(into[:count])

        runner = Runner(face, script)
        until_blocked(runner.thread)

        async def other() -> int:
            return await write(face, writer, b"x" * 7)

        assert run(face, other) == 7
        assert runner.result() == b"x" * 7
        assert reader.statistics() == OverlappedStatistics(0, 0, 7, 0)
        assert writer.statistics() == OverlappedStatistics(0, 0, 0, 7)


@pytest.mark.parametrize("make", [os_pipe, stream_sockets], ids=["pipe", "stream"])
def test_a_write_completes_when_all_of_it_is_written(face: Face, make: Callable[[], Pair]) -> None:
    data = os.urandom(1_000_000)
    got = bytearray()
    with opened(make) as (reader, writer):

        async def script() -> None:
            results = Results()
            written = writer.write_ex(data, results)
            assert written.pending
            assert writer.statistics().pending_writes == 1
            while not results.calls:
                await face.sleep_ex(None, alertable=True)
            assert results.calls == [(0, len(data))]

        runner = Runner(face, script)
        until_blocked(runner.thread)
        into = bytearray(70_000)
        while len(got) < len(data):
            got += into[: reader.read_into(into)]
        runner.result()
    assert got == data


def test_lines_are_served_in_the_order_of_issue(face: Face, make: Callable[[], Pair]) -> None:
    async def script() -> None:
        results = Results()
        buffers = [bytearray(3) for _ in range(4)]
        with opened(make) as (reader, writer):
            reads = [reader.read_ex(buffer, results) for buffer in buffers]
            assert reader.statistics().pending_reads == 4
            for _ in range(4):
                await write(face, writer, b"abc")
            while len(results.calls) < 4:
                await face.sleep_ex(None, alertable=True)
            assert results.operations == reads
            assert buffers == [bytearray(b"abc")] * 4

    run(face, script)


@pytest.mark.feature("IO-03")
@pytest.mark.parametrize(
    ("make", "status"),
    [(os_pipe, 109), (stream_sockets, 38), (packet_sockets, 38)],
    ids=["pipe", "stream", "seqpacket"],
)
def test_the_end(face: Face, make: Callable[[], Pair], status: int) -> None:
    async def script() -> None:
        results = Results()
        reader, writer = make()
        with reader:
            await write(face, writer, b"last")
            into = bytearray(10)
            reads = [reader.read_ex(into, results), reader.read_ex(bytearray(2), results)]
            assert reads[1].pending
            await close(face, writer)
            while len(results.calls) < 2:
                await face.sleep_ex(None, alertable=True)
            assert results.calls == [(0, 4), (status, 0)]
            with pytest.raises(ApcError) as caught:
                reads[1].result()
            assert caught.value.status == status
            with pytest.raises(ApcError) as caught:  # at once: the routine never runs
                reader.read_ex(bytearray(2), results)
            assert caught.value.status == status
            with pytest.raises(ApcError) as caught:
                await read_into(face, reader, bytearray(2))
            assert caught.value.status == status
            assert not await face.test_alert()

    run(face, script)


@pytest.mark.parametrize("make", [os_pipe, stream_sockets, packet_sockets], ids=["pipe", "stream", "seqpacket"])
def test_writing_to_nobody(face: Face, make: Callable[[], Pair]) -> None:
    async def script() -> None:
        results = Results()
        reader, writer = make()
        with writer:
            pending: list[Overlapped] = []
            while not pending or not pending[-1].pending:
                pending.append(writer.write_ex(bytes(30_000), results))
            await close(face, reader)
            while len(results.calls) < len(pending):
                await face.sleep_ex(None, alertable=True)
            assert results.calls[-1][1] == 0
            assert results.calls[-1][0] in (232, 64)  # a socket says "reset" once if something was left unread
            with pytest.raises(ApcError) as caught:
                pending[-1].result()
            assert isinstance(caught.value.__cause__, OSError)
            with pytest.raises(ApcError) as caught:
                writer.write_ex(b"x", results)
            assert caught.value.status == 232
            assert isinstance(caught.value.__cause__, BrokenPipeError)

    run(face, script)


def test_messages_stay_whole(face: Face, make_messages: Callable[[], Pair]) -> None:
    async def script() -> None:
        results = Results()
        with opened(make_messages) as (reader, writer):
            await write(face, writer, b"one")
            await write(face, writer, b"two!")
            into = bytearray(10)
            assert await read_into(face, reader, into) == 3
            assert await read_into(face, reader, into) == 4
            assert into[:4] == b"two!"
            first = reader.read_ex(into, results)
            await write(face, writer, b"three")
            while not results.calls:
                await face.sleep_ex(None, alertable=True)
            assert first.result() == 5

    run(face, script)


def test_a_message_that_is_longer_than_the_buffer(face: Face, make_messages: Callable[[], Pair]) -> None:
    in_process = make_messages.__name__.startswith("in_process")

    async def script() -> None:
        results = Results()
        with opened(make_messages) as (reader, writer):
            await write(face, writer, b"0123456789")
            await write(face, writer, b"next")
            into = bytearray(4)
            read = reader.read_ex(into, results)
            assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
            assert results.calls == [(234, 4)]
            assert into == b"0123"
            with pytest.raises(ApcError) as caught:
                read.result()
            assert caught.value.status == Status.ERROR_MORE_DATA
            assert read.count == 4
            rest = bytearray(10)
            count = await read_into(face, reader, rest)
            # The kernel has dropped the rest of the message; a pipe inside the process keeps it for the next read.
            assert bytes(rest[:count]) == (b"456789" if in_process else b"next")

    run(face, script)


def test_an_empty_datagram_is_no_end() -> None:
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with OverlappedFile(reader) as source, OverlappedFile(writer) as target:
        assert target.write(b"") == 0
        assert source.read_into(bytearray(3)) == 0


def test_empty_reads_and_writes(face: Face) -> None:
    async def script() -> None:
        for make in (os_pipe, stream_sockets):
            with opened(make) as (reader, writer):
                assert await write(face, writer, b"") == 0
                read = reader.read_ex(bytearray())
                assert read.pending  # until there is something to read
                await write(face, writer, b"x")
                assert await face.wait(read, None) == WAIT_OBJECT_0
                assert read.result() == 0
                assert await read_into(face, reader, bytearray(5)) == 1
        reader, writer = os_pipe()
        with reader:
            writer.close()
            with pytest.raises(ApcError) as caught:
                reader.read_ex(bytearray())
            assert caught.value.status == 109

    run(face, script)


def test_a_thread_that_never_waits_does_not_hold_up_another(face: Face) -> None:
    """Its operation is at the head of the line: whoever waits completes it, and its APC waits for its own thread."""
    with opened(os_pipe) as (reader, writer):
        idle = Results()
        first = bytearray(3)
        head = reader.read_ex(first, idle)

        async def script() -> int:
            return await read_into(face, reader, bytearray(10))

        runner = Runner(face, script)
        until_blocked(runner.thread)
        writer.write(b"abc")
        assert_completes(head)
        assert bytes(first) == b"abc"
        assert runner.is_alive()
        writer.write(b"defgh")
        assert runner.result() == 5
        assert idle.calls == []
        assert apc.test_alert()
        assert idle.calls == [(0, 3)]


def assert_completes(overlapped: Overlapped) -> None:
    until(lambda: not overlapped.pending)


def test_several_threads_read_and_write_one_descriptor(face: Face) -> None:
    with opened(stream_sockets) as (one, other):
        threads = 4

        async def reading() -> int:
            total = 0
            while total < 1000:
                total += await read_into(face, one, bytearray(min(64, 1000 - total)))
            return total

        async def writing() -> int:
            for _ in range(100):
                await write(face, one, b"0123456789")
            return 1000

        runners = [Runner(face, script) for _ in range(threads) for script in (reading, writing)]
        into = bytearray(100)
        sent = got = 0
        while sent < threads * 1000 or got < threads * 1000:
            if sent < threads * 1000:
                sent += other.write(bytes(100))
            if got < threads * 1000:
                got += other.read_into(into)
        assert [runner.result() for runner in runners] == [1000] * (threads * 2)
        assert one.statistics() == OverlappedStatistics(0, 0, threads * 1000, threads * 1000)


def test_a_thread_that_has_ended_gives_way(face: Face) -> None:
    """Its read takes nothing any more, and its Port is not asked again."""
    with opened(os_pipe) as (reader, writer):
        results = Results()

        async def script() -> Overlapped:
            return reader.read_ex(bytearray(10), results)

        runner = Runner(face, script)
        ended = runner.result()
        until(lambda: runner.thread.gone)
        assert not ended.pending
        assert ended.status == Status.ERROR_OPERATION_ABORTED
        assert reader.statistics().pending_reads == 0
        writer.write(b"kept")
        into = bytearray(10)
        assert reader.read_into(into) == 4
        assert into[:4] == b"kept"
        assert results.calls == []


def test_a_terminal_reads_what_is_typed() -> None:
    with opened(terminal) as (slave, master):
        assert "character device" in repr(slave)
        read = slave.read_ex(bytearray(10))
        assert master.write(b"ls") == 2
        assert apc.wait_for_single_object_ex(read, None) == WAIT_OBJECT_0
        assert read.result() == 2


def test_a_descriptor_is_given_back_as_it_was() -> None:
    """Others may share it: a terminal that stays non-blocking would fail a shell."""
    number, writer = os.pipe()
    copy = os.dup(number)
    try:
        with OverlappedFile(number), OverlappedFile(writer):
            assert not os.get_blocking(copy)
        assert os.get_blocking(copy)
    finally:
        os.close(copy)


def test_any_object_with_a_descriptor() -> None:
    number, writer = os.pipe()
    source = open(number, "rb", buffering=0)  # noqa: SIM115 - given away
    with OverlappedFile(source) as file, OverlappedFile(writer) as target:
        target.write(b"x")
        assert file.read_into(bytearray(3)) == 1
    assert source.closed

    left, right = socket.socketpair()

    class Wrapped:
        def fileno(self) -> int:
            return left.fileno()

    with left, right, OverlappedFile(Wrapped()) as file:
        assert "socket" in repr(file)
        assert file.write(b"abc") == 3
        assert right.recv(10) == b"abc"


def test_misuse() -> None:
    with opened(os_pipe) as (reader, writer):
        cases: list[tuple[Callable[[], object], int]] = [
            (lambda: reader.read_ex(bytearray(3), offset=0), 87),
            (lambda: writer.write_ex(b"x", offset=3), 87),
            (lambda: reader.read_ex(memoryview(b"abc")), 998),  # type: ignore[arg-type, unused-ignore]
            (reader.cancel_io_ex, 1168),
            (lambda: writer.read_ex(bytearray(3)), 6),  # not open for reading
            (lambda: OverlappedFile(99999), 6),
            (lambda: OverlappedFile(directory), 336),
        ]
        directory = os.open(".", os.O_RDONLY)
        for call, status in cases:
            with pytest.raises(ApcError) as caught:
                call()
            assert caught.value.status == status, call
        os.close(directory)  # what was refused stays its caller's
    for call in (lambda: reader.read_ex(bytearray(3)), lambda: writer.write_ex(b"x")):
        with pytest.raises(ApcError) as caught:
            call()
        assert caught.value.status == 6
    reader.close()
    assert "closed" in repr(reader)


def test_the_wrong_face_is_refused_before_anything_is_moved() -> None:
    with opened(os_pipe) as (reader, writer):

        async def wrong() -> None:
            with pytest.raises(ApcError, match="receive_into"):
                reader.read_into(bytearray(3))
            with pytest.raises(ApcError, match="send"):
                writer.write(b"abc")

        writer.write(b"kept")
        trio.run(wrong)
        coroutine = reader.receive_into(bytearray(3))
        with pytest.raises(ApcError):
            coroutine.send(None)
        assert reader.read_into(bytearray(10)) == 4


def test_an_object_that_was_never_closed_is_reported_and_closed() -> None:
    reader, writer = os_pipe()
    writer.close()
    left = [reader]
    del reader, writer
    with pytest.warns(ResourceWarning, match="unclosed pipe"):
        left.clear()


def test_awaiting_in_many_tasks_of_one_thread() -> None:
    async def main() -> None:
        pairs = [stream_sockets() for _ in range(20)]
        got: list[bytes] = []

        async def one(pair: Pair) -> None:
            into = bytearray(10)
            count = await pair[0].receive_into(into)
            got.append(bytes(into[:count]))

        async with trio.open_nursery() as nursery:
            for pair in pairs:
                nursery.start_soon(one, pair)
            await trio.testing.wait_all_tasks_blocked()
            for index, pair in enumerate(pairs):
                await pair[1].send(f"{index}".encode())
        assert sorted(got) == sorted(f"{index}".encode() for index in range(20))
        for pair in pairs:
            async with pair[0], pair[1]:
                pass

    trio.run(main)

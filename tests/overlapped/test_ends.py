"""Ends that are not the data's: cancelling, closing, the end of a thread, Ctrl-C, the cancelling of who waits."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from apcrt import apc
from apcrt.apc import WAIT_IO_COMPLETION, ApcError, WaitCancelled
from apcrt.apc.lowlevel import Port
from apcrt.overlapped import Overlapped, OverlappedFile, _descriptor
from apcrt.status import Status
from tests.apc.faces import Face, Runner, run, until, until_blocked
from tests.overlapped.helpers import (
    BYTES,
    Pair,
    Results,
    in_process,
    in_process_messages,
    opened,
    os_pipe,
    packet_sockets,
    read_into,
    stream_sockets,
)

pytestmark = pytest.mark.usefixtures("no_leaked_descriptors")


@pytest.fixture(params=[*BYTES, packet_sockets], ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Callable[[], Pair]:
    chosen: Callable[[], Pair] = request.param
    return chosen


@pytest.mark.feature("IO-02")
def test_scopes_of_cancelling(face: Face, make: Callable[[], Pair]) -> None:
    """CancelIo is for the calling thread, CancelIoEx for one operation or for all of everybody."""
    with opened(make) as (reader, writer):
        theirs = Results()
        their_operations = [reader.read_ex(bytearray(3), theirs) for _ in range(3)]

        async def script() -> None:
            results = Results()
            operations = [reader.read_ex(bytearray(3), results) for _ in range(3)]
            assert operations[1].cancel()
            assert not operations[1].cancel()
            assert not operations[1].pending
            with pytest.raises(ApcError) as caught:
                reader.cancel_io_ex(operations[1])
            assert caught.value.status == Status.ERROR_NOT_FOUND
            assert results.calls == []  # its routine runs, but in an alertable wait
            reader.cancel_io()
            assert await face.sleep_ex(0, alertable=True) == WAIT_IO_COMPLETION
            assert results.calls == [(995, 0)] * 3
            assert results.operations == [operations[1], operations[0], operations[2]]
            assert all(one.pending for one in their_operations)
            reader.cancel_io()  # nothing of this thread's: no error
            reader.read_ex(bytearray(3), results)
            reader.cancel_io_ex(their_operations[0])
            reader.cancel_io_ex()
            assert await face.sleep_ex(0, alertable=True) == WAIT_IO_COMPLETION
            assert len(results.calls) == 4
            with pytest.raises(ApcError) as caught:
                reader.cancel_io_ex()
            assert caught.value.status == Status.ERROR_NOT_FOUND

        run(face, script)
        assert apc.test_alert()
        assert theirs.calls == [(995, 0)] * 3
        writer.write(b"ab")
        assert reader.read_into(bytearray(3)) == 2  # the cancelled ones have taken nothing


@pytest.mark.parametrize("make", [os_pipe, stream_sockets, packet_sockets], ids=["pipe", "stream", "seqpacket"])
def test_cancelled_writes(face: Face, make: Callable[[], Pair]) -> None:
    async def script() -> None:
        results = Results()
        with opened(make) as (reader, writer):
            operations = [writer.write_ex(bytes(20_000), results)]
            while not operations[-1].pending:
                operations.append(writer.write_ex(bytes(20_000), results))
            operations.append(writer.write_ex(b"behind", results))
            assert operations[-2].cancel()
            into = bytearray(100_000)
            while writer.statistics().pending_writes:
                await read_into(face, reader, into)
            await face.sleep_ex(0, alertable=True)
            assert results.calls[-2:] == [(995, 0), (0, 6)]

    run(face, script)


def test_closing_while_operations_are_pending(face: Face, make: Callable[[], Pair]) -> None:
    reader, writer = make()
    with writer:
        results = Results()

        async def script() -> None:
            operations = [reader.read_ex(bytearray(3), results) for _ in range(3)]
            assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
            assert results.operations == operations

        runner = Runner(face, script)
        until_blocked(runner.thread)
        reader.close()
        reader.close()
        runner.result()
        assert results.calls == [(995, 0)] * 3


def test_the_end_of_a_thread(face: Face, make: Callable[[], Pair]) -> None:
    with opened(make) as (reader, writer):
        results = Results()

        async def script() -> list[Overlapped]:
            return [reader.read_ex(bytearray(3), results) for _ in range(3)]

        runner = Runner(face, script)
        mine = reader.read_ex(bytearray(3), results)
        operations = runner.result()
        until(lambda: runner.thread.gone)
        assert [one.status for one in operations] == [995] * 3
        assert not runner.thread.homed
        writer.write(b"abc")
        assert apc.wait_for_single_object_ex(mine, None) == 0
        assert apc.test_alert()
        assert results.calls == [(0, 3)]


def test_a_cancelled_block_consumes_nothing(make: Callable[[], Pair]) -> None:
    with opened(make) as (reader, writer):

        def work() -> None:
            with pytest.raises(WaitCancelled):
                reader.read_into(bytearray(3))
            raise WaitCancelled

        with apc.open_apc_threads() as threads:
            thread = threads.start(work)
            until_blocked(thread)
            threads.cancel()
        writer.write(b"abc")
        assert reader.read_into(bytearray(3)) == 3


def test_a_cancelled_scope_consumes_nothing(make: Callable[[], Pair]) -> None:
    async def main() -> None:
        with opened(make) as (reader, writer):
            for already in (False, True):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        if already:
                            writer.write_ex(b"ab")
                            scope.cancel()
                        else:
                            nursery.start_soon(cancel_when_blocked, scope)
                        await reader.receive_into(bytearray(3))
                assert scope.cancelled_caught
            into = bytearray(3)
            assert await reader.receive_into(into) == 2

    async def cancel_when_blocked(scope: trio.CancelScope) -> None:
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()

    trio.run(main)


def test_a_result_that_came_with_the_cancel_of_a_scope_is_returned() -> None:
    """Between the completion and the cancel nothing may be lost."""

    async def main() -> None:
        with opened(os_pipe) as (reader, writer), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def both() -> None:
                    await trio.testing.wait_all_tasks_blocked()
                    writer.write_ex(b"ab")
                    assert apc.current_thread().port.service(0)  # it completes
                    scope.cancel()

                nursery.start_soon(both)
                assert await reader.receive_into(bytearray(3)) == 2
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught

    trio.run(main)


def test_a_result_that_came_with_the_cancel_of_a_block_is_returned() -> None:
    with opened(in_process) as (reader, writer), apc.open_apc_threads() as threads:

        def work() -> None:
            assert reader.read_into(bytearray(3)) == 2
            apc.sleep_ex(None)  # here the cancel arrives

        thread = threads.start(work)
        until_blocked(thread)
        writer.write_ex(b"ab")
        threads.cancel()


def interrupted_main(call: Callable[[], object]) -> None:
    """Ctrl-C while the main thread is blocked in `call`."""
    main = apc.current_thread()

    def interrupt() -> None:
        until_blocked(main)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        thread.join()


def test_an_interrupted_read_consumes_nothing(make: Callable[[], Pair]) -> None:
    with opened(make) as (reader, writer):
        interrupted_main(lambda: reader.read_into(bytearray(3)))
        assert reader.statistics().pending_reads == 0
        writer.write(b"abc")
        assert reader.read_into(bytearray(3)) == 3


@pytest.mark.parametrize("pending", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("make", [os_pipe, stream_sockets, packet_sockets], ids=["pipe", "stream", "seqpacket"])
def test_ctrl_c_between_the_kernel_and_us(
    make: Callable[[], Pair], pending: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has moved bytes, and before anything can be done with that the interrupt comes."""
    with opened(make) as (reader, writer):
        main = apc.current_thread()

        def write_later() -> None:
            until_blocked(main)
            writer.write_ex(b"abcdef")

        writing = threading.Thread(target=write_later)
        into = bytearray(6)

        real = _descriptor.Descriptor._read
        struck: list[int] = []

        def read(descriptor: _descriptor.Descriptor, request: _descriptor.Request) -> _descriptor.Outcome | None:
            outcome = real(descriptor, request)
            if outcome is not None and not struck:
                struck.append(1)
                raise KeyboardInterrupt
            return outcome

        monkeypatch.setattr(_descriptor.Descriptor, "_read", read)
        if pending:
            writing.start()
        else:
            writer.write(b"abcdef")
        with pytest.raises(KeyboardInterrupt):
            reader.read_into(into)
        if pending:
            writing.join()
        assert struck
        assert reader.statistics().pending_reads == 0
        again = bytearray(6)
        assert reader.read_into(again) == 6
        assert again == b"abcdef"


@pytest.mark.parametrize("make", [os_pipe, in_process], ids=["pipe", "in process"])
def test_what_an_interrupted_read_took_goes_to_the_next(make: Callable[[], Pair]) -> None:
    with opened(make) as (reader, writer):
        writer.write(b"later")
        waiting = bytearray(2)
        reader.hand_back(b"soo", 0)
        assert reader.read_into(waiting) == 2
        assert waiting == b"so"
        rest = bytearray(10)
        got = b""
        while len(got) < 6:
            count = reader.read_into(rest)
            got += rest[:count]
        assert got == b"olater"
        read = reader.read_ex(waiting)
        reader.hand_back(b"x", 0)
        assert apc.wait_for_single_object_ex(read, None) == 0
        assert read.result() == 1
    reader.hand_back(b"x", 0)


@pytest.mark.parametrize("status", [0, 234])
def test_a_message_that_an_interrupted_read_took(status: int) -> None:
    with opened(packet_sockets) as (reader, _):
        reader.hand_back(b"abc", status)
        into = bytearray(3)
        read = reader.read_ex(into)
        assert read.status == status
        reader.hand_back(b"abc", status)
        read = reader.read_ex(bytearray(2))
        assert (read.status, read.count) == (234, 2)


def test_the_rest_of_a_message_is_joined_again() -> None:
    with opened(in_process_messages) as (reader, writer):
        writer.write(b"abcdef")
        with pytest.raises(ApcError):
            reader.read_into(bytearray(2))
        reader.hand_back(b"ab", 234)
        into = bytearray(10)
        assert reader.read_into(into) == 6
        assert into[:6] == b"abcdef"


def test_a_finalizer_cannot_use_what_it_has_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(stream_sockets) as (reader, _):
        assert isinstance(reader, OverlappedFile)
        real = _descriptor.Descriptor.attempt
        caught: list[int] = []

        def attempt(descriptor: _descriptor.Descriptor, request: _descriptor.Request) -> _descriptor.Outcome | None:
            try:
                reader.cancel_io()
            except ApcError as error:
                caught.append(error.status)
            return real(descriptor, request)

        monkeypatch.setattr(_descriptor.Descriptor, "attempt", attempt)
        reader.read_ex(bytearray(1)).cancel()
        assert caught == [87]


def test_what_cannot_be_polled_fails_its_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_port: Port, _fd: int, _interest: int, _source: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with opened(os_pipe) as (reader, writer):
        results = Results()
        with monkeypatch.context() as patch:
            patch.setattr(Port, "arm", refuse)
            with pytest.raises(ApcError) as caught:
                reader.read_ex(bytearray(1), results)
            assert caught.value.status == Status.ERROR_ACCESS_DENIED
        first, second = reader.read_ex(bytearray(1), results), reader.read_ex(bytearray(1), results)
        with monkeypatch.context() as patch:
            patch.setattr(Port, "arm", refuse)
            writer.write_ex(b"x")
            apc.sleep_ex(None, alertable=True)
        assert results.calls == [(0, 1), (5, 0)]
        assert first.result() == 1
        with pytest.raises(ApcError):
            second.result()
        assert reader.statistics().pending_reads == 0

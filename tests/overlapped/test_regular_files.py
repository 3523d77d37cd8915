"""Regular files: reads and writes at offsets, done by helper threads."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from apcrt import apc
from apcrt.apc import WAIT_IO_COMPLETION, WAIT_OBJECT_0, ApcError
from apcrt.overlapped import Overlapped, OverlappedFile, OverlappedStatistics, _descriptor
from apcrt.status import Status
from tests.apc.faces import Face, PlainFace, Runner, run, until
from tests.overlapped.helpers import Results, close, read_into, write

pytestmark = pytest.mark.usefixtures("no_leaked_descriptors")


def helpers() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("apcrt-file"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(b"0123456789")
    return path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[OverlappedFile]:
    with OverlappedFile(open(path, "r+b", buffering=0)) as file:
        yield file
    assert helpers() == []


class Gate:
    """Holds helpers up before they move anything."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Semaphore(0)
        self.leave = threading.Semaphore(0)
        real = _descriptor.Descriptor.perform

        def perform(descriptor: _descriptor.Descriptor, request: _descriptor.Request) -> _descriptor.Outcome:
            self.entered.release()
            self.leave.acquire()
            return real(descriptor, request)

        monkeypatch.setattr(_descriptor.Descriptor, "perform", perform)


@pytest.mark.feature("IO-01")
def test_reads_and_writes_complete_as_apcs_of_the_issuing_thread(face: Face, path: Path) -> None:
    async def script() -> None:
        results = Results()
        with opened(path) as file:
            into = bytearray(4)
            read = file.read_ex(into, results, offset=3)
            assert await face.sleep_ex(None, alertable=True) == WAIT_IO_COMPLETION
            assert results.calls == [(0, 4)]
            assert into == b"3456"
            into.clear()
            assert read.offset == 3
            written = file.write_ex(b"abc", results, offset=8)
            assert await face.wait(written, None) == WAIT_OBJECT_0
            assert await face.test_alert()
            assert results.calls == [(0, 4), (0, 3)]
            assert file.statistics() == OverlappedStatistics(0, 0, 4, 3)

    run(face, script)
    assert path.read_bytes() == b"01234567abc"


@pytest.mark.feature("IO-03")
def test_the_end_of_a_file(face: Face, path: Path) -> None:
    async def script() -> None:
        results = Results()
        with opened(path) as file:
            file.read_ex(bytearray(20), results, offset=4)
            file.read_ex(bytearray(20), results, offset=10)
            file.read_ex(bytearray(), results, offset=10)
            while len(results.calls) < 3:
                await face.sleep_ex(None, alertable=True)
            assert results.calls == [(0, 6), (38, 0), (0, 0)]
            with pytest.raises(ApcError) as caught:
                await read_into(face, file, bytearray(1), offset=99)
            assert caught.value.status == Status.ERROR_HANDLE_EOF

    run(face, script)


@pytest.mark.feature("IO-03")
def test_a_file_is_copied_by_routines_that_issue_the_next_operation(face: Face, path: Path, tmp_path: Path) -> None:
    """As the samples do it. What hEvent is in Windows is not touched, and may carry what a routine needs to know."""
    data = os.urandom(100_000)
    path.write_bytes(data)
    copy = tmp_path / "copy"
    copy.touch()
    done: list[int] = []

    async def script() -> None:
        with opened_two(path, copy) as (source, target):
            into = bytearray(30_000)

            def has_read(error: int, count: int, overlapped: Overlapped) -> None:
                assert overlapped.user_info is marker
                if error:
                    assert error == Status.ERROR_HANDLE_EOF
                    done.append(error)
                    return
                assert overlapped.offset is not None
                target.write_ex(into[:count], has_written, offset=overlapped.offset).user_info = marker

            def has_written(error: int, count: int, overlapped: Overlapped) -> None:
                assert not error
                assert overlapped.offset is not None
                source.read_ex(into, has_read, offset=overlapped.offset + count).user_info = marker

            marker = object()
            source.read_ex(into, has_read, offset=0).user_info = marker
            while not done:
                await face.sleep_ex(None, alertable=True)

    run(face, script)
    assert copy.read_bytes() == data


@contextlib.contextmanager
def opened_two(one: Path, other: Path) -> Iterator[tuple[OverlappedFile, OverlappedFile]]:
    with opened(one) as first, OverlappedFile(os.open(other, os.O_RDWR)) as second:
        yield first, second


def test_the_verbs_that_wait(face: Face, path: Path) -> None:
    async def script() -> None:
        with opened(path) as file:
            assert await write(face, file, b"AB", offset=1) == 2
            into = bytearray(4)
            assert await read_into(face, file, into, offset=0) == 4
            assert into == b"0AB3"

    run(face, script)


def test_errors_of_the_system_are_the_cause(face: Face, path: Path) -> None:
    async def script() -> None:
        file = OverlappedFile(os.open(path, os.O_RDONLY))
        written = file.write_ex(b"x", offset=0)
        await face.wait(written, None)
        with pytest.raises(ApcError) as caught:
            written.result()
        assert caught.value.status == Status.ERROR_INVALID_HANDLE
        assert isinstance(caught.value.__cause__, OSError)
        await close(face, file)
        await close(face, file)

    run(face, script)


@pytest.mark.parametrize("offset", [None, -1])
def test_an_offset_is_needed(path: Path, offset: int | None) -> None:
    with opened(path) as file:
        with pytest.raises(ApcError, match=r"read_ex\(into, offset=0\)") as caught:
            file.read_ex(bytearray(3), offset=offset)
        assert caught.value.status == 87
        with pytest.raises(ApcError, match=r"write_ex\(data, offset=0\)"):
            file.write_ex(b"x", offset=offset)


@pytest.mark.feature("IO-02")
def test_what_no_helper_has_begun_can_be_cancelled(face: Face, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)

    async def script() -> None:
        results = Results()
        with opened(path) as file:
            operations = [file.read_ex(bytearray(2), results, offset=index) for index in range(3)]
            gate.entered.acquire()
            assert file.statistics().pending_reads == 3
            assert not operations[0].cancel()  # a helper is at it
            assert operations[1].cancel()
            with pytest.raises(ApcError) as caught:
                file.cancel_io_ex(operations[0])
            assert caught.value.status == Status.ERROR_NOT_FOUND
            file.cancel_io()
            assert operations[0].pending
            gate.leave.release()
            while len(results.calls) < 3:
                await face.sleep_ex(None, alertable=True)
            assert results.calls == [(995, 0), (995, 0), (0, 2)]
            assert not operations[0].cancel()

    run(face, script)


def test_closing_lets_helpers_finish(face: Face, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)

    async def script() -> None:
        results = Results()
        file = OverlappedFile(os.open(path, os.O_RDWR))
        file.read_ex(bytearray(2), results, offset=0)
        file.read_ex(bytearray(2), results, offset=0)
        gate.entered.acquire()

        def release() -> None:
            until(lambda: "closed" in repr(file))
            gate.leave.release()

        releasing = threading.Thread(target=release)
        releasing.start()
        await close(face, file)
        releasing.join()
        assert helpers() == []
        await face.sleep_ex(0, alertable=True)
        assert results.calls == [(995, 0), (0, 2)]

    run(face, script)


def test_aclose_lets_the_loop_go_on_and_closes_even_when_cancelled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)

    async def main() -> None:
        file = OverlappedFile(os.open(path, os.O_RDWR))
        read = file.read_ex(bytearray(2), offset=0)
        await trio.to_thread.run_sync(gate.entered.acquire)
        order: list[str] = []

        async def closing() -> None:
            with trio.CancelScope() as scope:
                scope.cancel()
                await file.aclose()
            order.append("closed")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(closing)
            while "closed" not in repr(file):
                await trio.lowlevel.checkpoint()
            order.append("alive")
            gate.leave.release()
        assert order == ["alive", "closed"]
        assert read.result() == 2
        assert helpers() == []

    trio.run(main)


def test_cancelled_while_a_helper_is_at_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done is not lost: the result is returned, and the cancel comes with the next checkpoint."""
    gate = Gate(monkeypatch)

    async def main() -> None:
        with trio.CancelScope() as scope:
            async with OverlappedFile(os.open(path, os.O_RDWR)) as file:
                async with trio.open_nursery() as nursery:

                    async def interrupt() -> None:
                        await trio.to_thread.run_sync(gate.entered.acquire)
                        scope.cancel()
                        gate.leave.release()

                    nursery.start_soon(interrupt)
                    into = bytearray(3)
                    assert await file.receive_into(into, offset=1) == 3
                    assert into == b"123"
        assert scope.cancelled_caught

    trio.run(main)
    assert helpers() == []


def test_at_most_four_helpers_and_only_as_many_as_there_is_work_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with contextlib.ExitStack() as stack:
        files = []
        for index in range(6):
            file = tmp_path / str(index)
            file.write_bytes(b"x")
            files.append(stack.enter_context(OverlappedFile(os.open(file, os.O_RDWR))))
        assert helpers() == []
        operations = [files[0].read_ex(bytearray(1), offset=0)]
        gate.entered.acquire()
        assert helpers() == ["apcrt-file-1"]
        operations += [file.read_ex(bytearray(1), offset=0) for file in files[1:]]
        assert helpers() == [f"apcrt-file-{index}" for index in range(1, 5)]
        for _ in files:
            gate.leave.release()
        apc.wait_for_multiple_objects_ex(operations, None, wait_all=True)
        assert [one.result() for one in operations] == [1] * 6
    assert helpers() == []


def test_writes_of_one_file_are_done_in_the_order_of_issue(face: Face, path: Path) -> None:
    async def script() -> None:
        results = Results()
        with opened(path) as file:
            operations = [file.write_ex(bytes([index]) * 3, results, offset=0) for index in range(200)]
            while len(results.calls) < 200:
                await face.sleep_ex(None, alertable=True)
            assert results.operations == operations

    run(face, script)
    assert path.read_bytes()[:3] == bytes([199]) * 3


def test_the_end_of_a_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with opened(path) as file:
        operations: list[Overlapped] = []
        results = Results()

        async def script() -> None:
            operations.extend(file.read_ex(bytearray(2), results, offset=0) for _ in range(2))
            gate.entered.acquire()

        runner: Runner[None] = Runner(PlainFace(), script)
        runner.result()
        until(lambda: runner.thread.gone)
        # The helper has the memory of the first until it is done.
        assert [one.pending for one in operations] == [True, False]
        gate.leave.release()
        apc.wait_for_single_object_ex(operations[0], None)
        assert [one.status for one in operations] == [0, 995]
    assert results.calls == []


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_a_file_that_was_never_closed(path: Path, used: bool) -> None:
    file = OverlappedFile(os.open(path, os.O_RDWR))
    if used:
        assert file.read_into(bytearray(3), offset=0) == 3
    left = [file]
    del file

    def forget() -> None:
        left.clear()
        until(lambda: len(warned))  # perhaps a helper has it for a moment longer

    with pytest.warns(ResourceWarning, match="unclosed file") as warned:
        forget()
    until(lambda: helpers() == [])


def test_no_thread_can_be_had(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with opened(path) as file:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(ApcError) as caught:
                file.read_ex(bytearray(3), offset=0)
        assert caught.value.status == Status.RPC_S_OUT_OF_THREADS
        assert file.read_into(bytearray(3), offset=0) == 3


def test_opening_and_closing_on_many_threads(tmp_path: Path) -> None:
    """The last to leave ends the helpers while others come."""

    def use(index: int) -> Callable[[], None]:
        path = tmp_path / str(index)

        def work() -> None:
            for turn in range(50):
                with OverlappedFile(os.open(path, os.O_RDWR | os.O_CREAT)) as file:
                    assert file.write(bytes([turn]) * 10, offset=0) == 10
                    into = bytearray(10)
                    assert file.read_into(into, offset=0) == 10
                    assert into == bytes([turn]) * 10

        return work

    with apc.open_apc_threads() as threads:
        for index in range(6):
            threads.start(use(index))
    assert helpers() == []

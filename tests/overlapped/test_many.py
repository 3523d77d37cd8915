"""Limits, forks, and many threads that do everything at once."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine

import pytest

from apcrt import apc
from apcrt.apc import ApcError
from apcrt.overlapped import Overlapped, _file, _pipe
from tests.apc.faces import Face, Runner
from tests.overlapped.helpers import (
    Pair,
    Results,
    in_process,
    opened,
    os_pipe,
    read_into,
    stream_sockets,
    terminal,
    write,
)

KINDS: tuple[Callable[[], Pair], ...] = (os_pipe, stream_sockets, in_process)


@pytest.mark.parametrize("make", [*KINDS, terminal], ids=lambda make: make.__name__)
def test_too_many_are_refused(make: Callable[[], Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_file, _pipe):
        monkeypatch.setattr(module, "MOST_PENDING", 10)
    with opened(make) as (reader, _):
        operations = [reader.read_ex(bytearray(1)) for _ in range(10)]
        with pytest.raises(ApcError) as caught:
            reader.read_ex(bytearray(1))
        assert caught.value.status == 1784
        assert operations[3].cancel()
        reader.read_ex(bytearray(1))


def test_after_a_fork() -> None:
    script = """
import os, threading
from apcrt import apc
from apcrt.apc import lowlevel
from apcrt.overlapped import OverlappedFile

reader, writer = map(OverlappedFile, os.pipe())
file = OverlappedFile(os.open("/proc/self/exe", os.O_RDONLY))
assert file.read_into(bytearray(4), offset=0) == 4     # there is a helper
apc.current_thread().set_wakeup(bool)
pending = reader.read_ex(bytearray(4))                  # and a driver
child = os.fork()
if child == 0:
    calls = [lambda: reader.read_ex(bytearray(1)), lambda: writer.write_ex(b"x"), reader.close, pending.cancel,
             lambda: file.read_ex(bytearray(1), offset=0), file.close, reader.statistics, reader.cancel_io]
    for call in calls:
        try:
            call()
        except apc.ApcError as error:
            assert error.status == 6 and "forked" in str(error), error
        else:
            raise AssertionError(call)
    assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
    with OverlappedFile(os.open("/proc/self/exe", os.O_RDONLY)) as own:
        assert own.read_into(bytearray(4), offset=0) == 4
    ends = [OverlappedFile(number) for number in os.pipe()]
    apc.current_thread().set_wakeup(bool)
    read = ends[0].read_ex(bytearray(4))
    ends[1].write(b"ab")
    assert apc.wait_for_single_object_ex(read, None) == 0 and read.result() == 2
    for end in ends:
        end.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
writer.write(b"abcd")                                   # what was pending in the parent is as it was
assert apc.wait_for_single_object_ex(pending, None) == 0
assert pending.result() == 4
for one in (reader, writer, file):
    one.close()
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
    assert done.stderr == ""


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_what_is_written_by_many_is_read_by_many(face: Face, make: Callable[[], Pair], seed: int) -> None:
    """Some reads are cancelled on the way, some threads wait alertably, some directly: no byte is lost or doubled."""
    share = 20_000
    writers = readers = 3
    total = share * writers
    counts = [0] * 256
    lock = threading.Lock()
    expected = [0] * 256
    with opened(make) as (source, target):

        def writing(number: int) -> Callable[[], Coroutine[object, None, None]]:
            chance = random.Random(seed * 100 + number)
            data = chance.randbytes(share)
            for byte in data:
                expected[byte] += 1

            async def script() -> None:
                sent = 0
                while sent < share:
                    piece = data[sent : sent + chance.randrange(1, 3000)]
                    if chance.random() < 0.5:
                        sent += await write(face, target, piece)
                    else:
                        written = target.write_ex(piece)
                        await face.wait(written, None)
                        sent += written.result()

            return script

        def note(piece: bytes) -> None:
            with lock:
                for byte in piece:
                    counts[byte] += 1

        def reading(number: int) -> Callable[[], Coroutine[object, None, None]]:
            chance = random.Random(seed * 100 + 50 + number)

            async def script() -> None:
                while sum(counts) < total:
                    into = bytearray(chance.randrange(1, 3000))
                    what = chance.random()
                    if what < 0.3:
                        results = Results()
                        read = source.read_ex(into, results)
                        if chance.random() < 0.5:
                            read.cancel()
                        else:
                            await face.sleep_ex(0.005, alertable=True)
                            read.cancel()
                        while not results.calls:
                            await face.sleep_ex(None, alertable=True)
                        note(bytes(into[: results.calls[0][1]]))
                    else:
                        read = source.read_ex(into)
                        await face.wait(read, 0.005)
                        if not read.cancel():
                            note(bytes(into[: read.result()]))

            return script

        runners = [Runner(face, writing(number)) for number in range(writers)]
        runners += [Runner(face, reading(number)) for number in range(readers)]
        for runner in runners:
            runner.result()
        assert counts == expected
        assert source.statistics().bytes_read == total
        assert target.statistics().bytes_written == total


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_cancel_close_data_and_the_end_of_threads_race(make: Callable[[], Pair], seed: int) -> None:
    """Every operation has one end; its routine runs once, unless its thread has ended before."""
    chance = random.Random(seed)
    for _ in range(15):
        race(make, stays=chance.random() < 0.5)


def race(make: Callable[[], Pair], *, stays: bool) -> None:
    """Issue on two threads, of which one stays until its operations have ended, and end them in every way at once."""
    reader, writer = make()
    operations: list[Overlapped] = []
    calls: list[Overlapped] = []
    begin = threading.Barrier(5)

    def issuing(stays: bool) -> None:
        mine: list[Overlapped] = []
        with contextlib.suppress(ApcError):  # closed already
            while len(mine) < 20:
                mine.append(reader.read_ex(bytearray(8), lambda _e, _c, one: calls.append(one)))
        operations.extend(mine)
        begin.wait()
        while stays and not set(mine) <= set(calls):
            apc.sleep_ex(None, alertable=True)

    def cancelling() -> None:
        begin.wait()
        for one in operations:
            one.cancel()

    def sending() -> None:
        begin.wait()
        with contextlib.suppress(ApcError):  # nobody reads any more
            for _ in range(5):
                writer.write(b"12345678" * 2)

    def closing() -> None:
        begin.wait()
        reader.close()

    with apc.open_apc_threads() as threads:
        threads.start(issuing, stays)
        threads.start(issuing, not stays)
        threads.start(cancelling)
        threads.start(sending)
        threads.start(closing)
    writer.close()
    assert not any(one.pending for one in operations)
    assert len(calls) == len(set(calls))


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_a_long_line_is_served_in_order(face: Face, make: Callable[[], Pair]) -> None:
    with opened(make) as (reader, writer):
        results = Results()
        operations: list[Overlapped] = []

        async def script() -> None:
            operations.extend(reader.read_ex(bytearray(1), results) for _ in range(3000))
            while len(results.calls) < 3000:
                await face.sleep_ex(None, alertable=True)

        runner = Runner(face, script)
        data = os.urandom(3000)
        writer.write(data)
        runner.result()
        assert results.operations == operations


def test_descriptors_and_threads_come_and_go(no_leaked_descriptors: object, face: Face) -> None:
    async def script() -> None:
        for _ in range(30):
            with opened(stream_sockets) as (one, other):
                pending = one.read_ex(bytearray(10))
                await write(face, other, b"abc")
                await face.wait(pending, None)
                one.read_ex(bytearray(10))
                await write(face, one, b"abc")
                assert await read_into(face, other, bytearray(3)) == 3

    Runner(face, script).result()

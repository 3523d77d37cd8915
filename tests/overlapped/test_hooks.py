"""Threads with a wake-up hook, which never wait: the driver services what they have pending, and fires their timers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from apcrt import apc
from apcrt.apc import lowlevel
from apcrt.overlapped import OverlappedFile
from tests.apc.faces import PlainFace, Runner, until, until_blocked
from tests.overlapped.helpers import Results, opened, os_pipe, stream_sockets


def drivers() -> int:
    return sum(thread.name == "apcrt-driver" for thread in threading.enumerate())


def in_asyncio(main: Callable[[], Awaitable[None]]) -> None:
    """Run it on a thread whose loop is asyncio's, with its hook set."""

    async def hooked() -> None:
        loop = asyncio.get_running_loop()
        apc.current_thread().set_wakeup(lambda: loop.call_soon_threadsafe(apc.test_alert))
        try:
            await main()
        finally:
            apc.current_thread().set_wakeup(None)

    async def script() -> None:
        asyncio.run(hooked())

    Runner(PlainFace(), script).result()


@pytest.mark.feature("IO-01")
def test_an_asyncio_loop_gets_its_completions_without_ever_waiting(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"0123456789")

    async def main() -> None:
        here = threading.get_ident()
        done = asyncio.Event()
        ran: list[tuple[int, int, int]] = []

        def routine(error: int, count: int, _: object) -> None:
            ran.append((error, count, threading.get_ident()))
            if len(ran) == 3:
                done.set()

        with opened(stream_sockets) as (reader, writer), OverlappedFile(os.open(path, os.O_RDONLY)) as file:
            reader.read_ex(bytearray(10), routine)
            assert drivers() == 1
            await asyncio.sleep(0)
            file.read_ex(bytearray(4), routine, offset=0)
            writer.write_ex(b"hello", routine)
            await done.wait()
            assert sorted(ran) == [(0, 4, here), (0, 5, here), (0, 5, here)]

    in_asyncio(main)


def test_an_asyncio_loop_gets_its_timers_without_ever_waiting() -> None:
    async def main() -> None:
        done = asyncio.Event()
        ticks: list[int] = []

        def tick(argument: str, _low: int, _high: int) -> None:
            assert argument == "tick"
            ticks.append(threading.get_ident())
            if len(ticks) == 3:
                done.set()

        timer = apc.WaitableTimer()
        timer.set(0.01, period=0.01, routine=tick, argument="tick")
        assert drivers() == 1
        await done.wait()
        timer.cancel()
        assert set(ticks) == {threading.get_ident()}

    in_asyncio(main)


def test_an_earlier_timer_shortens_the_sleep_of_the_driver() -> None:
    async def main() -> None:
        done = asyncio.Event()
        late, early = apc.WaitableTimer(), apc.WaitableTimer()
        late.set(1000.0, routine=lambda *_: None)
        early.set(0.01, routine=lambda *_: done.set())
        await done.wait()
        late.cancel()

    in_asyncio(main)


def test_timers_and_operations_that_were_there_before_the_hook(no_leaked_descriptors: object) -> None:
    thread = apc.current_thread()
    calls: list[int] = []
    with opened(os_pipe) as (reader, writer):
        timer = apc.WaitableTimer()
        timer.set(0.0, routine=lambda *_: calls.append(0))
        timer.set(0.001, routine=lambda *_: calls.append(1))
        results = Results()
        reader.read_ex(bytearray(3), results)
        assert drivers() == 0
        poked = threading.Event()
        thread.set_wakeup(poked.set)
        assert drivers() == 1
        writer.write(b"x")
        while not (calls and results.calls):
            poked.wait()
            poked.clear()
            apc.test_alert()
        assert results.calls == [(0, 1)]
        thread.set_wakeup(None)
        # With the hook gone its own waits drive again.
        reader.read_ex(bytearray(3), results)
        thread.set_wakeup(poked.set)
        thread.set_wakeup(None)
        lowlevel.stop_driver()
        writer.write(b"yz")
        assert apc.sleep_ex(None, alertable=True) == apc.WAIT_IO_COMPLETION
        assert results.calls == [(0, 1), (0, 2)]


def test_a_hook_alone_starts_no_thread() -> None:
    apc.current_thread().set_wakeup(bool)
    timer = apc.WaitableTimer()
    timer.set(100.0)
    timer.cancel()
    assert drivers() == 0


def test_a_thread_with_a_hook_may_block_all_the_same() -> None:
    with opened(os_pipe) as (reader, writer):

        async def script() -> int:
            apc.current_thread().set_wakeup(bool)
            return reader.read_into(bytearray(3))

        runner = Runner(PlainFace(), script)
        until_blocked(runner.thread)
        writer.write(b"ab")
        assert runner.result() == 2


def test_a_source_that_fails_does_not_end_the_driver() -> None:
    class Broken:
        def owes(self) -> bool:
            return True

        def service(self, fd: int, events: int) -> None:
            serviced.append(fd)
            raise ValueError

    serviced: list[int] = []
    reader, writer = os.pipe()
    try:
        port = lowlevel.driver_port()
        os.write(writer, b"x")
        port.arm(reader, lowlevel.READ, Broken())
        until(lambda: serviced)
        port.disarm(reader)
        assert drivers() == 1
        assert lowlevel.driver_port() is port
    finally:
        os.close(reader)
        os.close(writer)
    lowlevel.stop_driver()
    lowlevel.stop_driver()
    assert drivers() == 0


def test_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch, no_leaked_descriptors: object) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    apc.current_thread().set_wakeup(bool)
    with opened(os_pipe) as (reader, _), monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(apc.ApcError) as caught:
            reader.read_ex(bytearray(3))
        assert caught.value.status == 164


def test_the_process_ends_with_everything_pending() -> None:
    """The driver and the helpers are ended by the interpreter's exit; what was never closed is reported."""
    script = """
import os, threading
from apcrt import apc
from apcrt.overlapped import OverlappedFile

apc.current_thread().set_wakeup(bool)
timer = apc.WaitableTimer()
timer.set(1000.0, period=1.0, routine=print)
reader, writer = map(OverlappedFile, os.pipe())
reader.read_ex(bytearray(3), print)
file = OverlappedFile(os.open(__file__, os.O_RDONLY)) if "__file__" in globals() else OverlappedFile(
    os.open("/proc/self/exe", os.O_RDONLY))
file.read_ex(bytearray(3), print, offset=0)
print(sorted(thread.name for thread in threading.enumerate()))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", script],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout == "['MainThread', 'apcrt-driver', 'apcrt-file-1']\n"
    assert done.stderr == ""

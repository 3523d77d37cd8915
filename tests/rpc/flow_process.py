"""Streams in a process of its own that measures itself: `python -m tests.rpc.flow_process WHAT BINDING`.

Prints what it has found as one line of JSON. Memory is resident memory, the processor's time is that of all threads.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import trio

import apcrt
from apcrt import AsyncEvent, AsyncFlags, apc, notify
from tests.rpc.sample import Plain, Sample

PIECE = 64 << 10
OFFERED = 512 << 20
STALL = 1.0  # seconds of standing still over which the processor's time is measured
SETTLE = 0.2  # seconds from the last movement to the beginning of that


def resident() -> int:
    """Resident memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmRSS")


class Meter:
    """Growth of memory since it was made, and the processor's time of one window."""

    def __init__(self) -> None:
        self.before = resident()
        self.found: dict[str, float] = {}

    def look(self, **more: float) -> None:
        """Note how much memory has grown."""
        self.found["growth"] = max(self.found.get("growth", 0), resident() - self.before)
        self.found.update(more)

    def stall(self, stand_still: Callable[[float], object]) -> None:
        """Measure a window in which nothing should happen; the thread waits as `stand_still` does."""
        stand_still(SETTLE)
        before = time.process_time()
        stand_still(STALL)
        self.found["seconds"] = time.process_time() - before

    def tell(self) -> None:
        """Print it."""
        print(json.dumps(self.found), flush=True)


def push_by_events(client: Sample, meter: Meter) -> None:
    """Offer everything by non-blocking pushes, whether the peer takes it or not; then wait alertably."""
    up: apcrt.InPipe[int] = apcrt.InPipe()
    events: list[AsyncEvent] = []
    handle = apcrt.AsyncHandle[int](
        notification=notify.Apc(lambda _handle, event: events.append(event)), flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE
    )
    client.write.begin(handle, "f", up)
    piece = bytes(PIECE)
    taken = refused = 0
    for _ in range(OFFERED // PIECE):
        try:
            up.push(piece)
            taken += 1
        except apcrt.SendWindowFull:
            refused += 1
            if refused % 100 == 1:
                apc.sleep_ex(0, alertable=True)
    meter.look(taken=taken * PIECE, refused=refused)
    events.clear()
    meter.stall(lambda seconds: apc.sleep_ex(seconds, alertable=True))
    meter.look(events=len(events))
    handle.cancel_call(abort=True)


def push_and_be_away(client: Sample, meter: Meter) -> None:
    """The same, but the thread does not wait at all: the I/O thread has what is left over."""
    up: apcrt.InPipe[int] = apcrt.InPipe()
    handle = apcrt.AsyncHandle[int](notification=notify.Apc(lambda *_: None), flags=AsyncFlags.NOTIFY_ON_SEND_COMPLETE)
    client.write.begin(handle, "f", up)
    piece = bytes(PIECE)
    for _ in range(OFFERED // PIECE):
        try:
            up.push(piece)
        except apcrt.SendWindowFull:
            continue
    meter.stall(time.sleep)
    meter.look()
    handle.cancel_call(abort=True)


def write(client: Sample, meter: Meter) -> None:
    """A blocking upload on another thread, which never comes to its end."""
    with apc.open_apc_threads() as threads:
        threads.start(_write, client)
        meter.stall(time.sleep)
        meter.look()
        threads.cancel()


def _write(client: Sample) -> None:
    client.write("f", apcrt.InPipe(source=(bytes(PIECE) for _ in range(OFFERED // PIECE))))


async def send(binding: str, meter: Meter) -> None:
    """An awaiting upload, in this process's only thread."""
    async with apcrt.Runtime() as runtime, trio.open_nursery() as nursery:
        client = Sample(runtime.binding(binding))
        await client.mixed.call(1, 2)
        meter.before = resident()
        nursery.start_soon(_send, client)
        await trio.sleep(SETTLE)
        before = time.process_time()
        await trio.sleep(STALL)
        meter.look(seconds=time.process_time() - before)
        nursery.cancel_scope.cancel()


async def _send(client: Sample) -> None:
    await client.write.call("f", apcrt.InPipe(source=(bytes(PIECE) for _ in range(OFFERED // PIECE))))


def pull_slowly(client: Sample, meter: Meter) -> None:
    """Pull a little of an endless download, now and then, and then nothing."""
    down: apcrt.OutPipe[int] = apcrt.OutPipe()
    with client.read.open(1 << 30, PIECE, down):
        buffer = bytearray(1000)
        for _ in range(50):
            down.read_into(buffer)
            time.sleep(0.005)
            meter.look()
        meter.stall(time.sleep)
        meter.look()


class Slow(Plain):
    """A manager that pulls a little, and then stands still until its client has gone."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter

    @Sample.write.manager
    def write(self, call: apcrt.ServerHandle[int], name: str, data: apcrt.InPipe[int]) -> int:
        self.meter.before = resident()
        buffer = bytearray(1000)
        for _ in range(50):
            data.read_into(buffer)
            time.sleep(0.005)
            self.meter.look()
        self.meter.stall(time.sleep)
        self.meter.look()
        self.meter.tell()
        return 0


def serve(endpoint: str, meter: Meter) -> None:
    """Serve `Slow`, whose upload measures."""
    with apcrt.Runtime() as runtime, runtime.server() as server:
        server.register(Sample, Slow(meter))
        print(server.start(endpoint)[0], flush=True)
        sys.stdin.read()
        runtime.close(drain=False)


def main() -> None:
    """Do what the command line says."""
    what, binding = sys.argv[1:]
    if what == "serve":
        serve(binding, Meter())
        return
    if what == "send":
        meter = Meter()
        trio.run(send, binding, meter)
    else:
        runtime = apcrt.Runtime()
        with runtime:
            client = Sample(runtime.binding(binding))
            client.mixed(1, 2)
            meter = Meter()
            globals()[what](client, meter)
            runtime.close(drain=False)
    meter.tell()


if __name__ == "__main__":
    main()

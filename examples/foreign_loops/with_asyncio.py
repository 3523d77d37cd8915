"""Completions on the thread of an asyncio loop: `python -m examples.foreign_loops.with_asyncio`.

One lesson: a thread whose loop is not apcrt's never waits alertably. It gives its thread a function that pokes the loop
from whichever thread queues an APC, and the loop calls `apc.test_alert()`, which runs what is queued.

What to watch for: every line names the thread it was printed on, which is the loop's; and the ticks go on all the time,
because nothing here blocks the loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time

from apcrt import apc
from apcrt.overlapped import Overlapped, OverlappedFile

PRODUCERS = 4
EACH = 250


async def main() -> int:
    """Run it; returns how many completions came to another thread than the loop's."""
    loop, home = asyncio.get_running_loop(), threading.get_ident()
    thread = apc.current_thread()
    thread.set_wakeup(lambda: loop.call_soon_threadsafe(apc.test_alert))
    everything = asyncio.Event()
    came, wrong, ticks = [0] * PRODUCERS, 0, 0

    def completed(producer: int, number: int) -> None:
        nonlocal wrong
        wrong += threading.get_ident() != home
        assert came[producer] == number, "in the order of queueing"
        came[producer] += 1
        if came == [EACH] * PRODUCERS and read and fired:
            everything.set()

    def produce(producer: int) -> None:
        for number in range(EACH):
            thread.queue_user_apc(completed, producer, number)

    read: list[bytes] = []
    fired: list[str] = []
    buffer = bytearray(64)

    def was_read(error: int, count: int, _overlapped: Overlapped) -> None:
        nonlocal wrong
        wrong += threading.get_ident() != home or error
        read.append(bytes(buffer[:count]))
        print(f"read {read[0]!r} on {threading.current_thread().name}")

    def was_due(what: str, _low: int, _high: int) -> None:
        nonlocal wrong
        wrong += threading.get_ident() != home
        fired.append(what)
        print(f"{what} on {threading.current_thread().name}")

    receiver, sender = os.pipe()
    timer = apc.WaitableTimer()
    with OverlappedFile(receiver) as file:
        file.read_ex(buffer, was_read)
        timer.set(0.02, routine=was_due, argument="a timer was due")
        os.write(sender, b"hello")
        while not (read and fired):
            await asyncio.sleep(0.001)
            ticks += 1
        producers = [threading.Thread(target=produce, args=(number,)) for number in range(PRODUCERS)]
        longest, before = 0.0, time.perf_counter()
        for producer in producers:
            producer.start()
        while not everything.is_set():
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now
            ticks += 1
        for producer in producers:
            producer.join()
    os.close(sender)
    thread.set_wakeup(None)
    print(f"{sum(came)} completions from {PRODUCERS} threads, {wrong} on a wrong thread")
    print(f"the loop went round {ticks} times; its longest round took {longest * 1000:.1f} ms")
    return wrong


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

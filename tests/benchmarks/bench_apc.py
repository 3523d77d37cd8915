"""APCs against other ways of having something called on another thread.

Watch the ratios; the absolute numbers are the machine's. All ways of a table are measured in turn, round after round,
so that a busy moment of the machine does not fall on one of them; medians, and the spread from the lowest to the
highest round.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import queue
import statistics
import threading
import time
from collections.abc import Callable

import trio

from apcrt import apc
from apcrt.apc import aio

ROUNDS = 7
CALLS = 40_000
TRIPS = 3_000

Post = Callable[[], object]


class Receiver:
    """Counts down; the routine that everybody calls."""

    def __init__(self, most: int) -> None:
        self.left = most

    def hit(self) -> None:
        self.left -= 1

    async def hit_async(self) -> None:
        self.left -= 1


# Each serves on the calling thread, hands out how to post to it, and returns when everything has come.


def apc_plain(receiver: Receiver, ready: Callable[[Post], None]) -> None:
    thread = apc.current_thread()
    ready(lambda: thread.queue_user_apc(receiver.hit))
    while receiver.left:
        apc.sleep_ex(None, alertable=True)


def _apc_trio(receiver: Receiver, routine: Callable[[], object], ready: Callable[[Post], None]) -> None:
    async def main() -> None:
        thread = apc.current_thread()
        ready(lambda: thread.queue_user_apc(routine))
        while receiver.left:
            await aio.sleep_ex(None, alertable=True)

    trio.run(main)


def apc_trio(receiver: Receiver, ready: Callable[[Post], None]) -> None:
    _apc_trio(receiver, receiver.hit, ready)


def apc_async(receiver: Receiver, ready: Callable[[Post], None]) -> None:
    _apc_trio(receiver, receiver.hit_async, ready)


def asyncio_soon(receiver: Receiver, ready: Callable[[Post], None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def hit() -> None:
            receiver.hit()
            if not receiver.left:
                done.set()

        ready(lambda: loop.call_soon_threadsafe(hit))
        await done.wait()

    asyncio.run(main())


def trio_soon(receiver: Receiver, ready: Callable[[Post], None]) -> None:
    async def main() -> None:
        token = trio.lowlevel.current_trio_token()
        done = trio.Event()

        def hit() -> None:
            receiver.hit()
            if not receiver.left:
                done.set()

        ready(lambda: token.run_sync_soon(hit))
        await done.wait()

    trio.run(main)


def simple_queue(receiver: Receiver, ready: Callable[[Post], None]) -> None:
    calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    ready(lambda: calls.put(receiver.hit))
    while receiver.left:
        calls.get()()


def pool(receiver: Receiver, ready: Callable[[Post], None]) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        ready(lambda: executor.submit(receiver.hit))


WAYS = {
    "APC, plain": apc_plain,
    "APC, trio": apc_trio,
    "APC, trio, async routine": apc_async,
    "asyncio call_soon_threadsafe": asyncio_soon,
    "trio run_sync_soon": trio_soon,
    "queue.SimpleQueue": simple_queue,
    "pool of 1 thread, submit": pool,
}


def throughput(way: Callable[[Receiver, Callable[[Post], None]], None], producers: int) -> float:
    """Thousand calls in a second."""
    receiver = Receiver(CALLS)
    posts: list[Post] = []
    known, begin = threading.Event(), threading.Barrier(producers)
    times: list[float] = []

    def ready(post: Post) -> None:
        posts.append(post)
        known.set()
        if way is pool:
            for thread in threads:
                thread.join()  # it takes what comes until it is shut down

    def produce() -> None:
        known.wait()
        post = posts[0]
        begin.wait()
        times.append(time.perf_counter())
        for _ in range(CALLS // producers):
            post()

    def serve() -> None:
        way(receiver, ready)
        times.append(time.perf_counter())

    threads = [threading.Thread(target=produce) for _ in range(producers)]
    server = threading.Thread(target=serve)
    for thread in (*threads, server):
        thread.start()
    for thread in (*threads, server):
        thread.join()
    return CALLS / (max(times) - min(times)) / 1000


# Round trips


def _timed(trip: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(TRIPS):
        begun = time.perf_counter()
        trip()
        times.append((time.perf_counter() - begun) * 1e6)
    return times[TRIPS // 10 :]


def locks() -> list[float]:
    """Two hand-overs of a bare lock."""
    there, back = threading.Lock(), threading.Lock()
    there.acquire()
    back.acquire()

    def echo() -> None:
        for _ in range(TRIPS):
            there.acquire()
            back.release()

    def trip() -> None:
        there.release()
        back.acquire()

    thread = threading.Thread(target=echo)
    thread.start()
    times = _timed(trip)
    thread.join()
    return times


def ping_pong_plain() -> list[float]:
    """An APC there, whose routine queues one back; both threads are in alertable waits."""
    main = apc.current_thread()
    left = TRIPS

    def ping() -> None:
        nonlocal left
        left -= 1
        main.queue_user_apc(bool)

    def echo() -> None:
        while left:
            apc.sleep_ex(None, alertable=True)

    def trip() -> None:
        thread.queue_user_apc(ping)
        apc.sleep_ex(None, alertable=True)

    with apc.open_apc_threads() as threads:
        thread = threads.start(echo)
        return _timed(trip)


def ping_pong_trio() -> list[float]:
    """The same between two trio loops."""
    left = TRIPS
    times: list[float] = []

    async def echo() -> None:
        while left:
            await aio.sleep_ex(None, alertable=True)

    async def main() -> None:
        here = apc.current_thread()

        def ping() -> None:
            nonlocal left
            left -= 1
            here.queue_user_apc(bool)

        async with apc.open_apc_threads() as threads:
            thread = threads.start(echo)
            for _ in range(TRIPS):
                begun = time.perf_counter()
                thread.queue_user_apc(ping)
                await aio.sleep_ex(None, alertable=True)
                times.append((time.perf_counter() - begun) * 1e6)

    trio.run(main)
    return times[TRIPS // 10 :]


def soon_and_back() -> list[float]:
    """trio's own way, for what two trio loops cost: run_sync_soon that sets an event of the other loop."""
    tokens: list[trio.lowlevel.TrioToken] = []
    events: list[trio.Event] = [trio.Event(), trio.Event()]
    times: list[float] = []
    known = threading.Event()

    def hit(who: int) -> None:
        events[who].set()

    async def next_hit(who: int) -> None:
        await events[who].wait()
        events[who] = trio.Event()

    async def echo() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        known.set()
        for _ in range(TRIPS):
            await next_hit(0)
            tokens[0].run_sync_soon(hit, 1)

    async def main() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        thread.start()
        known.wait()
        for _ in range(TRIPS):
            begun = time.perf_counter()
            tokens[1].run_sync_soon(hit, 0)
            await next_hit(1)
            times.append((time.perf_counter() - begun) * 1e6)

    thread = threading.Thread(target=trio.run, args=(echo,))
    trio.run(main)
    thread.join()
    return times[TRIPS // 10 :]


TRIPPERS = {
    "two Lock hand-overs": locks,
    "APC ping-pong, plain": ping_pong_plain,
    "APC ping-pong, trio": ping_pong_trio,
    "trio run_sync_soon and back": soon_and_back,
}


def main() -> None:
    """Print the tables."""
    for producers in (1, 4):
        rates: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(ROUNDS):
            for name, way in WAYS.items():
                rates[name].append(throughput(way, producers))
        medians = {name: statistics.median(values) for name, values in rates.items()}
        print(
            f"thousand calls/s, {producers} producer{'s' * (producers > 1)}   median    low   high  asyncio=1  trio=1"
        )
        for name, values in rates.items():
            ratios = [medians[name] / medians[other] for other in list(WAYS)[3:5]]
            row = (medians[name], min(values), max(values), *ratios)
            print("  {:30} {:8.0f} {:6.0f} {:6.0f} {:10.1f} {:7.1f}".format(name, *row))
    all_cpus = os.sched_getaffinity(0)
    for cpus in (1, 2):
        if len(all_cpus) < cpus:
            continue
        os.sched_setaffinity(0, sorted(all_cpus)[:cpus])
        times: dict[str, list[float]] = {name: [] for name in TRIPPERS}
        middles: dict[str, list[float]] = {name: [] for name in TRIPPERS}
        for _ in range(ROUNDS):
            for name, tripper in TRIPPERS.items():
                found = tripper()
                times[name] += found
                middles[name].append(statistics.median(found))
        print(f"round trip, microseconds, {cpus} CPU{'s' * (cpus > 1)}  median    p99    low   high  locks=1")
        base = statistics.median(times["two Lock hand-overs"])
        for name, values in times.items():
            median, p99 = statistics.median(values), statistics.quantiles(values, n=100)[98]
            low, high = min(middles[name]), max(middles[name])
            print(f"  {name:30} {median:8.1f} {p99:6.1f} {low:6.1f} {high:6.1f} {median / base:8.2f}")
    os.sched_setaffinity(0, all_cpus)


if __name__ == "__main__":
    main()

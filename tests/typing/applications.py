"""Inside an application that exists: threads with loops of their own, and pool threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import apcrt
from apcrt import apc, ndr
from tests.typing.filerep import FileRep


class Application:
    """A toolkit's main loop, in short."""

    def post(self, function: Callable[[], object]) -> None: ...


def with_a_toolkit(app: Application) -> None:
    apc.current_thread().set_wakeup(lambda: app.post(apc.test_alert))
    apc.current_thread().set_wakeup(None)


async def with_asyncio() -> None:
    loop = asyncio.get_running_loop()
    apc.current_thread().set_wakeup(lambda: loop.call_soon_threadsafe(apc.test_alert))


def show(result: int, caption: str) -> None:
    print(result, caption)


def any_thread_to_any_thread(owner: apc.ApcThread) -> None:
    owner.queue_user_apc(show, 3, "three")
    print(owner.statistics().queued)


def a_pool(files: FileRep) -> list[int]:
    def fetch(name: str) -> int:
        return files.read(name, apcrt.OutPipe[ndr.Byte](sink=bytearray()))

    with ThreadPoolExecutor() as pool:
        return list(pool.map(fetch, ["a", "b"]))

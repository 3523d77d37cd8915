"""One harness for both faces: a script is an async function over a `Face`, run by a plain thread or by a trio loop.

On the plain face nothing a script awaits ever suspends: the waits block. So one script shows that both faces keep the
same rules. Every script runs on a thread of its own, so that nothing is left behind for the next test.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Generic, Protocol, TypeVar

import trio

from apcrt import apc
from apcrt.apc import aio

T = TypeVar("T")


class Face(Protocol):
    """The waits of one face, all awaitable."""

    name: str

    async def sleep_ex(self, seconds: float | None, *, alertable: bool = False) -> apc.WaitResult: ...

    async def wait(
        self, waitable: apc.Waitable, seconds: float | None, *, alertable: bool = False
    ) -> apc.WaitResult: ...

    async def wait_many(
        self,
        waitables: Sequence[apc.Waitable],
        seconds: float | None,
        *,
        wait_all: bool = False,
        alertable: bool = False,
    ) -> apc.WaitResult: ...

    async def test_alert(self) -> bool: ...

    def routine(self, function: Callable[..., Coroutine[object, None, object]]) -> Callable[..., object]:
        """An APC routine that may wait."""
        ...

    def run(self, script: Callable[[], Coroutine[object, None, T]]) -> T:
        """Run a script to its end on the calling thread."""
        ...


def complete(coroutine: Coroutine[object, None, T]) -> T:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("a plain script has suspended")


class PlainFace:
    """The blocking functions."""

    name = "plain"

    async def sleep_ex(self, seconds: float | None, *, alertable: bool = False) -> apc.WaitResult:
        return apc.sleep_ex(seconds, alertable=alertable)

    async def wait(self, waitable: apc.Waitable, seconds: float | None, *, alertable: bool = False) -> apc.WaitResult:
        return apc.wait_for_single_object_ex(waitable, seconds, alertable=alertable)

    async def wait_many(
        self,
        waitables: Sequence[apc.Waitable],
        seconds: float | None,
        *,
        wait_all: bool = False,
        alertable: bool = False,
    ) -> apc.WaitResult:
        return apc.wait_for_multiple_objects_ex(waitables, seconds, wait_all=wait_all, alertable=alertable)

    async def test_alert(self) -> bool:
        return apc.test_alert()

    def routine(self, function: Callable[..., Coroutine[object, None, object]]) -> Callable[..., object]:
        def plain(*args: object) -> object:
            return complete(function(*args))

        return plain

    def run(self, script: Callable[[], Coroutine[object, None, T]]) -> T:
        return complete(script())


class TrioFace:
    """The functions of `apcrt.apc.aio`."""

    name = "trio"

    async def sleep_ex(self, seconds: float | None, *, alertable: bool = False) -> apc.WaitResult:
        return await aio.sleep_ex(seconds, alertable=alertable)

    async def wait(self, waitable: apc.Waitable, seconds: float | None, *, alertable: bool = False) -> apc.WaitResult:
        return await aio.wait_for_single_object_ex(waitable, seconds, alertable=alertable)

    async def wait_many(
        self,
        waitables: Sequence[apc.Waitable],
        seconds: float | None,
        *,
        wait_all: bool = False,
        alertable: bool = False,
    ) -> apc.WaitResult:
        return await aio.wait_for_multiple_objects_ex(waitables, seconds, wait_all=wait_all, alertable=alertable)

    async def test_alert(self) -> bool:
        return await aio.test_alert()

    def routine(self, function: Callable[..., Coroutine[object, None, object]]) -> Callable[..., object]:
        return function

    def run(self, script: Callable[[], Awaitable[T]]) -> T:
        async def main() -> T:
            return await script()

        return trio.run(main)


FACES: tuple[Face, ...] = (PlainFace(), TrioFace())


class Runner(threading.Thread, Generic[T]):
    """A thread that runs a script on one face. `result()` joins it, and raises what it raised."""

    def __init__(self, face: Face, script: Callable[[], Coroutine[object, None, T]], name: str = "script") -> None:
        super().__init__(name=name)
        self._face = face
        self._script = script
        self._known = threading.Event()
        self._apc_thread: apc.ApcThread | None = None
        self._values: list[T] = []
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        self._apc_thread = apc.current_thread()
        self._known.set()
        try:
            self._values.append(self._face.run(self._script))
        except BaseException as error:  # noqa: BLE001 - raised by result()
            self._error = error

    @property
    def thread(self) -> apc.ApcThread:
        """Its ApcThread."""
        self._known.wait()
        assert self._apc_thread is not None
        return self._apc_thread

    def result(self) -> T:
        """Wait for its end."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._values[0]


def run(face: Face, script: Callable[[], Coroutine[object, None, T]]) -> T:
    """Run a script on a thread of its own and return what it returns."""
    return Runner(face, script).result()


def until(condition: Callable[[], object]) -> None:
    """Give others the processor until a condition holds. For states like a blocked wait, which cannot tell us."""
    while not condition():
        os.sched_yield()


def until_blocked(thread: apc.ApcThread, waits: int = 1) -> None:
    """Until so many waits of a thread are blocked."""
    until(lambda: len(thread.waits) >= waits)

"""One harness for both faces: a script is an async function over a `Face`, run by a plain thread or by a trio loop.

On the plain face nothing a script awaits ever suspends: the waits block. So one script shows that both faces keep the
same rules. Every script runs on a thread of its own, so that nothing is left behind for the next test.

Two ways to run one: a `Runner` is a foreign thread in real time; a `Stage` has structured threads under a clock that
stands still until the test moves it. `struck` interrupts a call at a chosen place, as Ctrl-C does.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from types import FrameType, TracebackType
from typing import Generic, Protocol, Self, TypeVar

import pytest
import trio

from apcrt import apc
from apcrt.apc import aio
from apcrt.apc.lowlevel import D
from tests.conformance.apc.clock import VirtualClock, settle

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

    async def signal_and_wait(
        self, to_signal: apc.Waitable, to_wait_on: apc.Waitable, seconds: float | None, *, alertable: bool = False
    ) -> apc.WaitResult: ...

    async def get(
        self, port: apc.CompletionPort, seconds: float | None
    ) -> tuple[apc.WaitResult, apc.CompletionPacket | None]: ...

    async def get_ex(
        self, port: apc.CompletionPort, most: int, seconds: float | None, *, alertable: bool = False
    ) -> tuple[apc.WaitResult, list[apc.CompletionPacket]]: ...

    async def test_alert(self) -> bool: ...

    def function(self, script: Callable[[], Coroutine[object, None, object]]) -> Callable[[], object]:
        """A script as the function of a structured thread."""
        ...

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

    async def signal_and_wait(
        self, to_signal: apc.Waitable, to_wait_on: apc.Waitable, seconds: float | None, *, alertable: bool = False
    ) -> apc.WaitResult:
        return apc.signal_object_and_wait(to_signal, to_wait_on, seconds, alertable=alertable)

    async def get(
        self, port: apc.CompletionPort, seconds: float | None
    ) -> tuple[apc.WaitResult, apc.CompletionPacket | None]:
        return apc.get_queued_completion_status(port, seconds)

    async def get_ex(
        self, port: apc.CompletionPort, most: int, seconds: float | None, *, alertable: bool = False
    ) -> tuple[apc.WaitResult, list[apc.CompletionPacket]]:
        return apc.get_queued_completion_status_ex(port, most, seconds, alertable=alertable)

    async def test_alert(self) -> bool:
        return apc.test_alert()

    def function(self, script: Callable[[], Coroutine[object, None, object]]) -> Callable[[], object]:
        def plain() -> object:
            return complete(script())

        return plain

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

    async def signal_and_wait(
        self, to_signal: apc.Waitable, to_wait_on: apc.Waitable, seconds: float | None, *, alertable: bool = False
    ) -> apc.WaitResult:
        return await aio.signal_object_and_wait(to_signal, to_wait_on, seconds, alertable=alertable)

    async def get(
        self, port: apc.CompletionPort, seconds: float | None
    ) -> tuple[apc.WaitResult, apc.CompletionPacket | None]:
        return await aio.get_queued_completion_status(port, seconds)

    async def get_ex(
        self, port: apc.CompletionPort, most: int, seconds: float | None, *, alertable: bool = False
    ) -> tuple[apc.WaitResult, list[apc.CompletionPacket]]:
        return await aio.get_queued_completion_status_ex(port, most, seconds, alertable=alertable)

    async def test_alert(self) -> bool:
        return await aio.test_alert()

    def function(self, script: Callable[[], Coroutine[object, None, object]]) -> Callable[[], object]:
        return script

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


class SettableClock(VirtualClock):
    """Stands still; its wall clock can be set besides."""

    __slots__ = ("offset",)

    def __init__(self) -> None:
        super().__init__()
        self.offset = 0.0

    def wall(self) -> float:
        return super().wall() + self.offset


class Stage:
    """Structured threads of one face, under a clock that stands still. Those that wait at the end are cancelled.

    Every method that lets something happen returns when nothing more can happen.
    """

    def __init__(self, face: Face) -> None:
        self.face = face
        self.clock = SettableClock()
        self.threads: list[apc.StructuredThread] = []
        self._real = D.clock
        self._block = apc.open_apc_threads()

    def __enter__(self) -> Self:
        D.clock = self.clock
        self._block.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            self._block.cancel()
            return self._block.__exit__(kind, error, traceback)
        finally:
            D.clock = self._real

    def start(
        self, script: Callable[[], Coroutine[object, None, object]], *, name: str | None = None, suspended: bool = False
    ) -> apc.StructuredThread:
        """Start a script, and let it get as far as it gets."""
        thread = self._block.start(self.face.function(script), name=name, suspended=suspended)
        self.threads.append(thread)
        self.settle()
        return thread

    def settle(self) -> None:
        """Let everything happen that can."""
        settle(self.threads)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.settle()
        self.clock.advance(seconds, self.threads)


def struck(place: int, call: Callable[[], object]) -> bool:
    """Call something, with Ctrl-C at the `place`-th of the places where it may strike apcrt; it may let it through.

    Those are the beginnings of Python functions and the ends of C functions; not where a coroutine goes on that awaits
    another one. Returns whether there was such a place. For the main thread.
    """
    places = 0

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal places
        code = frame.f_code
        if "/apcrt/" not in code.co_filename:
            return
        # The operand of RESUME says what is resumed: 0 a function, 1 after a yield, 2 and 3 after an await.
        if event == "c_return" or (event == "call" and code.co_code[frame.f_lasti + 1] < 2):
            places += 1
            if places == place:
                signal.raise_signal(signal.SIGINT)

    gc.disable()  # its callbacks belong to others, and would be struck instead
    try:
        sys.setprofile(profile)
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
        gc.enable()
    return places >= place


@contextlib.contextmanager
def refused(status: int, message: str) -> Iterator[None]:
    """What is in the block must raise an ApcError with this number, and say this."""
    with pytest.raises(apc.ApcError, match=message) as caught:
        yield
    assert caught.value.status == status

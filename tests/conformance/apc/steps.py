"""What threads of a scenario do: every step, once, for both faces.

What lives here: the steps, as generators that ask for waits, and the two ways of running them. What must not: windows
and comparisons (`world`, `runner`).

How it works. A step calls what never waits by itself. Where it has to wait it yields the name of a wait and its
arguments; a plain thread then calls that function in `apcrt.apc`, a trio thread awaits the one of the same name in
`apcrt.apc.aio`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, NamedTuple

from apcrt import apc
from apcrt.overlapped import Overlapped, PipeEnd
from apcrt.status import Status

if TYPE_CHECKING:
    from tests.conformance.apc.world import Actor, World

__all__ = ["STEPS", "Ask", "Step", "error_name", "run_async", "run_blocking"]

NAMES = (
    "ERROR_SUCCESS",
    "ERROR_INVALID_HANDLE",
    "ERROR_GEN_FAILURE",
    "ERROR_INVALID_PARAMETER",
    "ERROR_BROKEN_PIPE",
    "ERROR_NO_DATA",
    "ERROR_MORE_DATA",
    "ERROR_NOT_OWNER",
    "ERROR_TOO_MANY_POSTS",
    "ERROR_OPERATION_ABORTED",
)
ERRORS = {int(Status[name]): name for name in NAMES}


class Ask(NamedTuple):
    """A wait that a step asks for."""

    function: str
    arguments: tuple[object, ...]
    options: dict[str, object]


Step = Generator[Ask, Any, str | None]


def error_name(number: int) -> str:
    """As traces print it."""
    return ERRORS.get(number, f"ERROR_{number}")


def run_blocking(step: Step) -> str | None:
    """Run a step on a plain thread; returns its result."""
    try:
        ask = next(step)
        while True:
            try:
                result = getattr(apc, ask.function)(*ask.arguments, **ask.options)
            except apc.WaitCancelled:
                raise
            except apc.ApcError as error:
                ask = step.throw(error)
            else:
                ask = step.send(result)
    except StopIteration as end:
        return _text(end.value)


async def run_async(step: Step) -> str | None:
    """Run a step in a trio task; returns its result."""
    try:
        ask = next(step)
        while True:
            function: Callable[..., Awaitable[object]] = getattr(apc.aio, ask.function)
            try:
                result = await function(*ask.arguments, **ask.options)
            except apc.WaitCancelled:
                raise
            except apc.ApcError as error:
                ask = step.throw(error)
            else:
                ask = step.send(result)
    except StopIteration as end:
        return _text(end.value)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _seconds(word: str) -> float | None:
    return None if word == "inf" else int(word) / 1000


def _alertable(words: tuple[str, ...], at: int) -> dict[str, object]:
    return {"alertable": words[at:] == ("alertable",)}


def _wait_name(result: int, *, indexed: bool) -> str:
    if result in (apc.WAIT_TIMEOUT, apc.WAIT_IO_COMPLETION):
        return "WAIT_TIMEOUT" if result == apc.WAIT_TIMEOUT else "WAIT_IO_COMPLETION"
    abandoned = result >= apc.WAIT_ABANDONED_0
    name = "WAIT_ABANDONED_0" if abandoned else "WAIT_OBJECT_0"
    return f"{name}+{result & 0x7F}" if indexed else name


# What waits


def _sleep(_world: World, _actor: Actor, words: tuple[str, ...]) -> Step:
    result = yield Ask("sleep_ex", (_seconds(words[1]),), _alertable(words, 2))
    return "WAIT_IO_COMPLETION" if result == apc.WAIT_IO_COMPLETION else "0"


def _wait(world: World, actor: Actor, words: tuple[str, ...]) -> Step:
    waitable = world.named(words[1], actor)
    try:
        result = yield Ask("wait_for_single_object_ex", (waitable, _seconds(words[2])), _alertable(words, 3))
    except apc.ApcError as error:
        return f"WAIT_FAILED {error_name(error.status)}"
    return _wait_name(result, indexed=False)


def _wait_many(world: World, actor: Actor, words: tuple[str, ...]) -> Step:
    waitables = [world.named(name, actor) for name in words[1].split(",")]
    wait_all = words[0] == "wait_all"
    options = {**_alertable(words, 3), "wait_all": wait_all}
    try:
        result = yield Ask("wait_for_multiple_objects_ex", (waitables, _seconds(words[2])), options)
    except apc.ApcError as error:
        return f"WAIT_FAILED {error_name(error.status)}"
    return _wait_name(result, indexed=not wait_all)


def _signal_and_wait(world: World, actor: Actor, words: tuple[str, ...]) -> Step:
    first, second = world.named(words[1], actor), world.named(words[2], actor)
    try:
        result = yield Ask("signal_object_and_wait", (first, second, _seconds(words[3])), _alertable(words, 4))
    except apc.ApcError as error:
        return f"WAIT_FAILED {error_name(error.status)}"
    return _wait_name(result, indexed=False)


def _get(world: World, actor: Actor, words: tuple[str, ...]) -> Step:
    result, packet = yield Ask("get_queued_completion_status", (world.named(words[1], actor), _seconds(words[2])), {})
    return "FALSE WAIT_TIMEOUT" if result == apc.WAIT_TIMEOUT else f"TRUE {packet.bytes}/{packet.key}"


def _get_ex(world: World, actor: Actor, words: tuple[str, ...]) -> Step:
    arguments = (world.named(words[1], actor), int(words[2]), _seconds(words[3]))
    result, packets = yield Ask("get_queued_completion_status_ex", arguments, _alertable(words, 4))
    if packets:
        return " ".join([f"TRUE n={len(packets)}", *(f"{packet.bytes}/{packet.key}" for packet in packets)])
    return f"FALSE {_wait_name(result, indexed=False)}"


def _read(world: World, _actor: Actor, words: tuple[str, ...]) -> Step:
    buffer = bytearray(int(words[2]))
    try:
        overlapped = world.end(words[1]).read_ex(buffer)
    except apc.ApcError as error:
        return f"FALSE {error_name(error.status)}"
    yield Ask("wait_for_single_object_ex", (overlapped, None), {})
    data = bytes(buffer[: overlapped.count]).decode() or "-"
    if overlapped.status and not overlapped.count:
        return f"FALSE {error_name(overlapped.status)}"
    head = f"FALSE {error_name(overlapped.status)}" if overlapped.status else "TRUE"
    return f"{head} bytes={overlapped.count} data={data}"


def _write(world: World, _actor: Actor, words: tuple[str, ...]) -> Step:
    try:
        overlapped = world.end(words[1]).write_ex(_data(words[2]))
    except apc.ApcError as error:
        return f"FALSE {error_name(error.status)}"
    yield Ask("wait_for_single_object_ex", (overlapped, None), {})
    if overlapped.status:
        return f"FALSE {error_name(overlapped.status)}"
    return f"TRUE bytes={overlapped.count}"


# What never waits


def _done(call: Callable[[World, Actor, tuple[str, ...]], object]) -> Callable[[World, Actor, tuple[str, ...]], Step]:
    """A step that calls something which raises when it fails, and returns what to add to TRUE."""

    def step(world: World, actor: Actor, words: tuple[str, ...]) -> Step:
        try:
            more = call(world, actor, words)
        except apc.ApcError as error:
            return f"FALSE {error_name(error.status)}"
        yield from ()  # it asks for nothing
        return "TRUE" if more is None else f"TRUE {more}"

    return step


def _queue_apc(world: World, actor: Actor, words: tuple[str, ...]) -> None:
    world.thread(words[1], actor).queue_user_apc(world.user_routine(words[2]), int(words[3]))


def _of_kind(kind: type, method: str) -> Callable[[World, Actor, tuple[str, ...]], object]:
    def call(world: World, actor: Actor, words: tuple[str, ...]) -> None:
        found = world.named(words[1], actor)
        if not isinstance(found, kind):
            raise apc.ApcError(Status.ERROR_INVALID_HANDLE)
        getattr(found, method)()

    return call


def _release_semaphore(world: World, actor: Actor, words: tuple[str, ...]) -> str:
    found = world.named(words[1], actor)
    if not isinstance(found, apc.Semaphore):
        raise apc.ApcError(Status.ERROR_INVALID_HANDLE)
    return f"prev={found.release(int(words[2]))}"


def _set_timer(world: World, actor: Actor, words: tuple[str, ...]) -> None:
    timer = world.named(words[1], actor)
    assert isinstance(timer, apc.WaitableTimer)
    due, period = int(words[2]) / 1000, int(words[3]) / 1000
    if len(words) > 4:
        timer.set(due, period=period, routine=world.timer_routine(words[4]), argument=int(words[5]))
    else:
        timer.set(due, period=period)


def _read_ex(world: World, _actor: Actor, words: tuple[str, ...]) -> None:
    buffer = bytearray(int(words[2]))
    world.end(words[1]).read_ex(buffer, world.io_routine(words[3], buffer))


def _write_ex(world: World, _actor: Actor, words: tuple[str, ...]) -> None:
    world.end(words[1]).write_ex(_data(words[2]), world.io_routine(words[3], None))


def _cancel_io_ex(world: World, _actor: Actor, words: tuple[str, ...]) -> None:
    world.end(words[1]).cancel_io_ex()


def _on_end(method: Callable[[PipeEnd], None]) -> Callable[[World, Actor, tuple[str, ...]], object]:
    def call(world: World, _actor: Actor, words: tuple[str, ...]) -> None:
        method(world.end(words[1]))

    return call


def _post(world: World, actor: Actor, words: tuple[str, ...]) -> None:
    port = world.named(words[1], actor)
    assert isinstance(port, apc.CompletionPort)
    port.post(int(words[2]), int(words[3]))


def _resume(world: World, actor: Actor, words: tuple[str, ...]) -> Step:
    yield from ()
    return f"prev={world.thread(words[1], actor).resume()}"


def _exit_code(world: World, actor: Actor, words: tuple[str, ...]) -> Step:
    code = world.thread(words[1], actor).exit_code
    yield from ()
    return "STILL_ACTIVE" if code is None else str(code)


def _data(word: str) -> bytes:
    return b"" if word == "-" else word.encode()


def io_event(name: str, overlapped: Overlapped, error: int, count: int, buffer: bytearray | None) -> str:
    """The line with which a completion routine begins."""
    kind = "read" if overlapped.is_read else "write"
    data = "" if buffer is None else f" data={bytes(buffer[:count]).decode() or '-'}"
    return f"io {name} {kind} {error_name(error)} bytes={count}{data}"


STEPS: dict[str, Callable[[World, Actor, tuple[str, ...]], Step]] = {
    "sleep": _sleep,
    "wait": _wait,
    "wait_any": _wait_many,
    "wait_all": _wait_many,
    "signal_and_wait": _signal_and_wait,
    "get": _get,
    "get_ex": _get_ex,
    "read": _read,
    "write": _write,
    "resume": _resume,
    "exit_code": _exit_code,
    "queue_apc": _done(_queue_apc),
    "set": _done(_of_kind(apc.Event, "set")),
    "reset": _done(_of_kind(apc.Event, "reset")),
    "pulse": _done(_of_kind(apc.Event, "pulse")),
    "release_mutex": _done(_of_kind(apc.Mutex, "release")),
    "release_semaphore": _done(_release_semaphore),
    "set_timer": _done(_set_timer),
    "cancel_timer": _done(_of_kind(apc.WaitableTimer, "cancel")),
    "read_ex": _done(_read_ex),
    "write_ex": _done(_write_ex),
    "cancel_io": _done(_on_end(lambda end: end.cancel_io())),
    "cancel_io_ex": _done(_cancel_io_ex),
    "close": _done(_on_end(lambda end: end.close())),
    "post": _done(_post),
}

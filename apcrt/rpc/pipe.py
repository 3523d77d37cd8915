"""Pipes: typed streams that are arguments of a call.

What lives here: `InPipe`, `OutPipe`, `InOutPipe`, with the verbs of all faces. What must not: how elements travel
(`_call.py`), and what feeds a pipe that was given a source or sink (`_ends.py`).

How it works. A pipe is empty until a call brings it to life, as in MIDL, where the caller passes an uninitialised
structure and the stub fills it. From then on it has up to two streams, one for each direction that this side may
move. The verb tells the face: push and pull never wait, write and read_into block, send and receive_into await.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, MutableSequence, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Generic, NoReturn, TypeAlias, TypeVar, overload

import trio

from apcrt import ndr
from apcrt.status import RpcUsageError, SendWindowFull, Status

if TYPE_CHECKING:
    from apcrt.rpc._call import Call
    from apcrt.rpc._streams import Input, Output

__all__ = ["InOutPipe", "InPipe", "OutPipe", "Pipe", "Sink", "Source"]

T = TypeVar("T")

#: What a pipe's input may come from: a file to read, a buffer, or an iterable of chunks.
Source: TypeAlias = "BinaryIO | ndr.Buffer | Iterable[Any]"
#: What a pipe's output may go to: a file to write, a bytearray or list to extend, or a function of each chunk.
Sink: TypeAlias = "BinaryIO | bytearray | MutableSequence[Any] | Callable[[Any], object]"

CHUNK_BYTES: Final = 256 * 1024  # of a chunk from iteration, at the most
WRITE_BYTES: Final = 256 * 1024  # pushed at a time by write and send
CHECKPOINT_EVERY: Final = 16  # operations of the trio face that find no need to wait


class Pipe(Generic[T]):
    """A pipe of elements `T`; declare and make the directed ones.

    Args:
        source: what a blocking or awaiting call pushes into it.
        sink: what it does with what it pulls.
    """

    def __init__(self, *, source: Source | None = None, sink: Sink | None = None) -> None:
        self.source = source
        self.sink = sink
        self._call: Call | None = None
        self._output: Output | None = None
        self._input: Input | None = None

    # The faithful face: never waits

    def push(self, data: ndr.Buffer | Sequence[T], /) -> None:
        """Push elements; nothing of them ends the stream. Returns at once; the buffer is the caller's again.

        Args:
            data: any buffer whose items are the pipe's elements, or a sequence of them.

        Raises:
            SendWindowFull: 1913 RPC_S_SEND_INCOMPLETE, it took nothing; push it again after the next send-complete.
            RpcUsageError: 87 not elements of this pipe; 1830 RPC_X_INVALID_PIPE_OBJECT no call yet; 1831
                RPC_X_WRONG_PIPE_ORDER not this pipe's turn or direction; 1916 RPC_X_PIPE_CLOSED its end was pushed.
            RpcError: how the call has failed; it is dead, and no call-complete follows.

        Any thread. Send-complete is notified to the handle's owner when its flag is set.
        """
        self._live().push(self._output, data)

    def pull(self, into: ndr.Buffer | MutableSequence[T], /) -> tuple[Status, int]:
        """Pull elements into the caller's memory: `(RPC_S_OK, n)`, and with n = 0 the end of the stream.

        Returns `(RPC_S_ASYNC_CALL_PENDING, 0)` when nothing is there: do not pull again before receive-complete,
        after which a new pull succeeds.

        Args:
            into: a writable buffer or a list, whose length is the most elements wanted.

        Raises:
            RpcUsageError: 87 no room or not memory of such elements; 1830 no call yet; 1831 not this pipe's turn or
                direction, or a pull is pending; 1918 RPC_X_PIPE_EMPTY after the end.
            RpcError: how the call has failed; it is dead, and no call-complete follows.

        Any thread.
        """
        call = self._live()
        if self._input is None:
            return call.pull(None, _NO_ROOM, notify_later=True)
        return call.pull(self._input, self._input.element.target(into), notify_later=True)

    # The blocking face

    def write(self, data: ndr.Buffer | Sequence[T], /) -> None:
        """Push all of `data`, blocking while the window is full. Of nothing: does nothing.

        Raises:
            RpcUsageError: as `push`; also on a thread that runs trio (await `send` there).
            RpcError: how the call has failed.
        """
        call, stream = self._live(), self._pushing("write")
        for octets, elements in _pieces(stream, data):
            while True:
                try:
                    call.push_octets(stream, octets, elements)
                    break
                except SendWindowFull:
                    call.wait_for_room(len(octets))

    def write_eof(self) -> None:
        """End the stream. Does not wait."""
        self._live().push_octets(self._pushing("write_eof"), b"", 0)

    def read_into(self, into: ndr.Buffer | MutableSequence[T], /) -> int:
        """Pull at least one element, blocking until there is one; 0 at the end.

        Raises:
            RpcUsageError: as `pull`; also on a thread that runs trio (await `receive_into` there).
            RpcError: how the call has failed; 1818 when the binding's call time-out expired.
        """
        call, stream = self._live(), self._pulling("read_into")
        return _read(call, stream, stream.element.target(into))

    # A Pipe[int] is not a Pipe[T] of another T, so the overlap that mypy sees does no harm.
    @overload
    def __iter__(self: Pipe[int]) -> Iterator[memoryview]: ...  # type: ignore[overload-overlap]
    @overload
    def __iter__(self: Pipe[float]) -> Iterator[memoryview[float]]: ...  # type: ignore[overload-overlap]
    @overload
    def __iter__(self: Pipe[bool]) -> Iterator[memoryview[bool]]: ...  # type: ignore[overload-overlap]
    @overload
    def __iter__(self) -> Iterator[list[T]]: ...
    def __iter__(self) -> Iterator[Any]:
        """Chunks until the end, blocking: read-only memoryviews of scalars, lists of structures; yours to keep."""
        return _Chunks(self._live(), self._pulling("iterate over"))

    # The trio face

    async def send(self, data: ndr.Buffer | Sequence[T], /) -> None:
        """Push all of `data`, waiting while the window is full. Of nothing: does nothing.

        A checkpoint when it waits, and once in a while when it does not.

        Cancelled: whole pieces of up to 256 KiB have been pushed or not; the stream goes on where it stands.
        """
        call, stream = self._live(), self._pushing("send to")
        for octets, elements in _pieces(stream, data):
            await _breathe(call)
            while True:
                try:
                    call.push_octets(stream, octets, elements)
                    break
                except SendWindowFull:
                    await call.wait_for_room_async(len(octets))

    async def send_eof(self) -> None:
        """End the stream."""
        self._live().push_octets(self._pushing("send_eof"), b"", 0)

    async def receive_into(self, into: ndr.Buffer | MutableSequence[T], /) -> int:
        """Pull at least one element, waiting until there is one; 0 at the end. Cancelled: nothing was consumed.

        A checkpoint when it waits, and once in a while when it does not.
        """
        call, stream = self._live(), self._pulling("receive_into")
        return await _receive(call, stream, stream.element.target(into))

    @overload
    def __aiter__(self: Pipe[int]) -> AsyncIterator[memoryview]: ...  # type: ignore[overload-overlap]
    @overload
    def __aiter__(self: Pipe[float]) -> AsyncIterator[memoryview[float]]: ...  # type: ignore[overload-overlap]
    @overload
    def __aiter__(self: Pipe[bool]) -> AsyncIterator[memoryview[bool]]: ...  # type: ignore[overload-overlap]
    @overload
    def __aiter__(self) -> AsyncIterator[list[T]]: ...
    def __aiter__(self) -> AsyncIterator[Any]:
        """Chunks until the end, as `__iter__` gives them."""
        return _AsyncChunks(self._live(), self._pulling("iterate over"))

    # Inside

    def attach(self, call: Call, output: Output | None, into: Input | None) -> None:
        """Bring the pipe to life, for the runtime."""
        self._call, self._output, self._input = call, output, into

    @property
    def live(self) -> bool:
        """Is it part of a call?"""
        return self._call is not None

    def _live(self) -> Call:
        if self._call is None:
            raise RpcUsageError(
                Status.RPC_X_INVALID_PIPE_OBJECT, "the pipe is part of no call yet; pass it to begin, open or a call"
            )
        return self._call

    def _pushing(self, verb: str) -> Output:
        return self._output or self._wrong(verb)

    def _pulling(self, verb: str) -> Input:
        return self._input or self._wrong(verb)

    def _wrong(self, verb: str) -> NoReturn:
        raise RpcUsageError(
            Status.RPC_X_WRONG_PIPE_ORDER,
            f"cannot {verb} this {type(self).__name__}: on this side it moves the other way",
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._call!r}>" if self._call is not None else f"<{type(self).__name__}>"


class InPipe(Pipe[T]):
    """[in]: the client pushes, the server pulls."""

    def __init__(self, *, source: Source | None = None) -> None:
        super().__init__(source=source)


class OutPipe(Pipe[T]):
    """[out]: the server pushes, the client pulls."""

    def __init__(self, *, sink: Sink | None = None) -> None:
        super().__init__(sink=sink)


class InOutPipe(Pipe[T]):
    """[in, out]: the client pushes to the end and then pulls; the server pulls to the end and then pushes."""

    def __init__(self, *, source: Source | None = None, sink: Sink | None = None) -> None:
        super().__init__(source=source, sink=sink)


_NO_ROOM: Final = ndr.Target(0, None)


def _pieces(stream: Output, data: object) -> Iterator[tuple[bytes | memoryview, int]]:
    """The data in pieces small enough that pushing one does not pass the window by much."""
    element = stream.element
    octets, elements = element.source(data)
    at_once = max(1, WRITE_BYTES // element.stride)
    if elements <= at_once:
        if elements:
            yield octets, elements
        return
    view = memoryview(octets)
    for first in range(0, elements, at_once):
        count = min(at_once, elements - first)
        begin = first * element.stride
        yield view[begin : begin + (count - 1) * element.stride + element.size], count


def _read(call: Call, stream: Input, target: ndr.Target) -> int:
    """Pull at least one element, blocking; 0 at the end."""
    while True:
        status, count = call.pull(stream, target, notify_later=False)
        if status is Status.RPC_S_OK:
            return count
        call.wait_for_input(stream)


async def _receive(call: Call, stream: Input, target: ndr.Target) -> int:
    """Pull at least one element, awaiting; 0 at the end."""
    await _breathe(call)
    while True:
        status, count = call.pull(stream, target, notify_later=False)
        if status is Status.RPC_S_OK:
            return count
        await call.wait_for_input_async(stream)


async def _breathe(call: Call) -> None:
    """Let other tasks run, and cancel scopes speak, once in a while: a checkpoint costs more than a push."""
    call.unchecked += 1
    if call.unchecked >= CHECKPOINT_EVERY:
        call.unchecked = 0
        await trio.lowlevel.checkpoint()


class _Chunks:
    """Iterates over a pipe, blocking. A plain object, since a generator left early would have to be closed."""

    def __init__(self, call: Call, stream: Input) -> None:
        self._call = call
        self._stream = stream
        self._room = max(1, CHUNK_BYTES // stream.element.stride)

    def __iter__(self) -> _Chunks:
        return self

    def __next__(self) -> Any:
        target = self._stream.element.new_target(self._room)
        count = _read(self._call, self._stream, target)
        if not count:
            raise StopIteration
        return _chunk(self._stream.element, target, count)


class _AsyncChunks:
    """Iterates over a pipe, awaiting."""

    def __init__(self, call: Call, stream: Input) -> None:
        self._call = call
        self._stream = stream
        self._room = max(1, CHUNK_BYTES // stream.element.stride)

    def __aiter__(self) -> _AsyncChunks:
        return self

    async def __anext__(self) -> Any:
        target = self._stream.element.new_target(self._room)
        count = await _receive(self._call, self._stream, target)
        if not count:
            raise StopAsyncIteration
        return _chunk(self._stream.element, target, count)


def _chunk(element: ndr.Element, target: ndr.Target, count: int) -> Any:
    """A chunk for the caller to keep: over memory of its own, and not much more memory than it needs."""
    if target.raw is not None and 4 * count < target.capacity:
        smaller = element.new_target(count)
        if smaller.raw is not None:
            smaller.raw[:] = target.raw[: count * element.size]
        target = smaller
    return element.chunk(target, count)

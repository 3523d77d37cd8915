"""Sources and sinks: the other ends of pipes that a blocking or awaiting call moves by itself.

What lives here: reading pieces from a source, giving chunks to a sink, and the loops that do so for a call. What must
not: pipes whose owner moves them.

How it works. Inputs are pushed in parameter order, each from its source to the end; then outputs are pulled in
parameter order, each into its sink. Reading a file, calling a function and extending a list happen on the calling
thread; in a trio task too, where a slow file is a slow task (give `open` and your own loop to a file that is slow).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from apcrt.status import RpcUsageError, Status

if TYPE_CHECKING:
    from apcrt.rpc._client_call import ClientCall
    from apcrt.rpc._operation import OperationSpec, PipeParameter
    from apcrt.rpc.pipe import Pipe

__all__ = ["check", "drive", "drive_async"]

READ_BYTES: Final = 256 * 1024  # read from a file at a time, rounded down to whole elements


def check(operation: OperationSpec, arguments: dict[str, object]) -> None:
    """Refuse a call whose pipes have no other end.

    Raises:
        RpcUsageError: 87; the text says what to give.
    """
    for declared in operation.pipes:
        pipe = _pipe(arguments, declared)
        if declared.carries_in and getattr(pipe, "source", None) is None:
            raise _endless(operation, declared, "source")
        if declared.carries_out and getattr(pipe, "sink", None) is None:
            raise _endless(operation, declared, "sink")


def drive(call: ClientCall, arguments: dict[str, object]) -> None:
    """Push all inputs and pull all outputs, blocking."""
    for declared in call.operation.pipes:
        if declared.carries_in:
            pipe = _pipe(arguments, declared)
            for piece in _pieces(declared, pipe.source):
                pipe.write(piece)
            pipe.write_eof()
    for declared in call.operation.pipes:
        if declared.carries_out:
            pipe = _pipe(arguments, declared)
            accept = _acceptor(declared, pipe.sink)
            for chunk in pipe:
                accept(chunk)


async def drive_async(call: ClientCall, arguments: dict[str, object]) -> None:
    """Push all inputs and pull all outputs, awaiting."""
    for declared in call.operation.pipes:
        if declared.carries_in:
            pipe = _pipe(arguments, declared)
            for piece in _pieces(declared, pipe.source):
                await pipe.send(piece)
                await trio.lowlevel.checkpoint()
            await pipe.send_eof()
    for declared in call.operation.pipes:
        if declared.carries_out:
            pipe = _pipe(arguments, declared)
            accept = _acceptor(declared, pipe.sink)
            async for chunk in pipe:
                accept(chunk)
                await trio.lowlevel.checkpoint()


def _pipe(arguments: dict[str, object], declared: PipeParameter) -> Pipe[Any]:
    return cast("Pipe[Any]", arguments[declared.name])


def _pieces(declared: PipeParameter, source: Any) -> Iterator[Any]:
    """What a source gives, piece by piece."""
    if hasattr(source, "read"):
        size = declared.element.size
        if declared.element.format is None:
            raise RpcUsageError(
                Status.RPC_S_INVALID_ARG,
                f"pipe {declared.name} carries structures: give it a sequence of them, not a file",
            )
        at_once = max(1, READ_BYTES // size) * size
        rest = b""
        while data := source.read(at_once):
            whole = rest + data if rest else data
            cut = len(whole) - len(whole) % size
            rest = whole[cut:]
            yield _elements(declared, memoryview(whole)[:cut])
        if rest:
            raise RpcUsageError(
                Status.RPC_S_INVALID_ARG,
                f"pipe {declared.name}: the file ends with {len(rest)} of an element's {size} bytes",
            )
    elif isinstance(source, Sequence) or hasattr(source, "__array_interface__"):
        yield source
    elif isinstance(source, Iterable):
        yield from cast("Iterable[object]", source)
    else:
        yield source


def _elements(declared: PipeParameter, octets: memoryview) -> memoryview:
    """File content as elements of the pipe, in this machine's byte order."""
    form = declared.element.format
    return octets if form is None or declared.element.size == 1 else cast("memoryview", cast("Any", octets).cast(form))


def _acceptor(declared: PipeParameter, sink: Any) -> Callable[[Any], object]:
    """What takes a chunk."""
    if hasattr(sink, "write"):
        if declared.element.format is None:
            raise RpcUsageError(
                Status.RPC_S_INVALID_ARG,
                f"pipe {declared.name} carries structures: give it a list or a function, not a file",
            )
        return lambda chunk: _write_all(sink, chunk)
    if isinstance(sink, bytearray):
        return lambda chunk: sink.extend(chunk if chunk.format == "B" else chunk.cast("B"))
    if isinstance(sink, MutableSequence):
        return cast("MutableSequence[object]", sink).extend
    return cast("Callable[[Any], object]", sink)


def _write_all(sink: Any, chunk: memoryview) -> None:
    """Write a whole chunk; an unbuffered file may take less at once."""
    octets = chunk if chunk.format == "B" else chunk.cast("B")
    while len(octets):
        written = sink.write(octets)
        if written is None or written >= len(octets):
            return
        octets = octets[written:]


def _endless(operation: OperationSpec, declared: PipeParameter, end: str) -> RpcUsageError:
    kind = declared.kind.__name__
    return RpcUsageError(
        Status.RPC_S_INVALID_ARG,
        f"{operation.name}: pipe {declared.name} has no {end}; write {kind}({end}=...), or move it yourself with "
        f"{operation.name}.open(...) or {operation.name}.begin(...)",
    )

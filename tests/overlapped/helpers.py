"""Pairs of connected objects of every kind, and the verbs of both faces under one name."""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import tty
from collections.abc import Callable, Iterator

from apcrt.overlapped import Overlapped, OverlappedFile, OverlappedObject, create_pipe
from tests.apc.faces import Face

Pair = tuple[OverlappedObject, OverlappedObject]


def os_pipe() -> Pair:
    reader, writer = os.pipe()
    return OverlappedFile(reader), OverlappedFile(writer)


def stream_sockets() -> Pair:
    reader, writer = socket.socketpair()
    return OverlappedFile(reader), OverlappedFile(writer)


def stream_numbers() -> Pair:
    reader, writer = socket.socketpair()
    return OverlappedFile(reader.detach()), OverlappedFile(writer.detach())


def packet_sockets() -> Pair:
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return OverlappedFile(reader), OverlappedFile(writer)


def datagram_sockets() -> Pair:
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return OverlappedFile(reader), OverlappedFile(writer)


def terminal() -> Pair:
    master, slave = pty.openpty()
    tty.setraw(slave)
    return OverlappedFile(slave), OverlappedFile(master)


def in_process() -> Pair:
    reader, writer = create_pipe()
    return reader, writer


def in_process_messages() -> Pair:
    reader, writer = create_pipe(message=True)
    return reader, writer


BYTES: tuple[Callable[[], Pair], ...] = (os_pipe, stream_sockets, stream_numbers, terminal, in_process)
MESSAGES: tuple[Callable[[], Pair], ...] = (packet_sockets, datagram_sockets, in_process_messages)


@contextlib.contextmanager
def opened(make: Callable[[], Pair]) -> Iterator[Pair]:
    reader, writer = make()
    with reader, writer:
        yield reader, writer


class Results:
    """A routine that notes its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.operations: list[Overlapped] = []

    def __call__(self, error: int, count: int, overlapped: Overlapped) -> None:
        self.calls.append((error, count))
        self.operations.append(overlapped)


async def read_into(face: Face, source: OverlappedObject, into: bytearray, *, offset: int | None = None) -> int:
    if face.name == "trio":
        return await source.receive_into(into, offset=offset)
    return source.read_into(into, offset=offset)


async def write(face: Face, target: OverlappedObject, data: bytes, *, offset: int | None = None) -> int:
    if face.name == "trio":
        return await target.send(data, offset=offset)
    return target.write(data, offset=offset)


async def close(face: Face, what: OverlappedObject) -> None:
    if face.name == "trio":
        await what.aclose()
    else:
        what.close()

"""The transports that the contract's tests run for, and how such a test moves bytes.

What lives here: a table with one `Maker` per transport, pairs of connected streams, and small loops over send and
receive that wait as an engine does. What must not: tests. A new transport gets a `Maker`, and that is all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import trio

from apcrt.transport import READ, WRITE, Address, Listener, Registry, Stream, Transport

CEILING = 10.0  # seconds after which a wait in a test has failed; nothing in a passing test takes that long

Buffer = bytes | bytearray | memoryview


@dataclasses.dataclass(frozen=True)
class Maker:
    """What the contract's tests have to know of one transport.

    Args:
        transport: its name in the configuration.
        protocol_sequence: the one to test it with.
        endpoint: an endpoint that is free, in a directory for the test alone.
        refusing: an address that refuses to be connected to, for as long as the block lasts.
        impossible: an address that is well-formed and cannot be listened on (1720).
        bad_endpoints: endpoints that are malformed (1706).
        bad_addresses: network addresses that are malformed (1707).
        knows_user: the kernel tells process, user and group of the peer.
        settled: given sender and receiver, whether what was sent has come to rest, so that a full stream stays full.
    """

    transport: str
    protocol_sequence: str
    endpoint: Callable[[Path], str]
    refusing: Callable[[Path], AbstractContextManager[Address]]
    impossible: Callable[[Path], Address]
    bad_endpoints: tuple[str, ...]
    bad_addresses: tuple[str, ...]
    knows_user: bool
    settled: Callable[[Stream, Stream], bool] = lambda _sender, _receiver: True

    def make(self, options: dict[str, object] | None = None) -> Transport:
        """A fresh instance of the transport."""
        return Registry({self.transport: options or {}}).find(self.protocol_sequence)

    def address(self, directory: Path) -> Address:
        """An address to listen on."""
        return Address(self.protocol_sequence, "", self.endpoint(directory))

    def with_endpoint(self, endpoint: str) -> Address:
        return Address(self.protocol_sequence, "", endpoint)

    def with_network_address(self, directory: Path, network_address: str) -> Address:
        return Address(self.protocol_sequence, network_address, self.endpoint(directory))


# ----------------------------------------------------------------------------------------------------------- the table


@contextlib.contextmanager
def _refusing_tcp(_: Path) -> Iterator[Address]:
    with socket.socket() as bound:  # bound and not listening: nobody else gets the port meanwhile
        bound.bind(("127.0.0.1", 0))
        yield Address("ncacn_ip_tcp", "127.0.0.1", str(bound.getsockname()[1]))


@contextlib.contextmanager
def _refusing_unix(directory: Path) -> Iterator[Address]:
    path = str(directory / "refusing")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)
        yield Address("ncacn_unix_stream", "", path)
    os.unlink(path)


def _in_a_file(directory: Path) -> Address:
    (directory / "file").touch()
    return Address("ncacn_unix_stream", "", str(directory / "file" / "socket"))


def _acknowledged(sender: Stream, receiver: Stream) -> bool:
    """Nothing is on its way, so no acknowledgement will make room any more (tcp_info.tcpi_unacked)."""
    with socket.socket(fileno=os.dup(receiver.lifeline)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # acknowledges at once what it has put off
    with socket.socket(fileno=os.dup(sender.lifeline)) as sock:
        (unacknowledged,) = struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)
    return bool(unacknowledged == 0)


MAKERS = {
    "tcp": Maker(
        transport="socket",
        protocol_sequence="ncacn_ip_tcp",
        endpoint=lambda _: "0",
        refusing=_refusing_tcp,
        impossible=lambda _: Address("ncacn_ip_tcp", "192.0.2.1", "0"),  # kept for documentation, nobody's own
        bad_endpoints=("http", "-1", "65536", "80 ", "0x50", "٣", "1" * 5000),
        bad_addresses=("a..b", "x" * 64, "host\0", "\ud800"),
        knows_user=False,
        settled=_acknowledged,
    ),
    "unix": Maker(
        transport="socket",
        protocol_sequence="ncacn_unix_stream",
        endpoint=lambda directory: str(directory / "socket"),
        refusing=_refusing_unix,
        impossible=_in_a_file,
        bad_endpoints=("relative", "\0abstract", "/" + "x" * 107, "/nul\0", "/\ud800"),
        bad_addresses=("localhost",),
        knows_user=True,
    ),
}


# --------------------------------------------------------------------------------------------------------------- pairs


async def meet(transport: Transport, listener: Listener) -> tuple[Stream, Stream]:
    """Connect to a listener; gives the client's stream and the server's."""
    found: list[Stream] = []

    async def accept() -> None:
        found.append(await listener.accept())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        client = await transport.connect(listener.address)
    return client, found[0]


@contextlib.asynccontextmanager
async def listening(transport: Transport, address: Address) -> AsyncIterator[Listener]:
    """A listener, closed at the end."""
    listener = await transport.listen(address)
    try:
        yield listener
    finally:
        with trio.CancelScope(shield=True):
            await listener.aclose()


async def connected(maker: Maker, directory: Path) -> tuple[Stream, Stream]:
    """A pair of streams, client's and server's, whose listener is closed already."""
    transport = maker.make()
    async with listening(transport, maker.address(directory)) as listener:
        return await meet(transport, listener)


# --------------------------------------------------------------------------------------------------------------- bytes


def ready(stream: Stream, *, read: bool = False, write: bool = False, seconds: float = 0) -> bool:
    """Arm, and poll what the stream is interested in: is an operation worth a try?"""
    if stream.arm(read, write):
        return True
    poller = select.poll()
    for descriptor, interest in stream.interest(read, write):
        poller.register(descriptor, polled(interest))
    return bool(poller.poll(seconds * 1000))


def polled(interest: int) -> int:
    """The events of `select.poll` for an interest."""
    assert interest in (READ, WRITE, READ | WRITE)
    return (select.POLLIN if interest & READ else 0) | (select.POLLOUT if interest & WRITE else 0)


def wait(stream: Stream, *, read: bool = False, write: bool = False) -> None:
    assert ready(stream, read=read, write=write, seconds=CEILING), "it did not get ready"


def receive(stream: Stream, count: int) -> bytes:
    """Exactly that many bytes."""
    buffer = bytearray(count)
    done = 0
    while done < count:
        received = stream.recv_into((memoryview(buffer)[done:],))
        assert received != 0, f"the end of file came after {done} bytes"
        if received is None:
            wait(stream, read=True)
        done += received or 0
    return bytes(buffer)


def expect_end(stream: Stream) -> None:
    """The next result of a receive is the end of file."""
    while (received := stream.recv_into((memoryview(bytearray(1)),))) is None:
        wait(stream, read=True)
    assert received == 0


def send(stream: Stream, data: Buffer) -> None:
    """All of it; for what surely fits."""
    assert stream.send((data,)) == len(data)


def transfer(sender: Stream, receiver: Stream, buffers: Sequence[Buffer], piece: int = 1 << 16) -> bytes:
    """Send all buffers, and receive on the other side meanwhile; gives what has arrived."""
    rest = deque(memoryview(one) for one in buffers)
    total = sum(map(len, rest))
    arrived = bytearray()
    buffer = memoryview(bytearray(piece))
    while len(arrived) < total:
        taken = sender.send(list(rest)) if rest else 0
        left = taken
        while rest and len(rest[0]) <= left:
            left -= len(rest.popleft())
        if left:
            rest[0] = rest[0][left:]
        received = receiver.recv_into((buffer,))
        assert received != 0
        arrived += buffer[: received or 0]
        if not received and not taken:
            wait(receiver, read=True)
    return bytes(arrived)


def fill(maker: Maker, sender: Stream, receiver: Stream) -> int:
    """Send until nothing fits, now and later; gives how many bytes were taken."""
    piece = bytes(1 << 16)
    total = 0
    deadline = time.monotonic() + CEILING
    while True:
        settled = maker.settled(sender, receiver)
        taken = sender.send((piece,))
        total += taken
        if settled and not taken:
            return total
        assert time.monotonic() < deadline, "it is never full"

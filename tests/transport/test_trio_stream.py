"""trio's own checks of streams, run on every transport through `StreamAdapter`; and what the adapter does itself."""

from __future__ import annotations

import os
import select
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from apcrt.testing import StreamAdapter
from apcrt.transport import READ, PeerIdentity, Stream, StreamStatistics
from tests.transport.makers import Maker, connected, fill

pytestmark = pytest.mark.usefixtures("no_leaked_descriptors")

Pairs = Callable[[], Awaitable[tuple[StreamAdapter, StreamAdapter]]]


@pytest.fixture
def pairs(maker: Maker, tmp_path: Path) -> Pairs:
    async def make() -> tuple[StreamAdapter, StreamAdapter]:
        client, server = await connected(maker, tmp_path)
        return StreamAdapter(client), StreamAdapter(server)

    return make


@pytest.fixture
def clogged_pairs(maker: Maker, tmp_path: Path) -> Pairs:
    async def make() -> tuple[StreamAdapter, StreamAdapter]:
        client, server = await connected(maker, tmp_path)
        fill(maker, client, server)
        fill(maker, server, client)
        return StreamAdapter(client), StreamAdapter(server)

    return make


async def test_two_way_stream(pairs: Pairs, clogged_pairs: Pairs) -> None:
    await trio.testing.check_two_way_stream(pairs, clogged_pairs)


async def test_half_closeable_stream(pairs: Pairs, clogged_pairs: Pairs) -> None:
    await trio.testing.check_half_closeable_stream(pairs, clogged_pairs)


# ---------------------------------------------------------------------------------------------------------- the adapter


class Bells(Stream):
    """A stream with one bell for all that happens, and a lifeline, as a ring in shared memory would have.

    `room` and `data` say what send and receive find.
    """

    def __init__(self) -> None:
        self.bell, self.line = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
        self.room = self.data = 0

    def free(self) -> None:
        os.close(self.bell)
        os.close(self.line)

    @property
    def peer(self) -> PeerIdentity:
        return PeerIdentity("bells", True)

    def send(self, buffers: Sequence[bytes | bytearray | memoryview]) -> int:
        taken, self.room = min(self.room, sum(map(len, buffers))), 0
        return taken

    def recv_into(self, buffers: Sequence[memoryview]) -> int | None:
        received, self.data = self.data, 0
        return received or None

    def interest(self, read: bool, write: bool) -> Sequence[tuple[int, int]]:
        return ((self.bell, READ), (self.line, READ))

    @property
    def lifeline(self) -> int:
        return self.line

    @property
    def descriptors(self) -> Sequence[int]:
        return (self.bell, self.line)

    def shutdown_send(self) -> None: ...

    def close(self) -> None: ...

    def idle_and_alive(self) -> bool:
        return True

    def statistics(self) -> StreamStatistics:
        return StreamStatistics(0, 0, 0, 0)


@pytest.fixture
def bells() -> Iterator[Bells]:
    stream = Bells()
    yield stream
    stream.free()


async def test_any_one_descriptor_ends_a_wait_and_both_directions_may_share_it(bells: Bells) -> None:
    adapter = StreamAdapter(bells)
    done: list[object] = []

    async def receive() -> None:
        done.append(await adapter.receive_some(10))

    async def send() -> None:
        await adapter.send_all(b"12")
        done.append("sent")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        bells.data, bells.room = 3, 2
        os.eventfd_write(bells.bell, 1)
    assert len(done) == 2
    assert bytes(3) in done


async def test_closing_ends_the_waits_of_both_directions(bells: Bells) -> None:
    adapter = StreamAdapter(bells)

    async def closed(operation: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await operation()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(closed, adapter.receive_some)
        nursery.start_soon(closed, lambda: adapter.send_all(b"1"))
        await trio.testing.wait_all_tasks_blocked()
        await adapter.aclose()
    assert not select.select([bells.bell, bells.line], [], [], 0)[0]

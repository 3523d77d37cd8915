"""The contract of `apcrt.transport`, sentence by sentence, for every transport in `makers.MAKERS`."""

from __future__ import annotations

import array
import dataclasses
import os
import random
import select
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from apcrt.status import RpcError, RpcUnavailable, RpcUsageError
from apcrt.testing import StreamAdapter
from apcrt.transport import Address, PeerIdentity, Registry, Stream, Transport, TransportError
from tests.transport.makers import (
    CEILING,
    Buffer,
    Maker,
    connected,
    expect_end,
    fill,
    listening,
    meet,
    polled,
    ready,
    receive,
    send,
    transfer,
    wait,
)

pytestmark = [pytest.mark.usefixtures("no_leaked_descriptors"), pytest.mark.feature("BIND-02")]

ROOT = Path(__file__).resolve().parent.parent.parent
MANY = 3000  # more buffers than any system takes in one call
BIG = 24 << 20  # more bytes than any stream holds

Pair = tuple[Stream, Stream]


def pattern(size: int) -> bytes:
    return random.Random(size).randbytes(min(size, 1 << 20)) * (size >> 20 or 1)


def link_error(operation: Callable[[], object]) -> TransportError:
    """The error of an operation on a link that is broken or closed."""
    with pytest.raises(TransportError) as caught:
        operation()
    assert caught.value.status == 1726
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, OSError)
    return caught.value


async def opening_error(
    kind: type[RpcError], operation: Callable[..., Awaitable[object]], *arguments: object
) -> RpcError:
    """The error of connecting, listening or accepting."""
    with pytest.raises(kind) as caught:
        await operation(*arguments)
    return caught.value


def entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def hangs_up(stream: Stream, seconds: float) -> bool:
    """Does the lifeline report that the peer is gone?"""
    poller = select.poll()
    poller.register(stream.lifeline, select.POLLRDHUP)  # POLLHUP and POLLERR are always reported
    return bool(poller.poll(seconds * 1000))


# ------------------------------------------------------------------------------------------------------------- sending


async def test_many_buffers_of_all_kinds_arrive_in_order(pair: Pair) -> None:
    kinds: tuple[Callable[[bytes], Buffer], ...] = (bytes, bytearray, memoryview)
    pieces = [pattern(number % 50) for number in range(MANY)]
    assert b"" in pieces
    buffers = [kinds[number % 3](piece) for number, piece in enumerate(pieces)]
    assert transfer(*pair, buffers) == b"".join(pieces)


@pytest.mark.parametrize("before", [0, 1, 1023, MANY])
async def test_empty_buffers_are_passed_over(pair: Pair, before: int) -> None:
    client, server = pair
    taken = client.send([b""] * before + [b"1", b"", b"2"] + [b""] * MANY)
    assert taken in (1, 2)
    assert receive(server, taken) == b"12"[:taken]


async def test_nothing_to_send_takes_nothing(pair: Pair) -> None:
    client, server = pair
    nothing: Sequence[list[bytes]] = ([], [b""], [b""] * MANY)
    for buffers in nothing:
        assert client.send(buffers) == 0
    assert server.recv_into((memoryview(bytearray(1)),)) is None
    assert client.idle_and_alive()
    assert server.idle_and_alive()


async def test_a_view_counts_in_bytes(pair: Pair) -> None:
    client, server = pair
    words = array.array("H", [1, 2, 3])
    assert client.send((memoryview(words).cast("B"),)) == 6
    assert receive(server, 6) == words.tobytes()


async def test_what_does_not_fit_is_not_taken_and_nothing_waits(maker: Maker, pair: Pair) -> None:
    client, server = pair
    data = pattern(BIG)
    taken = client.send((b"head", data))
    assert 0 < taken < 4 + BIG
    rest = memoryview(b"head" + data)[taken:]
    assert receive(server, taken) + transfer(client, server, (rest,)) == b"head" + data


async def test_a_full_stream_takes_nothing_until_the_peer_reads(maker: Maker, pair: Pair) -> None:
    client, server = pair
    taken = fill(maker, client, server)
    before = client.statistics()
    assert client.send((b"x",)) == 0
    assert not ready(client, write=True)
    assert client.statistics() == before
    receive(server, taken)
    wait(client, write=True)
    send(client, b"more")
    assert receive(server, 4) == b"more"


async def test_a_full_stream_still_receives(maker: Maker, pair: Pair) -> None:
    client, server = pair
    fill(maker, client, server)
    send(server, b"back")
    wait(client, read=True, write=True)
    assert receive(client, 4) == b"back"


async def test_no_buffer_is_kept(pair: Pair) -> None:
    client, server = pair
    out, into = bytearray(b"before"), bytearray(6)
    send(client, out)
    out[:] = b"after!"
    out.clear()  # impossible while a view of it is held
    wait(server, read=True)
    assert server.recv_into((memoryview(into),)) == 6
    assert into == b"before"
    into.clear()


async def test_any_thread_may_send_and_receive(pair: Pair) -> None:
    client, server = pair
    arrived = b""
    for number in range(6):
        data = bytes([number]) * 1000
        if number % 2:
            await trio.to_thread.run_sync(send, client, data)
        else:
            send(client, data)
        arrived += receive(server, 1000) if number % 3 else await trio.to_thread.run_sync(receive, server, 1000)
    assert arrived == b"".join(bytes([number]) * 1000 for number in range(6))


async def test_both_directions_at_once(pair: Pair) -> None:
    client, server = pair
    there, back = pattern(3 << 20), pattern(2 << 20)
    sent = {client: 0, server: 0}
    arrived = {client: bytearray(), server: bytearray()}
    buffer = memoryview(bytearray(100_000))
    while len(arrived[server]) < len(there) or len(arrived[client]) < len(back):
        moved = 0
        for stream, data in ((client, there), (server, back)):
            moved += (taken := stream.send((memoryview(data)[sent[stream] :],)))
            sent[stream] += taken
            received = stream.recv_into((buffer,)) or 0
            arrived[stream] += buffer[:received]
            moved += received
        if not moved:
            wait(server if len(arrived[server]) < len(there) else client, read=True)
    assert arrived[server] == there
    assert arrived[client] == back


# ----------------------------------------------------------------------------------------------------------- receiving


async def test_nothing_there_is_none_at_once(pair: Pair) -> None:
    for stream in pair:
        before = stream.statistics()
        assert stream.recv_into((memoryview(bytearray(10)),)) is None
        assert stream.statistics() == before


async def test_buffers_are_filled_in_order(pair: Pair) -> None:
    client, server = pair
    send(client, b"123456789")
    wait(server, read=True)
    parts = [bytearray(size) for size in (0, 3, 0, 0, 4, 1, 10)]
    assert server.recv_into([memoryview(part) for part in parts]) == 9
    assert [bytes(part) for part in parts] == [b"", b"123", b"", b"", b"4567", b"8", b"9" + bytes(9)]


@pytest.mark.parametrize("size", [0, 1])
async def test_more_receive_buffers_than_the_system_takes(pair: Pair, size: int) -> None:
    """They may be empty too: 0 would be the end of file."""
    client, server = pair
    send(client, b"12")
    wait(server, read=True)
    memory = bytearray(size * MANY + 2)
    views = [memoryview(memory)[number * size : (number + 1) * size] for number in range(MANY)]
    assert server.recv_into([*views, memoryview(memory)[-2:]]) == 2
    assert memory.strip(b"\0") == b"12"


async def test_less_room_than_there_is_leaves_the_rest(pair: Pair) -> None:
    client, server = pair
    send(client, b"12345")
    wait(server, read=True)
    buffer = memoryview(bytearray(2))
    assert server.recv_into((buffer,)) == 2
    assert server.recv_into((buffer[1:],)) == 1
    assert bytes(buffer) == b"13"
    assert ready(server, read=True)
    assert receive(server, 2) == b"45"


# ----------------------------------------------------------------------------------------------------------- readiness


async def test_interest_names_descriptors_of_the_stream(pair: Pair) -> None:
    for stream in pair:
        every = set(stream.descriptors)
        assert stream.lifeline in every
        for read, write in ((True, False), (False, True), (True, True)):
            pairs = stream.interest(read, write)
            assert pairs
            assert {descriptor for descriptor, _ in pairs} <= every
            assert all(bits in (1, 2, 3) for _, bits in pairs)
        assert list(stream.interest(False, False)) == []
        for descriptor in every:
            assert not os.get_inheritable(descriptor)
            assert not os.get_blocking(descriptor)


async def test_a_fresh_stream_is_ready_to_send_and_not_to_receive(pair: Pair) -> None:
    for stream in pair:
        assert ready(stream, write=True)
        assert ready(stream, read=True, write=True)
        assert not ready(stream, read=True)
        assert not stream.arm(False, False)


async def test_ready_to_receive_whether_armed_before_or_after(pair: Pair) -> None:
    client, server = pair
    for count in range(1, 4):
        assert not ready(server, read=True)
        send(client, b"x" * count)  # while it is armed
        wait(server, read=True)
        assert ready(server, read=True)  # nothing was taken, so it says so again
        receive(server, count)


async def test_arming_one_direction_keeps_the_other(maker: Maker, pair: Pair) -> None:
    client, server = pair
    taken = fill(maker, client, server)
    assert client.arm(True, False) is False
    assert client.arm(False, True) is False
    poller = select.poll()
    for descriptor, bits in client.interest(True, False):
        poller.register(descriptor, polled(bits))
    send(server, b"x")
    assert poller.poll(CEILING * 1000)
    assert receive(client, 1) == b"x"
    receive(server, taken)
    wait(client, write=True)


async def test_an_end_of_file_and_a_broken_link_make_ready(pair: Pair) -> None:
    client, server = pair
    assert not ready(client, read=True)
    server.close()
    wait(client, read=True)
    expect_end(client)
    assert ready(client, read=True)
    assert ready(client, write=True)  # sending will fail, which is a result


# ---------------------------------------------------------------------------------------------------------- half-close


async def test_half_close_ends_one_direction(pair: Pair) -> None:
    for stream, peer in (pair, pair[::-1]):
        send(stream, b"last")
        stream.shutdown_send()
        stream.shutdown_send()
        assert receive(peer, 4) == b"last"
        expect_end(peer)
        expect_end(peer)
        if stream is pair[0]:
            assert transfer(peer, stream, (pattern(1 << 20),)) == pattern(1 << 20)
        link_error(partial(stream.send, (b"x",)))
        link_error(partial(stream.send, (b"",)))


async def test_half_close_behind_a_full_stream_loses_nothing(maker: Maker, pair: Pair) -> None:
    client, server = pair
    taken = fill(maker, client, server)
    client.shutdown_send()
    assert receive(server, taken) == bytes(taken)
    expect_end(server)


# --------------------------------------------------------------------------------------------------------------- close


async def test_close_ends_both_directions_after_what_was_sent(pair: Pair) -> None:
    client, server = pair
    send(client, b"last")
    client.close()
    assert receive(server, 4) == b"last"
    expect_end(server)
    expect_end(server)


async def test_after_close(pair: Pair) -> None:
    client, server = pair
    send(client, b"123")
    send(server, b"45")
    wait(client, read=True)
    receive(client, 2)
    peer, statistics = client.peer, client.statistics()
    client.close()
    client.close()
    client.shutdown_send()
    assert "closed" in str(link_error(lambda: client.send((b"x",))))
    assert "closed" in str(link_error(lambda: client.send(())))
    assert "closed" in str(link_error(lambda: client.recv_into((memoryview(bytearray(1)),))))
    assert not client.idle_and_alive()
    assert client.peer == peer
    assert client.statistics() == statistics
    assert list(client.descriptors) == []
    for read, write in ((True, False), (False, True), (True, True)):
        assert list(client.interest(read, write)) == []


async def test_close_with_bytes_unread_breaks_or_ends_the_link(pair: Pair) -> None:
    client, server = pair
    send(client, b"never read")
    wait(server, read=True)
    server.close()
    try:
        expect_end(client)
    except TransportError as error:
        assert error.status == 1726  # noqa: PT017 - either is right, and this is what the other must look like
    link_error(lambda: send_until_it_fails(client))
    link_error(lambda: client.send((b"x",)))
    assert not client.idle_and_alive()


async def test_sending_to_a_peer_that_is_gone_fails_and_goes_on_failing(pair: Pair) -> None:
    client, server = pair
    server.close()
    error = link_error(lambda: send_until_it_fails(client))
    assert client.peer.description in str(error)
    assert isinstance(error, RpcUnavailable)
    link_error(lambda: client.send((b"x",)))


def send_until_it_fails(stream: Stream) -> None:
    while True:
        if not stream.send((bytes(1000),)):
            wait(stream, write=True)


# ----------------------------------------------------------------------------------------------------- death and idling


async def test_an_unused_stream_is_idle_and_alive(pair: Pair) -> None:
    client, server = pair
    for stream in pair:
        assert stream.idle_and_alive()
        assert not hangs_up(stream, 0)
    send(client, b"unasked")
    wait(server, read=True)
    assert not server.idle_and_alive()
    assert not server.idle_and_alive()  # it takes nothing
    assert not hangs_up(server, 0)
    assert receive(server, 7) == b"unasked"
    assert server.idle_and_alive()
    assert client.idle_and_alive()


async def test_the_lifeline_tells_when_the_peer_has_closed(pair: Pair) -> None:
    client, server = pair
    server.close()
    assert hangs_up(client, CEILING)
    assert not client.idle_and_alive()


async def test_a_half_closed_peer_is_not_idle(pair: Pair) -> None:
    client, server = pair
    server.shutdown_send()
    wait(client, read=True)
    assert not client.idle_and_alive()


@pytest.fixture
def peer_process() -> Iterator[Callable[[Address], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(address: Address) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(ROOT), str(ROOT / "transports")])
        arguments = [address.protocol_sequence, address.network_address, address.endpoint]
        program = [sys.executable, str(Path(__file__).with_name("peer_process.py")), *arguments]
        started.append(subprocess.Popen(program, env={**os.environ, "PYTHONPATH": path}))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


async def test_a_killed_peer_is_noticed(
    maker: Maker, tmp_path: Path, peer_process: Callable[[Address], subprocess.Popen[bytes]]
) -> None:
    async with listening(maker.make(), maker.address(tmp_path)) as listener:
        process = peer_process(listener.address)
        stream = await listener.accept()
    assert receive(stream, 1) == b"x"
    assert stream.peer.local
    assert stream.peer.pid == (process.pid if maker.knows_user else None)
    assert stream.idle_and_alive()
    process.kill()
    assert hangs_up(stream, CEILING)
    expect_end(stream)
    assert not stream.idle_and_alive()
    stream.close()


# --------------------------------------------------------------------------------------------- identity and statistics


async def test_who_is_at_the_other_end(maker: Maker, tmp_path: Path) -> None:
    transport = maker.make()
    async with listening(transport, maker.address(tmp_path)) as listener:
        client, server = await meet(transport, listener)
        assert client.peer.description == str(listener.address)
    for stream in (client, server):
        peer = stream.peer
        assert isinstance(peer, PeerIdentity)
        assert peer.local
        assert peer.description
        expected = (os.getpid(), os.geteuid(), os.getegid()) if maker.knows_user else (None, None, None)
        assert (peer.pid, peer.uid, peer.gid) == expected
        stream.close()


async def test_statistics_count_bytes_and_what_had_a_result(pair: Pair) -> None:
    client, server = pair
    assert dataclasses.astuple(client.statistics()) == (0, 0, 0, 0)
    client.send((b"12", b"3"))
    client.send((b"4567",))
    receive(server, 7)
    assert server.recv_into((memoryview(bytearray(1)),)) is None
    first = client.statistics()
    assert dataclasses.astuple(first) == (7, 0, 2, 0)
    arrived = server.statistics()
    assert (arrived.bytes_sent, arrived.bytes_received, arrived.sends) == (0, 7, 0)
    assert arrived.receives in (1, 2)
    send(server, b"8")
    receive(client, 1)
    assert dataclasses.astuple(client.statistics()) == (7, 1, 2, 1)
    assert first.bytes_received == 0  # a snapshot


# ------------------------------------------------------------------------------------------------------------- opening


async def test_a_transport_names_what_it_serves(maker: Maker) -> None:
    transport = maker.make()
    assert isinstance(transport, Transport)
    assert transport.name == maker.transport
    assert isinstance(transport.protocol_sequences, tuple)
    assert maker.protocol_sequence in transport.protocol_sequences


async def test_unknown_options_are_refused(maker: Maker) -> None:
    with pytest.raises(RpcUsageError, match="no_such_option") as caught:
        maker.make({"no_such_option": 1})
    assert caught.value.status == 87


async def test_opening_is_a_checkpoint(maker: Maker, tmp_path: Path) -> None:
    transport = maker.make()
    with trio.testing.assert_checkpoints():
        listener = await transport.listen(maker.address(tmp_path))
    streams: list[Stream] = []

    async def accept() -> None:
        with trio.testing.assert_checkpoints():
            streams.append(await listener.accept())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with trio.testing.assert_checkpoints():
            streams.append(await transport.connect(listener.address))
    with trio.testing.assert_checkpoints():
        await listener.aclose()
    for stream in streams:
        stream.close()


async def test_a_dynamic_endpoint_is_filled_in(maker: Maker, tmp_path: Path) -> None:
    transport = maker.make()
    dynamic = Address(maker.protocol_sequence, options=(("a", "b"),))
    async with listening(transport, dynamic) as one, listening(transport, dynamic) as other:
        for listener in (one, other):
            assert listener.address.endpoint not in ("", "0")
            assert listener.address.protocol_sequence == maker.protocol_sequence
            assert listener.address.options == dynamic.options
            for stream in await meet(transport, listener):
                assert stream.peer.local
                stream.close()
        assert one.address.endpoint != other.address.endpoint


async def test_several_peers_on_one_listener(maker: Maker, tmp_path: Path) -> None:
    transport = maker.make()
    async with listening(transport, maker.address(tmp_path)) as listener:
        pairs = [await meet(transport, listener) for _ in range(5)]
    for number, (client, server) in enumerate(pairs):
        send(client, bytes([number]))
        assert receive(server, 1) == bytes([number])
    for client, server in pairs:
        client.close()
        server.close()


async def test_connecting_where_nobody_listens(maker: Maker, tmp_path: Path) -> None:
    with maker.refusing(tmp_path) as address:
        error = await opening_error(TransportError, maker.make().connect, address)
    assert error.status == 1722
    assert isinstance(error.__cause__, OSError)
    assert error.__cause__.errno is not None
    assert str(address) in str(error)


async def test_malformed_endpoints(maker: Maker, tmp_path: Path) -> None:
    transport = maker.make()
    for endpoint in maker.bad_endpoints:
        address = maker.with_endpoint(endpoint)
        for operation in (transport.connect, transport.listen):
            assert (await opening_error(RpcUsageError, operation, address)).status == 1706


async def test_malformed_network_addresses(maker: Maker, tmp_path: Path) -> None:
    transport = maker.make()
    for network_address in maker.bad_addresses:
        address = maker.with_network_address(tmp_path, network_address)
        for operation in (transport.connect, transport.listen):
            assert (await opening_error(RpcUsageError, operation, address)).status == 1707


async def test_an_endpoint_in_use(maker: Maker, tmp_path: Path) -> None:
    transport = maker.make()
    async with listening(transport, maker.address(tmp_path)) as listener:
        for other in (transport, maker.make()):
            assert (await opening_error(TransportError, other.listen, listener.address)).status == 1740
        for stream in await meet(transport, listener):  # and the one that was first is none the worse
            stream.close()


async def test_an_endpoint_that_cannot_be_created(maker: Maker, tmp_path: Path) -> None:
    address = maker.impossible(tmp_path)
    error = await opening_error(TransportError, maker.make().listen, address)
    assert error.status == 1720
    assert isinstance(error.__cause__, OSError)
    assert str(address) in str(error)


# ----------------------------------------------------------------------------------------------------- a listener's end


async def test_a_closed_listener_leaves_nothing_and_keeps_what_it_accepted(maker: Maker, tmp_path: Path) -> None:
    transport = maker.make()
    before = entries(tmp_path)
    listener = await transport.listen(maker.address(tmp_path))
    client, server = await meet(transport, listener)
    await listener.aclose()
    await listener.aclose()
    assert entries(tmp_path) == before
    assert (await opening_error(TransportError, transport.connect, listener.address)).status == 1722
    assert (await opening_error(TransportError, listener.accept)).status == 1720
    assert transfer(client, server, (b"still there",)) == b"still there"
    client.close()
    server.close()
    async with listening(transport, listener.address) as again:  # the endpoint is free
        for stream in await meet(transport, again):
            stream.close()


async def test_closing_a_listener_ends_an_accept(maker: Maker, tmp_path: Path) -> None:
    listener = await maker.make().listen(maker.address(tmp_path))
    statuses: list[int] = []

    async def accept() -> None:
        statuses.append((await opening_error(TransportError, listener.accept)).status)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        await listener.aclose()
    assert statuses == [1720]


async def test_a_cancelled_close_closes(maker: Maker, tmp_path: Path) -> None:
    transport = maker.make()
    listener = await transport.listen(maker.address(tmp_path))
    with trio.CancelScope() as scope:
        scope.cancel()
        await listener.aclose()
    assert scope.cancelled_caught
    assert (await opening_error(TransportError, transport.connect, listener.address)).status == 1722
    assert entries(tmp_path) == []


# -------------------------------------------------------------------------------------------------------- cancellation


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_a_cancelled_connect_leaves_nothing(maker: Maker, tmp_path: Path, when: str) -> None:
    transport = maker.make()
    async with listening(transport, maker.address(tmp_path)) as listener:

        async def connect(greeting: bytes) -> None:
            client = await transport.connect(listener.address)
            send(client, greeting)
            client.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect, b"1st")
            if when == "meanwhile":
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        # Somebody may have been there for a moment; whoever comes next is served all the same.
        greeting = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect, b"2nd")
            while greeting != b"2nd":
                server = StreamAdapter(await listener.accept())
                greeting = await server.receive_some(3)
                await server.aclose()


async def test_a_cancelled_listen_leaves_nothing(maker: Maker, tmp_path: Path) -> None:
    transport = maker.make()
    with trio.CancelScope() as scope:
        scope.cancel()
        await transport.listen(maker.address(tmp_path))
    assert scope.cancelled_caught
    assert entries(tmp_path) == []
    async with listening(transport, maker.address(tmp_path)):
        pass


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_a_cancelled_accept_loses_no_connection(maker: Maker, tmp_path: Path, when: str) -> None:
    transport = maker.make()
    async with listening(transport, maker.address(tmp_path)) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.accept)
            if when == "meanwhile":
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        client, server = await meet(transport, listener)
        assert transfer(client, server, (b"hello",)) == b"hello"
        client.close()
        server.close()


# ---------------------------------------------------------------------------------------------------------------- leaks


async def test_a_thousand_pairs_leak_nothing(
    maker: Maker, tmp_path: Path, no_leaked_descriptors: Callable[[], dict[int, str]]
) -> None:
    opened = no_leaked_descriptors()
    transport = Registry().find(maker.protocol_sequence)
    async with listening(transport, maker.address(tmp_path)) as listener:
        listens = no_leaked_descriptors()
        for number in range(1000):
            client, server = await meet(transport, listener)
            (client, server)[number % 2].close()
            (server, client)[number % 2].close()
        assert no_leaked_descriptors() == listens
    assert no_leaked_descriptors() == opened


async def test_a_pair_lets_go_of_all_its_descriptors(
    maker: Maker, tmp_path: Path, no_leaked_descriptors: Callable[[], dict[int, str]]
) -> None:
    before = no_leaked_descriptors()
    client, server = await connected(maker, tmp_path)
    opened = set(no_leaked_descriptors()) - set(before)
    assert opened >= {*client.descriptors, *server.descriptors}
    client.close()
    server.close()
    assert no_leaked_descriptors() == before

"""What the socket transport alone promises: who may connect to a Unix endpoint, socket files, names, options."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import socket
import stat
import struct
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal

import pytest
import trio
import trio.testing

import apcrt_transports.socket as module
from apcrt import apc
from apcrt.rpc.runtime import Runtime
from apcrt.status import RpcUsageError
from apcrt.transport import Address, Listener, PeerIdentity, Stream, TransportError
from apcrt_transports.socket import SocketTransport
from tests.transport.makers import expect_end, listening, meet, receive, send, wait

pytestmark = [pytest.mark.usefixtures("no_leaked_descriptors"), pytest.mark.feature("BIND-02")]

OTHER = 54321  # a user who is not us


@pytest.fixture(scope="module", autouse=True)
def _port() -> None:
    """The descriptors of this thread's Port, which a runtime needs and the thread keeps, are no leak of a test."""
    assert not apc.current_thread().port.armed


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def tcp(network_address: str = "", endpoint: str = "0") -> Address:
    return Address("ncacn_ip_tcp", network_address, endpoint)


def unix(path: Path | str) -> Address:
    return Address("ncacn_unix_stream", "", str(path))


@contextlib.contextmanager
def socket_of(stream: Stream) -> Iterator[socket.socket]:
    """The stream's socket once more, to look at its options."""
    with socket.socket(fileno=os.dup(stream.lifeline)) as sock:
        yield sock


@contextlib.asynccontextmanager
async def met(transport: SocketTransport, address: Address) -> AsyncIterator[tuple[Stream, Stream]]:
    """A connected pair, closed at the end."""
    async with listening(transport, address) as listener:
        client, server = await meet(transport, listener)
    try:
        yield client, server
    finally:
        client.close()
        server.close()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def exists(path: Path) -> bool:
    return os.path.lexists(path)


def stale(path: Path) -> None:
    """A socket file whose process has gone."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


# ---------------------------------------------------------------------------------------------- credentials of the peer


class Users:
    """Stands in for the kernel: the users that the next looks at a peer find; our own when there are no more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.next: list[int] = []
        self._real = module._unix_identity
        monkeypatch.setattr(module, "_unix_identity", self._look)

    def _look(self, sock: socket.socket) -> PeerIdentity:
        identity = self._real(sock)
        return dataclasses.replace(identity, uid=self.next.pop(0)) if self.next else identity


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> Users:
    return Users(monkeypatch)


async def test_another_user_is_not_let_in(users: Users, tmp_path: Path) -> None:
    """It is hung up on, and who comes after it is served."""
    transport = SocketTransport({})
    async with listening(transport, unix(tmp_path / "s")) as listener:
        refused = await transport.connect(listener.address)
        mine = await transport.connect(listener.address)
        users.next = [OTHER]
        server = await listener.accept()
        send(mine, b"mine")
        assert receive(server, 4) == b"mine"
        expect_end(refused)
    for stream in (refused, mine, server):
        stream.close()


async def test_another_user_is_let_in_when_listed(users: Users, tmp_path: Path) -> None:
    transport = SocketTransport({"allow_users": [OTHER]})
    async with listening(transport, unix(tmp_path / "s")) as listener:
        client = await transport.connect(listener.address)
        users.next = [OTHER]
        server = await listener.accept()
        assert server.peer.uid == OTHER
        mine = await meet(transport, listener)  # being listed takes nothing from us
    for stream in (client, server, *mine):
        stream.close()


async def test_a_server_of_another_user_is_not_trusted(users: Users, tmp_path: Path) -> None:
    users.next = [OTHER]
    async with listening(SocketTransport({}), unix(tmp_path / "s")) as listener:
        with pytest.raises(TransportError, match=str(OTHER)) as caught:
            await SocketTransport({}).connect(listener.address)
        assert caught.value.status == 5
        users.next = [OTHER]
        trusted = await SocketTransport({"allow_users": [OTHER]}).connect(listener.address)
        assert trusted.peer.uid == OTHER
        trusted.close()


async def test_a_peer_that_cannot_be_looked_at_any_more_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real, gone = module._unix_identity, [OSError(errno.ENOTCONN, "gone")]

    def look(sock: socket.socket) -> PeerIdentity:
        if gone:
            raise gone.pop()
        return real(sock)

    transport = SocketTransport({})
    async with listening(transport, unix(tmp_path / "s")) as listener:
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(listener.address.endpoint)
            monkeypatch.setattr(module, "_unix_identity", look)
            with socket.socket(socket.AF_UNIX) as second:
                second.connect(listener.address.endpoint)
                server = await listener.accept()
                second.send(b"2")
                assert receive(server, 1) == b"2"
                server.close()


async def test_descriptors_that_are_sent_along_are_not_taken(tmp_path: Path) -> None:
    """The fixture finds them when they are."""
    async with listening(SocketTransport({}), unix(tmp_path / "s")) as listener:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(listener.address.endpoint)
            server = await listener.accept()
            socket.send_fds(client, [b"gift"], [0, 1, 2])
            assert receive(server, 4) == b"gift"
            server.close()


# --------------------------------------------------------------------------------------------------------- socket files


async def test_a_missing_directory_is_made_and_private(tmp_path: Path) -> None:
    path = tmp_path / "one" / "two" / "s"
    before = os.umask(0)
    try:
        async with met(SocketTransport({}), unix(path)):
            assert mode_of(path.parent) == 0o700
        assert os.umask(0) == 0
    finally:
        os.umask(before)


async def test_a_directory_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o755)
    async with listening(SocketTransport({"allow_users": [OTHER]}), unix(tmp_path / "s")):
        assert mode_of(tmp_path) == 0o755


async def test_the_socket_file_is_ours_alone_unless_others_are_listed(tmp_path: Path) -> None:
    async with listening(SocketTransport({}), unix(tmp_path / "s")):
        assert mode_of(tmp_path / "s") == 0o600
    async with listening(SocketTransport({"allow_users": [OTHER]}), unix(tmp_path / "made" / "s")):
        assert mode_of(tmp_path / "made" / "s") == 0o666
        assert mode_of(tmp_path / "made") == 0o711  # they have to reach it


@pytest.mark.parametrize(("options", "mode"), [({}, 0o700), ({"allow_users": [OTHER]}, 0o711)])
async def test_a_dynamic_endpoint_has_a_directory_of_its_own(options: dict[str, object], mode: int) -> None:
    listener = await SocketTransport(options).listen(unix(""))
    path = Path(listener.address.endpoint)
    assert mode_of(path.parent) == mode
    await listener.aclose()
    assert not exists(path.parent)


@pytest.mark.parametrize("place", ["", "missing", "x" * 100])
async def test_a_dynamic_endpoint_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """No right to change the directory, no place for one, a path that is too long."""
    if place != "missing":
        (tmp_path / place).mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / place))
    if not place:
        monkeypatch.setattr(os, "chmod", _no_permission)
    with pytest.raises(TransportError) as caught:
        await SocketTransport({} if place else {"allow_users": [OTHER]}).listen(unix(""))
    assert caught.value.status == 1720
    assert isinstance(caught.value.__cause__, OSError)
    assert place == "missing" or os.listdir(tmp_path / place) == []


def _no_permission(*_: object) -> None:
    raise PermissionError(errno.EPERM, "no")


async def test_a_socket_file_that_fails_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "chmod", _no_permission)
    with pytest.raises(TransportError) as caught:
        await SocketTransport({"allow_users": [OTHER]}).listen(unix(tmp_path / "s"))
    assert caught.value.status == 1720
    assert isinstance(caught.value.__cause__, PermissionError)
    assert os.listdir(tmp_path) == []


async def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    stale(tmp_path / "s")
    async with met(SocketTransport({}), unix(tmp_path / "s")) as (client, server):
        send(client, b"x")
        assert receive(server, 1) == b"x"


@pytest.mark.parametrize("backlog", ["open", "full"])
async def test_a_socket_file_in_use_is_refused_and_stays(tmp_path: Path, backlog: str) -> None:
    path = tmp_path / "s"
    with contextlib.ExitStack() as stack:
        somebody = stack.enter_context(socket.socket(socket.AF_UNIX))
        somebody.bind(str(path))
        somebody.listen(0)
        if backlog == "full":
            stack.enter_context(full_backlog(path))
        inode = os.stat(path).st_ino
        with pytest.raises(TransportError) as caught:
            await SocketTransport({}).listen(unix(path))
        assert caught.value.status == 1740
        assert os.stat(path).st_ino == inode


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
async def test_what_is_no_socket_file_is_not_touched(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        stale(tmp_path / "target")
        path.symlink_to(tmp_path / "target")
    before = path.lstat()
    with pytest.raises(TransportError, match="not a socket") as caught:
        await SocketTransport({}).listen(unix(path))
    assert caught.value.status == 1720
    assert path.lstat() == before


async def test_a_successor_keeps_its_socket_file(tmp_path: Path) -> None:
    transport = SocketTransport({})
    path = tmp_path / "s"
    first = await transport.listen(unix(path))
    path.unlink()
    async with listening(transport, unix(path)) as second:
        await first.aclose()
        for stream in await meet(transport, second):
            stream.close()
    assert not exists(path)


async def test_a_socket_file_is_there_only_while_somebody_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a successor could find it stale, replace it, and lose its own file to us."""
    listener = await SocketTransport({}).listen(unix(tmp_path / "s"))
    looked: list[str] = []
    real = os.unlink

    def unlink(path: str) -> None:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
        looked.append(path)
        real(path)

    monkeypatch.setattr(os, "unlink", unlink)
    await listener.aclose()
    assert looked == [str(tmp_path / "s")]


async def test_a_path_as_long_as_the_system_takes(tmp_path: Path) -> None:
    path = f"{tmp_path}/{'x' * (106 - len(os.fsencode(tmp_path)))}"
    assert len(os.fsencode(path)) == 107
    async with met(SocketTransport({}), unix(path)):
        pass


# ------------------------------------------------------------------------------------------------------- a full backlog


@contextlib.contextmanager
def full_backlog(path: Path | str) -> Iterator[None]:
    """Connect until the listener's backlog takes no more."""
    with contextlib.ExitStack() as stack:
        while True:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            try:
                sock.connect(str(path))
            except BlockingIOError:
                break
        yield


async def test_a_connect_waits_for_room_in_the_backlog(tmp_path: Path) -> None:
    transport = SocketTransport({"backlog": 1})
    async with listening(transport, unix(tmp_path / "s")) as listener:
        with full_backlog(tmp_path / "s"):
            connected: list[Stream] = []

            async def connect() -> None:
                connected.append(await transport.connect(listener.address))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(connect)
                await trio.testing.wait_all_tasks_blocked()
                assert not connected
                while not connected:
                    with trio.move_on_after(0.001):
                        (await listener.accept()).close()
        assert connected[0].peer.uid == os.geteuid()
        connected[0].close()


async def test_a_connect_does_not_wait_for_ever(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    transport = SocketTransport({"backlog": 1, "connect_timeout": 3})
    async with listening(transport, unix(tmp_path / "s")) as listener:
        with full_backlog(tmp_path / "s"):
            before = trio.current_time()
            with pytest.raises(TransportError, match="no answer within 3 s") as caught:
                await transport.connect(listener.address)
            assert caught.value.status == 1722
            assert trio.current_time() - before == pytest.approx(3, abs=0.1)
            with trio.move_on_after(1) as scope:
                await transport.connect(listener.address)
            assert scope.cancelled_caught


# -------------------------------------------------------------------------------------------------------- TCP and names


async def test_without_an_address_it_is_this_machine_alone() -> None:
    transport = SocketTransport({})
    async with listening(transport, tcp()) as listener:
        assert listener.address.network_address == "127.0.0.1"
        assert 0 < int(listener.address.endpoint) < 65536
        client, server = await meet(transport, listener)
        with socket_of(server) as sock:
            assert sock.getsockname()[0] == "127.0.0.1"
        with socket_of(client) as sock:
            assert server.peer.description == f"ncacn_ip_tcp:127.0.0.1[{sock.getsockname()[1]}]"
        client.close()
        server.close()
        nowhere = await transport.connect(dataclasses.replace(listener.address, network_address=""))
        nowhere.close()


async def test_wider_is_asked_for_by_name() -> None:
    async with listening(SocketTransport({}), tcp("0.0.0.0")) as listener:
        assert listener.address.network_address == "0.0.0.0"
        (await SocketTransport({}).connect(tcp("127.0.0.1", listener.address.endpoint))).close()


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("network_address", ["::1", "::"])
async def test_ipv6(network_address: str) -> None:
    transport = SocketTransport({})
    async with listening(transport, tcp(network_address)) as listener:
        assert listener.address.network_address == network_address
        client = await transport.connect(tcp("::1", listener.address.endpoint))
        server = await listener.accept()
        assert client.peer.local
        assert server.peer.local
        assert server.peer.description.startswith("ncacn_ip_tcp:::1[")
        send(client, b"six")
        assert receive(server, 3) == b"six"
        client.close()
        server.close()


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6_in_a_string_binding() -> None:
    with Runtime() as runtime, runtime.server() as server:
        (bound,) = server.start("ncacn_ip_tcp:::1[0]")
        assert re.fullmatch(r"ncacn_ip_tcp:::1\[[1-9]\d*\]", bound)
        runtime.binding(bound)


def test_a_server_gives_the_bound_string_bindings() -> None:
    with Runtime() as runtime, runtime.server() as server:
        by_number, left_out, local = server.start("ncacn_ip_tcp:[0]", "ncacn_ip_tcp:", "ncacn_unix_stream:")
        for bound in (by_number, left_out):
            assert re.fullmatch(r"ncacn_ip_tcp:127\.0\.0\.1\[[1-9]\d*\]", bound)
        assert by_number != left_out
        assert re.fullmatch(r"ncacn_unix_stream:\[/.+/socket\]", local)
        for bound in server.endpoints:
            runtime.binding(bound)


Found = (
    tuple[Literal[socket.AddressFamily.AF_INET], socket.SocketKind, int, str, tuple[str, int]]
    | tuple[
        Literal[socket.AddressFamily.AF_INET6],
        socket.SocketKind,
        int,
        str,
        tuple[str, int, int, int] | tuple[int, bytes],
    ]
)


class Names(trio.abc.HostnameResolver):
    """Names as the test wants them; nothing is asked of a network."""

    def __init__(self, known: dict[str, list[str]]) -> None:
        self.known = known
        self.asked: list[str] = []

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002 - the name that trio gives it
        proto: int = 0,
        flags: int = 0,
    ) -> list[Found]:
        name = (host or b"").decode()
        self.asked.append(name)
        await trio.lowlevel.checkpoint()
        if name == "slow":
            await trio.sleep_forever()
        if name not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        assert isinstance(port, int)
        return [
            (socket.AddressFamily.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
            for address in self.known[name]
        ]

    async def getnameinfo(self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int) -> tuple[str, str]:
        raise NotImplementedError


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    resolver = Names({"here": ["127.0.0.1"], "both": ["127.0.0.2", "127.0.0.1"], "away": ["192.0.2.1"]})
    before = trio.socket.set_custom_hostname_resolver(resolver)
    yield resolver
    trio.socket.set_custom_hostname_resolver(before)


async def test_names_are_looked_up(names: Names) -> None:
    transport = SocketTransport({})
    async with listening(transport, tcp("here")) as listener:
        assert listener.address.network_address == "here"  # as written
        for name in ("here", "both"):  # the second address answers when the first does not
            client = await transport.connect(tcp(name, listener.address.endpoint))
            assert client.peer.description == f"ncacn_ip_tcp:{name}[{listener.address.endpoint}]"
            server = await listener.accept()
            client.close()
            server.close()
    assert names.asked == ["here", "here", "both"]


async def test_names_that_mean_nothing(names: Names) -> None:
    with pytest.raises(TransportError, match=r"nobody.*not known") as unreachable:
        await SocketTransport({}).connect(tcp("nobody", "1"))
    assert unreachable.value.status == 1722
    with pytest.raises(RpcUsageError, match=r"nobody.*not known") as wrong:
        await SocketTransport({}).listen(tcp("nobody"))
    assert wrong.value.status == 1707
    for error in (unreachable.value, wrong.value):
        assert isinstance(error.__cause__, socket.gaierror)


async def test_a_look_up_takes_no_longer_than_the_connect_may(
    names: Names, autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(TransportError, match="no answer within 5 s") as caught:
        await SocketTransport({"connect_timeout": 5}).connect(tcp("slow", "1"))
    assert caught.value.status == 1722
    assert trio.current_time() > 4.9
    for operation in (SocketTransport({}).connect, SocketTransport({}).listen):
        with trio.move_on_after(1) as scope:
            await operation(tcp("slow", "1"))
        assert scope.cancelled_caught


async def test_a_connection_to_itself_is_a_refused_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting to a free dynamic port may meet itself, which is no server."""
    sock = trio.socket.socket()
    await sock.bind(("127.0.0.1", 0))
    where = sock.getsockname()
    await sock.connect(where)

    async def open_tcp_stream(host: str, port: int) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        return trio.SocketStream(sock)

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    with pytest.raises(TransportError) as caught:
        await SocketTransport({}).connect(tcp(where[0], str(where[1])))
    assert caught.value.status == 1722
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_a_port_is_free_again_at_once() -> None:
    """Connections that were closed here and linger in the kernel do not hold it."""
    transport = SocketTransport({})
    async with listening(transport, tcp()) as listener:
        client, server = await meet(transport, listener)
    server.close()  # first, so the server's side lingers
    expect_end(client)
    client.close()
    async with listening(transport, listener.address):
        pass


# ------------------------------------------------------------------------------------------------- sockets' own matters


async def test_small_sends_are_not_delayed_and_dead_machines_are_noticed() -> None:
    async with met(SocketTransport({}), tcp()) as pair:
        for stream in pair:
            with socket_of(stream) as sock:
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_unix_sockets_get_the_buffers_that_are_asked_for(tmp_path: Path) -> None:
    async with met(SocketTransport({"unix_buffer": 8192}), unix(tmp_path / "s")) as pair:
        for stream in pair:
            with socket_of(stream) as sock:
                for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                    assert sock.getsockopt(socket.SOL_SOCKET, option) in (8192, 16384)  # Linux counts twice


@pytest.mark.parametrize("sequence", ["ncacn_ip_tcp", "ncacn_unix_stream"])
async def test_close_hangs_up_even_when_a_child_holds_the_socket(sequence: str) -> None:
    async with met(SocketTransport({}), Address(sequence)) as (client, server), _dup(server):
        server.close()
        expect_end(client)


@contextlib.asynccontextmanager
async def _dup(stream: Stream) -> AsyncIterator[None]:
    with socket_of(stream):
        yield


@contextlib.contextmanager
def resetting(address: Address) -> Iterator[None]:
    """Connect, and reset the connection at the end."""
    with socket.socket() as sock:
        sock.connect((address.network_address, int(address.endpoint)))
        yield
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets


async def test_a_connection_that_was_reset_is_passed_over() -> None:
    transport = SocketTransport({})
    async with listening(transport, tcp()) as listener:
        with resetting(listener.address):
            pass
        client, server = await meet(transport, listener)
        send(client, b"x")
        assert receive(server, 1) == b"x"
        client.close()
        server.close()


async def test_a_reset_is_the_cause_of_the_error() -> None:
    async with listening(SocketTransport({}), tcp()) as listener:
        with resetting(listener.address):
            server = await listener.accept()
    wait(server, read=True)
    with pytest.raises(TransportError, match="reset") as caught:
        server.recv_into((memoryview(bytearray(1)),))
    assert caught.value.status == 1726
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    with pytest.raises(TransportError) as caught:
        server.send((b"x",))
    assert caught.value.status == 1726
    assert isinstance(caught.value.__cause__, BrokenPipeError)
    server.close()


async def test_a_stream_shows_its_state(tmp_path: Path) -> None:
    async with met(SocketTransport({}), unix(tmp_path / "s")) as (client, _):
        send(client, b"123")
        assert repr(client) == f"<SocketStream {client.peer.description} fd {client.lifeline} sent=3 received=0>"
        client.close()
        assert repr(client) == f"<SocketStream {client.peer.description} closed sent=3 received=0>"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNABORTED, errno.EINTR])
async def test_accept_goes_on_after_passing_troubles(
    number: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    transport = SocketTransport({})
    async with listening(transport, tcp()) as listener:
        client = await transport.connect(listener.address)
        before = trio.current_time()
        _accept_fails_once(listener, number, monkeypatch)
        server = await listener.accept()
        waited = trio.current_time() - before
        assert (waited > 0) == (number in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS))  # and does not spin meanwhile
        client.close()
        server.close()


async def test_accept_gives_up_for_good_when_the_system_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(SocketTransport({}), tcp()) as listener:
        _accept_fails_once(listener, errno.EINVAL, monkeypatch)
        with pytest.raises(TransportError) as caught:
            await listener.accept()
        assert caught.value.status == 1720
        assert isinstance(caught.value.__cause__, OSError)


def _accept_fails_once(listener: Listener, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(listener, module.SocketListener)
    sock = listener._socket
    real, troubles = sock.accept, [OSError(number, os.strerror(number))]

    async def accept() -> object:
        if troubles:
            raise troubles.pop()
        return await real()

    monkeypatch.setattr(sock, "accept", accept)


# -------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("key", ["backlog", "connect_timeout", "unix_buffer"])
@pytest.mark.parametrize("value", [0, -1, True, "1", 1.5, None, 1 << 31])
def test_numbers_that_are_refused(key: str, value: object) -> None:
    with pytest.raises(RpcUsageError, match=key) as caught:
        SocketTransport({key: value})
    assert caught.value.status == 87


@pytest.mark.parametrize("value", [5, "root", ["root"], None, {1: 2}])
def test_users_that_are_refused(value: object) -> None:
    with pytest.raises(RpcUsageError, match="allow_users") as caught:
        SocketTransport({"allow_users": value})
    assert caught.value.status == 87


async def test_the_largest_numbers_work(tmp_path: Path) -> None:
    most = dict.fromkeys(("backlog", "connect_timeout", "unix_buffer"), (1 << 31) - 1)
    for address in (tcp(), unix(tmp_path / "s")):
        async with met(SocketTransport(most), address):
            pass

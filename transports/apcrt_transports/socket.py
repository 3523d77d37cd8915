"""The socket transport: TCP (`ncacn_ip_tcp:host[port]`) and Unix stream sockets (`ncacn_unix_stream:[/path]`).

What lives here: opening, accepting and moving bytes. What must not: anything that knows a PDU.

How it works. A stream is one non-blocking socket; its descriptor is both the one to poll and the lifeline. TCP leaves
the kernel's buffer sizes to autotuning and turns Nagle's algorithm off, because the runtime gathers small sends
itself. Unix sockets ask for large buffers, whose default of about 200 KiB halves the throughput of large pushes.

A Unix endpoint checks the kernel's credentials of whoever connects: other users are refused unless listed. The
directory of a socket file that we make is private (others may pass through it when users are listed); a stale socket
file is replaced only when nobody listens on it. Without an endpoint the socket file gets a directory of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import socket
import stat
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final, cast

import trio

from apcrt.status import RpcUsageError, Status
from apcrt.transport import (
    READ,
    WRITE,
    Address,
    Listener,
    PeerIdentity,
    Stream,
    StreamStatistics,
    Transport,
    TransportError,
)

__all__ = ["SocketListener", "SocketStream", "SocketTransport"]

UNIX_BUFFER: Final = 1 << 20  # bytes asked of the kernel for each direction of a Unix socket
IOV_MAX: Final = min(os.sysconf("SC_IOV_MAX"), 1024)
_AGAIN: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ENOBUFS})
_BUSY: Final = 0.01  # seconds between looks at a Unix endpoint whose backlog is full
_OPTIONS: Final = ("allow_users", "backlog", "connect_timeout", "unix_buffer")


class SocketStream(Stream):
    """A connected, non-blocking stream socket. Takes the socket over."""

    __slots__ = (
        "_fd",
        "_interest",
        "_peer",
        "_received",
        "_receives",
        "_recvmsg_into",
        "_sendmsg",
        "_sends",
        "_sent",
        "_shut",
        "_socket",
    )

    def __init__(self, sock: socket.socket, peer: PeerIdentity) -> None:
        sock.setblocking(False)
        self._socket: socket.socket | None = sock
        self._fd = sock.fileno()
        self._peer = peer
        self._sendmsg: Callable[..., int] = sock.sendmsg
        self._recvmsg_into = sock.recvmsg_into
        self._interest: dict[tuple[bool, bool], Sequence[tuple[int, int]]] = {
            (True, False): ((self._fd, READ),),
            (False, True): ((self._fd, WRITE),),
            (True, True): ((self._fd, READ | WRITE),),
            (False, False): (),
        }
        self._sent = self._received = self._sends = self._receives = 0
        self._shut = False

    @property
    def peer(self) -> PeerIdentity:
        return self._peer

    @property
    def lifeline(self) -> int:
        return self._fd

    @property
    def descriptors(self) -> Sequence[int]:
        return () if self._socket is None else (self._fd,)

    def interest(self, read: bool, write: bool) -> Sequence[tuple[int, int]]:
        return self._interest[read, write]

    def send(self, buffers: Sequence[bytes | bytearray | memoryview]) -> int:
        if len(buffers) > IOV_MAX:
            buffers = [one for one in buffers if len(one)][:IOV_MAX]
        try:
            taken = self._sendmsg(buffers)
        except OSError as error:
            if error.errno in _AGAIN:
                return 0
            raise self._broken("send", error) from error
        self._sent += taken
        self._sends += 1
        return taken

    def recv_into(self, buffers: Sequence[memoryview]) -> int | None:
        if len(buffers) > IOV_MAX:
            buffers = [one for one in buffers if len(one)][:IOV_MAX]
        try:
            received = self._recvmsg_into(buffers)[0]
        except OSError as error:
            if error.errno in _AGAIN:
                return None
            raise self._broken("receive", error) from error
        self._received += received
        self._receives += 1
        return received

    def shutdown_send(self) -> None:
        if self._socket is None or self._shut:
            return
        self._shut = True
        with contextlib.suppress(OSError):  # a peer that is gone needs no end of file
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            self._interest = dict.fromkeys(self._interest, ())
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the other side even if a forked child still holds the socket
            sock.close()

    def idle_and_alive(self) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except OSError as error:
            return error.errno in _AGAIN
        return False  # an end of file, or bytes that nobody asked for

    def statistics(self) -> StreamStatistics:
        return StreamStatistics(self._sent, self._received, self._sends, self._receives)

    def _broken(self, verb: str, error: OSError) -> TransportError:
        what = "the connection is closed" if self._socket is None else f"{verb} failed: {error.strerror}"
        return TransportError(Status.RPC_S_CALL_FAILED, f"{self._peer.description}: {what}")

    def __repr__(self) -> str:
        state = "closed" if self._socket is None else f"fd {self._fd}"
        return f"<SocketStream {self._peer.description} {state} sent={self._sent} received={self._received}>"


class SocketListener(Listener):
    """A listening socket; made by `SocketTransport.listen`."""

    def __init__(
        self,
        transport: SocketTransport,
        sock: trio.socket.SocketType,
        address: Address,
        *,
        path: str | None = None,
        directory: str | None = None,
    ) -> None:
        self._transport = transport
        self._socket = sock
        self._address = address
        self._path = path
        self._directory = directory  # made for this endpoint alone
        self._inode = os.stat(path).st_ino if path else 0

    @property
    def address(self) -> Address:
        return self._address

    async def accept(self) -> Stream:
        while True:
            try:
                accepted, _ = await self._socket.accept()
            except trio.ClosedResourceError as error:
                raise self._closed() from error
            except OSError as error:
                if self._socket.fileno() < 0:
                    raise self._closed() from error
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    await trio.sleep(0.05)  # out of descriptors: those who have one must first give it back
                    continue
                if error.errno in (errno.ECONNABORTED, errno.EINTR, errno.EPROTO):
                    continue
                raise TransportError(Status.RPC_S_CANT_CREATE_ENDPOINT, f"{self._address}: {error.strerror}") from error
            sock = _plain(accepted)
            identity = self._transport.admit(sock)
            if identity is not None:
                return SocketStream(sock, identity)
            sock.close()

    async def aclose(self) -> None:
        if self._path:
            # Before the socket is closed: while it listens nobody replaces the file, nor gets its inode's number.
            with contextlib.suppress(OSError):
                if os.stat(self._path).st_ino == self._inode:  # not the file of a successor
                    os.unlink(self._path)
            self._path = None
        self._socket.close()
        if self._directory:
            with contextlib.suppress(OSError):
                os.rmdir(self._directory)
            self._directory = None
        await trio.lowlevel.checkpoint()

    def _closed(self) -> TransportError:
        return TransportError(Status.RPC_S_CANT_CREATE_ENDPOINT, f"{self._address}: the listener was closed")


class SocketTransport(Transport):
    """TCP and Unix stream sockets.

    Options: `allow_users` (list of user ids that may connect to Unix endpoints beside our own), `backlog` (default
    128), `connect_timeout` (seconds, default 30), `unix_buffer` (bytes, default 1 MiB).
    """

    name: ClassVar[str] = "socket"
    protocol_sequences: ClassVar[tuple[str, ...]] = ("ncacn_ip_tcp", "ncacn_unix_stream")

    def __init__(self, options: Mapping[str, object]) -> None:
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise RpcUsageError(
                Status.RPC_S_INVALID_ARG,
                f"socket transport: unknown option {unknown[0]!r}; known: {', '.join(_OPTIONS)}",
            )
        self._backlog = _number(options, "backlog", 128)
        self._connect_timeout = _number(options, "connect_timeout", 30)
        self._unix_buffer = _number(options, "unix_buffer", UNIX_BUFFER)
        users = options.get("allow_users", ())
        given = cast("Sequence[object]", users) if isinstance(users, list | tuple) else None
        if given is None or not all(isinstance(user, int) for user in given):
            raise RpcUsageError(Status.RPC_S_INVALID_ARG, "socket transport: allow_users is a list of user ids")
        self._users = frozenset({os.geteuid(), *(user for user in given if isinstance(user, int))})
        self._shared = len(self._users) > 1

    async def connect(self, address: Address) -> Stream:
        if address.protocol_sequence == "ncacn_unix_stream":
            return await self._connect_unix(address)
        host, port = _host(address), _port(address)
        try:
            with trio.fail_after(self._connect_timeout):
                stream = await trio.open_tcp_stream(host, port)
        except trio.TooSlowError as error:
            raise _unavailable(address, f"no answer within {self._connect_timeout:g} s") from error
        except UnicodeError as error:
            raise _bad_host(address) from error
        except OSError as error:
            deepest = _deepest(error)
            raise _unavailable(address, str(deepest)) from deepest
        return self._stream(_plain(stream.socket), str(address))

    async def listen(self, address: Address) -> Listener:
        if address.protocol_sequence == "ncacn_unix_stream":
            return await self._listen_unix(address)
        host, port = _host(address), _port(address)
        try:
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except UnicodeError as error:
            raise _bad_host(address) from error
        except OSError as error:
            raise RpcUsageError(Status.RPC_S_INVALID_NET_ADDR, f"{address}: {error.strerror}") from error
        family, kind, protocol, _, where = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
            sock.listen(self._backlog)
        except OSError as error:
            sock.close()
            raise _cannot_listen(address, error) from error
        bound = dataclasses.replace(address, network_address=host, endpoint=str(sock.getsockname()[1]))
        return SocketListener(self, trio.socket.from_stdlib_socket(sock), bound)

    def admit(self, sock: socket.socket) -> PeerIdentity | None:
        """Who has connected, or None for a user who may not. Sets the socket's options."""
        try:
            self._tune(sock)
            if sock.family != socket.AF_UNIX:
                return _tcp_identity(sock)
            identity = _unix_identity(sock)
        except OSError:  # the peer went away between the connection and the look at it
            return None
        return identity if identity.uid in self._users else None

    async def _connect_unix(self, address: Address) -> Stream:
        path = _path(address)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            with trio.fail_after(self._connect_timeout):
                await trio.lowlevel.checkpoint()
                while not _connected(sock, path):  # noqa: ASYNC110 - the system does not tell when there is room
                    await trio.sleep(_BUSY)
        except trio.TooSlowError as error:
            sock.close()
            raise _unavailable(address, f"no answer within {self._connect_timeout:g} s") from error
        except OSError as error:
            sock.close()
            raise _unavailable(address, error.strerror or str(error)) from error
        except BaseException:
            sock.close()
            raise
        return self._stream(sock, str(address))

    def _stream(self, sock: socket.socket, description: str) -> SocketStream:
        self._tune(sock)
        if sock.family == socket.AF_UNIX:
            identity = _unix_identity(sock)
            if identity.uid not in self._users:
                sock.close()
                raise TransportError(
                    Status.RPC_S_ACCESS_DENIED, f"{description} is served by user {identity.uid}, who is not allowed"
                )
            return SocketStream(sock, PeerIdentity(description, True, identity.pid, identity.uid, identity.gid))
        try:
            if sock.getpeername() == sock.getsockname():  # TCP lets a free dynamic port be connected to itself
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            local = _tcp_identity(sock).local
        except OSError as error:
            sock.close()
            raise TransportError(
                Status.RPC_S_SERVER_UNAVAILABLE, f"cannot connect to {description}: {error.strerror}"
            ) from error
        return SocketStream(sock, PeerIdentity(description, local))

    async def _listen_unix(self, address: Address) -> SocketListener:
        await trio.lowlevel.checkpoint()
        if address.endpoint or address.network_address:
            path = _path(address)
            _make_room(path, address, shared=self._shared)
            return self._bind_unix(address, path, None)
        directory = None
        try:
            directory = tempfile.mkdtemp(prefix="apcrt-")
            if self._shared:
                _let_through(directory)
            path = f"{directory}/socket"
            return self._bind_unix(dataclasses.replace(address, endpoint=path), path, directory)
        except BaseException as error:
            if directory is not None:
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
            if isinstance(error, OSError):
                raise _cannot_listen(address, error) from error
            raise

    def _bind_unix(self, address: Address, path: str, directory: str | None) -> SocketListener:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bound = False
        try:
            before = os.umask(0o177)  # the file is ours alone from its first moment
            try:
                sock.bind(path)
            finally:
                os.umask(before)
            bound = True
            if self._shared:
                os.chmod(path, 0o666)  # noqa: S103 - others connect, and `admit` looks at who they are
            sock.listen(self._backlog)
            return SocketListener(self, trio.socket.from_stdlib_socket(sock), address, path=path, directory=directory)
        except OSError as error:
            sock.close()
            if bound:
                with contextlib.suppress(OSError):
                    os.unlink(path)
            raise _cannot_listen(address, error) from error

    def _tune(self, sock: socket.socket) -> None:
        if sock.family == socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._unix_buffer)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._unix_buffer)
            return
        with contextlib.suppress(OSError):  # not worth a connection
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _number(options: Mapping[str, object], key: str, default: int) -> int:
    value = options.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise RpcUsageError(
            Status.RPC_S_INVALID_ARG, f"socket transport: {key} is a whole number from 1 to 2147483647, not {value!r}"
        )
    return value


def _host(address: Address) -> str:
    if "\0" in address.network_address:
        raise _bad_host(address)
    return address.network_address or "127.0.0.1"


def _bad_host(address: Address) -> RpcUsageError:
    return RpcUsageError(Status.RPC_S_INVALID_NET_ADDR, f"{address}: the network address is no name of a machine")


def _port(address: Address) -> int:
    text = address.endpoint or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 5) or int(text) > 65535:
        raise RpcUsageError(
            Status.RPC_S_INVALID_ENDPOINT_FORMAT, f"{address}: the endpoint is a port number from 0 to 65535"
        )
    return int(text)


def _path(address: Address) -> str:
    if address.network_address:
        raise RpcUsageError(
            Status.RPC_S_INVALID_NET_ADDR,
            f"{address}: a Unix socket has no network address; write ncacn_unix_stream:[/path]",
        )
    path = address.endpoint
    try:
        good = path.startswith("/") and "\0" not in path and len(os.fsencode(path)) <= 107
    except UnicodeError:
        good = False
    if not good:
        raise RpcUsageError(
            Status.RPC_S_INVALID_ENDPOINT_FORMAT,
            f"{address}: the endpoint is an absolute path of at most 107 bytes",
        )
    return path


def _connected(sock: socket.socket, path: str) -> bool:
    """Connect a Unix socket; False while the listener's backlog is full."""
    try:
        sock.connect(path)
    except BlockingIOError:
        return False
    return True


def _plain(sock: trio.socket.SocketType) -> socket.socket:
    """The standard library's socket, detached from trio: the engine polls it itself."""
    return socket.socket(fileno=sock.detach())


def _unix_identity(sock: socket.socket) -> PeerIdentity:
    if hasattr(socket, "SO_PEERCRED"):
        pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return PeerIdentity(f"process {pid} of user {uid}", True, pid, uid, gid)
    # LOCAL_PEERCRED of the BSDs: struct xucred {version, uid, ngroups, groups[16]}.
    raw = sock.getsockopt(0, 1, 76)
    uid, groups = struct.unpack_from("Ih", raw, 4)
    gid = struct.unpack_from("I", raw, 12)[0] if groups else None
    return PeerIdentity(f"user {uid}", True, None, uid, gid)


def _tcp_identity(sock: socket.socket) -> PeerIdentity:
    there, here = sock.getpeername(), sock.getsockname()
    return PeerIdentity(f"ncacn_ip_tcp:{there[0]}[{there[1]}]", there[0] == here[0] or there[0].startswith("127."))


def _deepest(error: BaseException) -> BaseException:
    """The first single error inside the groups that trio raises when every address failed."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
        elif isinstance(error, OSError) and error.errno is None and error.__cause__ is not None:
            error = error.__cause__
        else:
            return error


def _unavailable(address: Address, why: str) -> TransportError:
    return TransportError(Status.RPC_S_SERVER_UNAVAILABLE, f"cannot connect to {address}: {why}")


def _cannot_listen(address: Address, error: OSError) -> TransportError:
    taken = error.errno == errno.EADDRINUSE
    status = Status.RPC_S_DUPLICATE_ENDPOINT if taken else Status.RPC_S_CANT_CREATE_ENDPOINT
    return TransportError(status, f"cannot listen on {address}: {error.strerror or error}")


def _let_through(directory: str) -> None:
    os.chmod(directory, 0o711)  # noqa: S103 - users are listed, and have to reach the socket file


def _make_room(path: str, address: Address, *, shared: bool) -> None:
    """Make the private directory, and remove a stale socket file, but only when nobody listens on it."""
    directory = os.path.dirname(path)
    try:
        if not os.path.isdir(directory):
            os.makedirs(directory, mode=0o700, exist_ok=True)
            if shared:
                _let_through(directory)
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot_listen(address, error) from error
    if not stat.S_ISSOCK(mode):
        raise TransportError(Status.RPC_S_CANT_CREATE_ENDPOINT, f"cannot listen on {address}: the file is not a socket")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        probe.connect(path)
    except ConnectionRefusedError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    except OSError as error:
        if error.errno not in _AGAIN:
            raise _cannot_listen(address, error) from error
        raise TransportError(Status.RPC_S_DUPLICATE_ENDPOINT, f"cannot listen on {address}: it is busy") from error
    else:
        raise TransportError(Status.RPC_S_DUPLICATE_ENDPOINT, f"cannot listen on {address}: somebody listens there")
    finally:
        probe.close()

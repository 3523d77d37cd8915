"""The seam: the contract that a transport fulfils, the identity of a peer, and the registry.

What lives here: `Transport` (opens things), `Listener` (accepts), `Stream` (moves bytes), the values they exchange,
and `Registry`, which finds the transport for a protocol sequence. What must not: framing, RPC, threads, or any
particular transport; those are packages that import this module.

How it works. A transport has two halves with different rules:

* Opening is asynchronous and happens on the runtime's I/O thread, which is a trio run: `Transport.connect`,
  `Transport.listen` and `Listener.accept` are coroutines and may look names up and wait.
* Moving bytes is *readiness-shaped* and belongs to no loop: `Stream.send` and `Stream.recv_into` never wait and may be
  called by any thread, one at a time per stream (the connection's lock sees to that). Whoever wants to wait asks the
  stream which descriptors to poll (`Stream.interest`), calls `Stream.arm`, and polls them itself.

A readiness event is only a hint: the caller tries the operation again and finds out.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from apcrt.status import RpcUnavailable, RpcUsageError, Status

__all__ = [
    "BUILT_IN",
    "READ",
    "WRITE",
    "Address",
    "Listener",
    "PeerIdentity",
    "Registry",
    "Stream",
    "StreamStatistics",
    "Transport",
    "TransportError",
]

#: Interest in a descriptor, as `Stream.interest` names it. The same bits as `apcrt.apc.lowlevel`.
READ: Final = 1
WRITE: Final = 2

#: The transports that ship with apcrt, found without entry points so that a new one needs no re-install.
BUILT_IN: Final[Mapping[str, str]] = {"socket": "apcrt_transports.socket:SocketTransport"}

ENTRY_POINT_GROUP: Final = "apcrt.transports"


class TransportError(RpcUnavailable):
    """The link could not be made or has broken.

    `status` says which: 1722 RPC_S_SERVER_UNAVAILABLE for a connect that failed, 1720 RPC_S_CANT_CREATE_ENDPOINT or
    1740 RPC_S_DUPLICATE_ENDPOINT for an endpoint, 5 RPC_S_ACCESS_DENIED for a peer that the transport's own rules
    refuse, 1726 RPC_S_CALL_FAILED for a link that broke later. Where the operating system has reported an error, that
    is its `__cause__`.
    """


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Where a transport connects to or listens: the parts of a string binding that concern it.

    `network_address` and `endpoint` are as written (not looked up); an empty network address means this machine,
    an empty endpoint asks a listener for a dynamic one.
    """

    protocol_sequence: str
    network_address: str = ""
    endpoint: str = ""
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.protocol_sequence}:{self.network_address}[{self.endpoint}]"


@dataclasses.dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who is at the other end, as far as the transport knows without any protocol.

    `local` is true when the peer is on this machine; process, user and group ids come from the kernel and are None
    where the transport has none.
    """

    description: str
    local: bool
    pid: int | None = None
    uid: int | None = None
    gid: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class StreamStatistics:
    """What has gone through a stream so far.

    Bytes, and the sends and receives that had a result; those that gave "not now" do not count.
    """

    bytes_sent: int
    bytes_received: int
    sends: int
    receives: int


class Stream(abc.ABC):
    """One connected byte stream in both directions.

    Not thread-safe: callers serialise. Nothing here waits, and nothing here keeps a buffer after it returned.
    `peer` and `statistics` go on answering after `close`.
    """

    __slots__ = ()

    @property
    @abc.abstractmethod
    def peer(self) -> PeerIdentity:
        """Who is at the other end."""

    @abc.abstractmethod
    def send(self, buffers: Sequence[bytes | bytearray | memoryview]) -> int:
        """Gather-send without waiting; returns the bytes taken, 0 when nothing fits now.

        `buffers` may be longer than the system takes in one call; the rest is simply not taken. Empty buffers are
        passed over, however many, so that 0 says nothing else when there is a byte to send.

        Raises:
            TransportError: 1726, the link is broken, closed, or half-closed by `shutdown_send`.
        """

    @abc.abstractmethod
    def recv_into(self, buffers: Sequence[memoryview]) -> int | None:
        """Scatter-receive without waiting; returns the bytes received, 0 at the peer's end of file, None for "not now".

        The buffers are filled in order. They may be more than the system takes in one call, and some may be empty, but
        together they have room for a byte: what a receive into nothing returns is not defined. Once at the end of
        file, always there.

        Raises:
            TransportError: 1726, the link is broken or closed. What the peer sent before it closed can be received
                first, unless the system has thrown it away with the link.
        """

    @abc.abstractmethod
    def interest(self, read: bool, write: bool) -> Sequence[tuple[int, int]]:
        """The (descriptor, READ | WRITE) pairs whose readiness tells that a receive or a send is worth another try.

        That of any one of them. The bits are those to poll for: a send may wait for a descriptor to become readable.
        No pairs when neither is asked for, and after `close`.
        """

    @property
    @abc.abstractmethod
    def lifeline(self) -> int:
        """The descriptor that reports a hang-up when the peer closes or dies. Not to be asked for after `close`.

        A hint as well: a half-close of the peer may look the same.
        """

    @property
    @abc.abstractmethod
    def descriptors(self) -> Sequence[int]:
        """Every descriptor that `interest` and `lifeline` may name; what a poller has to forget before `close`.

        None after it: the system may have given their numbers to others.
        """

    def arm(self, read: bool, write: bool) -> bool:  # noqa: ARG002 - for those who have something to prepare
        """Prepare to be polled; True when one of the operations would have a result already.

        Then there may be nothing to poll for. An end of file and a broken link are results too. Preparing one
        direction leaves the other as prepared as it was.

        A transport whose descriptors speak for themselves (sockets, OS pipes) has nothing to prepare. One with a ring
        in shared memory raises its "ring me" flag here and looks once more.
        """
        return False

    @abc.abstractmethod
    def shutdown_send(self) -> None:
        """Half-close: the peer will read an end of file after what was sent. Idempotent, and nothing after `close`."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close both directions at once. Idempotent; a later send or receive raises TransportError (1726).

        The peer reads an end of file after what was sent, unless bytes of its own were left unread: then the link may
        break, and take what was sent with it.
        """

    @abc.abstractmethod
    def idle_and_alive(self) -> bool:
        """A look at an unused connection: False when the peer has closed it or has sent something unasked.

        Takes nothing off the stream. False after `close`.
        """

    @abc.abstractmethod
    def statistics(self) -> StreamStatistics:
        """What has gone through so far."""


class Listener(abc.ABC):
    """An endpoint that accepts streams. Used on the I/O thread only."""

    @property
    @abc.abstractmethod
    def address(self) -> Address:
        """The bound address, a dynamic endpoint filled in."""

    @abc.abstractmethod
    async def accept(self) -> Stream:
        """Wait for the next connection; a checkpoint, cancellable without losing one.

        A peer that the transport's own rules refuse (wrong user) is closed here and not returned. One that connected
        and left again may be returned; its stream is at the end of file.

        Raises:
            TransportError: 1720, the listener cannot go on or was closed, also by another task meanwhile.
        """

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Stop listening and remove what the endpoint left behind (a socket file). Idempotent.

        It does so even when cancelled. Accepted streams are not touched; who was not accepted yet is hung up on.
        """


class Transport(abc.ABC):
    """One way to reach peers, for one or more protocol sequences.

    Made once per runtime with the options of its `[transports.NAME]` table; unknown options are refused (87).
    """

    #: Short name, as in the configuration and the entry point.
    name: ClassVar[str]
    #: The protocol sequences it serves, for example ("ncacn_ip_tcp", "ncacn_unix_stream").
    protocol_sequences: ClassVar[tuple[str, ...]]

    @abc.abstractmethod
    def __init__(self, options: Mapping[str, object]) -> None: ...

    @abc.abstractmethod
    async def connect(self, address: Address) -> Stream:
        """Open a stream; a checkpoint. Cancellable: a cancelled connect leaves nothing behind.

        A well-formed name that means nothing is 1722, like a machine that does not answer.

        Raises:
            TransportError: 1722 RPC_S_SERVER_UNAVAILABLE, the system's error as its cause; 5 RPC_S_ACCESS_DENIED, who
                listens is not to be trusted by the transport's own rules.
            RpcUsageError: 1706 RPC_S_INVALID_ENDPOINT_FORMAT or 1707 RPC_S_INVALID_NET_ADDR.
        """

    @abc.abstractmethod
    async def listen(self, address: Address) -> Listener:
        """Open an endpoint; one without a network address listens on this machine only. Cancellable like `connect`.

        Raises:
            TransportError: 1720 RPC_S_CANT_CREATE_ENDPOINT, 1740 RPC_S_DUPLICATE_ENDPOINT.
            RpcUsageError: 1706 RPC_S_INVALID_ENDPOINT_FORMAT or 1707 RPC_S_INVALID_NET_ADDR, also for a name that
                means nothing.
        """


class Registry:
    """Finds and makes the transport for a protocol sequence.

    Built-in transports are known by name; others register the entry point group "apcrt.transports". A third party's
    transport may also take over a built-in protocol sequence, but only when the configuration says so, by `chosen`;
    and it never takes a built-in one's name. One that cannot be loaded harms nobody who does not ask for it. Any
    thread.

    Args:
        options: per transport name, the options of its configuration table.
        chosen: per protocol sequence, the transport name that the configuration asks for.
    """

    def __init__(
        self, options: Mapping[str, Mapping[str, object]] | None = None, chosen: Mapping[str, str] | None = None
    ) -> None:
        self._options = dict(options or {})
        self._chosen = dict(chosen or {})
        self._made: dict[str, Transport] = {}

    def find(self, protocol_sequence: str) -> Transport:
        """The transport that serves a protocol sequence, made at first use.

        Raises:
            RpcUsageError: 1703 RPC_S_PROTSEQ_NOT_SUPPORTED; the text names what is supported, and what could not be
                loaded. 87 RPC_S_INVALID_ARG for options that the transport refuses.
        """
        wanted = self._chosen.get(protocol_sequence)
        if wanted:
            if protocol_sequence in _load(wanted).protocol_sequences:
                return self.transport(wanted)
            raise _unsupported(f"transport {wanted!r}, chosen by the configuration, does not serve {protocol_sequence}")
        supported: list[str] = []
        broken: list[RpcUsageError] = []
        for name in self.names():
            try:
                served = _load(name).protocol_sequences
            except RpcUsageError as error:
                broken.append(error)
                continue
            if protocol_sequence in served:
                return self.transport(name)
            supported += served
        detail = f"no transport serves {protocol_sequence!r}; there are {', '.join(sorted(set(supported)))}"
        raise _unsupported("; ".join([detail, *(error.detail for error in broken)])) from next(iter(broken), None)

    def transport(self, name: str) -> Transport:
        """The transport of that name with its configured options, made at first use.

        Raises:
            RpcUsageError: 1703 when there is none or it cannot be loaded, 87 for options that it refuses.
        """
        made = self._made.get(name)
        if made is None:
            made = self._made.setdefault(name, _load(name)(self._options.get(name, {})))
        return made

    @staticmethod
    def names() -> list[str]:
        """Every known transport: the built-in ones first, then those of entry points."""
        points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
        return [*BUILT_IN, *sorted({point.name for point in points} - set(BUILT_IN))]


def _load(name: str) -> type[Transport]:
    """The class of a transport.

    Raises:
        RpcUsageError: 1703, there is none of that name or it cannot be loaded.
    """
    built_in = BUILT_IN.get(name)
    if built_in is not None:
        point = importlib.metadata.EntryPoint(name, built_in, ENTRY_POINT_GROUP)
    else:
        points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name=name)
        if not points:
            raise _unsupported(f"no transport is called {name!r}; there are {', '.join(Registry.names())}")
        point = next(iter(points))
    try:
        loaded: object = point.load()
    except Exception as error:  # whatever the module of a third party raises
        raise _unsupported(
            f"transport {name!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Transport)):
        raise _unsupported(f"transport {name!r}: {point.value} is not a subclass of apcrt.transport.Transport")
    if not isinstance(getattr(loaded, "protocol_sequences", None), tuple):
        raise _unsupported(f"transport {name!r}: {point.value} has no tuple of protocol_sequences")
    return loaded


def _unsupported(detail: str) -> RpcUsageError:
    return RpcUsageError(Status.RPC_S_PROTSEQ_NOT_SUPPORTED, detail)

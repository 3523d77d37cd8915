"""Completion ports: queues of packets that any number of threads take from.

What lives here: `CompletionPort`, its packets, and the wait for them. What must not: the Port a thread sleeps on
(`_port`), which has nothing to do with this.

How it works. A port is signaled while it has packets, or is closed. A wait on it takes packets instead of merely
ending, so it is a kind of its own: `PacketWait` takes up to so many in one step, goes before a pending APC when there
are any, and puts them back in front if it is interrupted. Who came last is served first, as Windows does it: the
others' caches are cold already.

Windows limits how many of the waiting threads run at a time (the concurrency value). There is none here: the
interpreter lets one thread run at a time anyhow, and how many threads wait is up to the program.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from apcrt.apc._dispatcher import D, Wait, Waitable, Wakes, signal
from apcrt.apc._wait import RESULTS, block, check_seconds, waiting_thread
from apcrt.status import ApcError, Status, WaitResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apcrt.apc._thread import ApcThread

__all__ = [
    "CompletionPacket",
    "CompletionPort",
    "CompletionPortStatistics",
    "get_queued_completion_status",
    "get_queued_completion_status_ex",
]

CLOSED: Final = -2
"""Result of a wait whose port was closed. No Win32 result is negative."""

_COMPACT: Final = 256  # packets taken before the space they took is given back


@dataclass(frozen=True, slots=True)
class CompletionPacket:
    """What is posted to a port: three values that mean what poster and receiver have agreed on (OVERLAPPED_ENTRY).

    Attributes:
        bytes: a count, by custom of bytes transferred.
        key: which source it is about.
        overlapped: the operation it is about, or None.
    """

    bytes: int = 0
    key: object = 0
    overlapped: object = None


@dataclass(frozen=True, slots=True)
class CompletionPortStatistics:
    """A port at one moment.

    Attributes:
        queued: packets waiting to be taken.
        posted: packets that were ever posted.
        high_water: the most that have waited at one time.
        waiters: waits that are blocked on it.
    """

    queued: int
    posted: int
    high_water: int
    waiters: int


class CompletionPort(Waitable):
    """A completion port, as CreateIoCompletionPort makes it. All methods may be called on any thread.

    Packets are taken with `get_queued_completion_status` and its kin, first in, first out. Waiting for the port as an
    object (`wait_for_single_object_ex`) tells whether there is a packet, and takes none.
    """

    __slots__ = ("_closed", "_first", "_high_water", "_packets", "_posted")

    def __init__(self) -> None:
        super().__init__()
        self._packets: list[CompletionPacket] = []
        self._first = 0  # packets before this one were taken
        self._posted = 0
        self._high_water = 0
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"queued={self.queued}"
        return f"<CompletionPort {state} waiters={len(self.waiters)}>"

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    @property
    def queued(self) -> int:
        """Packets waiting to be taken."""
        return len(self._packets) - self._first

    def post(self, bytes: int = 0, key: object = 0, overlapped: object = None) -> None:  # noqa: A002 - as Windows has it
        """Add a packet (PostQueuedCompletionStatus). Never blocks; finalizers and signal handlers may call it.

        Raises:
            ApcError: 6 the port is closed, or was made before a fork.
        """
        self.check_process()
        if self._closed:
            raise ApcError(Status.ERROR_INVALID_HANDLE, "the completion port is closed")
        D.do(_post, self, CompletionPacket(bytes, key, overlapped))

    def close(self) -> None:
        """Close it: waits for packets end with 735, later ones fail with 6, and its packets are dropped. Idempotent."""
        self.check_process()
        D.do(_close, self)

    def statistics(self) -> CompletionPortStatistics:
        """Its state. Any thread."""
        return CompletionPortStatistics(self.queued, self._posted, self._high_water, len(self.waiters))

    def is_signaled_for(self, _thread: ApcThread, /) -> bool:
        """Under D."""
        return self._closed or len(self._packets) > self._first

    def take(self, _thread: ApcThread, /) -> bool:
        """Under D: a wait that is not for packets takes none."""
        return False

    def give_back(self, _thread: ApcThread, /) -> None:
        """Nothing was taken."""

    def in_line(self) -> Sequence[Wait]:
        """Last come, first served. Under D."""
        return tuple(reversed(self.waiters))

    def add(self, wakes: Wakes, packet: CompletionPacket) -> None:
        """Under D."""
        if self._closed:
            return
        if self._first > _COMPACT and self._first * 2 > len(self._packets):
            # No call between the two statements: Ctrl-C must not fall between them.
            del self._packets[: self._first]
            self._first = 0
        self._packets.append(packet)
        self._posted += 1
        if self.queued > self._high_water:
            self._high_water = self.queued
        if self.waiters:
            signal(wakes, self)

    def shut(self, wakes: Wakes) -> None:
        """Under D."""
        self._closed = True
        self._packets, self._first = [], 0
        signal(wakes, self)

    def hand_to(self, wait: PacketWait) -> bool:
        """Let a wait have what it asks for and set its result, if there is anything. Under D."""
        if self._closed:
            wait.result = CLOSED
            return True
        first = self._first
        packets = self._packets[first : first + wait.most]
        if not packets:
            return False
        following = first + len(packets)
        # No call from here on.
        wait.packets = packets
        self._first = following
        wait.result = 0
        return True

    def put_back(self, wait: PacketWait) -> None:
        """Undo `hand_to` for a wait that was interrupted. Under D."""
        if not self._closed:
            # No call between the two statements.
            self._packets[: self._first] = wait.packets
            self._first = 0


class PacketWait(Wait):
    """The wait for up to `most` packets of one port."""

    __slots__ = ("most", "packets", "port")

    objects_first = True

    def __init__(self, thread: ApcThread, port: CompletionPort, most: int, *, alertable: bool = False) -> None:
        super().__init__(thread, (port,), alertable=alertable)
        self.port: CompletionPort = port
        self.most: int = most
        self.packets: list[CompletionPacket] = []

    def satisfy(self) -> bool:
        """Under D."""
        return self.port.hand_to(self)

    def undo(self, wakes: Wakes, _result: int, /) -> None:
        """Under D."""
        self.port.put_back(self)
        signal(wakes, self.port)


def closed_meanwhile() -> ApcError:
    """The error of a wait whose result is CLOSED."""
    return ApcError(Status.ERROR_ABANDONED_WAIT_0, "the completion port was closed")


def _post(wakes: Wakes, port: CompletionPort, packet: CompletionPacket) -> None:
    port.add(wakes, packet)


def _close(wakes: Wakes, port: CompletionPort) -> None:
    port.shut(wakes)


def check_port(port: object, most: int) -> None:
    """Raises ApcError: 6 for what is no open port, 87 for a number of packets that is not at least 1."""
    if not isinstance(port, CompletionPort):
        raise ApcError(Status.ERROR_INVALID_HANDLE, f"{port!r} is not a completion port")
    port.check_process()
    if port.closed:
        raise ApcError(Status.ERROR_INVALID_HANDLE, "the completion port is closed")
    if most < 1:
        raise ApcError(Status.ERROR_INVALID_PARAMETER, f"at least 1 packet can be taken, not {most}")


def get_queued_completion_status(
    port: CompletionPort, seconds: float | None
) -> tuple[WaitResult, CompletionPacket | None]:
    """Take the next packet, or wait for it (GetQueuedCompletionStatus). Never alertable.

    Args:
        port: where from.
        seconds: how long at most; 0 looks and returns, None is for ever.

    Returns:
        (WAIT_OBJECT_0, the packet) or (WAIT_TIMEOUT, None).

    Raises:
        ApcError: 735 the port was closed meanwhile; 6 it is closed already, or no port; else as `sleep_ex`.
        WaitCancelled: as `sleep_ex`.
    """
    check_port(port, 1)
    check_seconds(seconds)
    wait = PacketWait(waiting_thread("get_queued_completion_status"), port, 1)
    result = block(wait, seconds)
    # No call from here on, or Ctrl-C could lose what was taken.
    if result == CLOSED:
        raise closed_meanwhile()
    return RESULTS[result], wait.packets[0] if wait.packets else None


def get_queued_completion_status_ex(
    port: CompletionPort, most: int, seconds: float | None, *, alertable: bool = False
) -> tuple[WaitResult, list[CompletionPacket]]:
    """Take up to `most` packets, or wait for the first (GetQueuedCompletionStatusEx).

    Args:
        port: where from.
        most: packets at most, at least 1.
        seconds: how long at most; 0 looks and returns, None is for ever.
        alertable: whether APCs may run when there is no packet. Packets that are there go first, and leave APCs queued.

    Returns:
        (WAIT_OBJECT_0, 1 to `most` packets), (WAIT_IO_COMPLETION, []) when APCs were run, or (WAIT_TIMEOUT, []).

    Raises:
        ApcError: 735, 6 as `get_queued_completion_status`; 87 `most` is less than 1; else as `sleep_ex`.
        WaitCancelled: as `sleep_ex`.
    """
    check_port(port, most)
    check_seconds(seconds)
    wait = PacketWait(waiting_thread("get_queued_completion_status_ex"), port, most, alertable=alertable)
    result = block(wait, seconds)
    # No call from here on, or Ctrl-C could lose what was taken.
    if result == CLOSED:
        raise closed_meanwhile()
    return RESULTS[result], wait.packets

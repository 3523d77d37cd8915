"""The Port: where a thread sleeps, and what it polls while it does.

What lives here: readiness of descriptors and the wake-up from other threads, for one thread. What must not: queues,
waits, D. (It has nothing to do with completion ports.)

How it works. On Linux a Port is an epoll set with an eventfd in it. The eventfd is edge-triggered and never read:
each write is one edge, which costs the sleeper no system call. Sources are registered one-shot, so an event is
reported once and then nothing until somebody arms again; any thread may arm while the owner sleeps. Elsewhere the
same is made of kqueue and a pipe. A Port costs two descriptors (three with kqueue).

An event is a hint. Numbers of descriptors are reused, and a late event may name the wrong one; so a source tries its
non-blocking operation and finds out. This is also why all sources are simply armed again when Ctrl-C tears an event
out of the poller's hands.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HANGUP", "READ", "WRITE", "Port", "Source"]

READ = 1
WRITE = 2
HANGUP = 4
"""The peer has closed. Always reported together with an error of the descriptor, whether asked for or not."""

_LONGEST = 1_000_000.0  # seconds; the kernel counts milliseconds in 31 bits. Who sleeps longer wakes once in 11 days.


class Source(Protocol):
    """Whoever armed a descriptor."""

    def service(self, fd: int, events: int) -> None:
        """`fd` may be ready for `events`. Called on the Port's thread, with no lock held. Must not raise."""
        ...

    def owes(self) -> bool:
        """Would servicing it lead to an APC? A guess will do. Called on any thread, with the Port's small lock held."""
        ...


class Port:
    """A sleeping place of one thread.

    Args:
        woken: called on the owner's thread, after the sources, when a poll has seen the wake-up of another thread.
    """

    __slots__ = ("_armed", "_closed", "_lock", "_poller", "_told", "_woken")

    def __init__(self, woken: Callable[[], None]) -> None:
        # Re-entrant because a signal handler may wake or arm in the middle of either.
        self._lock = threading.RLock()
        self._armed: dict[int, tuple[int, Source]] = {}
        self._told: set[int] = set()  # reported and not armed again, as far as `owes` needs to know
        self._poller = _Poller()
        self._woken = woken
        self._closed = False

    def __repr__(self) -> str:
        return f"<Port {'closed' if self._closed else f'fd={self.fileno()}'} armed={len(self._armed)}>"

    @property
    def armed(self) -> bool:
        """Whether any descriptor is registered."""
        return bool(self._armed)

    def fileno(self) -> int:
        """A descriptor that is readable when `service(0)` would do something."""
        return self._poller.fileno()

    def arm(self, fd: int, interest: int, source: Source) -> None:
        """Report to `source`, once, when `fd` is ready for `interest` (READ, WRITE, HANGUP; 0 only keeps it known).

        Replaces what was armed for `fd`. Any thread. Does nothing once the Port is closed.

        Raises:
            OSError: the descriptor cannot be polled (EPERM for a regular file, EBADF).
        """
        with self._lock:
            if self._closed:
                return
            known = fd in self._armed
            self._told.discard(fd)
            self._armed[fd] = (interest, source)
            try:
                self._poller.arm(fd, interest, known)
            except OSError:
                self._armed.pop(fd, None)
                raise

    def disarm(self, fd: int) -> None:
        """Forget `fd`; to be called before it is closed. Any thread. Unknown descriptors are ignored."""
        with self._lock:
            self._told.discard(fd)
            if self._armed.pop(fd, None) is not None and not self._closed:
                self._poller.disarm(fd)

    def wake(self) -> None:
        """End the owner's `service` as soon as possible. Any thread; does nothing once the Port is closed.

        Under the lock, or a late wake could be written to whatever file has got the closed descriptor's number.
        """
        with self._lock:
            if not self._closed:
                self._poller.wake()

    def service(self, timeout: float | None) -> int:
        """Sleep until something happens or `timeout` (seconds, None for ever) is over; pass events to their sources.

        Only on the owner's thread, with no lock held. Signal handlers run meanwhile, and their exceptions pass.

        Returns:
            How many sources were called.
        """
        served = 0
        woken = False
        failure: Exception | None = None
        try:
            for fd, events in self._poller.poll(timeout if timeout is None or timeout < _LONGEST else _LONGEST):
                if fd < 0:
                    woken = True
                    continue
                interest, source = self._armed.get(fd, (0, None))
                if source is None or not interest:
                    continue
                served += 1
                self._told.add(fd)
                try:
                    source.service(fd, events | interest if events & HANGUP else events)
                except Exception as error:  # noqa: BLE001 - the others of this round first
                    failure = error
        except BaseException:
            # The events of this round, which the kernel will not report again, may be lost with the exception.
            with self._lock:
                for fd, (interest, _) in self._armed.items():
                    with contextlib.suppress(OSError):
                        self._poller.arm(fd, interest, known=True)
            raise
        if woken:
            self._woken()
        if failure is not None:
            raise failure
        return served

    def owes(self) -> bool:
        """Whether events wait that would lead to APCs, without consuming them. Any thread. A wake is not an event."""
        with self._lock:
            look = select.poll()
            for fd, (interest, source) in self._armed.items():
                if interest and fd not in self._told and source.owes():
                    reading = select.POLLIN if interest & READ else 0
                    look.register(fd, reading | (select.POLLOUT if interest & WRITE else 0))
            return bool(look.poll(0))

    def close(self) -> None:
        """Give the descriptors back. Only on the owner's thread, or in a forked child: the parent's sets stay as is."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._armed.clear()
                self._poller.close()

    def after_fork(self) -> None:
        """In the child: close the numbers, whoever held the lock at the time of the fork."""
        self._lock = threading.RLock()
        self.close()


if sys.platform == "linux":

    class _Poller:
        """epoll and eventfd. Events are (fd, READ | WRITE | HANGUP) pairs, with fd -1 for a wake."""

        __slots__ = ("_epoll", "_event")

        _FAILED = select.EPOLLERR | select.EPOLLHUP | select.EPOLLRDHUP

        def __init__(self) -> None:
            self._epoll = select.epoll()
            self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._epoll.register(self._event, select.EPOLLIN | select.EPOLLET)

        def fileno(self) -> int:
            return self._epoll.fileno()

        def wake(self) -> None:
            os.eventfd_write(self._event, 1)

        def arm(self, fd: int, interest: int, known: bool) -> None:
            mask: int = select.EPOLLONESHOT
            if interest & READ:
                mask |= select.EPOLLIN
            if interest & WRITE:
                mask |= select.EPOLLOUT
            if interest & HANGUP:
                mask |= select.EPOLLRDHUP
            try:
                if known:
                    self._epoll.modify(fd, mask)
                else:
                    self._epoll.register(fd, mask)
            except FileNotFoundError:  # the number was closed and is used again: epoll has forgotten it, we have not
                self._epoll.register(fd, mask)
            except FileExistsError:
                self._epoll.modify(fd, mask)

        def disarm(self, fd: int) -> None:
            with contextlib.suppress(OSError):  # closed already, which has removed it
                self._epoll.unregister(fd)

        def poll(self, timeout: float | None) -> list[tuple[int, int]]:
            found = self._epoll.poll(timeout, 64)
            if not found:
                return found
            events: list[tuple[int, int]] = []
            for fd, mask in found:
                if fd == self._event:
                    events.append((-1, READ))
                else:
                    events.append(
                        (
                            fd,
                            (READ if mask & select.EPOLLIN else 0)
                            | (WRITE if mask & select.EPOLLOUT else 0)
                            | (HANGUP if mask & self._FAILED else 0),
                        )
                    )
            return events

        def close(self) -> None:
            self._epoll.close()
            os.close(self._event)

else:  # pragma: no cover - BSD and macOS

    class _Poller:
        """kqueue and a pipe. Events are (fd, READ | WRITE | HANGUP) pairs, with fd -1 for a wake."""

        __slots__ = ("_kqueue", "_receiver", "_sender")

        def __init__(self) -> None:
            self._kqueue = select.kqueue()
            self._receiver, self._sender = os.pipe()
            os.set_blocking(self._receiver, False)
            os.set_blocking(self._sender, False)
            self._kqueue.control([select.kevent(self._receiver, select.KQ_FILTER_READ, self._ADD_EDGE)], 0)

        _ADD_EDGE = select.KQ_EV_ADD | select.KQ_EV_CLEAR

        def fileno(self) -> int:
            return self._kqueue.fileno()

        def wake(self) -> None:
            with contextlib.suppress(BlockingIOError):  # full of unseen wakes
                os.write(self._sender, b"\0")

        def arm(self, fd: int, interest: int, known: bool) -> None:  # noqa: ARG002 - kqueue adds and changes alike
            # HANGUP alone has no filter of its own: the end of file is an event of reading.
            wanted = {
                select.KQ_FILTER_READ: bool(interest & (READ | HANGUP)),
                select.KQ_FILTER_WRITE: bool(interest & WRITE),
            }
            for kind, on in wanted.items():
                change = select.kevent(fd, kind, select.KQ_EV_ADD | select.KQ_EV_ONESHOT if on else select.KQ_EV_DELETE)
                try:
                    self._kqueue.control([change], 0)
                except FileNotFoundError:
                    if on:
                        raise

        def disarm(self, fd: int) -> None:
            for kind in (select.KQ_FILTER_READ, select.KQ_FILTER_WRITE):
                with contextlib.suppress(OSError):
                    self._kqueue.control([select.kevent(fd, kind, select.KQ_EV_DELETE)], 0)

        def poll(self, timeout: float | None) -> list[tuple[int, int]]:
            events: list[tuple[int, int]] = []
            for found in self._kqueue.control(None, 64, timeout):
                if found.ident == self._receiver:
                    self._empty()
                    events.append((-1, READ))
                    continue
                bits = READ if found.filter == select.KQ_FILTER_READ else WRITE
                if found.flags & (select.KQ_EV_EOF | select.KQ_EV_ERROR):
                    bits |= HANGUP
                events.append((found.ident, bits))
            return events

        def _empty(self) -> None:
            with contextlib.suppress(BlockingIOError):
                while len(os.read(self._receiver, 4096)) == 4096:
                    pass

        def close(self) -> None:
            self._kqueue.close()
            os.close(self._receiver)
            os.close(self._sender)

"""What the tests of calls share: alertable loops, and a server or a client in the hands of the test.

`FakeServer` listens on a socket of this process and hands each connection to a script as a `RawPeer`. The peer speaks
through `apcrt.wire`, so a script says what happens at which point of the protocol, and nothing is left to timing.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Self, TypeVar

import pytest

import apcrt
from apcrt import apc, notify, trace, wire
from apcrt.status import fault_from_win32
from tests.rpc.sample import Sample

E = TypeVar("E")
R = TypeVar("R")

CEILING = 10.0  # seconds after which a wait in a test has failed; nothing in a passing test takes that long


# -------------------------------------------------------------------------------------------------------------- waiting


def alertable_until(condition: Callable[[], object], seconds: float = CEILING) -> None:
    """Run the APCs of this thread until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        left = deadline - time.monotonic()
        assert left > 0, "it did not happen"
        apc.sleep_ex(left, alertable=True)


async def alertable_until_async(condition: Callable[[], object]) -> None:
    """The same in trio; the test brings its own time-out."""
    while not condition():
        await apc.aio.sleep_ex(None, alertable=True)


def status_of(function: Callable[[], object]) -> int:
    """The status that a call of the function raises."""
    with pytest.raises(apcrt.StatusError) as caught:
        function()
    return caught.value.status


class Recorder(Generic[R]):
    """A handle whose notifications are written down, with the thread that ran them."""

    def __init__(self, flags: apcrt.AsyncFlags = apcrt.AsyncFlags.NONE, thread: apc.ApcThread | None = None) -> None:
        self.events: list[apcrt.AsyncEvent] = []
        self.threads: list[apc.ApcThread] = []
        self.handle = apcrt.AsyncHandle[R](notification=notify.Apc(self.on_event, thread=thread), flags=flags)

    def on_event(self, handle: apcrt.AsyncHandle[R], event: apcrt.AsyncEvent) -> None:
        assert handle is self.handle
        assert handle.event is not None
        self.events.append(event)
        self.threads.append(apc.current_thread())

    @property
    def done(self) -> bool:
        """Has call-complete come?"""
        return apcrt.AsyncEvent.CALL_COMPLETE in self.events

    def count(self, event: apcrt.AsyncEvent) -> int:
        """How often an event has come."""
        return self.events.count(event)

    def wait(self) -> None:
        """Wait alertably for call-complete."""
        alertable_until(lambda: self.done)

    def wait_next(self) -> None:
        """Wait alertably for any further event."""
        seen = len(self.events)
        alertable_until(lambda: len(self.events) > seen)

    def wait_for(self, event: apcrt.AsyncEvent, times: int = 1) -> None:
        """Wait alertably for an event."""
        alertable_until(lambda: self.count(event) >= times)


class Counted:
    """Counts events of the trace, from any thread, and lets a thread wait for a number of them."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._seen = threading.Semaphore(0)

    def __enter__(self) -> Self:
        trace.add_tap(self._tap, trace.DEBUG)
        return self

    def __exit__(self, *_: object) -> None:
        trace.remove_tap(self._tap)

    def _tap(self, _level: int, event: str, _keys: dict[str, object]) -> None:
        if event == self._event:
            self._seen.release()

    def wait(self, times: int = 1) -> None:
        for _ in range(times):
            assert self._seen.acquire(timeout=CEILING)


def nothing_comes(recorder: Recorder[R]) -> None:
    """Give notifications that must not come the chance to: everything that is queued now runs."""
    before = list(recorder.events)
    apc.sleep_ex(0, alertable=True)
    apc.test_alert()
    assert recorder.events == before


# --------------------------------------------------------------------------------------------------------- fake servers


class _AnyShape:
    """An interface in which every operation exists, and those in `streams` take pipes."""

    operations = 0x10000

    def __init__(self, streams: frozenset[int]) -> None:
        self._streams = streams

    def streams_in(self, opnum: int) -> bool:
        return opnum in self._streams


class _AnyOffer:
    """Serves every interface, or none."""

    def __init__(self, *, refuse: bool = False) -> None:
        self._shape = (
            None
            if refuse
            else _AnyShape(frozenset(opnum for opnum, spec in Sample.operations.items() if spec.streams_in))
        )

    def find(self, _abstract: wire.SyntaxId) -> wire.InterfaceShape | None:
        return self._shape


_groups_lock = threading.Lock()  # association groups are shared by connections, and not thread-safe


class RawPeer:
    """The server's end of one connection, driven by a script."""

    def __init__(self, sock: socket.socket, groups: wire.AssociationGroups, *, refuse: bool = False) -> None:
        sock.settimeout(CEILING)
        self.socket = sock
        self.wire = wire.ServerAssociation(_AnyOffer(refuse=refuse), groups, secondary_address="0")
        self.request: wire.RequestStarted | None = None
        self.outgoing: wire.OutgoingStub | None = None
        self.hold_replies = False
        self.held: list[bytes] = []
        self._events: deque[wire.ServerEvent] = deque()

    def event(self) -> wire.ServerEvent | None:
        """The next event that is not an answer of the machine (those are sent); None when the client has closed."""
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, wire.ReplyReady):
                    if self.hold_replies:
                        self.held.append(event.data)
                        return event
                    self.socket.sendall(event.data)
                    continue
                if isinstance(event, wire.RequestStarted):
                    self.request, self.outgoing = event, None
                return event
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            with _groups_lock:
                self._events.extend(self.wire.receive(memoryview(data)))

    def until(self, kind: type[E]) -> E:
        """The next event of a kind; what comes before it is dropped."""
        while True:
            event = self.event()
            assert event is not None, f"the client has closed before a {kind.__name__}"
            if isinstance(event, kind):
                return event

    def until_data(self, size: int) -> int:
        """Take at least that many stub bytes of the request; returns how many."""
        total = 0
        while total < size:
            total += len(self.until(wire.RequestData).data)
        return total

    def until_closed(self) -> list[wire.ServerEvent]:
        """Everything until the client closes."""
        events: list[wire.ServerEvent] = []
        while (event := self.event()) is not None:
            events.append(event)
        return events

    def response(self, stub: bytes, *, last: bool = True) -> bytes:
        """The response to the latest request, or its next part, as fragments."""
        assert self.request is not None
        if self.outgoing is None:
            self.outgoing = self.wire.respond(self.request.call_id, streams=True)
        return b"".join(self.outgoing.take((stub,), flush=True, last=last))

    def respond(self, stub: bytes, *, last: bool = True) -> None:
        """Answer the latest request, or a part of it."""
        self.socket.sendall(self.response(stub, last=last))

    def fault(self, status: int) -> None:
        """Answer the latest request with a fault."""
        assert self.request is not None
        self.socket.sendall(self.wire.fault(self.request.call_id, fault_from_win32(status)))

    def reset(self) -> None:
        """Close so that the client gets a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


class FakeServer:
    """Listens on a port of its own and runs the script for each connection, on a thread for each.

    Args:
        script: gets the peer; the connection is closed when it returns. What it raises, the block raises.
        refuse: refuse every interface.
    """

    def __init__(self, script: Callable[[RawPeer], object], *, refuse: bool = False) -> None:
        self._script = script
        self._refuse = refuse
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._peers: list[RawPeer] = []
        self._groups = wire.AssociationGroups()
        self._errors: list[BaseException] = []
        self.binding = f"ncacn_ip_tcp:127.0.0.1[{self._listener.getsockname()[1]}]"

    @property
    def connections(self) -> int:
        """How many there have been."""
        return len(self._peers)

    def __enter__(self) -> Self:
        acceptor = threading.Thread(target=self._accept, name="fake-server")
        self._threads.append(acceptor)
        acceptor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for thread in self._threads[1:]:
            thread.join(CEILING)
            assert not thread.is_alive()
        if error is None and self._errors:
            raise self._errors[0]

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            peer = RawPeer(accepted, self._groups, refuse=self._refuse)
            self._peers.append(peer)
            thread = threading.Thread(target=self._run, args=(peer,), name=f"fake-server-{len(self._peers)}")
            self._threads.append(thread)
            thread.start()

    def _run(self, peer: RawPeer) -> None:
        try:
            self._script(peer)
        except BaseException as error:  # noqa: BLE001 - raised when the block ends
            self._errors.append(error)
        finally:
            peer.socket.close()


class Vanishing:
    """A client made of bytes, which closes when it is told to."""

    def __init__(self, binding: str) -> None:
        port = int(binding.partition("[")[2].rstrip("]"))
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(10)
        self.wire = wire.ClientAssociation()
        context = wire.PresentationContext(0, Sample.syntax, (wire.NDR20,))
        self.socket.sendall(self.wire.bind([context]))
        while not any(isinstance(event, wire.Bound) for event in self.events()):
            pass

    def events(self) -> list[wire.ClientEvent]:
        data = self.socket.recv(65536)
        assert data
        return self.wire.receive(memoryview(data))

    def request(self, operation: str, stub: bytes, *, last: bool) -> None:
        opnum = next(number for number, spec in Sample.operations.items() if spec.name == operation)
        outgoing = self.wire.request(0, opnum, streams=not last)
        self.socket.sendall(b"".join(outgoing.take((stub,), flush=True, last=last)))

    def upload(self, content: bytes) -> None:
        """Begin `write`, and leave its pipe open."""
        name = struct.pack("<III", 2, 0, 2) + "f\0".encode("utf-16-le")
        self.request("write", name + struct.pack("<I", len(content)) + content, last=False)

    def download(self, size: int, piece: int) -> None:
        """Begin `read`, whose output is not read."""
        self.request("read", struct.pack("<II", size, piece), last=True)

    def vanish(self, *, reset: bool) -> None:
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@contextlib.contextmanager
def client_of(
    binding: str, *, send_window: int | str | None = "configured", call_timeout: float | str | None = "configured"
) -> Iterator[Sample]:
    """A client in a runtime of its own. The runtime is left without draining: the servers here may never answer."""
    runtime = apcrt.Runtime()
    with runtime:
        yield Sample(runtime.binding(binding, send_window=send_window, call_timeout=call_timeout))
        runtime.close(drain=False)

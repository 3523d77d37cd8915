"""The tables of states cell by cell, and every misuse of a pipe on real calls, on both sides.

A misuse is refused with its published status and leaves the call alive: after each one, the call is brought to its
end.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator

import pytest
import trio

import apcrt
from apcrt import Status, testing
from apcrt.rpc._states import CALL, PULL, PUSH, CallEvent, CallState, StreamState
from tests.rpc.helpers import Recorder, alertable_until, nothing_comes, status_of
from tests.rpc.sample import Mixed, Plain, Sample, pattern

WRONG_ORDER = Status.RPC_X_WRONG_PIPE_ORDER
CLOSED = Status.RPC_X_PIPE_CLOSED
EMPTY = Status.RPC_X_PIPE_EMPTY
DISCIPLINE = Status.RPC_X_PIPE_DISCIPLINE_ERROR
NOTHING = bytearray(1)


# ----------------------------------------------------------------------------------------------------------- the tables


@pytest.mark.feature("PIPE-11", "PIPE-17")
@pytest.mark.parametrize(
    ("state", "status"),
    [
        (StreamState.ABSENT, 1831),
        (StreamState.WAITING, 1831),
        (StreamState.OPEN, 0),
        (StreamState.ENDED, 1916),
    ],
)
def test_pushing_in_each_state(state: StreamState, status: int) -> None:
    assert PUSH[state] == status


@pytest.mark.feature("PIPE-17")
def test_only_a_stream_that_is_pulled_can_be_pending() -> None:
    assert set(PUSH) == set(StreamState) - {StreamState.PENDING}
    assert set(PULL) == set(StreamState)


@pytest.mark.feature("PIPE-11", "PIPE-17")
@pytest.mark.parametrize(
    ("state", "status"),
    [
        (StreamState.ABSENT, 1831),
        (StreamState.WAITING, 1831),
        (StreamState.OPEN, 0),
        (StreamState.PENDING, 1831),
        (StreamState.ENDED, 1918),
    ],
)
def test_pulling_in_each_state(state: StreamState, status: int) -> None:
    assert PULL[state] == status


@pytest.mark.feature("PIPE-17", "CALL-07")
@pytest.mark.parametrize(("state", "event"), list(itertools.product(CallState, CallEvent)))
def test_what_happens_to_a_call(state: CallState, event: CallEvent) -> None:
    """A running call ends once, in one of three ways; what has ended is taken once; nothing leaves OVER."""
    following = CALL.get((state, event))
    if state is CallState.RUNNING:
        expected = {
            CallEvent.REPLY: CallState.COMPLETE,
            CallEvent.FAILURE: CallState.FAILED,
            CallEvent.FAILURE_INLINE: CallState.OVER,
            CallEvent.TAKEN: None,
        }[event]
    elif state is CallState.OVER:
        expected = None
    else:
        expected = CallState.OVER if event is CallEvent.TAKEN else None
    assert following is expected


# ------------------------------------------------------------------------------------------------ misuse by the client


@pytest.fixture
def manager() -> Plain:
    return Plain()


@pytest.fixture
def client(manager: Plain) -> Iterator[Sample]:
    with testing.in_process(Sample, manager) as sample:
        yield sample


def pull_all(
    pipe: apcrt.Pipe[int], recorder: Recorder[int] | Recorder[Mixed], into: bytearray | list[int]
) -> list[int]:
    """Pull to the end, waiting for receive-complete where a pull is pending."""
    found: list[int] = []
    while True:
        status, count = pipe.pull(into)
        if status is Status.RPC_S_ASYNC_CALL_PENDING:
            recorder.wait_next()
        elif count:
            found += into[:count]
        else:
            return found


@pytest.mark.feature("PIPE-11")
def test_the_wrong_direction(client: Sample) -> None:
    up: apcrt.InPipe[int] = apcrt.InPipe()
    one = Recorder[int]()
    client.write.begin(one.handle, "f", up)
    assert status_of(lambda: up.pull(bytearray(4))) == WRONG_ORDER
    up.push(b"still alive")
    up.push(b"")
    one.wait()
    assert one.handle.complete_call() == 11

    down: apcrt.OutPipe[int] = apcrt.OutPipe()
    client.read.begin(one.handle, 10, 10, down)
    assert status_of(lambda: down.push(b"no")) == WRONG_ORDER
    assert status_of(lambda: down.push(b"")) == WRONG_ORDER
    assert bytes(pull_all(down, one, bytearray(100))) == pattern(10)
    alertable_until(lambda: one.count(apcrt.AsyncEvent.CALL_COMPLETE) == 2)
    assert one.handle.complete_call() == 10


@pytest.mark.feature("PIPE-11")
@pytest.mark.parametrize(
    "verb",
    [
        lambda pipe: pipe.write(b"x"),
        lambda pipe: pipe.write_eof(),
        lambda pipe: trio.run(pipe.send, b"x"),
        lambda pipe: trio.run(pipe.send_eof),
    ],
    ids=["write", "write_eof", "send", "send_eof"],
)
def test_the_wrong_direction_for_the_verbs_that_wait(
    client: Sample, verb: Callable[[apcrt.OutPipe[int]], object]
) -> None:
    down: apcrt.OutPipe[int] = apcrt.OutPipe()
    with client.read.open(10, 10, down) as call:
        assert status_of(lambda: verb(down)) == WRONG_ORDER
        assert b"".join(bytes(chunk) for chunk in down) == pattern(10)
    assert call.reply == 10


@pytest.mark.feature("PIPE-11", "PIPE-04")
def test_an_in_out_pipe_is_pushed_to_its_end_and_then_pulled_to_its_end(client: Sample) -> None:
    both: apcrt.InOutPipe[int] = apcrt.InOutPipe()
    one = Recorder[int]()
    client.double.begin(one.handle, 1, both)
    assert status_of(lambda: both.pull([0])) == WRONG_ORDER
    both.push([1, 2, 3])
    assert status_of(lambda: both.pull([0])) == WRONG_ORDER
    both.push([])
    assert status_of(lambda: both.push([4])) == CLOSED
    assert status_of(lambda: both.push([])) == CLOSED
    assert pull_all(both, one, [0] * 8) == [3, 5, 7]
    assert status_of(lambda: both.pull([0])) in (EMPTY, Status.RPC_S_INVALID_ASYNC_CALL)
    assert status_of(lambda: both.push([4])) in (CLOSED, Status.RPC_S_INVALID_ASYNC_CALL)
    one.wait()
    assert one.handle.complete_call() == 3


@pytest.mark.feature("PIPE-09", "PIPE-11")
def test_several_pipes_in_another_order_than_declared(client: Sample) -> None:
    a: apcrt.InPipe[int] = apcrt.InPipe()
    b: apcrt.InPipe[int] = apcrt.InPipe()
    c: apcrt.OutPipe[int] = apcrt.OutPipe()
    d: apcrt.OutPipe[int] = apcrt.OutPipe()
    one = Recorder[Mixed]()
    client.several.begin(one.handle, a, b, c, d)
    assert status_of(lambda: b.push([1])) == WRONG_ORDER
    assert status_of(lambda: b.push([])) == WRONG_ORDER
    assert status_of(lambda: c.pull([0])) == WRONG_ORDER
    a.push(b"xy")
    assert status_of(lambda: b.push([1])) == WRONG_ORDER
    a.push(b"")
    assert status_of(lambda: a.push(b"z")) == CLOSED
    assert status_of(lambda: c.pull([0])) == WRONG_ORDER
    b.push([5, 6])
    b.push([])
    assert status_of(lambda: b.push([])) == CLOSED
    assert status_of(lambda: d.pull(bytearray(1))) == WRONG_ORDER
    assert pull_all(c, one, [0] * 4) == [6, 7]
    assert status_of(lambda: c.pull([0])) == EMPTY
    assert bytes(pull_all(d, one, bytearray(4))) == bytes(value ^ 0x55 for value in b"xy")
    one.wait()
    assert one.handle.complete_call() == Mixed(2, 2)


class Held(Plain):
    """Pushes nothing before it is told to."""

    @Sample.read.manager
    def read(self, call: apcrt.ServerHandle[int], size: int, piece: int, data: apcrt.OutPipe[int]) -> int:
        self.inside.set()
        assert self.release.wait(10)
        data.write(pattern(size))
        data.write_eof()
        return size


@pytest.mark.feature("PIPE-11", "PIPE-06")
def test_a_second_pull_while_one_is_pending() -> None:
    """AMB-17: 1831, and the pending pull goes on."""
    manager = Held()
    with testing.in_process(Sample, manager) as client:
        down: apcrt.OutPipe[int] = apcrt.OutPipe()
        one = Recorder[int]()
        client.read.begin(one.handle, 10, 10, down)
        assert manager.inside.wait(10)
        assert down.pull(bytearray(4)) == (Status.RPC_S_ASYNC_CALL_PENDING, 0)
        assert status_of(lambda: down.pull(bytearray(4))) == WRONG_ORDER
        nothing_comes(one)
        manager.release.set()
        one.wait_for(apcrt.AsyncEvent.RECEIVE_COMPLETE)
        assert one.events == [apcrt.AsyncEvent.RECEIVE_COMPLETE]
        assert bytes(pull_all(down, one, bytearray(4))) == pattern(10)
        one.wait()
        assert one.handle.complete_call() == 10


@pytest.mark.feature("PIPE-11")
def test_a_pull_without_room(client: Sample) -> None:
    down: apcrt.OutPipe[int] = apcrt.OutPipe()
    one = Recorder[int]()
    client.read.begin(one.handle, 10, 10, down)
    assert status_of(lambda: down.pull(bytearray())) == Status.RPC_S_INVALID_ARG
    assert bytes(pull_all(down, one, bytearray(100))) == pattern(10)
    one.wait()
    assert one.handle.complete_call() == 10


@pytest.mark.feature("PIPE-11")
def test_a_buffer_of_other_elements(client: Sample) -> None:
    both: apcrt.InOutPipe[int] = apcrt.InOutPipe()
    one = Recorder[int]()
    client.double.begin(one.handle, 0, both)
    assert status_of(lambda: both.push(b"bytes are no hypers")) == Status.RPC_S_INVALID_ARG
    assert status_of(lambda: both.push([1, "two"])) == Status.RPC_S_INVALID_ARG  # type: ignore[list-item]
    assert status_of(lambda: both.push([1 << 64])) == Status.RPC_S_INVALID_ARG
    both.push([21])
    both.push([])
    assert pull_all(both, one, [0] * 4) == [42]
    one.wait()
    assert one.handle.complete_call() == 1


@pytest.mark.feature("PIPE-11")
def test_a_pipe_without_a_call() -> None:
    up: apcrt.InPipe[int] = apcrt.InPipe()
    down: apcrt.OutPipe[int] = apcrt.OutPipe()
    for use in (
        lambda: up.push(b"x"),
        lambda: up.push(b""),
        lambda: up.write(b"x"),
        up.write_eof,
        lambda: down.pull(bytearray(1)),
        lambda: down.read_into(bytearray(1)),
        lambda: next(iter(down)),
    ):
        assert status_of(use) == Status.RPC_X_INVALID_PIPE_OBJECT


@pytest.mark.feature("PIPE-11")
def test_a_pipe_of_another_call(client: Sample) -> None:
    up: apcrt.InPipe[int] = apcrt.InPipe()
    first, second = Recorder[int](), Recorder[int]()
    client.write.begin(first.handle, "f", up)
    assert status_of(lambda: client.write.begin(second.handle, "g", up)) == Status.RPC_X_INVALID_PIPE_OBJECT
    up.push(b"")
    first.wait()
    assert first.handle.complete_call() == 0
    assert status_of(lambda: client.write.begin(second.handle, "g", up)) == Status.RPC_X_INVALID_PIPE_OBJECT
    nothing_comes(second)
    assert second.handle.get_call_status() == Status.RPC_S_INVALID_ASYNC_HANDLE
    assert client.add(1, 1) == 2


@pytest.mark.feature("PIPE-11", "ERR-03")
def test_a_pipe_of_a_finished_call(client: Sample) -> None:
    up: apcrt.InPipe[int] = apcrt.InPipe()
    down: apcrt.OutPipe[int] = apcrt.OutPipe()
    one = Recorder[int]()
    client.write.begin(one.handle, "f", up)
    up.push(b"")
    one.wait()
    assert one.handle.complete_call() == 0
    assert status_of(lambda: up.push(b"x")) == Status.RPC_S_INVALID_ASYNC_CALL
    with client.read.open(3, 3, down):
        assert b"".join(bytes(chunk) for chunk in down) == pattern(3)
    assert status_of(lambda: down.pull(bytearray(1))) == Status.RPC_S_INVALID_ASYNC_CALL


@pytest.mark.feature("PIPE-11")
def test_completing_a_call_whose_input_has_no_end(client: Sample) -> None:
    """AMB-12: 1917, and the call is dead; its handle is free."""
    up: apcrt.InPipe[int] = apcrt.InPipe()
    one = Recorder[int]()
    client.write.begin(one.handle, "f", up)
    up.push(b"half of it")
    assert status_of(one.handle.complete_call) == DISCIPLINE
    assert one.handle.get_call_status() == Status.RPC_S_INVALID_ASYNC_HANDLE
    assert status_of(lambda: up.push(b"x")) == DISCIPLINE
    nothing_comes(one)
    client.add.begin(one.handle, 1, 2)
    one.wait()
    assert one.handle.complete_call() == 3


@pytest.mark.feature("PIPE-11", "CALL-05")
def test_completing_a_call_whose_output_still_arrives(client: Sample) -> None:
    """AMB-12: 997, and nothing has changed."""
    down: apcrt.OutPipe[int] = apcrt.OutPipe()
    one = Recorder[int]()
    client.read.begin(one.handle, 100_000, 1000, down)
    assert status_of(one.handle.complete_call) == Status.RPC_S_ASYNC_CALL_PENDING
    assert bytes(pull_all(down, one, bytearray(4096))) == pattern(100_000)
    one.wait()
    assert one.handle.complete_call() == 100_000


# ------------------------------------------------------------------------------------------------ misuse by the server


class Probe(Plain):
    """Runs a script where the manager stands, and keeps what it returned."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[int] = []
        self.over = threading.Event()
        self.on_write: Callable[[apcrt.ServerHandle[int], apcrt.InPipe[int]], int | apcrt.Pending] = (
            lambda _call, _data: 0
        )
        self.on_read: Callable[[apcrt.ServerHandle[int], apcrt.OutPipe[int]], int | apcrt.Pending] = (
            lambda _call, _data: 0
        )
        self.on_double: Callable[[apcrt.InOutPipe[int]], int] = lambda _data: 0
        self.on_several: Callable[..., Mixed] = lambda *_pipes: Mixed(0, 0)

    def tried(self, function: Callable[[], object]) -> None:
        self.found.append(status_of(function))

    @contextlib.contextmanager
    def until_over(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.over.set()

    def outcome(self) -> list[int]:
        """What was returned, once the script has ended; its client may have been answered long before."""
        assert self.over.wait(10)
        return self.found

    @Sample.write.manager
    def write(self, call: apcrt.ServerHandle[int], name: str, data: apcrt.InPipe[int]) -> int | apcrt.Pending:
        with self.until_over():
            return self.on_write(call, data)

    @Sample.read.manager
    def read(
        self, call: apcrt.ServerHandle[int], size: int, piece: int, data: apcrt.OutPipe[int]
    ) -> int | apcrt.Pending:
        with self.until_over():
            return self.on_read(call, data)

    @Sample.double.manager
    def double(self, call: apcrt.ServerHandle[int], bias: int, data: apcrt.InOutPipe[int]) -> int:
        with self.until_over():
            return self.on_double(data)

    @Sample.several.manager
    def several(
        self,
        call: apcrt.ServerHandle[Mixed],
        a: apcrt.InPipe[int],
        b: apcrt.InPipe[int],
        c: apcrt.OutPipe[int],
        d: apcrt.OutPipe[int],
    ) -> Mixed:
        with self.until_over():
            return self.on_several(a, b, c, d)


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def probed(probe: Probe) -> Iterator[Sample]:
    with testing.in_process(Sample, probe) as sample:
        yield sample


def drained(pipe: apcrt.Pipe[int]) -> list[int]:
    return [value for chunk in pipe for value in chunk]


@pytest.mark.feature("PIPE-11")
def test_the_server_pushes_an_in_pipe_and_pulls_past_its_end(probe: Probe, probed: Sample) -> None:
    def script(_call: apcrt.ServerHandle[int], data: apcrt.InPipe[int]) -> int:
        probe.tried(lambda: data.push(b"x"))
        probe.tried(lambda: data.pull(bytearray()))
        total = len(drained(data))
        probe.tried(lambda: data.pull(bytearray(1)))
        probe.tried(lambda: data.read_into(bytearray(1)))
        return total

    probe.on_write = script
    assert probed.write("f", apcrt.InPipe(source=b"12345")) == 5
    assert probe.outcome() == [WRONG_ORDER, Status.RPC_S_INVALID_ARG, EMPTY, EMPTY]


@pytest.mark.feature("PIPE-11")
def test_the_server_pulls_an_out_pipe_and_pushes_past_its_end(probe: Probe, probed: Sample) -> None:
    def script(_call: apcrt.ServerHandle[int], data: apcrt.OutPipe[int]) -> int:
        probe.tried(lambda: data.pull(bytearray(1)))
        data.push(b"abc")
        data.push(b"")
        probe.tried(lambda: data.push(b"d"))
        probe.tried(lambda: data.push(b""))
        return 3

    probe.on_read = script
    received = bytearray()
    assert probed.read(0, 0, apcrt.OutPipe(sink=received)) == 3
    assert received == b"abc"
    assert probe.outcome() == [WRONG_ORDER, CLOSED, CLOSED]


@pytest.mark.feature("PIPE-11", "PIPE-04")
def test_the_server_pushes_before_it_has_drained(probe: Probe, probed: Sample) -> None:
    def script(data: apcrt.InOutPipe[int]) -> int:
        probe.tried(lambda: data.push([1]))
        into = [0] * 2
        got = data.read_into(into)
        probe.tried(lambda: data.push([1]))
        rest = drained(data)
        data.push([got + len(rest)])
        data.push([])
        return 0

    probe.on_double = script
    sink: list[int] = []
    assert probed.double(0, apcrt.InOutPipe(source=[7, 8, 9], sink=sink)) == 0
    assert sink == [3]
    assert probe.outcome() == [WRONG_ORDER, WRONG_ORDER]


@pytest.mark.feature("PIPE-09", "PIPE-11")
def test_the_server_takes_several_pipes_in_another_order(probe: Probe, probed: Sample) -> None:
    def script(a: apcrt.InPipe[int], b: apcrt.InPipe[int], c: apcrt.OutPipe[int], d: apcrt.OutPipe[int]) -> Mixed:
        probe.tried(lambda: b.pull([0]))
        probe.tried(lambda: c.push([1]))
        first = drained(a)
        probe.tried(lambda: a.pull(bytearray(1)))
        probe.tried(lambda: c.push([1]))
        second = drained(b)
        probe.tried(lambda: d.push(b"x"))
        c.push(second)
        probe.tried(lambda: d.push(b"x"))
        c.push([])
        d.push(bytes(first))
        d.push(b"")
        return Mixed(len(first), len(second))

    probe.on_several = script
    c: list[int] = []
    d = bytearray()
    reply = probed.several(
        apcrt.InPipe(source=b"abc"), apcrt.InPipe(source=[1, 2]), apcrt.OutPipe(sink=c), apcrt.OutPipe(sink=d)
    )
    assert (reply, c, d) == (Mixed(3, 2), [1, 2], bytearray(b"abc"))
    assert probe.outcome() == [WRONG_ORDER, WRONG_ORDER, EMPTY, WRONG_ORDER, WRONG_ORDER, WRONG_ORDER]


@pytest.mark.feature("PIPE-11")
def test_a_second_pull_of_the_server_while_one_is_pending(probe: Probe, probed: Sample) -> None:
    up: apcrt.InPipe[int] = apcrt.InPipe()

    def script(call: apcrt.ServerHandle[int], data: apcrt.InPipe[int]) -> apcrt.Pending:
        probe.found.append(data.pull(bytearray(1))[0])
        probe.tried(lambda: data.pull(bytearray(1)))
        probe.held.append(call)
        probe.inside.set()
        return apcrt.PENDING

    probe.on_write = script
    one = Recorder[int]()
    probed.write.begin(one.handle, "f", up)
    assert probe.inside.wait(10)
    assert probe.outcome() == [Status.RPC_S_ASYNC_CALL_PENDING, WRONG_ORDER]
    probe.held[0].abort_call(5)
    one.wait()
    assert status_of(one.handle.complete_call) == 5


@pytest.mark.feature("PIPE-11", "SRV-03")
@pytest.mark.parametrize("returned", [True, False], ids=["returned", "completed"])
def test_completing_before_the_input_is_drained(probe: Probe, probed: Sample, returned: bool) -> None:
    """1917 for the server and for the client; then the call is over for both."""

    def script(call: apcrt.ServerHandle[int], data: apcrt.InPipe[int]) -> int | apcrt.Pending:
        if returned:
            return 0
        probe.tried(lambda: call.complete_call(0))
        probe.tried(lambda: call.complete_call(0))
        probe.tried(lambda: call.abort_call(5))
        probe.tried(lambda: data.pull(bytearray(1)))
        return apcrt.PENDING

    probe.on_write = script
    assert status_of(lambda: probed.write("f", apcrt.InPipe(source=b"12345"))) == DISCIPLINE
    if not returned:
        assert probe.outcome()[:3] == [
            DISCIPLINE,
            Status.RPC_S_INVALID_ASYNC_HANDLE,
            Status.RPC_S_INVALID_ASYNC_HANDLE,
        ]
    assert probed.add(1, 2) == 3


@pytest.mark.feature("PIPE-11", "SRV-03")
def test_completing_before_the_output_is_ended(probe: Probe, probed: Sample) -> None:
    def script(call: apcrt.ServerHandle[int], data: apcrt.OutPipe[int]) -> apcrt.Pending:
        data.push(b"abc")
        probe.tried(lambda: call.complete_call(0))
        return apcrt.PENDING

    probe.on_read = script
    assert status_of(lambda: probed.read(0, 0, apcrt.OutPipe(sink=bytearray()))) == DISCIPLINE
    assert probe.outcome() == [DISCIPLINE]


@pytest.mark.feature("SRV-03")
def test_ending_a_call_twice(probe: Probe, probed: Sample) -> None:
    def script(call: apcrt.ServerHandle[int], data: apcrt.OutPipe[int]) -> apcrt.Pending:
        data.push(b"")
        probe.tried(lambda: call.abort_call(0))
        probe.tried(lambda: call.complete_call("no number"))  # type: ignore[arg-type]
        call.complete_call(9)
        probe.tried(lambda: call.complete_call(9))
        probe.tried(lambda: call.abort_call(5))
        probe.tried(lambda: data.push(b"x"))
        return apcrt.PENDING

    probe.on_read = script
    assert probed.read(0, 0, apcrt.OutPipe(sink=bytearray())) == 9
    assert probe.outcome() == [
        Status.RPC_S_INVALID_ARG,
        Status.RPC_S_INVALID_ARG,
        Status.RPC_S_INVALID_ASYNC_HANDLE,
        Status.RPC_S_INVALID_ASYNC_HANDLE,
        Status.RPC_S_INVALID_ASYNC_CALL,
    ]

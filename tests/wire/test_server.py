"""The server's end alone: calls and their answers, cancels, association groups."""

from __future__ import annotations

import pytest

from apcrt.ndr import ByteOrder
from apcrt.status import FaultStatus, RpcUsageError, Status
from apcrt.wire import (
    NDR20,
    AssociationGroups,
    BoundByPeer,
    CallOrphaned,
    CancelRequested,
    CloseConnection,
    PacketType,
    ReplyReady,
    RequestEnd,
    RequestStarted,
    ServerAssociation,
    ServerState,
)

from .helpers import (
    BIND,
    DNE,
    ECHO,
    FIRST,
    GROUP,
    LAST,
    OBJECT,
    STREAMING,
    WHOLE,
    bound_server,
    fault,
    joined_bytes,
    nak,
    new_server,
    offer,
    pdu,
    request,
    response,
    view,
)

CANCEL = pdu(PacketType.CO_CANCEL, call_id=2)
ORPHANED = pdu(PacketType.ORPHANED, call_id=2)
ONE = [(0, ECHO, [NDR20])]


def told(server: ServerAssociation, *data: bytes) -> list[object]:
    return [event for one in data for event in server.receive(view(one))]


def answer(server: ServerAssociation, stub: bytes = b"", call_id: int = 2) -> bytes:
    return joined_bytes(server.respond(call_id, streams=False).take([stub] if stub else [], last=True))


# Groups ---------------------------------------------------------------------------------------------------------------


def test_groups_live_as_long_as_their_connections() -> None:
    groups = AssociationGroups()
    first, second = new_server(groups=groups), new_server(groups=groups)
    (_, bound) = told(first, BIND)
    assert isinstance(bound, BoundByPeer)
    join = pdu(PacketType.BIND, offer(ONE, group=bound.group_id))
    (_, joined) = told(second, join)
    assert joined == bound
    assert groups.members(bound.group_id) == {first, second}
    first.closed()
    assert groups.members(bound.group_id) == {second}
    second.closed()
    second.closed()
    assert len(groups) == 0
    late = new_server(groups=groups)
    assert told(late, join)[0] == ReplyReady(nak(0))
    assert len(groups) == 0


def test_group_identifiers() -> None:
    candidates = iter([0, 5, 5, 0, 6])
    groups = AssociationGroups(lambda: next(candidates))
    assert groups.join(0, "a") == 5
    assert groups.join(0, "b") == 6
    assert groups.join(7, "c") is None
    assert groups.join(5, "d") == 5
    assert not groups.leave(5, "a")
    assert groups.leave(5, "d")
    assert not groups.leave(5, "d")
    assert groups.members(5) == frozenset()


def test_a_refused_bind_leaves_no_group() -> None:
    groups = AssociationGroups()
    server = new_server(groups=groups)
    told(server, pdu(PacketType.BIND, offer([*ONE, (0, ECHO, [])])))
    assert server.state is ServerState.CLOSING
    assert len(groups) == 0


# Calls ----------------------------------------------------------------------------------------------------------------


def test_contexts_added_later_can_be_called() -> None:
    server = bound_server()
    told(server, pdu(PacketType.ALTER_CONTEXT, offer([(0x1FF, ECHO, [NDR20])]), call_id=2))
    (started, _) = told(server, request(call_id=3, context=0x1FF))
    assert started == RequestStarted(3, 0x1FF, ECHO, NDR20, 0, None, ByteOrder.LITTLE, 0)
    assert answer(server, call_id=3)[20] == 0xFF, "eight bits of the context in a response"


def test_contexts_can_be_added_between_fragments() -> None:
    server = bound_server()
    told(server, request(bytes(8), flags=FIRST, opnum=STREAMING))
    told(server, pdu(PacketType.ALTER_CONTEXT, offer([(1, ECHO, [NDR20])]), call_id=3))
    assert told(server, request(flags=LAST)) == [RequestEnd(2)]


def test_a_lower_minor_version_is_what_the_client_asked_for() -> None:
    server = bound_server()
    (started, _) = told(server, request())
    assert isinstance(started, RequestStarted)
    assert started.interface == ECHO


def test_object_uuid() -> None:
    for order, octets in (("<", OBJECT.bytes_le), (">", OBJECT.bytes)):
        server = bound_server()
        (started, *_) = told(server, request(bytes(4), flags=WHOLE | 0x80, target=octets, order=order))
        assert isinstance(started, RequestStarted)
        assert started.object_uuid == OBJECT


def test_responses() -> None:
    server = bound_server()
    told(server, request())
    assert answer(server, b"abcd") == response(b"abcd")
    told(server, request(call_id=3))
    assert answer(server, b"efgh", call_id=3) == response(b"efgh", call_id=3)
    assert server._calls.keys() <= {3}


def test_one_answer_only() -> None:
    server = bound_server()
    told(server, request())
    stub = server.respond(2, streams=False)
    with pytest.raises(RpcUsageError) as caught:
        server.respond(2, streams=False)
    assert caught.value.status == Status.RPC_S_CALL_IN_PROGRESS
    stub.take(last=True)
    with pytest.raises(RpcUsageError) as caught:
        server.fault(2, 5)
    assert caught.value.status == Status.RPC_S_NO_CALL_ACTIVE


@pytest.mark.parametrize(
    ("code", "sent"),
    [
        (FaultStatus.NCA_S_FAULT_PIPE_ORDER, 0x1C000016),
        (Status.RPC_X_BAD_STUB_DATA, 0x6F7),
        (Status.RPC_S_CALL_CANCELLED, 0x1C00000D),
        (0, 0x1C000009),
        (0xC0000005, 0x1C000009),
        (0xDEADBEEF, 0xDEADBEEF),
    ],
)
def test_faults(code: int, sent: int) -> None:
    server = bound_server()
    told(server, request())
    assert server.fault(2, code) == fault(sent)
    told(server, request(call_id=3))
    assert server.fault(3, code, did_not_execute=True) == fault(sent, call_id=3, flags=WHOLE | DNE)


def test_fault_in_the_middle_of_a_response() -> None:
    server = bound_server()
    told(server, request())
    stub = server.respond(2, streams=True)
    stub.take([bytes(16)], flush=True)
    stub.add(b"not sent")
    assert server.fault(2, 5) == fault(5)
    assert stub.finished
    assert stub.pending == 0
    assert any(isinstance(event, RequestStarted) for event in told(server, request(call_id=3)))


@pytest.mark.feature("SRV-03")
@pytest.mark.parametrize(
    "rest",
    [
        pytest.param([request(bytes(100), flags=0), request(bytes(5), flags=LAST)], id="to the end"),
        pytest.param([request(flags=LAST)], id="empty last fragment"),
        pytest.param([ORPHANED], id="orphaned"),
        pytest.param([request(bytes(100), flags=0), ORPHANED], id="some more, then orphaned"),
        pytest.param([], id="just the next request"),
        pytest.param([CANCEL, request(flags=LAST)], id="cancel"),
        pytest.param([request(bytes(5000), flags=0)] * 10 + [request(flags=LAST)], id="no limit for what is dropped"),
    ],
)
@pytest.mark.parametrize("opnum", [0, STREAMING])
@pytest.mark.parametrize("way", ["fault", "response"])
def test_answered_early(rest: list[bytes], opnum: int, way: str) -> None:
    server = bound_server()
    told(server, request(bytes(8), flags=FIRST, opnum=opnum))
    if way == "fault":
        server.fault(2, FaultStatus.NCA_S_FAULT_PIPE_ORDER)
    else:
        answer(server)
    assert told(server, *rest) == []
    events = told(server, request(call_id=3))
    assert [type(event) for event in events] == [RequestStarted, RequestEnd]


def test_faulted_in_the_middle_of_a_fragment() -> None:
    server = bound_server()
    data = request(bytes(100), flags=FIRST, opnum=STREAMING)
    told(server, data[:50])
    assert server.body_left() == len(data) - 50
    server.fault(2, 5)
    assert server.body_left() == 0
    assert told(server, data[50:], request(flags=LAST), request(call_id=3))[-1] == RequestEnd(3)


def test_unknown_context_is_dropped_to_its_end() -> None:
    server = bound_server()
    events = told(server, *[request(bytes(1000), flags=flags, context=9) for flags in (FIRST, 0, 0, 0, 0, 0, LAST)])
    assert events == [ReplyReady(fault(FaultStatus.NCA_S_UNK_IF, flags=WHOLE | DNE))]
    assert told(server, request(call_id=3))[-1] == RequestEnd(3)


def test_late_fragments() -> None:
    """A little older than the newest call: they are late, not wrong (MS-RPCE 3.3.3.5.8)."""
    server = bound_server()
    told(server, request(call_id=500))
    server.fault(500, 5)
    assert told(server, request(bytes(50), call_id=499, flags=0), request(call_id=351, flags=LAST)) == []
    (reply, close) = told(server, request(call_id=350, flags=LAST))
    assert reply == ReplyReady(fault(FaultStatus.NCA_S_PROTO_ERROR, call_id=350))
    assert isinstance(close, CloseConnection)


# Cancels --------------------------------------------------------------------------------------------------------------


@pytest.mark.feature("CANC-01")
@pytest.mark.parametrize("opnum", [0, STREAMING])
def test_cancel(opnum: int) -> None:
    server = bound_server()
    told(server, request(flags=FIRST, opnum=opnum))
    assert told(server, CANCEL) == [CancelRequested(2)]
    assert told(server, request(flags=LAST)) == [RequestEnd(2)]
    assert told(server, CANCEL) == [CancelRequested(2)]
    assert server.fault(2, FaultStatus.NCA_S_FAULT_CANCEL)[22] == 0, "cancel count"
    assert told(server, CANCEL) == []


@pytest.mark.parametrize("flags", [WHOLE, LAST, 0])
def test_orphaned_call(flags: int) -> None:
    """OSF sends LAST alone. The call is forgotten; there is nothing to answer."""
    server = bound_server()
    told(server, request())
    stub = server.respond(2, streams=True)
    assert told(server, pdu(PacketType.ORPHANED, call_id=2, flags=flags)) == [CallOrphaned(2)]
    assert stub.finished
    with pytest.raises(RpcUsageError):
        server.fault(2, 5)
    assert told(server, ORPHANED, request(call_id=3))[-1] == RequestEnd(3)


def test_orphaned_stream() -> None:
    server = bound_server()
    told(server, request(bytes(8), flags=FIRST, opnum=STREAMING))
    assert told(server, ORPHANED) == [CallOrphaned(2)]
    assert told(server, request(bytes(8), flags=0)) == [], "what comes of it nevertheless is dropped"
    assert told(server, request(call_id=3))[-1] == RequestEnd(3)


def test_orphaned_request_that_is_not_complete() -> None:
    """Windows goes on waiting for its end, and refuses any other call before it."""
    server = bound_server()
    told(server, request(bytes(8), flags=FIRST))
    assert told(server, ORPHANED) == []
    (reply, _) = told(server, request(call_id=3))
    assert reply == ReplyReady(fault(FaultStatus.NCA_S_PROTO_ERROR))


def test_signals_may_carry_a_verifier() -> None:
    server = bound_server()
    told(server, request())
    verifier = bytes(8) + bytes(16)
    assert told(server, pdu(PacketType.CO_CANCEL, verifier, call_id=2, auth_length=16)) == [CancelRequested(2)]


# The end --------------------------------------------------------------------------------------------------------------


def test_answers_while_the_connection_is_being_closed() -> None:
    """The engine may still hold a call when the peer breaks the protocol; nothing more is to be said then."""
    server = bound_server()
    told(server, request())
    assert isinstance(told(server, request(call_id=3))[-1], CloseConnection)
    assert server.fault(2, 5) == b""
    assert not server.respond(2, streams=False).finished


def test_end_of_file() -> None:
    server = bound_server()
    told(server, request())
    (close,) = server.eof()
    assert close == CloseConnection("the client has closed the connection")
    assert answer(server, b"still") == response(b"still"), "a client that has half-closed gets its answer"
    cut = bound_server()
    told(cut, request()[:20])
    assert cut.eof() == [CloseConnection("the client has closed the connection in the middle of a PDU")]


def test_identifiers_of_bind_and_group() -> None:
    server = new_server()
    (reply, bound) = told(server, pdu(PacketType.BIND, offer(ONE), call_id=0xFFFFFFFF))
    assert isinstance(reply, ReplyReady)
    assert reply.data[12:16] == b"\xff\xff\xff\xff"
    assert bound == BoundByPeer(GROUP, ((0, ECHO),))
    assert server.group_id == GROUP

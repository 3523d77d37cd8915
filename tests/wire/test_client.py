"""The client's end alone: early answers, calls that are given up, and servers with habits of their own."""

from __future__ import annotations

import struct

import pytest

from apcrt.status import FaultStatus, RpcUsageError, Status
from apcrt.wire import (
    APCRT_FRAGMENT,
    NDR20,
    BindRefused,
    Bound,
    ClientAssociation,
    ClientEvent,
    ClientState,
    ContextReason,
    FaultReceived,
    NakReason,
    OutgoingStub,
    PacketType,
    PresentationContext,
    ProtocolViolation,
    ResponseData,
    ResponseEnd,
    ShutdownRequested,
    SyntaxId,
)

from .helpers import (
    DNE,
    ECHO,
    FIRST,
    GROUP,
    LAST,
    NDR64,
    OBJECT,
    STRANGE,
    STREAMING,
    WHOLE,
    echo_context,
    fault,
    joined,
    joined_bytes,
    nak,
    new_client,
    pdu,
    request,
    response,
    sec_trailer,
    syntax,
    view,
)


def ack(
    *entries: tuple[int, int, SyntaxId],
    sizes: tuple[int, int] = (5840, 5840),
    address: bytes = b"49152\0",
    call_id: int = 1,
    tail: bytes = b"",
) -> bytes:
    body = struct.pack("<HHIH", *sizes, GROUP, len(address)) + address
    body += bytes(-len(body) % 4) + bytes((len(entries), 0, 0, 0))
    for result, reason, transfer in entries:
        body += struct.pack("<HH", result, reason) + syntax(transfer)
    return pdu(PacketType.BIND_ACK, body + tail, call_id=call_id)


ACCEPTED = (0, 0, NDR20)
NOTHING = SyntaxId(OBJECT, 0)


def bound_client(*, fragment: int = 5840) -> ClientAssociation:
    client = new_client(max_fragment=fragment)
    client.bind([echo_context()])
    client.receive(view(ack(ACCEPTED, sizes=(fragment, fragment - 8 if fragment == APCRT_FRAGMENT else fragment))))
    return client


def streaming(client: ClientAssociation) -> OutgoingStub:
    """Begin a call of which something was sent, and not the end."""
    call = client.request(0, STREAMING, streams=True)
    call.take([bytes(16)], flush=True)
    return call


# Binding --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [b"", b"\0", b"1\0", b"/tmp/x\0", b"x" * 300], ids=len)
def test_secondary_addresses_of_any_length(address: bytes) -> None:
    client = new_client()
    client.bind([echo_context()])
    (bound,) = client.receive(view(ack(ACCEPTED, address=address)))
    assert isinstance(bound, Bound)
    assert client.accepted == {0: NDR20}
    assert client.group_id == GROUP


def test_some_contexts_accepted() -> None:
    client = new_client()
    client.bind([echo_context(0), PresentationContext(5, STRANGE, (NDR20,)), echo_context(6, NDR64, NDR20)])
    (bound,) = client.receive(view(ack(ACCEPTED, (2, 1, NOTHING), ACCEPTED)))
    assert isinstance(bound, Bound)
    assert [result.accepted for result in bound.results] == [True, False, True]
    assert bound.results[1].reason == ContextReason.ABSTRACT_SYNTAX_NOT_SUPPORTED
    assert client.accepted == {0: NDR20, 6: NDR20}
    with pytest.raises(RpcUsageError):
        client.request(5, 0, streams=False)


@pytest.mark.parametrize(
    ("sizes", "ours"),
    [
        ((5840, 5840), 5840),
        ((1432, 2048), 2048),
        ((65535, 65535), 5840),
        ((65528, 65528), 5840),
        ((65528, 65520), 65520),
        ((5840, 1432), 1432),
    ],
)
def test_what_we_may_send(sizes: tuple[int, int], ours: int) -> None:
    client = new_client(max_fragment=APCRT_FRAGMENT)
    client.bind([echo_context()])
    client.receive(view(ack(ACCEPTED, sizes=sizes)))
    assert client.peer_fragment == ours


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        pytest.param(ack(), "0 results for 1", id="too few results"),
        pytest.param(ack(ACCEPTED, ACCEPTED), "2 results for 1", id="too many results"),
        pytest.param(ack(ACCEPTED, call_id=9), "call identifier 9", id="another call"),
        pytest.param(ack((0, 0, NDR64)), "not offered", id="a transfer syntax that was not offered"),
        pytest.param(ack(ACCEPTED, sizes=(1431, 5840)), "1431", id="fragments that are too small"),
        pytest.param(ack(ACCEPTED)[:-1], "", id="cut"),
        pytest.param(pdu(PacketType.BIND_ACK, ack(ACCEPTED)[16:-4]), "beyond the end", id="shorter than it says"),
        pytest.param(pdu(PacketType.BIND_ACK, bytes(8) + b"\xff\xff" + bytes(6)), "beyond", id="address too long"),
        pytest.param(pdu(PacketType.BIND_NAK, b"\1"), "length", id="a bind_nak without a reason"),
        pytest.param(nak(4, call_id=2), "call identifier 2", id="a bind_nak for another call"),
    ],
)
def test_bad_acknowledgements(data: bytes, detail: str) -> None:
    client = new_client()
    client.bind([echo_context()])
    events = client.receive(view(data))
    if not detail:
        assert events == []
        assert not client.at_boundary
        return
    (violation,) = events
    assert isinstance(violation, ProtocolViolation)
    assert detail in violation.detail
    assert client.state is ClientState.CLOSED


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (NakReason.NOT_SPECIFIED, Status.RPC_S_CALL_FAILED_DNE),
        (NakReason.TEMPORARY_CONGESTION, Status.RPC_S_SERVER_TOO_BUSY),
        (NakReason.LOCAL_LIMIT_EXCEEDED, Status.RPC_S_SERVER_TOO_BUSY),
        (NakReason.PROTOCOL_VERSION_NOT_SUPPORTED, Status.RPC_S_PROTOCOL_ERROR),
        (NakReason.AUTHENTICATION_TYPE_NOT_RECOGNIZED, Status.RPC_S_UNKNOWN_AUTHN_SERVICE),
        (NakReason.INVALID_CHECKSUM, Status.ERROR_ACCESS_DENIED),
        (4711, Status.RPC_S_CALL_FAILED_DNE),
    ],
)
@pytest.mark.feature("ERR-01")
def test_refused_binds(reason: int, status: Status) -> None:
    client = new_client()
    client.bind([echo_context()])
    # Some servers append a signature and extended errors.
    data = pdu(PacketType.BIND_NAK, struct.pack("<HBBB3x", reason, 1, 5, 0) + bytes(40))
    assert client.receive(view(data)) == [BindRefused(NakReason(reason), status)]
    assert client.state is ClientState.CLOSED


def test_bind_answered_with_a_fault() -> None:
    client = new_client()
    client.bind([echo_context()])
    events = client.receive(view(fault(FaultStatus.NCA_S_SERVER_TOO_BUSY, call_id=1)))
    assert events == [BindRefused(NakReason.NOT_SPECIFIED, Status.RPC_S_SERVER_TOO_BUSY)]


@pytest.mark.parametrize(
    "contexts",
    [
        [],
        [echo_context(256)],
        [echo_context(-1)],
        [echo_context(1), echo_context(1)],
        [PresentationContext(0, ECHO, ())],
        [echo_context(number) for number in range(256)],
    ],
)
def test_binds_that_cannot_be(contexts: list[PresentationContext]) -> None:
    client = new_client()
    with pytest.raises(RpcUsageError) as caught:
        client.bind(contexts)
    assert caught.value.status == Status.ERROR_INVALID_PARAMETER
    assert client.state is ClientState.START


@pytest.mark.parametrize("fragment", [0, 1431, 65536])
def test_fragments_that_cannot_be(fragment: int) -> None:
    with pytest.raises(RpcUsageError):
        ClientAssociation(max_fragment=fragment)


# Answers --------------------------------------------------------------------------------------------------------------


def fault_body(code: int, rest: bytes = b"") -> bytes:
    return struct.pack("<IHBBI", 32, 0, 0, 0, code) + rest


@pytest.mark.parametrize(
    ("body", "code", "status"),
    [
        pytest.param(fault_body(0x1C010003, bytes(4)), 0x1C010003, Status.RPC_S_UNKNOWN_IF, id="usual"),
        pytest.param(fault_body(0x1C010003), 0x1C010003, Status.RPC_S_UNKNOWN_IF, id="28 bytes"),
        pytest.param(fault_body(0)[:8], 0, Status.RPC_S_CALL_FAILED, id="no status"),
        pytest.param(fault_body(0, bytes(4)), 0, Status.RPC_S_CALL_FAILED, id="status 0, no stub"),
        pytest.param(fault_body(0, bytes(8)), 0, Status.RPC_S_CALL_FAILED, id="status 0, stub 0"),
        pytest.param(
            fault_body(0, bytes(4) + b"\x16\0\0\x1c"), 0x1C000016, Status.RPC_X_WRONG_PIPE_ORDER, id="in the stub"
        ),
        pytest.param(
            fault_body(0, bytes(4) + b"\x21\0\0\x1c\7\0\0\0"), 0x1C000021, Status.RPC_S_CALL_FAILED, id="user exception"
        ),
        pytest.param(fault_body(5, bytes(40)), 5, Status.ERROR_ACCESS_DENIED, id="extended error"),
        pytest.param(fault_body(0xDEADBEEF, bytes(4)), 0xDEADBEEF, 0xDEADBEEF, id="the application's own"),
    ],
)
@pytest.mark.feature("ERR-01")
def test_faults(body: bytes, code: int, status: int) -> None:
    client = bound_client()
    client.request(0, 0, streams=False).take(last=True)
    data = pdu(PacketType.FAULT, body, call_id=2, flags=WHOLE | DNE)
    assert client.receive(view(data)) == [FaultReceived(2, code, status, did_not_execute=True)]
    assert client.reusable
    assert client.request(0, 0, streams=False).call_id == 3


def test_fault_with_a_verifier() -> None:
    """Samba's faults have none, others' may: it is not part of the body."""
    client = bound_client()
    client.request(0, 0, streams=False).take(last=True)
    data = pdu(PacketType.FAULT, fault_body(0, bytes(4)) + sec_trailer(), call_id=2, auth_length=16)
    assert client.receive(view(data)) == [FaultReceived(2, 0, Status.RPC_S_CALL_FAILED, did_not_execute=False)]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(response(call_id=3), id="another call"),
        pytest.param(response(call_id=2) + response(call_id=2), id="twice"),
        pytest.param(fault(5, call_id=1), id="fault for no call"),
        pytest.param(response(flags=LAST), id="no first fragment"),
        pytest.param(response(flags=FIRST) + response(flags=FIRST), id="first fragment twice"),
        pytest.param(response(flags=FIRST) + response(flags=LAST, order=">"), id="byte orders"),
        pytest.param(pdu(PacketType.RESPONSE, bytes(8) + sec_trailer(), call_id=2, auth_length=16), id="verifier"),
        pytest.param(pdu(PacketType.RESPONSE, bytes(8), call_id=2, auth_length=900), id="verifier beyond the PDU"),
        pytest.param(pdu(PacketType.RESPONSE, bytes(7), call_id=2), id="too short"),
        pytest.param(pdu(PacketType.RESPONSE, bytes(8), call_id=2, drep=b"\x20\0\0\0"), id="representation"),
        pytest.param(pdu(PacketType.RESPONSE, bytes(8), call_id=2, version=(4, 0)), id="version"),
    ],
)
def test_bad_answers(data: bytes) -> None:
    client = bound_client()
    client.request(0, 0, streams=False).take(last=True)
    violation = client.receive(view(data))[-1]
    assert isinstance(violation, ProtocolViolation)
    assert violation.status == Status.RPC_S_PROTOCOL_ERROR
    assert violation.reply == b""
    assert not client.reusable


@pytest.mark.parametrize("data", [response(), fault(5)], ids=["response", "fault"])
def test_an_answer_before_the_question(data: bytes) -> None:
    client = bound_client()
    client.request(0, 0, streams=False).add(b"not sent")
    assert isinstance(client.receive(view(data))[0], ProtocolViolation)


def test_the_answer_may_come_in_pieces_of_any_size() -> None:
    """Larger than agreed, odd, empty: only what the header says counts."""
    client = bound_client()
    client.request(0, 0, streams=False).take(last=True)
    data = response(bytes(60_000), flags=FIRST) + response(b"abc", flags=0) + response(flags=LAST)
    events = client.receive(view(data))
    assert [len(event.data) for event in events if isinstance(event, ResponseData)] == [60_000, 3]
    assert events[-1] == ResponseEnd(2)


# The end of calls -----------------------------------------------------------------------------------------------------


def test_one_call_at_a_time() -> None:
    client = bound_client()
    client.request(0, 0, streams=False)
    with pytest.raises(RpcUsageError) as caught:
        client.request(0, 0, streams=False)
    assert caught.value.status == Status.RPC_S_CALL_IN_PROGRESS


@pytest.mark.feature("CANC-01")
def test_cancel() -> None:
    client = bound_client()
    call = streaming(client)
    assert client.cancel(call.call_id) == pdu(PacketType.CO_CANCEL, call_id=2)
    call.take(last=True)
    assert client.cancel(call.call_id) == pdu(PacketType.CO_CANCEL, call_id=2)
    assert client.receive(view(response(call_id=2))) == [ResponseEnd(2)]
    assert client.cancel(call.call_id) == b"", "harmless once it is over"
    assert client.reusable


def test_nothing_to_say_about_a_call_that_nobody_has_seen() -> None:
    client = bound_client()
    call = client.request(0, STREAMING, streams=True)
    call.add(bytes(100))
    assert client.cancel(call.call_id) == b""
    assert client.orphan(call.call_id) == b""
    assert call.finished
    assert client.reusable
    assert client.request(0, 0, streams=False).call_id == 3


@pytest.mark.feature("CANC-02")
@pytest.mark.parametrize(
    "late",
    [
        pytest.param(response(b"too late"), id="response"),
        pytest.param(response(b"one", flags=FIRST) + response(b"two", flags=LAST), id="two fragments"),
        pytest.param(fault(FaultStatus.NCA_S_FAULT_CANCEL), id="fault"),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_late_answers_are_ignored(late: bytes, step: int) -> None:
    client = bound_client()
    call = streaming(client)
    assert client.orphan(call.call_id) == pdu(PacketType.ORPHANED, call_id=2)
    assert client.orphan(call.call_id) == b""
    assert not client.reusable
    assert call.finished
    for at in range(0, len(late), step):
        assert client.receive(view(late[at : at + step])) == []
        assert client.body_left() == 0
    assert client._calls == {}
    assert isinstance(client.receive(view(late))[0], ProtocolViolation), "once is enough"


def test_given_up_in_the_middle_of_the_answer() -> None:
    client = bound_client()
    call = streaming(client)
    data = response(b"0123456789")
    client.receive(view(data[:-5]))
    assert client.body_left() == 5
    client.orphan(call.call_id)
    assert client.body_left() == 0
    assert client.receive(view(data[-5:])) == []


@pytest.mark.feature("PIPE-11")
@pytest.mark.parametrize(
    "answer", [pytest.param(fault(FaultStatus.NCA_S_FAULT_PIPE_ORDER), id="fault"), pytest.param(response(), id="end")]
)
def test_early_answer(answer: bytes) -> None:
    """Between two ends of this runtime the connection survives: the request is ended, and the next one follows."""
    client = bound_client(fragment=APCRT_FRAGMENT)
    call = streaming(client)
    call.add(b"not sent")
    (event,) = client.receive(view(answer))
    assert isinstance(event, FaultReceived | ResponseEnd)
    with pytest.raises(RpcUsageError):
        client.request(0, 0, streams=False)
    assert client.abandon(call.call_id) == request(flags=LAST, opnum=STREAMING)
    assert client.reusable
    assert call.finished
    assert call.pending == 0
    client.request(0, 0, streams=False)


def test_early_answer_of_a_stranger() -> None:
    client = bound_client()
    call = streaming(client)
    client.receive(view(fault(5)))
    assert client.abandon(call.call_id) == b""
    assert not client.reusable
    assert client.orphan(call.call_id) == pdu(PacketType.ORPHANED, call_id=2)


def test_early_answer_to_a_request_that_was_completed_meanwhile() -> None:
    client = bound_client()
    call = streaming(client)
    client.receive(view(fault(5)))
    call.take(last=True)
    assert client.request(0, 0, streams=False).call_id == 3


def test_abandoning_what_is_not_answered() -> None:
    client = bound_client()
    call = streaming(client)
    with pytest.raises(RpcUsageError) as caught:
        client.abandon(call.call_id)
    assert caught.value.status == Status.RPC_S_NO_CALL_ACTIVE


@pytest.mark.feature("PIPE-11")
def test_early_fault_between_two_ends() -> None:
    """What is on its way is dropped by the server, and the next call goes through."""
    pair = joined(max_fragment=APCRT_FRAGMENT)
    call = pair.client.request(0, STREAMING, streams=True)
    pair.to_server(joined_bytes(call.take([bytes(1000)], flush=True)))
    on_its_way = joined_bytes(call.take([bytes(200_000)], flush=True))
    refusal = pair.server.fault(call.call_id, FaultStatus.NCA_S_FAULT_PIPE_DISCIPLINE)
    pair.to_server(on_its_way)
    pair.to_client(refusal)
    pair.to_server(pair.client.abandon(call.call_id))
    assert len(pair.request) == 1000
    again = pair.client.request(0, 0, streams=False)
    pair.to_server(joined_bytes(again.take([b"again"], last=True)))
    assert bytes(pair.request[1000:]) == b"again"
    assert pair.client.state is ClientState.BOUND


def test_server_that_wants_to_be_left_alone() -> None:
    client = bound_client()
    client.request(0, 0, streams=False).take(last=True)
    events: list[ClientEvent] = client.receive(view(pdu(PacketType.SHUTDOWN) + response()))
    assert events == [ShutdownRequested(), ResponseEnd(2)]
    assert not client.reusable
    with pytest.raises(RpcUsageError) as caught:
        client.request(0, 0, streams=False)
    assert caught.value.status == Status.RPC_S_INVALID_BINDING


def test_end_of_file() -> None:
    client = bound_client()
    client.request(0, 0, streams=False).take(last=True)
    client.receive(view(response()[:20]))
    assert not client.at_boundary
    assert client.eof() == []
    assert client.receive(view(response())) == []
    assert not client.reusable


def test_call_identifiers_stay_in_the_range_of_windows() -> None:
    client = bound_client()
    client._next_id = 0x7FFFFFFF
    for expected in (0x7FFFFFFF, 1):
        call = client.request(0, 0, streams=False)
        assert call.call_id == expected
        call.take(last=True)
        client.receive(view(response(call_id=expected)))


def test_accounting_for_more_than_there_is() -> None:
    client = bound_client()
    client.request(0, 0, streams=False).take(last=True)
    client.receive(view(response(bytes(10))[:-4]))
    for wrong in (5, -1):
        with pytest.raises(RpcUsageError):
            client.body_taken(wrong)
    assert client.body_taken(0) == []
    assert client.body_taken(4) == [ResponseEnd(2)]

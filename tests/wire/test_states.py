"""The tables, cell by cell: what is in them happens, and what is not is refused as documented."""

from __future__ import annotations

import itertools
import struct

import pytest

from apcrt.status import FaultStatus, RpcUsageError, Status
from apcrt.wire import (
    NDR20,
    BindRefused,
    Bound,
    ClientAssociation,
    ClientState,
    CloseConnection,
    FaultReceived,
    PacketType,
    ProtocolViolation,
    ReplyReady,
    ResponseEnd,
    ServerAssociation,
    ServerState,
    ShutdownRequested,
)
from apcrt.wire._states import (
    CLIENT,
    CLIENT_CALL,
    SERVER,
    SERVER_CALL,
    ClientCallInput,
    ClientCallState,
    ClientCommand,
    ServerCallInput,
    ServerCallState,
)

from .helpers import (
    BIND,
    DNE,
    FIRST,
    GROUP,
    LAST,
    PLAIN_OFFER,
    STREAMING,
    bound_server,
    echo_context,
    fault,
    nak,
    new_client,
    new_server,
    pdu,
    request,
    response,
    syntax,
    view,
)

ACK_BODY = struct.pack("<HHIHH", 5840, 5840, GROUP, 0, 0) + b"\1\0\0\0" + bytes(4) + syntax(NDR20)

PDUS: dict[int, bytes] = {
    PacketType.REQUEST: request(),
    PacketType.RESPONSE: response(),
    PacketType.FAULT: fault(FaultStatus.NCA_S_FAULT_UNSPEC),
    PacketType.BIND: BIND,
    PacketType.BIND_ACK: pdu(PacketType.BIND_ACK, ACK_BODY),
    PacketType.BIND_NAK: nak(0),
    PacketType.ALTER_CONTEXT: pdu(PacketType.ALTER_CONTEXT, PLAIN_OFFER),
    PacketType.ALTER_CONTEXT_RESP: pdu(PacketType.ALTER_CONTEXT_RESP, ACK_BODY),
    PacketType.AUTH3: pdu(PacketType.AUTH3, bytes(12)),
    PacketType.SHUTDOWN: pdu(PacketType.SHUTDOWN),
    PacketType.CO_CANCEL: pdu(PacketType.CO_CANCEL),
    PacketType.ORPHANED: pdu(PacketType.ORPHANED),
    **{unknown: pdu(unknown, bytes(32)) for unknown in (1, 4, 10, 20, 21, 255)},
}

# The client's end -----------------------------------------------------------------------------------------------------


def client_in(state: ClientState) -> ClientAssociation:
    """Return a client in `state`; where calls are possible, call 2 is waiting for its answer."""
    client = new_client()
    if state is ClientState.START:
        return client
    client.bind([echo_context()])
    if state is ClientState.BINDING:
        return client
    client.receive(view(PDUS[PacketType.BIND_ACK]))
    client.request(0, 0, streams=False).take(last=True)
    if state is ClientState.LEAVING:
        client.receive(view(PDUS[PacketType.SHUTDOWN]))
    elif state is ClientState.CLOSED:
        client.eof()
    assert client.state is state
    return client


MEANING = {
    PacketType.BIND_ACK: Bound,
    PacketType.BIND_NAK: BindRefused,
    PacketType.RESPONSE: ResponseEnd,
    PacketType.SHUTDOWN: ShutdownRequested,
}


@pytest.mark.parametrize(("state", "ptype"), list(itertools.product(ClientState, PDUS)), ids=str)
def test_pdu_at_the_client(state: ClientState, ptype: int) -> None:
    client = client_in(state)
    data = PDUS[ptype]
    if state is ClientState.BINDING and ptype == PacketType.FAULT:
        data = fault(FaultStatus.NCA_S_SERVER_TOO_BUSY, call_id=1)
    events = client.receive(view(data))
    if state is ClientState.CLOSED:
        assert events == []
        return
    following = CLIENT.get((state, ptype))
    if following is None:
        (violation,) = events
        assert isinstance(violation, ProtocolViolation)
        assert violation.status == Status.RPC_S_PROTOCOL_ERROR
        assert client.state is ClientState.CLOSED
        assert client.receive(view(data)) == [], "nothing is listened to any more"
        return
    assert client.state is following
    (event,) = events
    if ptype == PacketType.FAULT:
        assert type(event) is (BindRefused if state is ClientState.BINDING else FaultReceived)
    else:
        assert type(event) is MEANING[PacketType(ptype)]


@pytest.mark.parametrize(("state", "command"), list(itertools.product(ClientState, ClientCommand)), ids=str)
def test_command_at_the_client(state: ClientState, command: ClientCommand) -> None:
    client = client_in(state)
    if state is ClientState.BOUND:
        client.receive(view(response()))

    def act() -> None:
        if command is ClientCommand.BIND:
            client.bind([echo_context()])
        else:
            client.request(0, 0, streams=False)

    following = CLIENT.get((state, command))
    if following is not None:
        act()
        assert client.state is following
        return
    with pytest.raises(RpcUsageError) as caught:
        act()
    assert caught.value.status == Status.RPC_S_INVALID_BINDING
    assert client.state is state


def client_call(state: ClientCallState) -> tuple[ClientAssociation, int]:
    client = client_in(ClientState.BOUND)
    client.receive(view(response()))
    call = client.request(0, STREAMING, streams=True)
    call.take([bytes(8)], flush=True)
    if state is ClientCallState.ANSWERED:
        client.receive(view(fault(5, call_id=call.call_id)))
    elif state is ClientCallState.GIVEN_UP:
        client.orphan(call.call_id)
    elif state is ClientCallState.OVER:
        call.take(last=True)
        client.receive(view(fault(5, call_id=call.call_id)))
    return client, call.call_id


@pytest.mark.parametrize(("state", "what"), list(itertools.product(ClientCallState, ClientCallInput)), ids=str)
def test_call_at_the_client(state: ClientCallState, what: ClientCallInput) -> None:
    client, call_id = client_call(state)
    client.knows_peer = True  # a server that bears the end of an abandoned request
    calls = client._calls
    before = calls.get(call_id)
    assert (before.state if before else ClientCallState.OVER) is state
    if what is ClientCallInput.ORPHAN:
        sent = client.orphan(call_id)
        assert bool(sent) == ((state, what) in CLIENT_CALL)
    elif what is ClientCallInput.ENDED:
        if (state, what) in CLIENT_CALL:
            assert client.abandon(call_id)
        else:
            with pytest.raises(RpcUsageError):
                client.abandon(call_id)
    else:
        early = what is ClientCallInput.EARLY_ANSWER
        if not early and state is ClientCallState.OPEN:
            assert before is not None
            before.stub.take(last=True)
        elif early != (before is not None and not before.stub.finished):
            return  # whether an answer is early follows from the request, so these two do not meet
        (event, *_) = [*client.receive(view(response(call_id=call_id))), None]
        assert isinstance(event, ProtocolViolation) == ((state, what) not in CLIENT_CALL)
        if isinstance(event, ProtocolViolation):
            return
    after = calls.get(call_id)
    assert (after.state if after else ClientCallState.OVER) is CLIENT_CALL.get((state, what), state)


# The server's end -----------------------------------------------------------------------------------------------------


def server_in(state: ServerState) -> ServerAssociation:
    server = new_server() if state is ServerState.START else bound_server()
    if state is ServerState.CLOSING:
        server.closed()
    assert server.state is state
    return server


@pytest.mark.parametrize(("state", "ptype"), list(itertools.product(ServerState, PDUS)), ids=str)
def test_pdu_at_the_server(state: ServerState, ptype: int) -> None:
    server = server_in(state)
    events = server.receive(view(PDUS[ptype]))
    if state is ServerState.CLOSING:
        assert events == []
        return
    following = SERVER.get((state, ptype))
    if following is not None:
        assert server.state is following
        assert not any(isinstance(event, CloseConnection) for event in events)
        return
    call_id = 2 if ptype in (PacketType.REQUEST, PacketType.RESPONSE, PacketType.FAULT) else 1
    if state is ServerState.START:
        expected = nak(4, call_id=call_id)
    elif ptype == PacketType.BIND:
        expected = nak(0)
    else:
        expected = fault(FaultStatus.NCA_S_PROTO_ERROR, call_id=call_id, flags=3 | DNE)
    reply, close = events
    assert reply == ReplyReady(expected)
    assert isinstance(close, CloseConnection)
    assert server.state is ServerState.CLOSING
    assert server.receive(view(PDUS[ptype])) == [], "nothing is listened to any more"


def server_call(state: ServerCallState) -> ServerAssociation:
    server = bound_server()
    server.receive(view(request(bytes(8), flags=FIRST, opnum=STREAMING)))
    if state is ServerCallState.DISPATCHED:
        server.receive(view(request(flags=LAST)))
    elif state is ServerCallState.DISCARDING:
        server.fault(2, 5)
    elif state is ServerCallState.OVER:
        server.receive(view(request(flags=LAST)))
        server.fault(2, 5)
    return server


@pytest.mark.parametrize(("state", "what"), list(itertools.product(ServerCallState, ServerCallInput)), ids=str)
@pytest.mark.parametrize("answer", ["fault", "response"])
def test_call_at_the_server(state: ServerCallState, what: ServerCallInput, answer: str) -> None:
    server = server_call(state)
    calls = server._calls
    before = calls.get(2)
    assert (before.state if before else ServerCallState.OVER) is state
    allowed = (state, what) in SERVER_CALL
    if what is ServerCallInput.ANSWERED:
        if not allowed:
            with pytest.raises(RpcUsageError) as caught:
                server.fault(2, 5) if answer == "fault" else server.respond(2, streams=False)
            assert caught.value.status == Status.RPC_S_NO_CALL_ACTIVE
        elif answer == "fault":
            assert server.fault(2, 5) == fault(5)
        else:
            server.respond(2, streams=False).take(last=True)
            server.receive(view(pdu(PacketType.CO_CANCEL, call_id=99)))
    elif what is ServerCallInput.OVERTAKEN:
        events = server.receive(view(request(call_id=3)))
        refused = any(isinstance(event, CloseConnection) for event in events)
        assert refused == (not allowed and state is not ServerCallState.OVER)
        if refused:
            return
    else:
        data = request(flags=LAST) if what is ServerCallInput.LAST else pdu(PacketType.ORPHANED, call_id=2)
        events = server.receive(view(data))
        refused = any(isinstance(event, CloseConnection) for event in events)
        assert refused == (not allowed and what is ServerCallInput.LAST)
        if refused:
            return
    after = calls.get(2)
    assert (after.state if after else ServerCallState.OVER) is SERVER_CALL.get((state, what), state)


def test_tables_lead_everywhere() -> None:
    """No state is unreachable, and nothing leads out of the last one."""
    assert {*CLIENT.values(), ClientState.START} == set(ClientState)
    assert {*CLIENT_CALL.values(), ClientCallState.OPEN} == set(ClientCallState)
    assert {*SERVER.values(), ServerState.START, ServerState.CLOSING} == set(ServerState)
    assert {*SERVER_CALL.values(), ServerCallState.RECEIVING} == set(ServerCallState)
    for last, table in ((ClientState.CLOSED, CLIENT), (ClientCallState.OVER, CLIENT_CALL)):
        assert not any(state is last for state, _ in table)
    for end, cells in ((ServerState.CLOSING, SERVER), (ServerCallState.OVER, SERVER_CALL)):
        assert not any(state is end for state, _ in cells)

"""String bindings: every part, every escape, every error number."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

import apcrt
from apcrt import Status, StringBinding
from apcrt.rpc.string_binding import HISTORIC

OBJECT = uuid.UUID("6b29fc40-ca47-1067-b31d-00dd010662da")

sequences = st.sampled_from(["ncacn_ip_tcp", "ncacn_np", "ncalrpc", "ncacn_unix_stream"])
visible = st.characters(min_codepoint=33, max_codepoint=0x2FF, categories=("L", "M", "N", "P", "S"))
words = st.text(visible, max_size=12)
names = st.text(visible, min_size=1, max_size=8).filter(lambda name: name.lower() != "endpoint")
# The ends count: white space belongs to a value, and a trailing one must not be lost.
values = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FF, categories=("L", "M", "N", "P", "S", "Zs")),
    min_size=1,
    max_size=12,
)
bindings = st.builds(
    StringBinding,
    sequences,
    words,
    words,
    st.lists(st.tuples(names, values), max_size=3).map(tuple),
    st.none() | st.uuids(),
)


@pytest.mark.feature("BIND-01")
@given(bindings)
def test_parse_gives_back_what_compose_was_given(binding: StringBinding) -> None:
    text = binding.compose()
    assert StringBinding.parse(text) == binding
    assert str(binding) == text


@pytest.mark.feature("BIND-01")
@given(bindings)
def test_composing_is_stable(binding: StringBinding) -> None:
    once = StringBinding.parse(binding.compose())
    assert once.compose() == binding.compose()


@pytest.mark.feature("BIND-01")
@given(st.text(st.sampled_from(list("ncalrp_itws:@[]\\,= x0-")), max_size=40))
def test_any_text_is_a_binding_or_has_a_published_error(text: str) -> None:
    status = 0
    try:
        binding = StringBinding.parse(text)
    except apcrt.RpcUsageError as error:
        status = error.status
    else:
        assert StringBinding.parse(binding.compose()) == binding
    assert status in (0, 1700, 1703, 1704, 1705, 1706, 1707, 1724)


@pytest.mark.feature("BIND-01")
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ncalrpc:", StringBinding("ncalrpc")),
        ("ncalrpc:[files]", StringBinding("ncalrpc", "", "files")),
        ("ncacn_ip_tcp:", StringBinding("ncacn_ip_tcp")),
        ("ncacn_ip_tcp:16.20.16.27[2001]", StringBinding("ncacn_ip_tcp", "16.20.16.27", "2001")),
        ("ncacn_ip_tcp:host", StringBinding("ncacn_ip_tcp", "host")),
        ("ncacn_ip_tcp:host[]", StringBinding("ncacn_ip_tcp", "host")),
        ("ncacn_ip_tcp:[endpoint=4747]", StringBinding("ncacn_ip_tcp", "", "4747")),
        ("ncacn_ip_tcp:[Endpoint=4747]", StringBinding("ncacn_ip_tcp", "", "4747")),
        ("ncacn_ip_tcp:::1[4747]", StringBinding("ncacn_ip_tcp", "::1", "4747")),
        (
            "ncacn_np:\\\\\\\\srv[\\\\pipe\\\\p1]",
            StringBinding("ncacn_np", "\\\\srv", "\\pipe\\p1"),
        ),
        (
            "ncalrpc:[name,Security=anonymous static true]",
            StringBinding("ncalrpc", "", "name", (("Security", "anonymous static true"),)),
        ),
        (
            "ncalrpc:[Security=anonymous static true]",
            StringBinding("ncalrpc", "", "", (("Security", "anonymous static true"),)),
        ),
        (
            f"{OBJECT}@ncacn_ip_tcp:host[4747,a=1,b=2]",
            StringBinding("ncacn_ip_tcp", "host", "4747", (("a", "1"), ("b", "2")), OBJECT),
        ),
        ("ncacn_unix_stream:[/run/a\\,b]", StringBinding("ncacn_unix_stream", "", "/run/a,b")),
        ("ncacn_unix_stream:[/run/a\\[1\\]]", StringBinding("ncacn_unix_stream", "", "/run/a[1]")),
        ("ncacn_ip_tcp:a\\@b[1]", StringBinding("ncacn_ip_tcp", "a@b", "1")),
    ],
)
def test_parts(text: str, parts: StringBinding) -> None:
    assert StringBinding.parse(text) == parts
    assert StringBinding.parse(parts.compose()) == parts


@pytest.mark.feature("BIND-01")
@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("", Status.RPC_S_INVALID_STRING_BINDING),
        ("ncacn_ip_tcp", Status.RPC_S_INVALID_STRING_BINDING),
        ("ncacn_ip_tcp:host[1", Status.RPC_S_INVALID_STRING_BINDING),
        ("ncacn_ip_tcp:host]1[", Status.RPC_S_INVALID_STRING_BINDING),
        ("ncacn_ip_tcp:host]", Status.RPC_S_INVALID_STRING_BINDING),
        ("ncacn_ip_tcp:host[1]x", Status.RPC_S_INVALID_STRING_BINDING),
        ("ncacn_ip_tcp:host[1][2]", Status.RPC_S_INVALID_STRING_BINDING),
        ("ncacn_ip_tcp:host[1]]", Status.RPC_S_INVALID_STRING_BINDING),
        ("ncacn_ip_tcp:ho st[1]", Status.RPC_S_INVALID_STRING_BINDING),
        ("ncacn_ip_tcp :host[1]", Status.RPC_S_INVALID_STRING_BINDING),
        ("ncacn_ip_tcp:host[1 2]", Status.RPC_S_INVALID_STRING_BINDING),
        ("ncacn_ip_tcp:host[1]\\", Status.RPC_S_INVALID_STRING_BINDING),
        ("ncacn_ip_tcp:a,b[1]", Status.RPC_S_INVALID_STRING_BINDING),
        ("ncacn_http:host[593]", Status.RPC_S_PROTSEQ_NOT_SUPPORTED),
        ("tcp:host[1]", Status.RPC_S_INVALID_RPC_PROTSEQ),
        (":host[1]", Status.RPC_S_INVALID_RPC_PROTSEQ),
        ("NCACN_IP_TCP:host[1]", Status.RPC_S_INVALID_RPC_PROTSEQ),
        ("@ncalrpc:[x]", Status.RPC_S_INVALID_STRING_UUID),
        ("nonsense@ncalrpc:[x]", Status.RPC_S_INVALID_STRING_UUID),
        (f"{OBJECT.hex}@ncalrpc:[x]", Status.RPC_S_INVALID_STRING_UUID),
        (f"{{{OBJECT}}}@ncalrpc:[x]", Status.RPC_S_INVALID_STRING_UUID),
        ("ncalrpc:[a,endpoint=b]", Status.RPC_S_INVALID_ENDPOINT_FORMAT),
        ("ncalrpc:[a,b]", Status.RPC_S_INVALID_NETWORK_OPTIONS),
        ("ncalrpc:[a,=b]", Status.RPC_S_INVALID_NETWORK_OPTIONS),
        ("ncalrpc:[a,b=]", Status.RPC_S_INVALID_NETWORK_OPTIONS),
    ],
)
def test_refused(text: str, status: Status) -> None:
    with pytest.raises(apcrt.RpcUsageError) as caught:
        StringBinding.parse(text)
    assert caught.value.status == status, str(caught.value)


@pytest.mark.feature("BIND-01")
@pytest.mark.parametrize("sequence", sorted(HISTORIC))
def test_historic_sequences_are_known_and_not_supported(sequence: str) -> None:
    with pytest.raises(apcrt.RpcUsageError) as caught:
        StringBinding.parse(f"{sequence}:host[1]")
    assert caught.value.status == Status.RPC_S_PROTSEQ_NOT_SUPPORTED


@pytest.mark.feature("BIND-01")
def test_the_text_of_an_error_names_the_binding_and_the_number() -> None:
    with pytest.raises(apcrt.RpcUsageError, match=r"(?s)ncacn_ip_tcp:host\[1.*RPC_S_INVALID_STRING_BINDING \(1700\)"):
        StringBinding.parse("ncacn_ip_tcp:host[1")


@pytest.mark.feature("BIND-01")
@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("ncacn_ip_tcp:host", Status.RPC_S_NO_ENDPOINT_FOUND),
        ("ncacn_never:host[1]", Status.RPC_S_PROTSEQ_NOT_SUPPORTED),
        ("ncacn_ip_tcp:host[1", Status.RPC_S_INVALID_STRING_BINDING),
    ],
)
def test_a_runtime_refuses_what_it_cannot_reach(text: str, status: Status) -> None:
    with apcrt.Runtime() as runtime, pytest.raises(apcrt.RpcUsageError) as caught:
        runtime.binding(text)
    assert caught.value.status == status


@pytest.mark.feature("BIND-01")
@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("ncacn_ip_tcp:[port]", Status.RPC_S_INVALID_ENDPOINT_FORMAT),
        ("ncacn_ip_tcp:[65536]", Status.RPC_S_INVALID_ENDPOINT_FORMAT),
        ("ncacn_unix_stream:[relative]", Status.RPC_S_INVALID_ENDPOINT_FORMAT),
        ("ncacn_unix_stream:host[/tmp/x]", Status.RPC_S_INVALID_NET_ADDR),
    ],
)
def test_a_bad_endpoint_or_address(text: str, status: Status) -> None:
    """The transport judges these, where a server opens the endpoint."""
    with apcrt.Runtime() as runtime, runtime.server() as server, pytest.raises(apcrt.RpcUsageError) as caught:
        server.start(text)
    assert caught.value.status == status

"""Numbers: as published, mapped both ways, and carried by exceptions."""

from __future__ import annotations

import pytest

from apcrt import status
from apcrt.status import FaultStatus, RpcCancelled, RpcError, RpcUsageError, Status, StatusError


@pytest.mark.feature("ERR-05")
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("RPC_S_OK", 0), ("ERROR_ACCESS_DENIED", 5), ("ERROR_INVALID_HANDLE", 6), ("ERROR_GEN_FAILURE", 31),
        ("ERROR_HANDLE_EOF", 38), ("ERROR_INVALID_PARAMETER", 87), ("RPC_S_INVALID_ARG", 87),
        ("WAIT_IO_COMPLETION", 192),
        ("WAIT_TIMEOUT", 258), ("ERROR_NOT_OWNER", 288), ("ERROR_TOO_MANY_POSTS", 298), ("ERROR_ABANDONED_WAIT_0", 735),
        ("ERROR_OPERATION_ABORTED", 995), ("RPC_S_ASYNC_CALL_PENDING", 997), ("ERROR_NOT_FOUND", 1168),
        ("RPC_S_INVALID_STRING_BINDING", 1700), ("RPC_S_PROTSEQ_NOT_SUPPORTED", 1703), ("RPC_S_UNKNOWN_IF", 1717),
        ("RPC_S_SERVER_UNAVAILABLE", 1722), ("RPC_S_SERVER_TOO_BUSY", 1723), ("RPC_S_CALL_FAILED", 1726),
        ("RPC_S_CALL_FAILED_DNE", 1727), ("RPC_S_PROTOCOL_ERROR", 1728), ("RPC_S_PROCNUM_OUT_OF_RANGE", 1745),
        ("EPT_S_NOT_REGISTERED", 1753), ("RPC_S_CANNOT_SUPPORT", 1764), ("RPC_X_BAD_STUB_DATA", 1783),
        ("RPC_S_CALL_IN_PROGRESS", 1791), ("RPC_S_CALL_CANCELLED", 1818), ("RPC_X_INVALID_PIPE_OBJECT", 1830),
        ("RPC_X_WRONG_PIPE_ORDER", 1831), ("RPC_X_WRONG_PIPE_VERSION", 1832), ("RPC_S_SEND_INCOMPLETE", 1913),
        ("RPC_S_INVALID_ASYNC_HANDLE", 1914), ("RPC_S_INVALID_ASYNC_CALL", 1915), ("RPC_X_PIPE_CLOSED", 1916),
        ("RPC_X_PIPE_DISCIPLINE_ERROR", 1917), ("RPC_X_PIPE_EMPTY", 1918),
    ],
)  # fmt: skip
def test_published_numbers(name: str, number: int) -> None:
    assert Status[name] == number


@pytest.mark.parametrize("number", [1818, 1916, 1917, 1918, 1831, 1723, 1717, 5, 2, 123456])
def test_a_status_survives_the_wire(number: int) -> None:
    assert status.win32_from_fault(status.fault_from_win32(number)) == number


@pytest.mark.parametrize("number", [0, 0xC0000005, 0x80000003])
def test_what_a_fault_must_not_carry(number: int) -> None:
    assert status.fault_from_win32(number) == FaultStatus.NCA_S_UNSPEC_REJECT


def test_texts() -> None:
    assert status.describe(1818) == "RPC_S_CALL_CANCELLED (1818)"
    assert "12345" in status.describe(12345)
    assert str(RpcError(1722, "no one there")) == "no one there: RPC_S_SERVER_UNAVAILABLE (1722)"
    assert all(status.meaning(one) for one in Status)


def test_the_tree() -> None:
    assert issubclass(RpcUsageError, RpcError)
    assert issubclass(RpcCancelled, StatusError)
    assert not issubclass(RpcCancelled, RpcUsageError)


@pytest.mark.parametrize(
    ("error", "number"), [(FileNotFoundError(2, "x"), 2), (PermissionError(13, "x"), 5), (OSError(28, "x"), 112)]
)
def test_errors_of_the_system(error: OSError, number: int) -> None:
    assert Status.from_oserror(error) == number

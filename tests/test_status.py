"""Status numbers against a list of our own, the mapping to fault codes, the exception tree, results of waits."""

from __future__ import annotations

import errno
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apcrt import status
from apcrt._meanings import MEANINGS
from apcrt.status import (
    ApcError,
    FaultStatus,
    RpcCancelled,
    RpcError,
    RpcFault,
    RpcPending,
    RpcUnavailable,
    RpcUsageError,
    SendWindowFull,
    Status,
    StatusError,
    WaitCancelled,
    WaitResult,
    describe,
    fault_from_win32,
    meaning,
    rpc_error,
    win32_from_fault,
)

# Runs of consecutive numbers as the public documentation lists them; "-" is a number without a name.
RUNS = {
    ("RPC_S_", 1700): """INVALID_STRING_BINDING WRONG_KIND_OF_BINDING INVALID_BINDING PROTSEQ_NOT_SUPPORTED
        INVALID_RPC_PROTSEQ INVALID_STRING_UUID INVALID_ENDPOINT_FORMAT INVALID_NET_ADDR NO_ENDPOINT_FOUND
        INVALID_TIMEOUT OBJECT_NOT_FOUND ALREADY_REGISTERED TYPE_ALREADY_REGISTERED ALREADY_LISTENING
        NO_PROTSEQS_REGISTERED NOT_LISTENING UNKNOWN_MGR_TYPE UNKNOWN_IF NO_BINDINGS NO_PROTSEQS CANT_CREATE_ENDPOINT
        OUT_OF_RESOURCES SERVER_UNAVAILABLE SERVER_TOO_BUSY INVALID_NETWORK_OPTIONS NO_CALL_ACTIVE CALL_FAILED
        CALL_FAILED_DNE PROTOCOL_ERROR PROXY_ACCESS_DENIED UNSUPPORTED_TRANS_SYN - UNSUPPORTED_TYPE INVALID_TAG
        INVALID_BOUND NO_ENTRY_NAME INVALID_NAME_SYNTAX UNSUPPORTED_NAME_SYNTAX - UUID_NO_ADDRESS DUPLICATE_ENDPOINT
        UNKNOWN_AUTHN_TYPE MAX_CALLS_TOO_SMALL STRING_TOO_LONG PROTSEQ_NOT_FOUND PROCNUM_OUT_OF_RANGE
        BINDING_HAS_NO_AUTH UNKNOWN_AUTHN_SERVICE UNKNOWN_AUTHN_LEVEL INVALID_AUTH_IDENTITY UNKNOWN_AUTHZ_SERVICE""",
    ("EPT_S_", 1751): "INVALID_ENTRY CANT_PERFORM_OP NOT_REGISTERED",
    ("RPC_S_", 1754): """NOTHING_TO_EXPORT INCOMPLETE_NAME INVALID_VERS_OPTION NO_MORE_MEMBERS NOT_ALL_OBJS_UNEXPORTED
        INTERFACE_NOT_FOUND ENTRY_ALREADY_EXISTS ENTRY_NOT_FOUND NAME_SERVICE_UNAVAILABLE INVALID_NAF_ID CANNOT_SUPPORT
        NO_CONTEXT_AVAILABLE INTERNAL_ERROR ZERO_DIVIDE ADDRESS_ERROR FP_DIV_ZERO FP_UNDERFLOW FP_OVERFLOW""",
    ("RPC_X_", 1772): """NO_MORE_ENTRIES SS_CHAR_TRANS_OPEN_FAIL SS_CHAR_TRANS_SHORT_FILE SS_IN_NULL_CONTEXT -
        SS_CONTEXT_DAMAGED SS_HANDLES_MISMATCH SS_CANNOT_GET_CALL_HANDLE NULL_REF_POINTER ENUM_VALUE_OUT_OF_RANGE
        BYTE_COUNT_TOO_SMALL BAD_STUB_DATA INVALID_BUFFER""",
    ("RPC_S_", 1817): """NO_INTERFACES CALL_CANCELLED BINDING_INCOMPLETE COMM_FAILURE UNSUPPORTED_AUTHN_LEVEL
        NO_PRINC_NAME NOT_RPC_ERROR UUID_LOCAL_ONLY SEC_PKG_ERROR NOT_CANCELLED""",
    ("RPC_X_", 1827): """INVALID_ES_ACTION WRONG_ES_VERSION WRONG_STUB_VERSION INVALID_PIPE_OBJECT WRONG_PIPE_ORDER
        WRONG_PIPE_VERSION""",
    ("RPC_S_", 1913): "SEND_INCOMPLETE INVALID_ASYNC_HANDLE INVALID_ASYNC_CALL",
    ("RPC_X_", 1916): "PIPE_CLOSED PIPE_DISCIPLINE_ERROR PIPE_EMPTY",
}
SINGLE = {
    0: "RPC_S_OK ERROR_SUCCESS WAIT_OBJECT_0",
    2: "ERROR_FILE_NOT_FOUND",
    5: "RPC_S_ACCESS_DENIED ERROR_ACCESS_DENIED",
    6: "ERROR_INVALID_HANDLE RPC_X_SS_CONTEXT_MISMATCH",
    8: "ERROR_NOT_ENOUGH_MEMORY",
    14: "ERROR_OUTOFMEMORY RPC_S_OUT_OF_MEMORY RPC_X_NO_MEMORY RPC_X_PIPE_APP_MEMORY",
    31: "ERROR_GEN_FAILURE",
    38: "ERROR_HANDLE_EOF",
    50: "ERROR_NOT_SUPPORTED",
    87: "ERROR_INVALID_PARAMETER RPC_S_INVALID_ARG RPC_S_INVALID_LEVEL",
    109: "ERROR_BROKEN_PIPE",
    122: "ERROR_INSUFFICIENT_BUFFER RPC_S_BUFFER_TOO_SMALL",
    128: "WAIT_ABANDONED WAIT_ABANDONED_0",
    164: "RPC_S_OUT_OF_THREADS",
    192: "WAIT_IO_COMPLETION STATUS_USER_APC",
    232: "ERROR_NO_DATA",
    234: "ERROR_MORE_DATA",
    258: "WAIT_TIMEOUT",
    288: "ERROR_NOT_OWNER",
    298: "ERROR_TOO_MANY_POSTS",
    735: "ERROR_ABANDONED_WAIT_0",
    995: "ERROR_OPERATION_ABORTED",
    996: "ERROR_IO_INCOMPLETE",
    997: "ERROR_IO_PENDING RPC_S_ASYNC_CALL_PENDING",
    998: "ERROR_NOACCESS",
    1001: "ERROR_STACK_OVERFLOW",
    1130: "RPC_S_SERVER_OUT_OF_MEMORY ERROR_NOT_ENOUGH_SERVER_MEMORY",
    1168: "ERROR_NOT_FOUND",
    1223: "ERROR_CANCELLED",
    1332: "RPC_S_UNKNOWN_PRINCIPAL",
    1338: "RPC_S_INVALID_SECURITY_DESC",
    1460: "ERROR_TIMEOUT RPC_S_TIMEOUT",
    1781: "RPC_X_ENUM_VALUE_TOO_LARGE",
    1784: "ERROR_INVALID_USER_BUFFER",
    1791: "RPC_S_CALL_IN_PROGRESS",
    1806: "RPC_S_NO_MORE_BINDINGS",
    1831: "RPC_X_INVALID_PIPE_OPERATION",
    1833: "RPC_S_COOKIE_AUTH_FAILED",
    1898: "RPC_S_GROUP_MEMBER_NOT_FOUND",
    1899: "EPT_S_CANT_CREATE",
    1900: "RPC_S_INVALID_OBJECT",
    0xFFFFFFFF: "WAIT_FAILED INFINITE",
}
NUMBERS = {name: number for number, names in SINGLE.items() for name in names.split()} | {
    prefix + name: first + offset
    for (prefix, first), names in RUNS.items()
    for offset, name in enumerate(names.split())
    if name != "-"
}


@pytest.mark.feature("ERR-05")
@pytest.mark.parametrize(("name", "number"), NUMBERS.items())
def test_published_number(name: str, number: int) -> None:
    assert Status[name] == number


def test_every_number_has_a_meaning_and_no_other_has() -> None:
    assert set(MEANINGS) == {*map(int, Status), *map(int, FaultStatus)}


def test_describe() -> None:
    assert describe(1818) == "RPC_S_CALL_CANCELLED (1818)"
    assert describe(0x1C010002) == "NCA_S_OP_RNG_ERROR (0x1C010002)"
    assert describe(12345) == "status 12345 (0x3039)"
    assert describe(-1) == "status -1 (0xFFFFFFFF)"
    assert meaning(12345).startswith("no published meaning")
    assert f"{Status.RPC_X_PIPE_EMPTY}" == "RPC_X_PIPE_EMPTY (1918)"


@pytest.mark.parametrize(
    ("code", "win32"),
    [
        (0x1C000002, 1768),
        (0x1C000009, 1726),
        (0x1C00000C, 1727),
        (0x1C00000D, 1818),
        (0x1C000012, 1726),
        (0x1C000014, 1918),
        (0x1C000015, 1916),
        (0x1C000016, 1831),
        (0x1C000017, 1917),
        (0x1C000018, 1820),
        (0x1C000019, 14),
        (0x1C00001A, 6),
        (0x1C00001B, 1130),
        (0x1C010002, 1745),
        (0x1C010003, 1717),
        (0x1C01000B, 1728),
        (0x1C010014, 1723),
        (5, 5),
        (0x6F7, 1783),
        (0xDEADBEEF, 0xDEADBEEF),
    ],
)
def test_fault_code_to_win32(code: int, win32: int) -> None:
    assert win32_from_fault(code) == win32


@given(st.integers(0, 0xFFFFFFFF) | st.sampled_from(Status).map(int))
def test_a_status_survives_the_way_through_a_fault(number: int) -> None:
    code = fault_from_win32(number)
    assert 0 < code <= 0xFFFFFFFF
    if code != FaultStatus.NCA_S_UNSPEC_REJECT and number not in FaultStatus.__members__.values():
        assert win32_from_fault(code) == number


@pytest.mark.parametrize(
    "number",
    [0, 0x80000001, 0x80000002, 0x80000003, 0xC0000005, 0xC000001D, 0xC00000FD, 1 << 32, 0xC0000005 - (1 << 32)],
)
def test_numbers_that_a_fault_must_not_carry_are_replaced(number: int) -> None:
    assert fault_from_win32(number) == 0x1C000009


def test_errors_of_the_operating_system() -> None:
    assert Status.from_oserror(FileNotFoundError(errno.ENOENT, "gone")) is Status.ERROR_FILE_NOT_FOUND
    assert Status.from_oserror(PermissionError(errno.EACCES, "no")) is Status.ERROR_ACCESS_DENIED
    assert Status.from_oserror(OSError(errno.ENOSPC, "full")) is Status.ERROR_DISK_FULL
    assert Status.from_oserror(BrokenPipeError(errno.EPIPE, "pipe")) is Status.ERROR_NO_DATA
    assert Status.from_oserror(OSError("without a number")) is Status.ERROR_GEN_FAILURE
    from_windows = OSError(errno.EACCES, "sharing")
    from_windows.winerror = 32  # type: ignore[attr-defined]
    assert Status.from_oserror(from_windows) is Status.ERROR_SHARING_VIOLATION
    from_windows.winerror = 99999  # type: ignore[attr-defined]
    assert Status.from_oserror(from_windows) is Status.ERROR_GEN_FAILURE


@pytest.mark.parametrize(
    ("error", "number", "text"),
    [
        (ApcError(288, "not yours"), 288, "not yours: ERROR_NOT_OWNER (288)"),
        (RpcError(12345), 12345, "status 12345 (0x3039)"),
        (WaitCancelled(), 1223, "ERROR_CANCELLED (1223)"),
        (RpcPending(), 997, "RPC_S_ASYNC_CALL_PENDING (997)"),
        (SendWindowFull(detail="push"), 1913, "push: RPC_S_SEND_INCOMPLETE (1913)"),
        (RpcCancelled(), 1818, "RPC_S_CALL_CANCELLED (1818)"),
        (RpcFault(1717, "peer", fault_code=0x1C010003), 1717, "peer: RPC_S_UNKNOWN_IF (1717)"),
    ],
)
def test_exceptions_carry_number_and_words_and_can_be_pickled(error: StatusError, number: int, text: str) -> None:
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert type(each) is type(error)
        assert each.status == number
        assert str(each) == text
    if isinstance(error, RpcFault):
        assert pickle.loads(pickle.dumps(error)).fault_code == 0x1C010003


def test_a_fault_without_its_code_gets_the_one_that_means_the_same() -> None:
    assert RpcFault(1831).fault_code == FaultStatus.NCA_S_FAULT_PIPE_ORDER


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (997, RpcPending),
        (1913, SendWindowFull),
        (1818, RpcCancelled),
        (1700, RpcUsageError),
        (1831, RpcUsageError),
        (1722, RpcUnavailable),
        (1726, RpcUnavailable),
        (1717, RpcError),
        (12345, RpcError),
    ],
)
def test_the_class_that_belongs_to_a_number(number: int, kind: type[RpcError]) -> None:
    error = rpc_error(number, "why")
    assert type(error) is kind
    assert (error.status, error.detail) == (number, "why")


@pytest.mark.parametrize(
    ("number", "text", "index"),
    [
        (0, "WAIT_OBJECT_0", 0),
        (63, "WAIT_OBJECT_0 + 63", 63),
        (0x80, "WAIT_ABANDONED_0", 0),
        (0x85, "WAIT_ABANDONED_0 + 5", 5),
        (0xC0, "WAIT_IO_COMPLETION", None),
        (0x102, "WAIT_TIMEOUT", None),
        (0xFFFFFFFF, "WAIT_FAILED", None),
        (77, "WaitResult(77)", None),
    ],
)
def test_results_of_waits(number: int, text: str, index: int | None) -> None:
    result = WaitResult(number)
    assert result == number
    assert repr(result) == str(result) == f"{result}" == text
    assert result.abandoned == text.startswith("WAIT_ABANDONED")
    if index is not None:
        assert result.index == index
    else:
        with pytest.raises(ApcError, match="names no object"):
            _ = result.index


def test_everything_public_is_there() -> None:
    for name in status.__all__:
        assert hasattr(status, name)

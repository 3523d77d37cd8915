"""Status numbers, what they are called, and the exceptions that carry them.

Everything in apcrt that fails does so with a published number: a reader who knows Windows finds the name they know, and
a peer on the wire gets the number it expects. Here live the numbers (`Status`, `FaultStatus`; defined in `_codes`), the
two-way mapping between Win32 codes and the codes of a fault PDU, the exception tree, and `WaitResult`. Nothing here
does input or output, and this module imports no other room, so that every room may import it.

The tree tells apart who can help:

    StatusError
      ApcError             a wait or an APC function was misused, or failed
        WaitCancelled      the structured scope of a plain thread was cancelled
      RpcError             a call or a pipe
        RpcUsageError      our own program broke a rule; the call may go on
          RpcPending       too early; nothing changed
          SendWindowFull   a push was refused and took nothing
        RpcUnavailable     the link or the peer process
        RpcCancelled       the call was cancelled
        RpcFault           the peer answered, with an error
"""

from __future__ import annotations

from apcrt._codes import FaultStatus, Status
from apcrt._meanings import MEANINGS

__all__ = [
    "WAIT_ABANDONED_0",
    "WAIT_FAILED",
    "WAIT_IO_COMPLETION",
    "WAIT_OBJECT_0",
    "WAIT_TIMEOUT",
    "ApcError",
    "FaultStatus",
    "RpcCancelled",
    "RpcError",
    "RpcFault",
    "RpcPending",
    "RpcUnavailable",
    "RpcUsageError",
    "SendWindowFull",
    "Status",
    "StatusError",
    "WaitCancelled",
    "WaitResult",
    "describe",
    "fault_from_win32",
    "meaning",
    "rpc_error",
    "win32_from_fault",
]


def describe(number: int) -> str:
    """Name and number of a status or fault code, for a line of text: `RPC_S_CALL_CANCELLED (1818)`.

    A number without a published name reads `status 12345 (0x3039)`. Never raises.
    """
    known = _known(number)
    return str(known) if known is not None else f"status {int(number)} (0x{number & 0xFFFFFFFF:X})"


def meaning(number: int) -> str:
    """What a status or fault code means, in a few words; `no published meaning` when it is the application's own."""
    return MEANINGS.get(number, "no published meaning; an application may use it as its own")


def _known(number: int) -> Status | FaultStatus | None:
    try:
        return Status(number)
    except ValueError:
        pass
    try:
        return FaultStatus(number)
    except ValueError:
        return None


# C706 appendix E with Microsoft's map (MS-RPCE 3.3.3.4). Microsoft's map has no entry for wrong_boot_time,
# remote_comm_failure and the last five; "failed, may have been executed" is the only answer that is never a lie.
_WIN32_FROM_FAULT: dict[int, int] = {
    FaultStatus.NCA_S_FAULT_INT_DIV_BY_ZERO: Status.RPC_S_ZERO_DIVIDE,
    FaultStatus.NCA_S_FAULT_ADDR_ERROR: Status.RPC_S_ADDRESS_ERROR,
    FaultStatus.NCA_S_FAULT_FP_DIV_ZERO: Status.RPC_S_FP_DIV_ZERO,
    FaultStatus.NCA_S_FAULT_FP_UNDERFLOW: Status.RPC_S_FP_UNDERFLOW,
    FaultStatus.NCA_S_FAULT_FP_OVERFLOW: Status.RPC_S_FP_OVERFLOW,
    FaultStatus.NCA_S_FAULT_INVALID_TAG: Status.RPC_S_INVALID_TAG,
    FaultStatus.NCA_S_FAULT_INVALID_BOUND: Status.RPC_S_INVALID_BOUND,
    FaultStatus.NCA_S_RPC_VERSION_MISMATCH: Status.RPC_S_PROTOCOL_ERROR,
    FaultStatus.NCA_S_UNSPEC_REJECT: Status.RPC_S_CALL_FAILED,
    FaultStatus.NCA_S_BAD_ACTID: Status.RPC_S_CALL_FAILED_DNE,
    FaultStatus.NCA_S_WHO_ARE_YOU_FAILED: Status.RPC_S_CALL_FAILED,
    FaultStatus.NCA_S_MANAGER_NOT_ENTERED: Status.RPC_S_CALL_FAILED_DNE,
    FaultStatus.NCA_S_FAULT_CANCEL: Status.RPC_S_CALL_CANCELLED,
    FaultStatus.NCA_S_FAULT_ILL_INST: Status.RPC_S_ADDRESS_ERROR,
    FaultStatus.NCA_S_FAULT_FP_ERROR: Status.RPC_S_FP_OVERFLOW,
    FaultStatus.NCA_S_FAULT_INT_OVERFLOW: Status.RPC_S_ADDRESS_ERROR,
    FaultStatus.NCA_S_FAULT_UNSPEC: Status.RPC_S_CALL_FAILED,
    FaultStatus.NCA_S_FAULT_REMOTE_COMM_FAILURE: Status.RPC_S_CALL_FAILED,
    FaultStatus.NCA_S_FAULT_PIPE_EMPTY: Status.RPC_X_PIPE_EMPTY,
    FaultStatus.NCA_S_FAULT_PIPE_CLOSED: Status.RPC_X_PIPE_CLOSED,
    FaultStatus.NCA_S_FAULT_PIPE_ORDER: Status.RPC_X_WRONG_PIPE_ORDER,
    FaultStatus.NCA_S_FAULT_PIPE_DISCIPLINE: Status.RPC_X_PIPE_DISCIPLINE_ERROR,
    FaultStatus.NCA_S_FAULT_PIPE_COMM_ERROR: Status.RPC_S_COMM_FAILURE,
    FaultStatus.NCA_S_FAULT_PIPE_MEMORY: Status.ERROR_OUTOFMEMORY,
    FaultStatus.NCA_S_FAULT_CONTEXT_MISMATCH: Status.ERROR_INVALID_HANDLE,
    FaultStatus.NCA_S_FAULT_REMOTE_NO_MEMORY: Status.RPC_S_SERVER_OUT_OF_MEMORY,
    FaultStatus.NCA_S_INVALID_PRES_CONTEXT_ID: Status.RPC_S_PROTOCOL_ERROR,
    FaultStatus.NCA_S_UNSUPPORTED_AUTHN_LEVEL: Status.RPC_S_UNSUPPORTED_AUTHN_LEVEL,
    FaultStatus.NCA_S_INVALID_CHECKSUM: Status.RPC_S_CALL_FAILED_DNE,
    FaultStatus.NCA_S_INVALID_CRC: Status.RPC_S_CALL_FAILED_DNE,
    FaultStatus.NCA_S_FAULT_USER_DEFINED: Status.RPC_S_CALL_FAILED,
    FaultStatus.NCA_S_FAULT_TX_OPEN_FAILED: Status.RPC_S_CALL_FAILED,
    FaultStatus.NCA_S_FAULT_CODESET_CONV_ERROR: Status.RPC_S_CALL_FAILED,
    FaultStatus.NCA_S_FAULT_OBJECT_NOT_FOUND: Status.RPC_S_CALL_FAILED,
    FaultStatus.NCA_S_FAULT_NO_CLIENT_STUB: Status.RPC_S_CALL_FAILED,
    FaultStatus.NCA_S_COMM_FAILURE: Status.RPC_S_COMM_FAILURE,
    FaultStatus.NCA_S_OP_RNG_ERROR: Status.RPC_S_PROCNUM_OUT_OF_RANGE,
    FaultStatus.NCA_S_UNK_IF: Status.RPC_S_UNKNOWN_IF,
    FaultStatus.NCA_S_WRONG_BOOT_TIME: Status.RPC_S_CALL_FAILED,
    FaultStatus.NCA_S_YOU_CRASHED: Status.RPC_S_CALL_FAILED,
    FaultStatus.NCA_S_PROTO_ERROR: Status.RPC_S_PROTOCOL_ERROR,
    FaultStatus.NCA_S_OUT_ARGS_TOO_BIG: Status.RPC_S_SERVER_OUT_OF_MEMORY,
    FaultStatus.NCA_S_SERVER_TOO_BUSY: Status.RPC_S_SERVER_TOO_BUSY,
    FaultStatus.NCA_S_FAULT_STRING_TOO_LONG: Status.RPC_S_STRING_TOO_LONG,
    FaultStatus.NCA_S_UNSUPPORTED_TYPE: Status.RPC_S_UNSUPPORTED_TYPE,
}

# Only codes that have one exact counterpart, so that the client reads back the number that the server gave; everything
# else travels as the Win32 number itself, which every Microsoft runtime hands to its caller unchanged.
_FAULT_FROM_WIN32: dict[int, int] = {
    Status.ERROR_INVALID_HANDLE: FaultStatus.NCA_S_FAULT_CONTEXT_MISMATCH,
    Status.ERROR_OUTOFMEMORY: FaultStatus.NCA_S_FAULT_PIPE_MEMORY,
    Status.RPC_S_SERVER_OUT_OF_MEMORY: FaultStatus.NCA_S_FAULT_REMOTE_NO_MEMORY,
    Status.RPC_S_UNKNOWN_IF: FaultStatus.NCA_S_UNK_IF,
    Status.RPC_S_SERVER_TOO_BUSY: FaultStatus.NCA_S_SERVER_TOO_BUSY,
    Status.RPC_S_PROTOCOL_ERROR: FaultStatus.NCA_S_PROTO_ERROR,
    Status.RPC_S_UNSUPPORTED_TYPE: FaultStatus.NCA_S_UNSUPPORTED_TYPE,
    Status.RPC_S_INVALID_TAG: FaultStatus.NCA_S_FAULT_INVALID_TAG,
    Status.RPC_S_INVALID_BOUND: FaultStatus.NCA_S_FAULT_INVALID_BOUND,
    Status.RPC_S_STRING_TOO_LONG: FaultStatus.NCA_S_FAULT_STRING_TOO_LONG,
    Status.RPC_S_PROCNUM_OUT_OF_RANGE: FaultStatus.NCA_S_OP_RNG_ERROR,
    Status.RPC_S_ZERO_DIVIDE: FaultStatus.NCA_S_FAULT_INT_DIV_BY_ZERO,
    Status.RPC_S_ADDRESS_ERROR: FaultStatus.NCA_S_FAULT_ADDR_ERROR,
    Status.RPC_S_FP_DIV_ZERO: FaultStatus.NCA_S_FAULT_FP_DIV_ZERO,
    Status.RPC_S_FP_UNDERFLOW: FaultStatus.NCA_S_FAULT_FP_UNDERFLOW,
    Status.RPC_S_FP_OVERFLOW: FaultStatus.NCA_S_FAULT_FP_OVERFLOW,
    Status.RPC_S_CALL_CANCELLED: FaultStatus.NCA_S_FAULT_CANCEL,
    Status.RPC_S_COMM_FAILURE: FaultStatus.NCA_S_FAULT_PIPE_COMM_ERROR,
    Status.RPC_S_UNSUPPORTED_AUTHN_LEVEL: FaultStatus.NCA_S_UNSUPPORTED_AUTHN_LEVEL,
    Status.RPC_X_WRONG_PIPE_ORDER: FaultStatus.NCA_S_FAULT_PIPE_ORDER,
    Status.RPC_X_PIPE_CLOSED: FaultStatus.NCA_S_FAULT_PIPE_CLOSED,
    Status.RPC_X_PIPE_DISCIPLINE_ERROR: FaultStatus.NCA_S_FAULT_PIPE_DISCIPLINE,
    Status.RPC_X_PIPE_EMPTY: FaultStatus.NCA_S_FAULT_PIPE_EMPTY,
}

# Client runtimes keep these for exceptions of their own hardware; a server may not send them (MS-RPCE 2.2.2.11).
_NEVER_IN_A_FAULT = frozenset(
    {
        0,
        0x80000001,
        0x80000002,
        0x80000003,
        0xC0000005,
        0xC0000006,
        0xC000001D,
        0xC0000096,
        0xC00000AA,
        0xC00000FD,
        0xC0000194,
        0xC0000235,
        0xC0000409,
        0xC0000420,
    }
)


def win32_from_fault(code: int) -> int:
    """The Win32 status that a client reports for the 32-bit `status` field of a fault PDU.

    Codes without an entry in the table are Win32 codes already, the application's own included, and are returned as
    they are.
    """
    return _WIN32_FROM_FAULT.get(code, code)


def fault_from_win32(status: int) -> int:
    """The 32-bit number to put into a fault PDU for `status`.

    `win32_from_fault` gives the same status back, except for the numbers that a fault must not carry (0 and the ones
    that client runtimes keep for hardware exceptions): those leave as nca_s_unspec_reject. Only the low 32 bits count.
    """
    status &= 0xFFFFFFFF
    if status in _NEVER_IN_A_FAULT:
        return FaultStatus.NCA_S_UNSPEC_REJECT
    return _FAULT_FROM_WIN32.get(status, status)


class StatusError(Exception):
    """Base of everything that apcrt raises on purpose: a status number and a sentence.

    `status` is a `Status` where the number has a published name, else the plain number. What caused the error, an
    OSError for instance, is its `__cause__`.
    """

    status: int
    detail: str

    def __init__(self, status: int, detail: str = "") -> None:
        super().__init__(status, detail)
        try:
            self.status = Status(status)
        except ValueError:
            self.status = status
        self.detail = detail

    def __str__(self) -> str:
        number = describe(self.status)
        return f"{self.detail}: {number}" if self.detail else number


class ApcError(StatusError):
    """A wait, a waitable object or an APC function was misused or failed (6, 31, 87, 288, 298, 735, 1001, ...)."""


class WaitCancelled(ApcError):
    """The structured scope of a plain thread was cancelled while the thread waited (1223).

    Let it pass: the block that started the thread expects it.
    """

    def __init__(self, status: int = Status.ERROR_CANCELLED, detail: str = "") -> None:
        super().__init__(status, detail)


class RpcError(StatusError):
    """A call or a pipe failed. A manager raises it to answer the client with `status`."""


class RpcUsageError(RpcError):
    """Our own program broke a rule of the API or of a pipe (87, 1700-1707, 1764, 1830-1832, 1914-1918, ...)."""


class RpcPending(RpcUsageError):
    """The call was completed too early (997). Nothing has changed; wait for its notification and ask again."""

    def __init__(self, status: int = Status.RPC_S_ASYNC_CALL_PENDING, detail: str = "") -> None:
        super().__init__(status, detail)


class SendWindowFull(RpcUsageError):
    """A push was refused and took nothing (1913). The call goes on; a send-complete follows when there is room."""

    def __init__(self, status: int = Status.RPC_S_SEND_INCOMPLETE, detail: str = "") -> None:
        super().__init__(status, detail)


class RpcUnavailable(RpcError):
    """The link or the peer process failed us (1722 never connected, 1723 busy, 1726 may have run, 1727 not, ...)."""


class RpcCancelled(RpcError):
    """The call was cancelled or ran out of time (1818)."""

    def __init__(self, status: int = Status.RPC_S_CALL_CANCELLED, detail: str = "") -> None:
        super().__init__(status, detail)


class RpcFault(RpcError):
    """The peer answered the call with a fault.

    `status` is the Win32 number, `fault_code` the 32-bit number as it was on the wire.
    """

    fault_code: int

    def __init__(self, status: int, detail: str = "", *, fault_code: int | None = None) -> None:
        super().__init__(status, detail)
        self.fault_code = fault_from_win32(status) if fault_code is None else fault_code


_CLASS_OF: dict[int, type[RpcError]] = {
    Status.RPC_S_ASYNC_CALL_PENDING: RpcPending,
    Status.RPC_S_SEND_INCOMPLETE: SendWindowFull,
    Status.RPC_S_CALL_CANCELLED: RpcCancelled,
    **dict.fromkeys(
        (
            Status.ERROR_INVALID_PARAMETER,
            Status.RPC_S_INVALID_STRING_BINDING,
            Status.RPC_S_WRONG_KIND_OF_BINDING,
            Status.RPC_S_INVALID_BINDING,
            Status.RPC_S_PROTSEQ_NOT_SUPPORTED,
            Status.RPC_S_INVALID_RPC_PROTSEQ,
            Status.RPC_S_INVALID_STRING_UUID,
            Status.RPC_S_INVALID_ENDPOINT_FORMAT,
            Status.RPC_S_INVALID_NET_ADDR,
            Status.RPC_S_ALREADY_LISTENING,
            Status.RPC_S_TYPE_ALREADY_REGISTERED,
            Status.RPC_S_NO_PROTSEQS_REGISTERED,
            Status.RPC_S_NO_CALL_ACTIVE,
            Status.RPC_S_MAX_CALLS_TOO_SMALL,
            Status.RPC_S_CANNOT_SUPPORT,
            Status.RPC_X_INVALID_PIPE_OBJECT,
            Status.RPC_X_WRONG_PIPE_ORDER,
            Status.RPC_X_WRONG_PIPE_VERSION,
            Status.RPC_S_INVALID_ASYNC_HANDLE,
            Status.RPC_S_INVALID_ASYNC_CALL,
            Status.RPC_X_PIPE_CLOSED,
            Status.RPC_X_PIPE_DISCIPLINE_ERROR,
            Status.RPC_X_PIPE_EMPTY,
        ),
        RpcUsageError,
    ),
    **dict.fromkeys(
        (
            Status.RPC_S_NOT_LISTENING,
            Status.RPC_S_SERVER_UNAVAILABLE,
            Status.RPC_S_SERVER_TOO_BUSY,
            Status.RPC_S_CALL_FAILED,
            Status.RPC_S_CALL_FAILED_DNE,
            Status.RPC_S_PROTOCOL_ERROR,
            Status.EPT_S_NOT_REGISTERED,
            Status.RPC_S_COMM_FAILURE,
        ),
        RpcUnavailable,
    ),
}


def rpc_error(status: int, detail: str = "") -> RpcError:
    """The exception of the class that belongs to a locally found `status`, ready to raise; `RpcError` itself otherwise.

    Not for answers of the peer: those are `RpcFault` whatever their number.
    """
    return _CLASS_OF.get(status, RpcError)(status, detail)


class WaitResult(int):
    """How a wait ended: the number that Win32 would have returned, readable in a log.

    Compare with `==` (`result == WAIT_TIMEOUT`); a result is an `int`. For a wait on several objects, `index` says
    which one ended it.
    """

    __slots__ = ()

    @property
    def index(self) -> int:
        """Position of the object that ended the wait, from 0; also for an abandoned mutex.

        Raises `ApcError` (87) when the wait ended without an object: time-out, APCs, failure.
        """
        if self < _OBJECTS:
            return int(self)
        if self.abandoned:
            return self - 0x80
        raise ApcError(Status.ERROR_INVALID_PARAMETER, f"the wait ended with {self}, which names no object")

    @property
    def abandoned(self) -> bool:
        """Whether the object is a mutex whose owner ended without releasing it."""
        return 0x80 <= self < 0x80 + _OBJECTS

    def __repr__(self) -> str:
        if self.abandoned:
            base, offset = "WAIT_ABANDONED_0", self - 0x80
        elif self < _OBJECTS:
            base, offset = "WAIT_OBJECT_0", int(self)
        else:
            base, offset = _WAIT_NAMES.get(int(self), f"WaitResult({int(self)})"), 0
        return f"{base} + {offset}" if offset else base

    __str__ = __repr__


_OBJECTS = 64  # MAXIMUM_WAIT_OBJECTS: the ranges of indices in a result are this long
_WAIT_NAMES = {0xC0: "WAIT_IO_COMPLETION", 0x102: "WAIT_TIMEOUT", 0xFFFFFFFF: "WAIT_FAILED"}

WAIT_OBJECT_0 = WaitResult(0)
WAIT_ABANDONED_0 = WaitResult(0x80)
WAIT_IO_COMPLETION = WaitResult(0xC0)
WAIT_TIMEOUT = WaitResult(0x102)
WAIT_FAILED = WaitResult(0xFFFFFFFF)

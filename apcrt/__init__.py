"""apcrt: asynchronous procedure calls, alertable waits and asynchronous RPC pipes for Python threads.

A thread starts work (a remote call, a stream, a read) and gets every completion back on that same thread, at a moment
the thread chooses. `apcrt.apc` has the threads, waits and objects; the names below have calls and pipes; `apcrt.ndr`
the types that interfaces are declared with; `apcrt.notify` the kinds of notification; `apcrt.testing` what tests need.

Importing starts nothing. What lives here: the public names, and nothing else.
"""

from __future__ import annotations

from apcrt import apc, ndr
from apcrt.rpc import (
    PENDING,
    AsyncEvent,
    AsyncFlags,
    AsyncHandle,
    Binding,
    BoundOperation,
    InOutPipe,
    InPipe,
    Interface,
    Operation,
    OutPipe,
    Pending,
    Pipe,
    Runtime,
    Server,
    ServerHandle,
    StringBinding,
    notify,
    operation,
)
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
)

__version__ = "0.1.0"

__all__ = [
    "PENDING",
    "ApcError",
    "AsyncEvent",
    "AsyncFlags",
    "AsyncHandle",
    "Binding",
    "BoundOperation",
    "FaultStatus",
    "InOutPipe",
    "InPipe",
    "Interface",
    "Operation",
    "OutPipe",
    "Pending",
    "Pipe",
    "RpcCancelled",
    "RpcError",
    "RpcFault",
    "RpcPending",
    "RpcUnavailable",
    "RpcUsageError",
    "Runtime",
    "SendWindowFull",
    "Server",
    "ServerHandle",
    "Status",
    "StatusError",
    "StringBinding",
    "WaitCancelled",
    "apc",
    "ndr",
    "notify",
    "operation",
]

"""Calls: what users import. Interfaces, bindings, async handles, pipes, servers, the runtime.

What lives here: everything a user of remote calls names. What must not: sockets (`apcrt.transport` and its packages),
connections (`apcrt.engine`), PDUs (`apcrt.wire`), encodings (`apcrt.ndr`), threads and waits (`apcrt.apc`).

How it works. `interface.py` declares and calls; `_client_call.py` and `_server_call.py` are the two sides of a call,
over what they share in `_call.py`; `_states.py` has their state machines; `pipe.py` the verbs of all faces;
`runtime.py`, `binding.py` and `server.py` own them.
"""

from __future__ import annotations

from apcrt.rpc.binding import Binding
from apcrt.rpc.handle import PENDING, AsyncEvent, AsyncFlags, AsyncHandle, Pending, ServerHandle
from apcrt.rpc.interface import BoundOperation, Interface, Operation, operation
from apcrt.rpc.pipe import InOutPipe, InPipe, OutPipe, Pipe
from apcrt.rpc.runtime import Runtime
from apcrt.rpc.server import Server
from apcrt.rpc.string_binding import StringBinding

__all__ = [
    "PENDING",
    "AsyncEvent",
    "AsyncFlags",
    "AsyncHandle",
    "Binding",
    "BoundOperation",
    "InOutPipe",
    "InPipe",
    "Interface",
    "Operation",
    "OutPipe",
    "Pending",
    "Pipe",
    "Runtime",
    "Server",
    "ServerHandle",
    "StringBinding",
    "operation",
]

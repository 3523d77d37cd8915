"""Overlapped input and output: reads and writes that complete as APCs on the thread that issued them.

What lives here: the family of ReadFileEx and WriteFileEx, for pipes inside the process. What must not: RPC, and the
transports of its connections.
"""

from __future__ import annotations

from apcrt.overlapped._operation import Overlapped, OverlappedObject
from apcrt.overlapped._pipe import PipeEnd, create_pipe

__all__ = ["Overlapped", "OverlappedObject", "PipeEnd", "create_pipe"]

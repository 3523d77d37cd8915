"""Overlapped input and output: reads and writes that complete as APCs on the thread that issued them.

What lives here: the family of ReadFileEx and WriteFileEx, for pipes inside the process (`create_pipe`) and for what has
a descriptor (`OverlappedFile`): regular files, which helper threads read and write; pipes, sockets and terminals, which
the waits of their threads drive. What must not: RPC, and the transports of its connections.
"""

from __future__ import annotations

from apcrt.overlapped._descriptor import HasFileno
from apcrt.overlapped._file import OverlappedFile
from apcrt.overlapped._operation import Overlapped, OverlappedObject, OverlappedStatistics
from apcrt.overlapped._pipe import PipeEnd, create_pipe

__all__ = [
    "HasFileno",
    "Overlapped",
    "OverlappedFile",
    "OverlappedObject",
    "OverlappedStatistics",
    "PipeEnd",
    "create_pipe",
]

"""Is a server there? Connects and binds, and nothing more.

What lives here: `ping_binding`, for the command line. What must not: printing.

How it works. Each ping opens a connection, binds an interface that nobody serves, and closes. A refused interface
proves a living server just as well as an accepted one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from apcrt.rpc.interface import Interface, operation
from apcrt.rpc.runtime import Runtime
from apcrt.status import RpcError, Status

if TYPE_CHECKING:
    from apcrt.config import Config

__all__ = ["PingResult", "ping_binding"]


@dataclasses.dataclass(frozen=True, slots=True)
class PingResult:
    """One ping: its number from 1, the seconds it took, and what the server said."""

    sequence: int
    seconds: float
    outcome: str


class _Nobody(Interface, uuid="b1b0c8de-54d2-4b21-9c1e-6d2c0b3f0f6a", version="1.0"):
    """An interface that no server has."""

    @operation
    def nothing(self) -> None:
        """Never called."""


def ping_binding(config: Config, binding: str, count: int, interval: float, timeout: float) -> Iterator[PingResult]:
    """Ping a server `count` times, `interval` seconds apart, and wait `timeout` seconds for each answer.

    Raises:
        RpcError: 1722 when it cannot be reached; 1818 when it does not answer; and those of bad bindings.
    """
    with Runtime(config) as runtime:
        for sequence in range(1, count + 1):
            if sequence > 1:
                time.sleep(interval)
            began = time.perf_counter()
            try:
                _Nobody(runtime.binding(binding, call_timeout=timeout)).nothing()
                outcome = "answered"
            except RpcError as error:
                if error.status != Status.RPC_S_UNKNOWN_IF:
                    raise
                outcome = "alive"
            yield PingResult(sequence, time.perf_counter() - began, outcome)

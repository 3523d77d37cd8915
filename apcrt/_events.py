"""The schema of the trace: every event apcrt emits, its level, its keys and what it says.

Data only. `docs/tracing.md` shows the same table to readers; a test compares the two, and another compares this table
with every place in the source that emits, so that neither can drift. Names are `noun.verb`; keys keep one meaning
wherever they appear:

    runtime, thread, connection   names, stable for the life of the thing
    call                          name of the call: operation#n at the client, operation@n at the server
    apc                           what the routine is called
    pipe                          name of the parameter
    wait                          what was waited for
    opnum, elements, bytes        as on the wire; counts of the one operation
    status                        the published number
    seconds                       duration of the thing that the event ends
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["DEBUG", "EVENTS", "INFO", "OFF", "WARNING", "EventSpec"]

OFF: Final = 100
WARNING: Final = 30
INFO: Final = 20
DEBUG: Final = 10


@dataclasses.dataclass(frozen=True, slots=True)
class EventSpec:
    """One row of the schema: the level an event has at least, the keys it may carry, and its meaning."""

    level: int
    keys: tuple[str, ...]
    text: str


EVENTS: Final[Mapping[str, EventSpec]] = MappingProxyType(
    {
        "apc.queued": EventSpec(DEBUG, ("thread", "apc"), "an APC joined the queue of a thread"),
        "apc.run": EventSpec(DEBUG, ("thread", "apc", "seconds"), "an APC routine ran to its end on its thread"),
        "apc.failed": EventSpec(WARNING, ("thread", "apc"), "an APC routine raised; the error leaves through the wait"),
        "wait.begin": EventSpec(DEBUG, ("thread", "wait"), "a thread begins to wait"),
        "wait.end": EventSpec(DEBUG, ("thread", "wait", "status", "seconds"), "the wait ended with this result"),
        "thread.overdue": EventSpec(
            WARNING, ("thread", "seconds", "queued"), "a thread owes completions and has not waited alertably"
        ),
        "thread.ended": EventSpec(
            DEBUG,
            ("thread", "dropped"),
            "a thread ended; a warning when APCs ended unrun with it, unless it was cancelled",
        ),
        "thread.service_failed": EventSpec(WARNING, ("thread", "error"), "serving a descriptor of a thread raised"),
        "thread.wakeup_failed": EventSpec(WARNING, ("thread", "error"), "the wake-up function of a thread raised"),
        "connection.opening": EventSpec(DEBUG, ("connection", "address"), "a connection is being opened"),
        "connection.opened": EventSpec(DEBUG, ("connection",), "a connection is open and bound"),
        "connection.accepted": EventSpec(DEBUG, ("connection", "peer"), "a client connected to the server"),
        "connection.refused": EventSpec(INFO, ("connection", "reason"), "the server ended a connection, and why"),
        "connection.closed": EventSpec(DEBUG, ("connection", "status"), "a connection ended with this status"),
        "call.started": EventSpec(DEBUG, ("call", "opnum", "binding"), "a client began a call"),
        "call.dispatched": EventSpec(DEBUG, ("call", "opnum", "client"), "the server gives a call to its manager"),
        "call.completed": EventSpec(DEBUG, ("call", "opnum"), "the call ended well"),
        "call.failed": EventSpec(DEBUG, ("call", "opnum", "status"), "the call ended with this status"),
        "call.cancelled": EventSpec(DEBUG, ("call", "opnum"), "the call ended because it was cancelled"),
        "call.undeliverable": EventSpec(
            DEBUG,
            ("call", "wanted"),
            "the thread to be notified has ended; a warning unless it was cancelled",
        ),
        "pipe.pushed": EventSpec(DEBUG, ("call", "pipe", "elements", "bytes"), "a push took these elements; 0 ends"),
        "pipe.pulled": EventSpec(DEBUG, ("call", "pipe", "elements", "status"), "a pull gave these elements; 0 ends"),
        "manager.raised": EventSpec(
            WARNING, ("call", "opnum", "error", "traceback"), "a manager routine raised; the client gets a fault"
        ),
        "server.listening": EventSpec(INFO, ("server", "endpoints"), "a server listens on these string bindings"),
        "server.stopped": EventSpec(INFO, ("server",), "a server takes no more calls"),
        "runtime.started": EventSpec(INFO, ("runtime",), "a runtime was entered"),
        "runtime.closed": EventSpec(INFO, ("runtime",), "a runtime was left; everything it owned has ended"),
        "runtime.left_open": EventSpec(WARNING, ("runtime",), "the program ends without having left a runtime"),
        "runtime.task_failed": EventSpec(WARNING, ("task", "error"), "a task of the I/O thread raised"),
    }
)

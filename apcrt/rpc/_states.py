"""The state machines of calls and of the streams in them, as tables.

What lives here: enums, transitions and the status numbers of what is not allowed. What must not: anything that acts.

How it works. A stream (one direction of one pipe, on one side) takes its turn among the others: all that a client
pushes before all that it pulls, in parameter order; on the server the other way round. `PUSH` and `PULL` give, for a
stream's state, the status of the attempt; 0 means go ahead. `CALL` gives the next state of a call for each event; a
pair that is not in it does not happen, or has no effect.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from apcrt.status import Status

__all__ = ["CALL", "PULL", "PUSH", "CallEvent", "CallState", "StreamState"]


class StreamState(enum.Enum):
    """Where one direction of a pipe stands."""

    ABSENT = enum.auto()  #: this side does not move data in this direction
    WAITING = enum.auto()  #: not its turn yet
    OPEN = enum.auto()  #: its turn
    PENDING = enum.auto()  #: a pull has returned 997, and receive-complete is to come
    ENDED = enum.auto()  #: the end was pushed, or pulled


#: What pushing in a state gives (reference: misuse table of asynchronous pipes).
PUSH: Final[Mapping[StreamState, int]] = {
    StreamState.ABSENT: Status.RPC_X_WRONG_PIPE_ORDER,
    StreamState.WAITING: Status.RPC_X_WRONG_PIPE_ORDER,
    StreamState.OPEN: 0,
    StreamState.ENDED: Status.RPC_X_PIPE_CLOSED,
}

#: What pulling in a state gives.
PULL: Final[Mapping[StreamState, int]] = {
    StreamState.ABSENT: Status.RPC_X_WRONG_PIPE_ORDER,
    StreamState.WAITING: Status.RPC_X_WRONG_PIPE_ORDER,
    StreamState.OPEN: 0,
    StreamState.PENDING: Status.RPC_X_WRONG_PIPE_ORDER,
    StreamState.ENDED: Status.RPC_X_PIPE_EMPTY,
}


class CallState(enum.Enum):
    """Where a call stands, on either side."""

    RUNNING = enum.auto()  #: begun, or dispatched
    COMPLETE = enum.auto()  #: the reply is in; `complete_call` takes it
    FAILED = enum.auto()  #: it has failed; `complete_call` says how
    OVER = enum.auto()  #: taken, or never to be taken: the handle is free


class CallEvent(enum.Enum):
    """What happens to a call."""

    REPLY = enum.auto()  #: the whole reply has arrived; on the server: was sent
    FAILURE = enum.auto()  #: fault, lost link, abortive cancel, noticed while nobody was in a push or pull
    FAILURE_INLINE = enum.auto()  #: the same, and a push, pull or begin has reported it already
    TAKEN = enum.auto()  #: `complete_call` has delivered the outcome


CALL: Final[Mapping[tuple[CallState, CallEvent], CallState]] = {
    (CallState.RUNNING, CallEvent.REPLY): CallState.COMPLETE,
    (CallState.RUNNING, CallEvent.FAILURE): CallState.FAILED,
    (CallState.RUNNING, CallEvent.FAILURE_INLINE): CallState.OVER,
    (CallState.COMPLETE, CallEvent.TAKEN): CallState.OVER,
    (CallState.FAILED, CallEvent.TAKEN): CallState.OVER,
}

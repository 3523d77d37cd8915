"""Notification kinds: how an asynchronous call tells its owner that something happened.

What lives here: one small class for each kind, and nothing that delivers; `_call.py` does.

How it works. A handle's `notification` names the kind. `None` (RpcNotificationTypeNone) delivers nothing and is
polled. `Apc` queues the routine to a thread, where it runs in an alertable wait. `Event` sets an event; the kind of
the latest notification stands in the handle's `event`, and an auto-reset event merges several.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from apcrt import apc
    from apcrt.rpc.handle import AsyncEvent

__all__ = ["Apc", "Event", "Notification"]

H_contra = TypeVar("H_contra", contravariant=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Apc(Generic[H_contra]):
    """RpcNotificationTypeApc: `routine(handle, event)` runs as an APC on `thread`.

    Args:
        routine: a plain function, or on a trio thread also an `async def`.
        thread: whose queue it joins. None is the issuing thread, for calls; a server's handle has to name one (87).
    """

    routine: Callable[[H_contra, AsyncEvent], object]
    thread: apc.ApcThread | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """RpcNotificationTypeEvent: `event` is set for each notification."""

    event: apc.Event


#: What a handle's `notification` may be, `H` being the type of the handle.
Notification = Apc[H_contra] | Event | None

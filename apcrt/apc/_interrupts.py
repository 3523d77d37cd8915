"""Ctrl-C, put off for a moment.

What lives here: `undisturbed`, for work that must not be torn apart: bytes received and not yet accounted for, a
connection half given back. What must not: waits, which Ctrl-C has to end.

How it works. Python runs signal handlers on the main thread, between any two steps of whatever that is doing. On other
threads there is nothing to do. On the main thread the handler of SIGINT is exchanged for one that takes a note, and
called afterwards if there is one. (The dispatcher does without: what it does is short enough to be written so that it
may be struck anywhere, and too frequent for this.)
"""

from __future__ import annotations

import inspect
import signal
import threading
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["undisturbed"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# What stands behind these two in C; the wrappers turn numbers into enums, which costs more than all of the rest.
_signal = cast("Callable[[int, Any], Any]", getattr(signal.signal, "__wrapped__", signal.signal))
_getsignal = cast("Callable[[int], Any]", getattr(signal.getsignal, "__wrapped__", signal.getsignal))

_SIGINT = int(signal.SIGINT)
_noted = False


def _note(_number: int, _frame: FrameType | None) -> None:
    global _noted
    _noted = True


def undisturbed(function: Callable[[*Ts], T], /, *args: *Ts) -> T:
    """Call `function(*args)`; a Ctrl-C that falls into it takes effect when it has returned. It must not wait."""
    global _noted
    if threading.get_ident() != threading.main_thread().ident:
        return function(*args)
    handler = _getsignal(_SIGINT)
    if handler is _note or not callable(handler):
        return function(*args)
    try:
        _signal(_SIGINT, _note)
    except ValueError:  # not the main interpreter, where there are no signals
        return function(*args)
    try:
        return function(*args)
    finally:
        _signal(_SIGINT, handler)
        if _noted:
            _noted = False
            handler(_SIGINT, inspect.currentframe())

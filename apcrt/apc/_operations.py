"""The decisions of waits: operations on D beside those that the dispatcher itself needs.

What lives here: how a wait begins, looks again, is withdrawn, times out or is abandoned. Each function runs under D
(`D.run(begin, wait, poll)`), so the rules of `_dispatcher` hold. What must not: sleeping and running APCs.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from apcrt.apc._dispatcher import (
    CANCELLED,
    IO_COMPLETION,
    TIMEOUT,
    Drain,
    Entry,
    Wait,
    Waitable,
    Wakes,
    alert,
    inside,
    notify,
    release,
    threads,
)

if TYPE_CHECKING:
    from apcrt.apc._thread import ApcThread

__all__ = [
    "abandon",
    "begin",
    "change_cancels",
    "current_drain",
    "enrolled",
    "give_up",
    "leave_level",
    "look",
    "signal_and_begin",
    "take_back",
    "time_out",
    "withdraw",
]


def begin(_wakes: Wakes, wait: Wait, poll: bool) -> int | None:
    """Decide a wait at its beginning, or let it join the lines. `poll`: the time-out is zero."""
    thread = wait.thread
    if thread.cancels and not wait.shielded:
        wait.result = CANCELLED
    elif wait.objects_first and wait.satisfy():
        pass
    elif wait.alerted():
        wait.result = IO_COMPLETION  # a pending APC beats a satisfied wait
    elif wait.satisfy():
        pass
    elif poll:
        wait.result = TIMEOUT
    else:
        wait.link()
        thread.asleep = thread.asleep or wait.task is None  # a trio thread's pump sees to this itself
    return wait.result


def signal_and_begin(wakes: Wakes, wait: Wait, poll: bool, first: Waitable) -> int | None:
    """Signal `first`, then begin a wait like any other. Raises why it cannot be signaled; nothing waits then."""
    first.signal_once(wakes, wait.thread)
    return begin(wakes, wait, poll)


def look(_wakes: Wakes, wait: Wait, expired: bool) -> int | None:
    """Decide a blocked wait of a plain thread that has been woken, or let it sleep on."""
    thread = wait.thread
    if wait.result is None:
        if thread.cancels and not wait.shielded:
            wait.result = CANCELLED
        elif expired:
            wait.result = IO_COMPLETION if wait.alerted() else TIMEOUT
        else:
            thread.asleep = True
            return None
        wait.unlink()
    thread.asleep = False
    return wait.result


def enrolled(_wakes: Wakes) -> tuple[ApcThread, ...]:
    """Every thread of this process."""
    return tuple(threads)


def change_cancels(wakes: Wakes, thread: ApcThread, change: int) -> None:
    """One more (+1) or one less (-1) of the blocks around a plain thread has been cancelled."""
    thread.cancels += change
    if change > 0:
        for wait in (*thread.waits, *thread.direct):
            if wait.task is not None and wait.result is None and not wait.shielded:
                wait.result = CANCELLED
                wait.ended(wakes)
    notify(thread, wakes)


def withdraw(_wakes: Wakes, wait: Wait) -> bool:
    """Leave the lines undecided. False when there is a result already."""
    if wait.result is not None:
        return False
    wait.unlink()
    return True


def time_out(_wakes: Wakes, wait: Wait) -> int:
    """The time of a wait that was withdrawn is over: one last look at the queue."""
    wait.result = IO_COMPLETION if wait.alerted() else TIMEOUT
    return wait.result


def abandon(wakes: Wakes, wait: Wait) -> None:
    """The wait of a plain thread is left by an exception: it has consumed nothing."""
    wait.thread.asleep = False
    give_up(wakes, wait)


def give_up(wakes: Wakes, wait: Wait) -> None:
    """The same for a wait of a task, whose thread's pump sleeps on."""
    wait.unlink()
    wait.give_back(wakes)


def take_back(_wakes: Wakes, thread: ApcThread, entry: Entry) -> bool:
    """Take an entry back that was queued to `thread`. False when it has run, or was taken back already."""
    if not entry.live:
        return False
    entry.live = False
    if thread.ident == threading.get_ident():
        # Only the thread itself may take an entry out of the middle of its queue, for it pops without D.
        for dead in (entry, *thread.dead):
            with contextlib.suppress(ValueError):  # it has come to the front meanwhile, or was dropped with its thread
                thread.queue.remove(dead)
        thread.dead.clear()
    else:
        thread.dead.append(entry)
    return True


def current_drain(thread: ApcThread) -> Drain | None:
    """The level that the running trio task is in, on `thread`."""
    drain = inside.get()
    return drain if drain is not None and drain.thread is thread else None


def leave_level(wakes: Wakes, level: Drain) -> None:
    """End a drain, under D: every blocked alertable wait ends with it; whoever can is told of what is left queued.

    One that has run nothing, for its entries had been taken back, ends none: two waits would wake each other for ever.
    """
    thread = level.thread
    level.ended = True
    if level in thread.drains:
        thread.drains.remove(level)
    if thread.waits and thread.ran != level.before:
        release(wakes, thread, None)
    if not thread.queue:
        thread.dead.clear()
    if thread.has_apcs() and not alert(wakes, thread) and thread.wakeup is not None:
        thread.hook_due = True
        wakes.append(thread)

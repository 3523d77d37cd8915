"""ApcThread: one OS thread as the target of APCs.

What lives here: the thread's queue and what others may do to it (queue, wake, look), its identity, its end, and what a
fork does to it. What must not: waiting, which is `_wait` for plain threads and `aio` for trio threads, and the
structured starting of threads (`_nursery`).

How it works. The queue is a deque: anybody appends under D, only the thread itself pops, without D. A thread that
apcrt has not started gets its ApcThread when it first asks for it; a sentinel in thread-local storage tells when such
a thread ends.
"""

from __future__ import annotations

import enum
import inspect
import os
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVarTuple

import trio
from trio.lowlevel import enable_ki_protection

from apcrt import trace
from apcrt.apc._dispatcher import (
    D,
    Dependent,
    Drain,
    Entry,
    Wait,
    Waitable,
    Wakes,
    deliver,
    deliver_special,
    enroll,
    foreign,
    signal,
    threads,
)
from apcrt.apc._port import Port
from apcrt.status import ApcError, Status, WaitCancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ApcCallbackData", "ApcFlags", "ApcThread", "Flushable", "Homed", "ThreadStatistics", "current_thread"]

Ts = TypeVarTuple("Ts")


class Flushable(Protocol):
    """Something with output gathered on a thread, to be sent before the thread waits."""

    def flush(self) -> None:
        """Send it. Called on the thread, with no lock held."""
        ...


class Homed(Protocol):
    """Something that reports to a thread and is serviced by its Port."""

    def rehome(self) -> None:
        """The thread has set or removed its wake-up hook. Called with no lock held."""
        ...

    def thread_ended(self) -> None:
        """The thread is ending. Called on it, with no lock held, while its Port is still open."""
        ...


@dataclass(frozen=True, slots=True)
class ThreadStatistics:
    """The queue of a thread at one moment.

    Attributes:
        queued: APCs waiting to be run.
        run: APCs run since the thread began, those under way included.
        dropped: APCs that the end of the thread left unrun.
        high_water: the most APCs that have waited at one time.
        oldest: seconds that the first of the queue has been waiting; None when the queue is empty.
    """

    queued: int
    run: int
    dropped: int
    high_water: int
    oldest: float | None


class ApcFlags(enum.IntFlag):
    """QUEUE_USER_APC_FLAGS: what `queue_user_apc2` may do differently."""

    NONE = 0
    SPECIAL_USER_APC = 1
    CALLBACK_DATA_CONTEXT = 0x10000


@dataclass(frozen=True, slots=True)
class ApcCallbackData:
    """What a routine gets with `ApcFlags.CALLBACK_DATA_CONTEXT` (APC_CALLBACK_DATA).

    Attributes:
        parameter: what was given when it was queued.
        context: always None: there are no processor registers to show, which Windows has here.
    """

    parameter: object
    context: None = None


class ApcThread(Waitable):
    """A thread that APCs can be queued to. Get one from `current_thread()` or `open_apc_threads().start(...)`.

    It is also a waitable object, signaled once the thread has ended, which no wait consumes.
    """

    __slots__ = (
        "_port",
        "asleep",
        "cancels",
        "dead",
        "dependents",
        "direct",
        "dirty",
        "drains",
        "dropped",
        "ended",
        "gone",
        "high_water",
        "homed",
        "hook_due",
        "ident",
        "name",
        "owing_since",
        "pump",
        "queue",
        "ran",
        "ready",
        "specials",
        "started",
        "waiting",
        "waits",
        "wakeup",
        "warned",
    )

    def __init__(self, name: str, *, ident: int = 0) -> None:
        super().__init__()
        self.name: str = name
        self.ident: int = ident
        self.queue: deque[Entry] = deque()
        self.specials: deque[Entry] = deque()  # special APCs
        self.waits: dict[Wait, None] = {}
        self.direct: dict[Wait, None] = {}  # the waits of trio tasks for latches, which take no part in APCs
        self.dependents: dict[Dependent, None] = {}  # what its end concerns
        self.dead: list[Entry] = []  # taken back by others while queued; still in the queue, perhaps
        self.drains: list[Drain] = []
        self.ready: list[Wait] = []
        self.asleep: bool = False
        self.cancels: int = 0
        self.started: bool = ident != 0
        self.ended: bool = False
        self.wakeup: Callable[[], object] | None = None
        self.hook_due: bool = False
        self.ran: int = 0
        self.dropped: int = 0
        self.high_water: int = 0
        self.waiting: int = 0
        self.pump: object = None
        self.dirty: dict[Flushable, None] = {}
        self.homed: set[Homed] = set()
        self.owing_since: float | None = None
        self.warned: bool = False
        self._port: Port | None = None
        self.gone: bool = False
        D.do(enroll, self)

    def __repr__(self) -> str:
        if self.ended:
            state = "foreign" if self.epoch != D.epoch else "ended"
        elif not self.started:
            state = "unstarted"
        else:
            state = "waiting" if self.waits else "running"
        queued = len(self.pending())
        return f"<ApcThread {self.name!r} {state}{f' queued={queued}' if queued else ''}>"

    def queue_user_apc(self, routine: Callable[[*Ts], object], /, *args: *Ts) -> None:
        """Ask this thread to call `routine(*args)` in its next alertable wait.

        Any thread, finalizers and signal handlers included. On a thread that runs trio the routine may be `async def`.
        APCs run in the order of queueing. Never blocks.

        Raises:
            ApcError: 31 the thread has ended; 6 it belongs to the process that this one was forked from.
        """
        entry = Entry(routine, args, "user", trace.snapshot() if trace.level <= trace.INFO else None)
        wakes: Wakes = []
        if not self.post(entry, wakes):
            raise self._gone()
        try:
            while wakes:
                wakes[-1].wake()
                del wakes[-1]
        except KeyboardInterrupt:
            D.finish(wakes)
            raise
        if trace.level <= trace.DEBUG:
            trace.emit(trace.DEBUG, "apc.queued", thread=self.name, apc=apc_name(routine))

    def queue_user_apc2(
        self, routine: Callable[[Any], object], parameter: object = None, /, *, flags: ApcFlags = ApcFlags.NONE
    ) -> None:
        """Ask this thread to call `routine(parameter)` (QueueUserAPC2).

        Without flags, as `queue_user_apc`. With `ApcFlags.SPECIAL_USER_APC` it needs no alertable wait, and goes before
        the APCs that do: it runs when the thread next enters apcrt or returns from a wait (a wait that is not alertable
        is not cut short, an alertable one is), or calls `apc.run_special_apcs()`. Windows interrupts whatever the
        thread is doing; Python cannot do that to a thread. A special routine is a plain function; it may wait, and
        then others may run inside of it.

        Args:
            routine: what to call.
            parameter: its argument.
            flags: with `ApcFlags.CALLBACK_DATA_CONTEXT` the argument is an `ApcCallbackData` with the parameter in it.

        Raises:
            ApcError: as `queue_user_apc`; 87 an async routine with SPECIAL_USER_APC.
        """
        argument = ApcCallbackData(parameter) if flags & ApcFlags.CALLBACK_DATA_CONTEXT else parameter
        if not flags & ApcFlags.SPECIAL_USER_APC:
            self.queue_user_apc(routine, argument)
            return
        if inspect.iscoroutinefunction(routine):
            raise ApcError(Status.ERROR_INVALID_PARAMETER, f"{apc_name(routine)} is async; a special APC is not")
        entry = Entry(routine, (argument,), "special", trace.snapshot() if trace.level <= trace.INFO else None)
        D.do(deliver_special, self, entry)
        if entry.refused:
            raise self._gone()
        if trace.level <= trace.DEBUG:
            trace.emit(trace.DEBUG, "apc.queued", thread=self.name, apc=apc_name(routine))

    def has_apcs(self) -> bool:
        """Whether APCs are queued, special ones included."""
        return bool(self.queue or self.specials)

    @enable_ki_protection
    def post(self, entry: Entry, wakes: Wakes) -> bool:
        """Queue an entry; the caller wakes `wakes` when it holds no lock. Returns False when the thread has ended."""
        # The same as D.submit(wakes, deliver, self, entry), without the calls: this is the hot way into D, and the
        # thread that nobody needs to wake is the hot case.
        struck = True
        try:
            with D.lock:
                ended = self.ended  # as D is left it may run this entry, and end
                if D.busy or D.deferred:  # behind what was put off, for the sake of the order
                    D.deferred.append((deliver, (self, entry)))
                else:
                    D.busy = True
                    try:
                        if D.alarms:
                            D.fire(wakes)
                        if self.waits or self.wakeup is not None or self.ended:
                            deliver(wakes, self, entry)
                        else:
                            queue = self.queue
                            queue.append(entry)
                            length = len(queue)
                            if length > self.high_water:
                                self.high_water = length
                    finally:
                        D.busy = False
            struck = False
        finally:
            if struck or D.deferred:
                D.recover(struck)
        return not ended

    def set_wakeup(self, wakeup: Callable[[], object] | None) -> None:
        """Have `wakeup()` called when the queue turns from empty to not empty; at once if it is not empty now.

        For a thread with an event loop of its own (Qt, asyncio, Tk), which never waits alertably: its loop is poked and
        calls `test_alert()`. The function is called on whichever thread queued the APC; it may only post to the loop,
        and must not raise. The thread's operations are driven by the runtime meanwhile. None takes it away.

        Raises:
            ApcError: 31, 6 as in `queue_user_apc`; 164 no OS thread can be had that drives this one's operations.
        """
        from apcrt.apc._timer import drive_timers  # which is built on this module

        if self.ended:
            raise self._gone()
        D.run(_set_wakeup, self, wakeup)
        if wakeup is not None:
            drive_timers(self)
        for homed in tuple(self.homed):
            homed.rehome()

    @property
    def has_wakeup(self) -> bool:
        """Whether a wake-up hook is set."""
        return self.wakeup is not None

    @property
    def drives(self) -> bool:
        """Whether the thread services its Port: it is in a wait or about to be, or its trio run has a pump."""
        return self.waiting > 0 or self.pump is not None

    @property
    def cancelled(self) -> bool:
        """Whether a block of threads that this one belongs to was cancelled."""
        return self.cancels > 0

    @property
    def port(self) -> Port:
        """The thread's Port, made at first need.

        Raises:
            ApcError: 31 the thread has ended; 6 it belongs to the parent process.
            OSError: no descriptor is left.
        """
        port = self._port
        return port if port is not None else self._make_port()

    @property
    def open_port(self) -> Port | None:
        """The Port if there is one."""
        return self._port

    def pending(self) -> Sequence[Entry]:
        """What is queued, without what was taken back. Any thread."""
        return [entry for entry in self.queue.copy() if entry.live] if self.dead else self.queue

    def statistics(self) -> ThreadStatistics:
        """The state of the queue. Any thread."""
        pending = self.pending()
        try:
            oldest = time.monotonic() - pending[0].queued_at
        except IndexError:
            oldest = None
        queued = len(pending) + len(self.specials)
        return ThreadStatistics(queued, self.ran, self.dropped, self.high_water, oldest)

    def add_dirty(self, flushable: Flushable) -> None:
        """Have `flushable.flush()` called before the thread's next wait. Only on the thread itself."""
        self.dirty[flushable] = None

    def flush_dirty(self) -> None:
        """Flush what is dirty. Only on the thread itself, with no lock held."""
        while self.dirty:
            flushable = next(iter(self.dirty))
            del self.dirty[flushable]
            flushable.flush()

    def check_cancelled(self) -> None:
        """Raise if the structured scope of this plain thread was cancelled.

        Raises:
            WaitCancelled: 1223.
        """
        if self.cancels:
            raise WaitCancelled(detail=f"the block that thread {self.name!r} belongs to was cancelled")

    def wake(self) -> None:
        """Have the thread look again (see `lowlevel.wake`). Any thread, no lock held."""
        if self.hook_due and (wakeup := self.wakeup) is not None:
            self.hook_due = False
            try:
                wakeup()
            except Exception as error:  # noqa: BLE001 - the producer is not to blame, and has its own work to do
                trace.emit(trace.WARNING, "thread.wakeup_failed", thread=self.name, error=repr(error))
        if self.pump is not None and self.ident == threading.get_ident() and trio.lowlevel.in_trio_task():
            # Not from a finalizer that interrupts trio's own scheduling, where there is no running task.
            self.resume_tasks()
        elif (port := self._port) is not None:
            port.wake()

    @enable_ki_protection
    def resume_tasks(self) -> None:
        """Let the trio tasks run whose waits have ended. Only on the thread itself, inside its trio run."""
        for wait in D.run(_take_ready, self):
            task, wait.task = wait.task, None
            if task is not None:
                trio.lowlevel.reschedule(task)

    def begin(self) -> None:
        """The calling OS thread is this one. First thing on a thread that apcrt starts."""
        self.ident = threading.get_ident()
        self.started = True
        _here.thread = self

    def end(self) -> None:
        """The thread ends: its queue is dropped, its operations are told, waits on it are satisfied. On the thread."""
        if self.ended:
            return
        D.do(_close_queue, self)
        for homed in tuple(self.homed):
            homed.thread_ended()
        self.homed.clear()
        self.dirty.clear()
        port, self._port = self._port, None
        if port is not None:
            port.close()
        if _here.thread is self:
            _here.thread = None
        D.do(_vanish, self)
        # Who was cancelled left its queue on purpose.
        level = trace.WARNING if self.dropped and not self.cancelled else trace.DEBUG
        if trace.level <= level:
            trace.emit(level, "thread.ended", thread=self.name, dropped=self.dropped)

    def is_signaled_for(self, _thread: ApcThread, /) -> bool:
        """Signaled once the thread has ended. Under D."""
        return self.gone

    def take(self, _thread: ApcThread, /) -> bool:
        """A wait takes nothing from an ended thread."""
        return False

    def give_back(self, _thread: ApcThread, /) -> None:
        """Nothing was taken."""

    def after_fork(self) -> None:
        """In the child: this object stays behind in the parent."""
        self.ended = True
        port, self._port = self._port, None
        if port is not None:
            port.after_fork()

    def _make_port(self) -> Port:
        if self.ended:
            raise self._gone()
        port = Port(self._woken)
        if not D.run(_install_port, self, port):
            port.close()
        return self.port

    def _woken(self) -> None:
        if self.pump is not None:
            self.resume_tasks()

    def install_port(self, port: Port) -> bool:
        """Keep `port` unless another was made meanwhile. Under D."""
        if self._port is None and not self.ended:
            self._port = port
            return True
        return False

    def _gone(self) -> ApcError:
        if self.epoch != D.epoch:
            return foreign(self)
        return ApcError(Status.ERROR_GEN_FAILURE, f"thread {self.name!r} has ended")


def _set_wakeup(wakes: Wakes, thread: ApcThread, wakeup: Callable[[], object] | None) -> None:
    thread.wakeup = wakeup
    if wakeup is not None and thread.queue:
        thread.hook_due = True
        wakes.append(thread)


def _install_port(_wakes: Wakes, thread: ApcThread, port: Port) -> bool:
    return thread.install_port(port)


def _take_ready(_wakes: Wakes, thread: ApcThread) -> list[Wait]:
    ready, thread.ready = thread.ready, []
    thread.asleep = thread.pump is not None
    return ready


def _close_queue(wakes: Wakes, thread: ApcThread) -> None:
    if not thread.ended:
        thread.ended = True
        thread.dropped = sum(entry.live for entry in thread.queue) + len(thread.specials)
        thread.queue.clear()
        thread.specials.clear()
        thread.dead.clear()
    while thread.dependents:
        dependent = next(iter(thread.dependents))
        del thread.dependents[dependent]
        dependent.owner_ended(wakes, thread)


def _vanish(wakes: Wakes, thread: ApcThread) -> None:
    thread.gone = True
    signal(wakes, thread)


def apc_name(routine: object) -> str:
    """What to call a routine in a log."""
    return getattr(routine, "__qualname__", None) or repr(routine)


class _Here(threading.local):
    thread: ApcThread | None = None
    sentinel: object = None


class _Sentinel:
    """Dies with the thread whose local storage it is in, on that thread."""

    __slots__ = ("_thread",)

    def __init__(self, thread: ApcThread) -> None:
        self._thread = thread

    def __del__(self) -> None:
        # At the interpreter's end modules are half gone, and nobody is left to be told.
        if not sys.is_finalizing():
            self._thread.end()


_here = _Here()


def current_thread() -> ApcThread:
    """The ApcThread of the calling OS thread, made at the first call."""
    thread = _here.thread
    if thread is None:
        thread = _here.thread = ApcThread(threading.current_thread().name, ident=threading.get_ident())
        _here.sentinel = _Sentinel(thread)
    return thread


def _after_fork() -> None:
    global _here
    D.after_fork()
    for thread in tuple(threads):
        thread.after_fork()
    threads.clear()
    _here = _Here()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

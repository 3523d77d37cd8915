"""The helper threads that read and write regular files, for which no readiness can be waited for.

What lives here: the threads, their start and their end. What must not: what they do; that is `_file`'s.

How it works. There is one pool for all open files of the process, of at most four threads, each started when there is
more to do than there are threads. Work is a function that does one operation and says whether there is more; then it
goes to the end of the queue, so files take turns. A file has at most one work for each direction in the queue, and at
most `MOST_PENDING` operations behind each. The last file to leave ends the threads and waits for their end. A finalizer
takes no lock; it leaves a note in the queue, which is made for that.
"""

from __future__ import annotations

import atexit
import os
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from apcrt import trace
from apcrt.apc import ApcError
from apcrt.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MOST_HELPERS", "HelperPool", "enter_pool"]

MOST_HELPERS: Final = 4

_lock = threading.RLock()
_pool: HelperPool | None = None


class HelperPool:
    """The threads, and the work that waits for them."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], bool] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._outstanding = 0  # works that are queued or being done
        self._members = 0

    def enter(self) -> None:
        """One more file. Under the module's lock."""
        self._members += 1

    def submit(self, work: Callable[[], bool]) -> None:
        """Have a helper call `work`, again and again while it returns True. Must not raise. Any thread.

        Raises:
            ApcError: 164 no OS thread can be had.
        """
        with _lock:
            self._outstanding += 1
            if len(self._threads) < min(self._outstanding, MOST_HELPERS):
                self._start_helper()
        self._queue.put(work)

    def leave(self) -> None:
        """A file has closed and has nothing to do here. The last one waits for the threads. With no lock held."""
        global _pool
        with _lock:
            self._members -= 1
            last = not self._members
            if last and _pool is self:
                _pool = None
        if last:
            self.stop()

    def leave_behind(self) -> None:
        """`leave` from a finalizer: some helper will see to it, and nobody waits."""
        self._queue.put(self._leave_work)

    def stop(self) -> None:
        """End the threads, when what is queued is done, and wait for their end."""
        with _lock:
            threads, self._threads = self._threads, []
        for _ in threads:
            self._queue.put(None)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()

    def _leave_work(self) -> bool:
        with _lock:
            self._outstanding += 1  # the helper takes it off again
        self.leave()
        return False

    def _start_helper(self) -> None:
        # A daemon, because the interpreter joins other threads before it calls what `atexit` has registered.
        thread = threading.Thread(target=self._run, name=f"apcrt-file-{len(self._threads) + 1}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not self._threads:
                self._outstanding -= 1
                raise ApcError(Status.RPC_S_OUT_OF_THREADS, "no helper thread for files can be started") from error
        else:
            self._threads.append(thread)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            more = False
            try:
                more = work()
            except Exception as error:  # noqa: BLE001 - the others still need this thread
                trace.emit(trace.WARNING, "thread.service_failed", thread="apcrt-file", error=repr(error))
            if more:
                self._queue.put(work)
            else:
                with _lock:
                    self._outstanding -= 1
            del work  # it holds its file


def enter_pool() -> HelperPool:
    """The pool, with one more file in it, which must `leave`. Starts no thread yet."""
    global _pool
    with _lock:
        pool = _pool
        if pool is None:
            pool = _pool = HelperPool()
        pool.enter()
    return pool


def _stop_at_exit() -> None:
    if _pool is not None:
        _pool.stop()


def _after_fork() -> None:
    global _lock, _pool
    _lock = threading.RLock()
    _pool = None


atexit.register(_stop_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

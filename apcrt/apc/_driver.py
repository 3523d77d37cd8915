"""The driver: one thread that waits in place of threads that never do.

What lives here: its start, its end, its Port. What must not: what it drives; that is armed in its Port, or stands among
the alarms.

How it works. A thread with a wake-up hook has a loop of its own and never waits, so nobody services its Port and nobody
fires its timers in time. The driver does nothing but wait, not alertably and for ever: whoever waits services his own
Port, and fires what is due. It is started when it is first needed, and ended when the interpreter exits. A forked child
knows nothing of it and starts one of its own if need be.
"""

from __future__ import annotations

import atexit
import os
import threading

from apcrt import trace
from apcrt.apc._objects import Event
from apcrt.apc._port import Port
from apcrt.apc._thread import ApcThread
from apcrt.apc._wait import wait_for_single_object_ex
from apcrt.status import ApcError, Status

__all__ = ["driver_port", "ensure_driver", "stop_driver"]


class _Driver:
    """The thread and what it waits for, which is to be stopped."""

    def __init__(self) -> None:
        self._stop = Event(manual_reset=True)
        self._thread = ApcThread("apcrt-driver")
        # A daemon, because the interpreter joins other threads before it calls what `atexit` has registered.
        self._os_thread = threading.Thread(target=self._run, name="apcrt-driver", daemon=True)
        self.port: Port = self._thread.port

    def start(self) -> None:
        try:
            self._os_thread.start()
        except RuntimeError as error:
            self._thread.end()
            raise ApcError(Status.RPC_S_OUT_OF_THREADS, "the driver thread cannot be started") from error

    def stop(self) -> None:
        self._stop.set()
        self._os_thread.join()

    def _run(self) -> None:
        self._thread.begin()
        try:
            while not self._stop.is_set():
                try:
                    wait_for_single_object_ex(self._stop, None)
                except Exception as error:  # noqa: BLE001 - of a source; the others still need this thread
                    trace.emit(trace.WARNING, "thread.service_failed", thread="apcrt-driver", error=repr(error))
        finally:
            self._thread.end()


_lock = threading.RLock()  # re-entrant: a signal handler may set a timer
_driver: _Driver | None = None


def ensure_driver() -> None:
    """Have a driver, and have it look again at the alarms. Any thread, with no lock held.

    Raises:
        ApcError: 164 no OS thread can be had.
        OSError: no descriptor is left.
    """
    driver_port().wake()


def driver_port() -> Port:
    """The driver's Port; starts the driver if there is none. Raises as `ensure_driver`."""
    global _driver
    driver = _driver
    if driver is None:
        with _lock:
            driver = _driver
            if driver is None:
                driver = _driver = _Driver()
                try:
                    driver.start()
                except ApcError:
                    _driver = None
                    raise
    return driver.port


def stop_driver() -> None:
    """End the driver and wait for its end. What is armed in its Port is driven by nobody then; for the exit, and tests.

    The next who needs a driver starts another.
    """
    global _driver
    with _lock:
        driver, _driver = _driver, None
    if driver is not None:
        driver.stop()


def _after_fork() -> None:
    global _driver, _lock
    _lock = threading.RLock()
    _driver = None


atexit.register(stop_driver)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

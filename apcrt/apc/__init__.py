"""Threads that get their completions back: asynchronous procedure calls (APCs) and alertable waits.

Work that a thread starts reports back on that thread, at a moment that the thread chooses: `thread.queue_user_apc(f)`
asks from anywhere, and `f` runs on that thread inside an alertable wait, first in first out. The waits are Windows';
`apcrt.apc.aio` has the same for threads that run trio.
"""

from __future__ import annotations

from apcrt.apc import aio
from apcrt.apc._completion_port import (
    CompletionPacket,
    CompletionPort,
    CompletionPortStatistics,
    get_queued_completion_status,
    get_queued_completion_status_ex,
)
from apcrt.apc._dispatcher import Waitable
from apcrt.apc._nursery import ApcThreads, StructuredThread, ThreadExit, exit_thread, open_apc_threads
from apcrt.apc._objects import Event, EventStatistics, Mutex, MutexStatistics, Semaphore, SemaphoreStatistics
from apcrt.apc._thread import ApcCallbackData, ApcFlags, ApcThread, ThreadStatistics, current_thread
from apcrt.apc._timer import TimerStatistics, WaitableTimer, filetime
from apcrt.apc._wait import (
    MAXIMUM_WAIT_OBJECTS,
    run_special_apcs,
    signal_object_and_wait,
    sleep_ex,
    test_alert,
    wait_for_multiple_objects_ex,
    wait_for_single_object_ex,
)
from apcrt.status import (
    WAIT_ABANDONED_0,
    WAIT_FAILED,
    WAIT_IO_COMPLETION,
    WAIT_OBJECT_0,
    WAIT_TIMEOUT,
    ApcError,
    WaitCancelled,
    WaitResult,
)

__all__ = [
    "MAXIMUM_WAIT_OBJECTS",
    "WAIT_ABANDONED_0",
    "WAIT_FAILED",
    "WAIT_IO_COMPLETION",
    "WAIT_OBJECT_0",
    "WAIT_TIMEOUT",
    "ApcCallbackData",
    "ApcError",
    "ApcFlags",
    "ApcThread",
    "ApcThreads",
    "CompletionPacket",
    "CompletionPort",
    "CompletionPortStatistics",
    "Event",
    "EventStatistics",
    "Mutex",
    "MutexStatistics",
    "Semaphore",
    "SemaphoreStatistics",
    "StructuredThread",
    "ThreadExit",
    "ThreadStatistics",
    "TimerStatistics",
    "WaitCancelled",
    "WaitResult",
    "Waitable",
    "WaitableTimer",
    "aio",
    "current_thread",
    "exit_thread",
    "filetime",
    "get_queued_completion_status",
    "get_queued_completion_status_ex",
    "open_apc_threads",
    "run_special_apcs",
    "signal_object_and_wait",
    "sleep_ex",
    "test_alert",
    "wait_for_multiple_objects_ex",
    "wait_for_single_object_ex",
]

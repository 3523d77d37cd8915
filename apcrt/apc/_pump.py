"""The pump: one system task per trio run that services the thread's Port and lets ended waits go on.

What lives here: that task. What must not: deciding waits. Descriptors are never registered with trio itself: the pump
waits for the Port's own descriptor, so any thread may arm and disarm behind trio's back.
"""

from __future__ import annotations

import trio

from apcrt import trace
from apcrt.apc._dispatcher import D
from apcrt.apc._thread import ApcThread, current_thread
from apcrt.status import ApcError, Status

__all__ = ["ensure_pump", "in_trio_run", "pumped_thread"]


def in_trio_run() -> bool:
    """Whether the calling thread is inside a trio run now."""
    return trio.lowlevel.in_trio_run()


def ensure_pump() -> None:
    """Start the pump of this thread's trio run if it has none.

    Raises:
        ApcError: 87 this thread is not inside a trio run.
    """
    pumped_thread("ensure_pump")


def pumped_thread(function: str) -> ApcThread:
    """The calling thread, with its pump running, for an async function. Raises ApcError (87) outside of trio."""
    if not trio.lowlevel.in_trio_run():
        raise ApcError(
            Status.ERROR_INVALID_PARAMETER,
            f"apc.aio.{function} needs a trio loop on this thread; the blocking twin is apc.{function}",
        )
    thread = current_thread()
    token = trio.lowlevel.current_trio_token()
    if thread.pump is not token:
        # A trio run may have ended on this thread and another begun.
        port = thread.port
        thread.pump = token
        try:
            trio.lowlevel.spawn_system_task(_pump, thread, port.fileno(), token, name="apcrt pump")
        except BaseException:
            thread.pump = None
            raise
    return thread


async def _pump(thread: ApcThread, descriptor: int, token: trio.lowlevel.TrioToken) -> None:
    try:
        while True:
            try:
                thread.port.service(0)
            except Exception as error:  # noqa: BLE001 - in a system task it would be the end of the whole run
                trace.emit(trace.WARNING, "thread.service_failed", thread=thread.name, error=repr(error))
            thread.resume_tasks()
            alarm = D.next_alarm()
            if alarm is None:
                await trio.lowlevel.wait_readable(descriptor)
            else:
                # Whoever enters the dispatcher next fires what is due; here that must be this task, in time.
                with trio.CancelScope(deadline=trio.current_time() + alarm - D.clock.now()):
                    await trio.lowlevel.wait_readable(descriptor)
    finally:
        if thread.pump is token:
            thread.pump = None
            # Waits that have ended and were not told yet: nobody else will.
            thread.resume_tasks()

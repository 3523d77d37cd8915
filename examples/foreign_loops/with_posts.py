"""Completions on the thread of a loop in the manner of Qt's: `python -m examples.foreign_loops.with_posts`.

One lesson: whatever a loop is, if functions can be posted to it from other threads, apcrt fits in. The loop here is a
queue of posted functions and a thread that runs them, as `QCoreApplication` is with queued connections and Tk with
`after`. Its thread calls a server, gets every notification, and never waits for one.

What to watch for: `poke` is called by other threads and only posts; `apc.test_alert` then runs on the loop's thread.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable

import apcrt
from apcrt import apc, ndr, notify, testing

CALLS = 20


class Loop:
    """Functions, run one after the other on the thread that is in `run`."""

    def __init__(self) -> None:
        self._posted: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()

    def post(self, function: Callable[[], object]) -> None:
        """Run it soon; from any thread."""
        self._posted.put(function)

    def run(self) -> None:
        """Be the loop until `quit`."""
        while (function := self._posted.get()) is not None:
            function()

    def quit(self) -> None:
        """End `run`."""
        self._posted.put(None)


class Adder(apcrt.Interface, uuid="5b0c6a4e-7f9e-4d3a-9a53-0c4a1d3a7a11", version="1.0"):
    """What the server does."""

    @apcrt.operation
    def add(self, x: ndr.UInt32, y: ndr.UInt32) -> ndr.UInt32:
        raise NotImplementedError


class Adding:
    @Adder.add.manager
    def add(self, call: apcrt.ServerHandle[int], x: int, y: int) -> int:
        return x + y


class Window:
    """What a program has on such a thread: it begins calls and shows their results, between other things."""

    def __init__(self, loop: Loop, adder: Adder) -> None:
        self.loop, self.adder = loop, adder
        self.home = threading.get_ident()
        self.sums: list[int] = []
        self.wrong = 0

    def begin(self) -> None:
        """Begin a call; its end comes to `show`."""
        number = len(self.sums)
        handle = apcrt.AsyncHandle[int](notification=notify.Apc(self.show))
        self.adder.add.begin(handle, number, number)

    def show(self, handle: apcrt.AsyncHandle[int], event: apcrt.AsyncEvent) -> None:
        """A call has ended."""
        assert event is apcrt.AsyncEvent.CALL_COMPLETE
        self.wrong += threading.get_ident() != self.home
        self.sums.append(handle.complete_call())
        if len(self.sums) < CALLS:
            self.loop.post(self.begin)
        else:
            self.loop.quit()


def main() -> int:
    """Run it; returns how many completions came to a wrong thread, or were wrong."""
    loop, thread = Loop(), apc.current_thread()
    with testing.in_process(Adder, Adding()) as adder:
        window = Window(loop, adder)
        thread.set_wakeup(lambda: loop.post(apc.test_alert))
        try:
            loop.post(window.begin)
            loop.run()
        finally:
            thread.set_wakeup(None)
    print(f"{len(window.sums)} calls completed on the loop's thread, {window.wrong} elsewhere: {window.sums}")
    return window.wrong + (window.sums != [2 * number for number in range(CALLS)])


if __name__ == "__main__":
    sys.exit(main())

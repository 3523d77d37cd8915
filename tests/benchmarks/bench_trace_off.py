"""What a trace point costs: with nobody listening, with a tap, and with JSON lines to a file.

Watch the first row: it is paid on every push and every APC of every program, and should stay some ten nanoseconds.
"""

from __future__ import annotations

import os
import timeit

from apcrt import trace


def _point() -> None:
    if trace.level <= trace.DEBUG:
        trace.emit(trace.DEBUG, "apc.queued", thread="main", apc="routine")


def _nothing() -> None:
    pass


def _best(function: object, number: int) -> float:
    """Nanoseconds of one call, the best of five rounds."""
    return min(timeit.repeat("function()", globals={"function": function}, number=number, repeat=5)) / number * 1e9


def main() -> None:
    """Print one row per kind of listener."""
    base = _best(_nothing, 500_000)
    trace.reset()
    print(f"nobody listens        {_best(_point, 500_000) - base:8.0f} ns per trace point")
    print(f"snapshot of context   {_best(trace.snapshot, 200_000) - base:8.0f} ns per queued item")

    def tap(severity: int, event: str, keys: dict[str, object]) -> None:
        pass

    trace.add_tap(tap)
    trace.configure(level="off")
    print(f"a tap                 {_best(_point, 50_000) - base:8.0f} ns")
    trace.reset()
    with open(os.devnull, "w", encoding="utf-8") as file:
        trace.configure(level="debug", renderer="json", file=file)
        print(f"JSON lines to a file  {_best(_point, 5_000) - base:8.0f} ns")
    trace.reset()


if __name__ == "__main__":
    main()

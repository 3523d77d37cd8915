"""What a person sees: a progress bar while it runs, and a summary at the end.

What lives here: output. What must not: anything that moves data. Without rich (the `demo` extra), or where the output
is no terminal, there are plain lines.
"""

from __future__ import annotations

import sys
import time

from apcrt import apc
from apcrt.status import describe
from examples.filerep.client import Outcome, Session

__all__ = ["printable", "summarise", "watch"]

LOOK: float = 0.1  # seconds between two looks at the counters
SHOWN = 10  # problems that are listed one by one
DIFFERENT = 1  # exit codes
LEFT_OUT = 3


def watch(session: Session, running: list[apc.StructuredThread]) -> None:
    """Show how far it is, until the threads have ended."""
    try:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )
    except ImportError:
        print("filerep: no progress bar without rich: pip install 'apcrt[demo]'", file=sys.stderr)
        _plain(session, running)
        return
    if not sys.stderr.isatty():
        _plain(session, running)
        return
    from rich.console import Console

    columns = (
        TextColumn("{task.fields[files]} files"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TextColumn("{task.fields[speed]:,.0f} MiB/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("filerep", total=session.total, files=0, speed=0.0)
        began, ended = time.monotonic(), False
        while not ended:
            ended = _ended(running)
            tally = session.sum()
            speed = tally.bytes / 2**20 / max(time.monotonic() - began, 1e-9)
            bar.update(task, completed=tally.bytes, files=tally.files, speed=speed)


def summarise(outcome: Outcome, seconds: float) -> int:
    """Print the summary; returns the exit code: 0 all is well, 1 something differs, 3 something was left out."""
    tally, server = outcome.tally, outcome.server
    mebibytes = tally.bytes / 2**20
    for problem in outcome.problems[:SHOWN]:
        number = describe(problem.status)
        detail = problem.detail.removesuffix(f": {number}")
        print(f"left out: {printable(problem.path)}: {number}: {printable(detail)}")
    if len(outcome.problems) > SHOWN:
        print(f"left out: and {len(outcome.problems) - SHOWN} more")
    wrong = tally.wrong_thread + (server.wrong_thread if server is not None else 0)
    rows = [
        ("files", f"{tally.new} new, {tally.updated} updated, {tally.unchanged} unchanged"),
        ("left out", f"{len(outcome.problems)} with errors, {outcome.skipped} links and special files"),
        ("directories", f"{outcome.directories}"),
        ("bytes", f"{tally.bytes:,} looked after ({tally.sent:,} sent through pipes)"),
        ("speed", f"{mebibytes / max(seconds, 1e-9):,.1f} MiB/s"),
        ("time", f"{seconds:.2f} s"),
        ("send-completes", f"{tally.send_completes} here, {server.send_completes if server else 0} on the server"),
        (
            "receive-completes",
            f"{tally.receive_completes} here, {server.receive_completes if server else 0} on the server",
        ),
        ("completions on a wrong thread", f"{wrong}"),
        ("SHA-256 compared", f"{tally.compared} files, {tally.mismatches} mismatches"),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:>{width}}  {value}")
    if tally.mismatches or wrong:
        return DIFFERENT
    return LEFT_OUT if outcome.problems else 0


def printable(text: str) -> str:
    """What a name that somebody else has chosen may do to a terminal: nothing."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _plain(session: Session, running: list[apc.StructuredThread]) -> None:
    shown = time.monotonic()
    while not _ended(running):
        if time.monotonic() - shown >= 2:
            shown = time.monotonic()
            tally = session.sum()
            print(f"filerep: {tally.files} files, {tally.bytes / 2**20:,.0f} of {session.total / 2**20:,.0f} MiB")


def _ended(running: list[apc.StructuredThread]) -> bool:
    """Wait a moment for the threads to end."""
    result = apc.wait_for_multiple_objects_ex(running, LOOK, wait_all=True)
    return result != apc.WAIT_TIMEOUT

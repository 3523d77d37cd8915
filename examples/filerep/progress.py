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

__all__ = ["summarise", "watch"]

LOOK: float = 0.1  # seconds between two looks at the counters
SHOWN = 10  # problems that are listed one by one


def watch(session: Session, running: list[apc.StructuredThread]) -> None:
    """Show how far it is, until the threads have ended."""
    try:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
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
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("filerep", total=session.total, files=0)
        while not _ended(running):
            tally = session.sum()
            bar.update(task, completed=tally.bytes, files=tally.files)
        bar.update(task, completed=session.sum().bytes, files=session.sum().files)


def summarise(outcome: Outcome, seconds: float) -> int:
    """Print the summary; returns the exit code: 0 when everything that could be compared is the same."""
    tally, server = outcome.tally, outcome.server
    mebibytes = tally.bytes / 2**20
    for problem in outcome.problems[:SHOWN]:
        print(f"left out: {problem.path}: {describe(problem.status)}: {problem.detail}")
    if len(outcome.problems) > SHOWN:
        print(f"left out: and {len(outcome.problems) - SHOWN} more")
    wrong = tally.wrong_thread + (server.wrong_thread if server is not None else 0)
    rows = [
        ("files", f"{tally.new} new, {tally.updated} updated, {tally.unchanged} unchanged"),
        ("left out", f"{len(outcome.problems)} unreadable or refused, {outcome.skipped} links and special files"),
        ("directories", f"{outcome.directories}"),
        ("bytes", f"{tally.bytes:,} ({tally.sent:,} sent through pipes)"),
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
    return 1 if tally.mismatches or wrong else 0


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

"""Finding scenarios, running them in processes, comparing, reporting.

What lives here: the command and what the tests call. What must not: how a scenario is run (`world`).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import difflib
import multiprocessing
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from apcrt import trace
from tests.conformance.apc.scenario import parse
from tests.conformance.apc.world import Face, trace_of

__all__ = ["FACES", "Verdict", "check", "find", "main"]

FACES: tuple[Face, ...] = ("blocking", "trio")


class Verdict(NamedTuple):
    """What became of one scenario in one face; `difference` is empty when the trace is as expected."""

    path: str
    face: Face
    difference: str


def find(paths: Sequence[Path]) -> Iterator[Path]:
    """The scenarios among files and directories, in order.

    Raises:
        FileNotFoundError: there is no such file, or it has no `.expected` beside it.
    """
    for path in paths:
        if path.is_dir():
            yield from sorted(path.rglob("*.scn"))
        elif path.suffix == ".scn" and path.exists():
            yield path
        else:
            raise FileNotFoundError(f"{path} is neither a directory nor a scenario (.scn)")


def check(path: Path, face: Face) -> Verdict:
    """Run one scenario and compare."""
    trace.configure(level="off")  # threads that end with entries queued are what some scenarios are about
    try:
        expected = path.with_suffix(".expected").read_text()
        found = trace_of(parse(path), face)
    except Exception:  # noqa: BLE001 - a verdict on one scenario; the others go on
        return Verdict(str(path), face, traceback.format_exc())
    finally:
        trace.reset()
    difference = difflib.unified_diff(
        expected.splitlines(keepends=True), found.splitlines(keepends=True), f"{path} (expected)", f"{path} ({face})"
    )
    return Verdict(str(path), face, "".join(difference))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0 when every trace is as expected."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance.apc",
        description="Run APC scenarios (NAME.scn) and compare their traces with NAME.expected.",
    )
    parser.add_argument("--face", choices=[*FACES, "both"], default="both", help="plain threads, trio threads, or both")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one for each CPU)")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="scenarios, or directories of them")
    options = parser.parse_args(arguments)
    faces: Sequence[Face] = FACES if options.face == "both" else (options.face,)
    try:
        work = [(path, face) for path in find(options.paths) for face in faces]
    except FileNotFoundError as error:
        parser.error(str(error))
    failed = 0
    for verdict in _run(work, options.jobs):
        if verdict.difference:
            failed += 1
            print(verdict.difference.rstrip("\n"), file=sys.stdout)
    print(f"{len(work) - failed} passed, {failed} failed")
    return 1 if failed or not work else 0


def _run(work: Sequence[tuple[Path, Face]], jobs: int) -> Iterator[Verdict]:
    if jobs <= 1 or len(work) <= 1:
        for path, face in work:
            yield check(path, face)
        return
    # The clock belongs to the process, so scenarios share none; and a fork would take threads' locks with it.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        yield from pool.map(check, *zip(*work, strict=True), chunksize=8)

"""The client: which files need what, and the threads that have it done.

What lives here: the plan, the issuing threads, the sum of what they counted. What must not: how a file moves
(`transfers`), options and output (`cli`, `progress`).

How it works. The main thread gets the listing and compares it with what is there. Issuing threads take jobs from one
queue, each has several calls in flight, and between them does nothing but wait alertably: everything that happens to
a file happens in a completion, on the thread that began its call.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

import apcrt
from apcrt import Status, apc
from examples.filerep.interface import FileRep, ServerTally
from examples.filerep.paths import Tree
from examples.filerep.records import Entry, EntryReader, Kind
from examples.filerep.transfers import Download, Replace, Tally, Transfer, Update, Upload, Verify, VerifyThere

__all__ = ["Outcome", "Problem", "Session", "Settings", "pull_tree", "push_tree"]

Job = tuple[type[Transfer], Entry]


class Settings(TypedDict):
    """How to replicate.

    threads, in_flight: issuing threads, and calls of each at a time.
    buffer: bytes moved at a time.
    patience: seconds of silence from the server that are borne.
    verify: compare the SHA-256 of files that look the same, too.
    watch: called while the threads run; returns when they have ended.
    """

    threads: int
    in_flight: int
    buffer: int
    patience: float
    verify: bool
    watch: Callable[[Session, list[apc.StructuredThread]], None]


@dataclass(frozen=True)
class Problem:
    """Something that was left out, and why."""

    path: str
    status: int
    detail: str


@dataclass
class Outcome:
    """What came of it all."""

    tally: Tally = field(default_factory=Tally)
    server: ServerTally | None = None
    problems: list[Problem] = field(default_factory=list)
    skipped: int = 0
    directories: int = 0


@dataclass
class Session:
    """What the threads share: the jobs, and the first error that makes the rest pointless."""

    files: FileRep
    tree: Tree
    settings: Settings
    jobs: deque[Job] = field(default_factory=deque)
    tallies: list[Tally] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    fatal: apcrt.RpcError | None = None
    total: int = 0

    def run(self) -> None:
        """Be an issuing thread until there is nothing left to do."""
        tally = Tally()
        self.tallies.append(tally)
        active: list[Transfer] = []
        try:
            while True:
                while self.fatal is None and len(active) < self.settings["in_flight"] and (job := self._next()):
                    kind, entry = job
                    active.append(self._started(kind(self.files, self.tree, entry, tally, self.settings["buffer"])))
                if not active:
                    return
                patience = self.settings["patience"]
                if not any(one.over for one in active) and apc.sleep_ex(patience, alertable=True) == 0:
                    silence = f"no sign of life for {patience:g} s"
                    self.fatal = self.fatal or apcrt.RpcUnavailable(Status.RPC_S_CALL_CANCELLED, silence)
                active = self._sorted_out(active, tally)
        finally:
            for one in active:
                one.end()

    def _next(self) -> Job | None:
        try:
            return self.jobs.popleft()
        except IndexError:
            return None

    @staticmethod
    def _started(transfer: Transfer) -> Transfer:
        transfer.start()
        return transfer

    def _sorted_out(self, active: list[Transfer], tally: Tally) -> list[Transfer]:
        """Those that are not over; with the next attempt of those that have one.

        A thread that ended before the last completion of its calls would leave it unrun.
        """
        left: list[Transfer] = []
        for one in active:
            if self.fatal is not None and not one.done:
                one.fail(self.fatal)
            if not one.over:
                left.append(one)
            elif one.again is not None:
                left.append(self._started(one.again))
            elif one.error is not None:
                self._failed(one, one.error, tally)
        return left

    def _failed(self, one: Transfer, error: Exception, tally: Tally) -> None:
        if isinstance(error, apcrt.RpcUnavailable):
            self.fatal = self.fatal or error  # without the server the rest need not be tried
            return
        tally.failures += 1
        status = Status.from_oserror(error) if isinstance(error, OSError) else getattr(error, "status", 0)
        self.problems.append(Problem(one.entry.path, status, str(error)))

    def sum(self) -> Tally:
        """Everything counted so far."""
        total = Tally()
        for tally in list(self.tallies):
            for one in dataclasses.fields(Tally):
                setattr(total, one.name, getattr(total, one.name) + getattr(tally, one.name))
        return total


def pull_tree(files: FileRep, tree: Tree, **settings: Unpack[Settings]) -> Outcome:
    """Make `tree` hold what the server's tree holds.

    Raises:
        RpcError: the server cannot be reached, or is gone.
    """
    outcome = Outcome()
    session = Session(files, tree, settings)
    tree.sweep()
    for entry in _listing(files):
        try:
            _plan(session, outcome, entry)
        except (OSError, apcrt.RpcError) as error:
            status = Status.from_oserror(error) if isinstance(error, OSError) else error.status
            outcome.problems.append(Problem(entry.path, status, str(error)))
    return _work(session, outcome)


def push_tree(files: FileRep, tree: Tree, **settings: Unpack[Settings]) -> Outcome:
    """Make the server's tree hold what `tree` holds. Arguments and errors as `pull_tree`."""
    outcome = Outcome()
    session = Session(files, tree, settings)
    there = {entry.path: entry for entry in _listing(files)}
    for entry in tree.walk():
        old = there.get(entry.path)
        if entry.kind is Kind.DIRECTORY:
            if old is None or (old.kind, old.mode) != (entry.kind, entry.mode):
                files.make_directory(entry.path, entry.mode)
            outcome.directories += 1
        elif entry.kind is Kind.FILE:
            session.total += entry.size
            if old is None or (old.size, old.modified, old.mode) != (entry.size, entry.modified, entry.mode):
                session.jobs.append((Upload if old is None else Replace, entry))
            elif settings["verify"]:
                session.jobs.append((VerifyThere, entry))
            else:
                outcome.tally.unchanged += 1
                outcome.tally.bytes += entry.size
        elif entry.kind is Kind.UNREADABLE:
            outcome.problems.append(Problem(entry.path, entry.status, "it cannot be read"))
        else:
            outcome.skipped += 1
    return _work(session, outcome)


def _listing(files: FileRep) -> Iterator[Entry]:
    reader = EntryReader()
    records: apcrt.OutPipe[int] = apcrt.OutPipe()
    with files.list_tree.open(records):
        for chunk in records:
            yield from reader.feed(chunk)
    reader.finish()


def _plan(session: Session, outcome: Outcome, entry: Entry) -> None:
    """Say what is to be done about one entry of the listing."""
    if entry.kind is Kind.DIRECTORY:
        session.tree.make_directory(entry.path, entry.mode)
        outcome.directories += 1
    elif entry.kind is Kind.UNREADABLE:
        outcome.problems.append(Problem(entry.path, entry.status, "the server cannot read it"))
    elif entry.kind is not Kind.FILE:
        outcome.skipped += 1
    else:
        here = session.tree.stat(entry.path)
        session.total += entry.size
        if here is None:
            session.jobs.append((Download, entry))
        elif (here.size, here.modified) != (entry.size, entry.modified):
            session.jobs.append((Update, entry))
        else:
            if here.mode != entry.mode:
                session.tree.set_mode(entry.path, entry.mode)
            if session.settings["verify"]:
                session.jobs.append((Verify, entry))
            else:
                outcome.tally.unchanged += 1
                outcome.tally.bytes += entry.size


def _work(session: Session, outcome: Outcome) -> Outcome:
    settings = session.settings
    with apc.open_apc_threads() as nursery:
        numbers = range(1, settings["threads"] + 1)
        running = [nursery.start(session.run, name=f"filerep-{number}") for number in numbers]
        settings["watch"](session, running)
    if session.fatal is not None:
        raise session.fatal
    before, outcome.tally = outcome.tally, session.sum()
    outcome.tally.unchanged += before.unchanged
    outcome.tally.bytes += before.bytes
    outcome.problems += session.problems
    outcome.server = session.files.statistics()
    return outcome

"""What every test gets: reproducible examples, a clean trace, no leaked threads, and the record of proven features.

Fixtures that act on all tests are here and nowhere else. Helpers for one room belong to that room's own tests.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from apcrt import trace

# ----------------------------------------------------------------------------------------------------------- hypothesis

# No deadlines anywhere: they measure the machine, and the ceiling per test catches what truly hangs. In continuous
# integration the examples are the same every time, so that a red run can be repeated; at a desk they vary and find
# more.
hypothesis.settings.register_profile("desk", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "desk")


# --------------------------------------------------------------------------------------------------------- clean state


@pytest.fixture(autouse=True)
def _clean_trace() -> Iterator[None]:
    """Trace, structlog and its context are process-wide; no test may see what another one set."""
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    trace.reset()
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    trace.reset()


GRACE = 5.0  # seconds a thread that is already ending may take; a leak costs one test this long


@pytest.fixture(autouse=True)
def _no_leaked_threads() -> Iterator[None]:
    """Fail the test that leaves a thread behind: any that would keep the process alive, and any of apcrt's own."""
    before = set(threading.enumerate())
    yield
    leaked = _left_over(before)
    deadline = time.monotonic() + GRACE
    for thread in leaked:
        thread.join(max(0.0, deadline - time.monotonic()))
    names = [thread.name for thread in leaked if thread.is_alive()]
    if names:
        pytest.fail(f"threads left behind: {', '.join(names)}", pytrace=False)


def _left_over(before: set[threading.Thread]) -> list[threading.Thread]:
    return [
        thread
        for thread in threading.enumerate()
        if thread not in before
        and thread.is_alive()
        # trio keeps idle worker threads for reuse; they are daemons and not ours.
        and (not thread.daemon or thread.name.startswith("apcrt-"))
        and not isinstance(thread, threading._DummyThread)
    ]


def _open_descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except OSError:  # the descriptor that lists the directory is gone by now
            continue
    return found


@pytest.fixture
def no_leaked_descriptors() -> Iterator[Callable[[], dict[int, str]]]:
    """Fail the test if it leaves a file descriptor open. The value is a function that gives those opened so far."""
    before = _open_descriptors()

    def opened() -> dict[int, str]:
        return {fd: target for fd, target in _open_descriptors().items() if before.get(fd) != target}

    yield opened
    if left := opened():
        pytest.fail(f"descriptors left open: {left}", pytrace=False)


# ------------------------------------------------------------------------------------------------------------ features


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where to write which feature rows were proven; `python -m tests.features FILE` reads it."""
    parser.addoption("--features-report", metavar="FILE", help="write which feature rows have passing tests, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the reporter when a report is wanted."""
    config.addinivalue_line("markers", "feature(*rows): the test proves these rows of tests/features.toml")
    path: str | None = config.getoption("--features-report")
    if path is not None:
        config.pluginmanager.register(FeatureReport(Path(path)), "apcrt-features")


class FeatureReport:
    """Collects the outcome of every test that names feature rows, and writes them at the end of the session."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, list[str]] = {}
        self._outcomes: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            rows = [str(row) for mark in item.iter_markers("feature") for row in mark.args]
            if rows:
                self._rows[item.nodeid] = rows

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A test passes when its call passed and neither set-up nor clean-up failed; the worst word stays.
        if report.failed:
            self._outcomes[report.nodeid] = "failed"
        elif report.when == "call":
            self._outcomes.setdefault(report.nodeid, report.outcome)

    def pytest_sessionfinish(self) -> None:
        tests = [
            {"test": test, "rows": rows, "outcome": self._outcomes.get(test, "not run")}
            for test, rows in sorted(self._rows.items())
        ]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(tests, indent=1))

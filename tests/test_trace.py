"""Traces: the schema against the source and the page, taps, sinks, and the context that travels."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

import apcrt
from apcrt import apc, testing, trace

ROOT = Path(__file__).parents[1]
LEVELS = {trace.DEBUG: "debug", trace.INFO: "info", trace.WARNING: "warning"}


def emitted() -> list[tuple[str, str, set[str]]]:
    """Every place that emits: where, the event's name, its keys."""
    found: list[tuple[str, str, set[str]]] = []
    for path in sorted((ROOT / "apcrt").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            arguments = node.args
            if ast.unparse(node.func) == "partial" and arguments and ast.unparse(arguments[0]) == "trace.emit":
                arguments = arguments[1:]
            elif ast.unparse(node.func) != "trace.emit":
                continue
            if len(arguments) > 1 and isinstance(arguments[1], ast.Constant):
                keys = {keyword.arg for keyword in node.keywords if keyword.arg} - {"exc_info"}
                found.append((f"{path.name}:{node.lineno}", str(arguments[1].value), keys))
    return found


def test_what_is_emitted_is_in_the_schema() -> None:
    places = emitted()
    assert len(places) > 20
    for where, name, keys in places:
        assert name in trace.EVENTS, where
        assert keys <= set(trace.EVENTS[name].keys), where
    assert {name for _, name, _ in places} == set(trace.EVENTS)


def test_the_page_shows_the_schema() -> None:
    rows = [line for line in (ROOT / "docs" / "tracing.md").read_text().splitlines() if line.startswith("| `")]
    expected = [
        f"| `{name}` | {LEVELS[event.level]} | {', '.join(f'`{key}`' for key in event.keys)} | {event.text} |"
        for name, event in trace.EVENTS.items()
    ]
    assert rows == expected


def test_only_warnings_by_default() -> None:
    assert trace.level == trace.WARNING


def test_json_to_a_file() -> None:
    file = io.StringIO()
    trace.configure(level="debug", renderer="json", file=file)
    apc.current_thread().queue_user_apc(lambda: None)
    apc.sleep_ex(0, alertable=True)
    events = [json.loads(line)["event"] for line in file.getvalue().splitlines()]
    assert "apc.queued" in events
    assert "apc.run" in events


def test_a_broken_sink_costs_nobody_anything() -> None:
    def broken(_severity: int, _event: str, _keys: dict[str, object]) -> None:
        raise ValueError("on purpose")

    before = trace.lost()
    trace.add_tap(broken, trace.WARNING)
    try:
        trace.emit(trace.WARNING, "thread.overdue", thread="t", seconds=1.0, queued=1)
    finally:
        trace.remove_tap(broken)
    assert trace.lost() == before + 1


def test_the_context_travels_with_the_apc() -> None:
    seen: list[dict[str, object]] = []
    with testing.capture_trace() as captured:
        with structlog.contextvars.bound_contextvars(request="r1"):
            apc.current_thread().queue_user_apc(lambda: seen.append(dict(structlog.contextvars.get_contextvars())))
        apc.sleep_ex(0, alertable=True)
        assert captured.events("apc.run")
    assert seen == [{"request": "r1"}]
    assert structlog.contextvars.get_contextvars() == {}


def test_unknown_levels_are_refused() -> None:
    with pytest.raises(apcrt.RpcUsageError, match="level"):
        trace.configure(level="loud")


def test_nothing_goes_to_standard_output() -> None:
    program = "from apcrt import trace; trace.emit(trace.WARNING, 'thread.overdue', thread='t', seconds=1.0, queued=1)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == ""
    assert "thread.overdue" in done.stderr

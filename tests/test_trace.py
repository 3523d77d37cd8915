"""The trace: level, sinks and how they fail, travelling context, recorded calls, the schema against source and page."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import structlog

import apcrt
from apcrt import testing, trace
from apcrt.cli import main
from apcrt.status import RpcUsageError
from tests.rpc.helpers import Recorder
from tests.rpc.sample import Plain, Sample

ROOT = Path(__file__).parents[1]
Seen = list[tuple[int, str, dict[str, object]]]


@contextlib.contextmanager
def tapped(level: int = trace.DEBUG) -> Iterator[Seen]:
    seen: Seen = []

    def tap(severity: int, event: str, keys: dict[str, object]) -> None:
        seen.append((severity, event, keys))

    trace.add_tap(tap, level)
    try:
        yield seen
    finally:
        trace.remove_tap(tap)


def test_only_warnings_are_wanted_at_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert trace.level == trace.WARNING
    trace.emit(trace.INFO, "runtime.started", runtime="r1")
    trace.emit(trace.WARNING, "thread.overdue", thread="main", seconds=10.0, queued=3)
    out, err = capsys.readouterr()
    assert out == ""
    assert "thread.overdue" in err
    assert "runtime.started" not in err


def test_the_level_is_the_lowest_that_anybody_wants() -> None:
    with tapped(trace.INFO):
        assert trace.level == trace.INFO
        with tapped(trace.DEBUG):
            assert trace.level == trace.DEBUG
        trace.configure(level="off")
        assert trace.level == trace.INFO
    assert trace.level == trace.OFF


def test_a_tap_sees_what_is_emitted_from_its_level_up_and_owns_its_dictionary(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with tapped(trace.INFO) as some, tapped() as all_of_it:
        trace.emit(trace.DEBUG, "apc.queued", thread="a", apc="f")
        trace.emit(trace.INFO, "runtime.started", runtime="r1")
        some[0][2]["runtime"] = "changed"
    assert [event for _, event, _ in some] == ["runtime.started"]
    assert all_of_it == [
        (trace.DEBUG, "apc.queued", {"thread": "a", "apc": "f"}),
        (trace.INFO, "runtime.started", {"runtime": "r1"}),
    ]
    assert capsys.readouterr() == ("", "")


def test_json_lines_carry_time_level_emitter_and_context() -> None:
    file = io.StringIO()
    trace.configure(level="debug", renderer="json", file=file)
    with structlog.contextvars.bound_contextvars(request=7):
        trace.emit(trace.DEBUG, "wait.end", thread="a", wait="sleep", status=192, seconds=0.5)
    record = json.loads(file.getvalue())
    assert record.pop("timestamp").endswith("+00:00")
    assert record == {
        "event": "wait.end",
        "level": "debug",
        "emitter": threading.current_thread().name,
        "thread": "a",
        "wait": "sleep",
        "status": 192,
        "seconds": 0.5,
        "request": 7,
    }


def test_json_renders_any_object_and_exceptions() -> None:
    file = io.StringIO()
    trace.configure(level="warning", renderer="json", file=file)
    try:
        raise ZeroDivisionError("by nought")
    except ZeroDivisionError as error:
        trace.emit(trace.WARNING, "manager.raised", call=object(), exc_info=error)
    record = json.loads(file.getvalue())
    assert record["call"].startswith("<object")
    assert "by nought" in record["exception"]


def test_console_lines_are_readable() -> None:
    file = io.StringIO()
    trace.configure(level="info", renderer="console", file=file)
    trace.emit(trace.INFO, "server.listening", server="s", endpoints="ncalrpc:[x]")
    assert re.search(r"\[info *\] server.listening .*server=s", file.getvalue())


def test_a_configured_structlog_gets_the_events_and_standard_error_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    entries: list[object] = []

    def keep(logger: object, method: str, event_dict: structlog.typing.EventDict) -> NoReturn:
        entries.append((method, dict(event_dict)))
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    trace.configure(level="debug")
    trace.emit(trace.DEBUG, "apc.queued", thread="a", apc="f")
    trace.emit(trace.INFO, "runtime.started", runtime="r")
    trace.emit(trace.WARNING, "apc.failed", thread="a", apc="f")
    assert entries == [
        ("debug", {"event": "apc.queued", "thread": "a", "apc": "f"}),
        ("info", {"event": "runtime.started", "runtime": "r"}),
        ("warning", {"event": "apc.failed", "thread": "a", "apc": "f"}),
    ]
    assert capsys.readouterr() == ("", "")
    assert trace.lost() == 0


def test_a_failing_sink_loses_the_event_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> NoReturn:
        raise OSError("disk gone")

    trace.add_tap(broken)
    trace.emit(trace.DEBUG, "apc.queued")
    trace.emit(trace.DEBUG, "apc.queued")
    assert trace.lost() == 2
    assert capsys.readouterr().err.count("disk gone") == 1


def test_an_event_from_within_a_sink_is_turned_away() -> None:
    seen: list[str] = []

    def talkative(severity: int, event: str, keys: dict[str, object]) -> None:
        seen.append(event)
        trace.emit(trace.DEBUG, "pipe.pushed")

    trace.add_tap(talkative)
    trace.emit(trace.DEBUG, "apc.queued")
    assert seen == ["apc.queued"]
    assert trace.lost() == 1


def test_no_standard_error_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    trace.emit(trace.WARNING, "apc.failed")
    assert trace.lost() == 0


@pytest.mark.parametrize("wrong", [{"level": "loud"}, {"renderer": "xml"}])
def test_unknown_names_are_refused_and_change_nothing(wrong: dict[str, str]) -> None:
    with pytest.raises(RpcUsageError, match="there are"):
        trace.configure(**wrong)  # type: ignore[arg-type]
    assert trace.level == trace.WARNING


def test_many_threads_may_emit_while_taps_come_and_go() -> None:
    with tapped() as seen:
        start = threading.Barrier(5)

        def emit(name: str) -> None:
            start.wait()
            for number in range(200):
                trace.emit(trace.DEBUG, "apc.run", thread=name, apc=str(number))

        threads = [threading.Thread(target=emit, args=(f"t{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        start.wait()
        for _ in range(100):
            with tapped():
                pass
        for thread in threads:
            thread.join()
    for n in range(4):
        own = [keys["apc"] for _, _, keys in seen if keys["thread"] == f"t{n}"]
        assert own == [str(number) for number in range(200)]


def test_the_context_of_the_issuer_travels_and_leaves_no_trace() -> None:
    with structlog.contextvars.bound_contextvars(request=7, user="ada"):
        taken = trace.snapshot()
    assert taken is not None
    assert "ada" in repr(taken)
    found: list[dict[str, object]] = []

    def run() -> None:
        structlog.contextvars.bind_contextvars(user="of the thread", place="here")
        with trace.restored(taken):
            found.append(structlog.contextvars.get_contextvars())
        found.append(structlog.contextvars.get_contextvars())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [{"request": 7, "user": "ada", "place": "here"}, {"user": "of the thread", "place": "here"}]


def test_there_is_no_snapshot_of_nothing_nor_with_tracing_off() -> None:
    assert trace.snapshot() is None
    with trace.restored(None):
        pass
    with structlog.contextvars.bound_contextvars(request=7):
        trace.configure(level="off")
        assert trace.snapshot() is None


# ---------------------------------------------------------------------------------------------------- a trace of calls


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """The trace of a download by APC notifications, and of a call after it."""
    path = tmp_path / "trace.json"
    with path.open("w", encoding="utf-8") as file, testing.in_process(Sample, Plain()) as client:
        trace.configure(level="debug", renderer="json", file=file)
        one = Recorder[int]()
        down: apcrt.OutPipe[int] = apcrt.OutPipe()
        buffer = bytearray(10_000)
        client.read.begin(one.handle, 3000, 1000, down)
        while True:
            status, count = down.pull(buffer)
            if status is apcrt.Status.RPC_S_ASYNC_CALL_PENDING:
                one.wait_next()
            elif not count:
                break
        one.wait()
        assert one.handle.complete_call() == 3000
        assert client.add(1, 2) == 3
        trace.configure(level="off")
    return path


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.feature("NOTE-08")
def test_a_notification_is_seen_being_queued_before_it_is_run(recorded: Path) -> None:
    """As often as it is run, on the same thread, and never later."""
    events = [
        str(record["event"])
        for record in records(recorded)
        if str(record["event"]) in {"apc.queued", "apc.run"} and str(record.get("apc")).endswith("Recorder.on_event")
    ]
    assert events.count("apc.queued") == events.count("apc.run") >= 1
    waiting = 0
    for event in events:
        waiting += 1 if event == "apc.queued" else -1
        assert waiting >= 0, events


def test_the_timeline_has_an_arrow_for_each_notification(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "export", str(recorded)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found = json.loads(captured.out)["traceEvents"]
    run = [record for record in records(recorded) if record["event"] == "apc.run"]
    starts = {event["id"]: event for event in found if event["ph"] == "s"}
    ends = {event["id"]: event for event in found if event["ph"] == "f"}
    assert len(starts) == len(ends) == len(run) >= 1
    assert all(starts[arrow]["ts"] <= ends[arrow]["ts"] for arrow in starts)
    tracks = {event["tid"]: event["args"]["name"] for event in found if event["ph"] == "M"}
    assert {tracks[event["tid"]] for event in ends.values()} == {str(record["thread"]) for record in run}


def test_a_call_is_found_by_its_name_and_by_its_number(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = {str(record["call"]) for record in records(recorded) if "call" in record}
    (name,) = [one for one in named if one.startswith("read#")]
    assert main(["trace", "show", "--call", name, str(recorded)]) == 0
    by_name = capsys.readouterr().out
    assert "call.started" in by_name
    assert "pipe.pulled" in by_name
    assert "call.completed" in by_name
    assert all(f"call={name}" in line for line in by_name.splitlines())
    number = name.partition("#")[2]
    assert main(["trace", "show", "--call", number, str(recorded)]) == 0
    by_number = capsys.readouterr().out.splitlines()
    assert set(by_name.splitlines()) <= set(by_number)
    assert all(re.search(rf"call=\w+[#@]{number}\b", line) for line in by_number)
    assert main(["trace", "show", "--call", "999999", str(recorded)]) == 0
    assert capsys.readouterr().out == ""


def test_the_first_call_of_a_trace_is_number_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.json"
    lines = [{"event": "call.started", "call": call} for call in ("read#1", "read#12", "read@1", "add#2", "1")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert main(["trace", "show", "--call", "1", str(path)]) == 0
    found = [line.rpartition("call=")[2] for line in capsys.readouterr().out.splitlines()]
    assert found == ["read#1", "read@1", "1"]


# ---------------------------------------------------------------------------------------------------------- the schema


def emitted() -> Iterator[tuple[str, str, ast.expr, set[str]]]:
    """Every place in the source that emits: where, the event, its level, its keys.

    Both forms are found, the call and the one that a partial prepares for when the locks are released.
    """
    for path in sorted([*ROOT.glob("apcrt/**/*.py"), *ROOT.glob("transports/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            parts = [node.func, *node.args]
            for function, level, event in zip(parts, parts[1:], parts[2:], strict=False):
                if ast.unparse(function) == "trace.emit":
                    assert isinstance(event, ast.Constant), f"{path}:{node.lineno}: the name of an event is a literal"
                    keys = {keyword.arg or "**" for keyword in node.keywords}
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", str(event.value), level, keys


def test_everything_emitted_is_in_the_schema() -> None:
    levels = {"trace.DEBUG": trace.DEBUG, "trace.INFO": trace.INFO, "trace.WARNING": trace.WARNING}
    wrong = []
    for where, event, level, keys in emitted():
        spec = trace.EVENTS.get(event)
        if spec is None:
            wrong.append(f"{where}: {event} is not in EVENTS")
            continue
        if unknown := keys - {*spec.keys, "exc_info"}:
            wrong.append(f"{where}: {event} has no key {unknown}")
        spelled = ast.unparse(level)
        if levels.get(spelled, spec.level) != spec.level:
            wrong.append(f"{where}: {event} is emitted as {spelled}")
    assert not wrong, "\n".join(wrong)


def test_every_event_of_the_schema_is_emitted_somewhere() -> None:
    assert set(trace.EVENTS) == {event for _, event, _, _ in emitted()}


def test_names_are_noun_and_verb() -> None:
    for name in trace.EVENTS:
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", name)


def test_the_page_says_what_the_schema_says() -> None:
    page = (ROOT / "docs" / "tracing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]+\.[a-z_]+)` \| (\w+) \| (.*?) \| (.*) \|$", page, re.MULTILINE)
    documented = {
        name: trace.EventSpec(trace.LEVELS[level], tuple(re.findall(r"`(\w+)`", keys)), text)
        for name, level, keys, text in rows
    }
    assert documented == dict(trace.EVENTS)
    explained = page.partition("## Keys")[2]
    for spec in trace.EVENTS.values():
        for key in spec.keys:
            assert f"`{key}`" in explained, key

"""The house stands as docs/architecture.md draws it: which room imports which, and what each module says of itself.

What lives here: checks of the source text, by its syntax tree. Imports for type checkers count like any other, since
an arrow that only an annotation needs is an arrow all the same. What must not: anything that runs apcrt.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted([*(ROOT / "apcrt").rglob("*.py"), *(ROOT / "transports" / "apcrt_transports").rglob("*.py")])
PROGRAMS = sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")])

#: What each room may import of the others. The private modules beside a public one belong to its room.
ARROWS: dict[str, set[str]] = {
    "status": set(),
    "trace": {"status"},
    "apc": {"status", "trace"},
    "overlapped": {"status", "trace", "apc"},
    "ndr": {"status"},
    "wire": {"status", "ndr"},
    "transport": {"status"},
    "config": {"status", "trace"},
    "engine": {"status", "trace", "apc", "ndr", "wire", "transport"},
    "rpc": {"status", "trace", "apc", "ndr", "wire", "transport", "engine", "config"},
    "testing": {"status", "trace", "transport", "rpc"},
    "cli": {"status", "trace", "transport", "config", "rpc"},
    "apcrt": {"status", "apc", "ndr", "rpc"},
    "apcrt_transports": {"status", "transport"},
}
ROOM_OF = {
    "__init__": "apcrt",
    "__main__": "cli",
    "_codes": "status",
    "_meanings": "status",
    "_events": "trace",
    "_trace_tools": "cli",
    "_config_values": "config",
}
#: What would let a clock, a lock, a thread, a socket or a logger into a room that is sans-IO.
IO = {"asyncio", "datetime", "io", "logging", "os", "select", "selectors", "signal", "socket", "ssl", "structlog"} | {
    "subprocess",
    "threading",
    "time",
    "trio",
}
LONGEST = 550  # lines; the custom is to split before 500


def test_every_room_is_known() -> None:
    assert {room_of(module) for module in MODULES} == set(ARROWS)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_down(module: Path) -> None:
    room = room_of(module)
    taken = {room_named(name) for name in imports(module) if name.split(".")[0] in ("apcrt", "apcrt_transports")}
    assert taken - {room} <= ARROWS[room]


def test_the_arrows_form_no_circle() -> None:
    order: list[str] = []
    while len(order) < len(ARROWS):
        ready = [room for room, below in ARROWS.items() if room not in order and below <= set(order)]
        assert ready, f"a circle among {set(ARROWS) - set(order)}"
        order += ready


@pytest.mark.parametrize("room", ["ndr", "wire"])
def test_sans_io(room: str) -> None:
    taken = {name.split(".")[0] for module in MODULES if room_of(module) == room for name in imports(module)}
    assert not taken & IO


@pytest.mark.parametrize("room", ["apc", "ndr", "wire", "rpc"])
def test_the_core_names_no_transport(room: str) -> None:
    for module in MODULES:
        if room_of(module) == room:
            assert "apcrt_transports" not in module.read_text()


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_module_says_what_it_is(module: Path) -> None:
    source = module.read_text()
    text = ast.get_docstring(ast.parse(source)) or ""
    lines = len(source.splitlines())
    assert lines <= LONGEST
    assert text
    if lines > 60:  # a package's door and a launcher say it in a sentence
        assert len(text.splitlines()) > 2, "what lives here, what must not, and how does it work?"


@pytest.mark.parametrize("module", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_and_examples_say_what_they_are(module: Path) -> None:
    text = module.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "what is it about?"
    assert "transports.apcrt_transports" not in text.replace('"transports.apcrt_transports"', "")


def room_of(module: Path) -> str:
    """The room a module belongs to."""
    parts = module.with_suffix("").relative_to(ROOT).parts
    if parts[0] == "transports":
        return "apcrt_transports"
    return ROOM_OF.get(parts[1], parts[1])


def room_named(name: str) -> str:
    """The room of an imported name, dotted."""
    first, *rest = name.split(".")
    if first == "apcrt_transports":
        return first
    if not rest or not ((ROOT / "apcrt" / rest[0]).is_dir() or (ROOT / "apcrt" / f"{rest[0]}.py").exists()):
        return "apcrt"
    return ROOM_OF.get(rest[0], rest[0])


def imports(module: Path) -> Iterator[str]:
    """Everything that a module imports, dotted, wherever in it the import stands."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            assert not node.level, "imports are absolute here"
            if node.module == "apcrt":
                yield from (f"apcrt.{alias.name}" for alias in node.names)
            else:
                yield node.module

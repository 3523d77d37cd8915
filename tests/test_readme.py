"""What README.md shows is true: its programs run, its commands say what is shown, its links lead somewhere.

What lives here: the README taken apart, and each piece tried. What must not: tests of what the pieces are about.

How it works. Every fenced block belongs to a test by its first words; a block that belongs to none fails.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

import apcrt
from apcrt import config, testing
from apcrt.transport import Registry

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


class Block(NamedTuple):
    language: str
    text: str


BLOCKS = [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)]


def block(language: str, beginning: str) -> str:
    """The block that begins so."""
    [found] = [one.text for one in BLOCKS if one.language == language and one.text.startswith(beginning)]
    return found


PROGRAM = block("python", '"""download.py')
SNIPPETS = {
    "blocking": block("python", "with open("),
    "trio": block("python", "async def fetch("),
    "handed off": block("python", "class HandedOff("),
    "failure": block("python", "try:"),
    "asyncio": block("python", "async def size_in_asyncio("),
}
CONSOLE = [one.text for one in BLOCKS if one.language == "console"]
COMMANDS = [line.removeprefix("$ ") for text in CONSOLE for line in text.splitlines() if line.startswith("$ ")]


def run(*command: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "transports")])}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def program(tmp_path: Path) -> types.ModuleType:
    """The first program, as a module."""
    path = tmp_path / "download.py"
    path.write_text(PROGRAM)
    spec = importlib.util.spec_from_file_location("download", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is served, and where the snippets run."""
    (tmp_path / "large").write_bytes(bytes(range(256)) * 4000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def names(program: types.ModuleType, folder: Path) -> Iterator[dict[str, object]]:
    """The names of the first program, and `files`, a client of its server."""
    namespace = {**vars(program), "trio": trio, "asyncio": asyncio}
    with testing.in_process(program.FileRep, program.Files(folder)) as files:
        yield {**namespace, "files": files}


def test_every_python_block_is_tried() -> None:
    shown = {one.text for one in BLOCKS if one.language == "python"}
    assert shown == {PROGRAM, *SNIPPETS.values()}


def test_first_program(tmp_path: Path) -> None:
    (tmp_path / "download.py").write_text(PROGRAM)
    [shown] = [text for text in CONSOLE if "download.py" in text]
    assert run("download.py", folder=tmp_path) == shown.partition("\n")[2]


def test_blocking_face(names: dict[str, object], folder: Path) -> None:
    exec(SNIPPETS["blocking"], names)
    assert (folder / "copy").read_bytes() == (folder / "large").read_bytes()
    assert names["size"] == 1_024_000


def test_trio_face(names: dict[str, object], folder: Path) -> None:
    exec(SNIPPETS["trio"] + "\nwhole = trio.run(fetch, files, 'large')", names)
    assert names["whole"] == (folder / "large").read_bytes()


def test_handing_off(program: types.ModuleType, folder: Path) -> None:
    def work() -> None:
        while True:
            apcrt.apc.sleep_ex(None, alertable=True)

    names = dict(vars(program))
    exec(SNIPPETS["handed off"], names)
    handed_off = names["HandedOff"]
    assert isinstance(handed_off, type)
    with apcrt.apc.open_apc_threads() as threads:
        manager = handed_off(folder, threads.start(work))
        with testing.in_process(program.FileRep, manager) as files:
            assert files.size("large") == 1_024_000
        threads.cancel()


def test_failure(names: dict[str, object]) -> None:
    exec(SNIPPETS["failure"].replace("except", "    raise AssertionError\nexcept"), names)


def test_asyncio(names: dict[str, object]) -> None:
    exec(SNIPPETS["asyncio"] + "\nsize = asyncio.run(size_in_asyncio(files, 'large'))", names)
    assert names["size"] == 1_024_000
    apcrt.apc.current_thread().set_wakeup(None)


def test_commands_are_there() -> None:
    """Each kind of command that is shown has a test, or names something that exists."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", README)) <= targets
    for command in COMMANDS:
        match shlex.split(command):
            case ["make", target]:
                assert target in targets
            case ["python3", "-m", "venv", ".venv"] | [".venv/bin/python", "-m", "pip", "install", "-e", ".[dev]"]:
                assert "dev = [" in (ROOT / "pyproject.toml").read_text()
            case [".venv/bin/python", "-m", "examples.filerep"]:
                assert (ROOT / "examples" / "filerep" / "__main__.py").exists()
            case [".venv/bin/python", "-m", "pytest"] | [".venv/bin/python", "download.py"] | [".venv/bin/apcrt", *_]:
                pass
            case _:
                pytest.fail(f"nothing tries {command!r}")


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith(".venv/bin/apcrt ")])
def test_output_of_the_command(command: str, tmp_path: Path) -> None:
    [shown] = [text for text in CONSOLE if f"$ {command}\n" in text]
    assert run("-m", "apcrt", *shlex.split(command)[1:], folder=tmp_path) == shown.partition("\n")[2]


def test_configuration(tmp_path: Path) -> None:
    path = tmp_path / "apcrt.toml"
    path.write_text(block("toml", ""))
    shown = config.load(path, environ={})
    for name in shown.bindings:
        with apcrt.Runtime(shown) as runtime:
            assert runtime.binding(name).send_window == shown.bindings[name].send_window
    assert shown.bindings["backup"].send_window == 4 << 20
    [variable] = re.findall(r"`(APCRT_TRACE__LEVEL)=debug`", README)
    assert config.load(path, environ={variable: "debug"}).trace.level == "debug"
    [keywords] = re.findall(r"`Runtime\((trace=.*?)\)`", README)
    assert eval(f"load({keywords})", {"load": config.load}).trace.level == "debug"
    assert "trace.level" in run("-m", "apcrt", "config", "show", folder=tmp_path)


def test_transports() -> None:
    rows = re.findall(r"^\| (\w+) \| (`nca.*) \|$", README, re.MULTILINE)
    shown = {name: set(re.findall(r"`(\w+):", sequences)) for name, sequences in rows}
    registry = Registry()
    assert shown == {name: set(registry.transport(name).protocol_sequences) for name in Registry.names()}


def test_links() -> None:
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    links = {link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose) if "://" not in link}
    assert {link for link in links if not (ROOT / link).exists()} == set()
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert pages <= links, "every page is linked from the README"

"""What docs/ shows is true: its programs run, its configuration is accepted.

What lives here: the pages taken apart, and each block tried. What must not: the README, which has a test of its own.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import apcrt
import apcrt.trace
from apcrt import apc, config, ndr, notify, overlapped, testing
from apcrt_transports.socket import SocketTransport

ROOT = Path(__file__).resolve().parent.parent
PAGES = {page.name: page.read_text() for page in sorted((ROOT / "docs").glob("*.md"))}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)


def shown(page: str) -> dict[str, object]:
    """The names that the programs of a page define, together."""
    names: dict[str, object] = {
        "apcrt": apcrt, "apc": apc, "ndr": ndr, "notify": notify, "overlapped": overlapped, "testing": testing,
        "pytest": pytest, **served()
    }  # fmt: skip
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)
    return names


def served() -> dict[str, object]:
    """The interface and the manager that the README's first program has made the reader acquainted with."""
    program = re.search(r'^```python\n(""".*?)^```$', (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert program is not None
    names: dict[str, object] = {"__name__": "download"}
    exec(compile(program[1], "README.md", "exec", dont_inherit=True), names)
    return {"FileRep": names["FileRep"], "Files": names["Files"]}


def called(names: dict[str, object], name: str) -> Callable[..., None]:
    function = names[name]
    assert callable(function)
    return function


def test_threads(capsys: pytest.CaptureFixture[str]) -> None:
    names = shown("apc.md")
    called(names, "example")()
    assert "runs on waiter-1" in capsys.readouterr().out
    called(names, "three_ticks")()
    assert capsys.readouterr().out.count("tick at") == 3
    assert names["ported"]() == 7  # type: ignore[operator]
    assert capsys.readouterr().out.startswith("job 1\n")


def test_overlapped(tmp_path: Path) -> None:
    data = os.urandom(150_000)
    (tmp_path / "source").write_bytes(data)
    source = overlapped.OverlappedFile(open(tmp_path / "source", "rb"))  # noqa: SIM115 - closed with its owner
    target = overlapped.OverlappedFile(open(tmp_path / "target", "wb"))  # noqa: SIM115
    with source, target:
        called(shown("apc.md"), "copy")(source, target)
    assert (tmp_path / "target").read_bytes() == data


def test_calls(tmp_path: Path) -> None:
    names = shown("rpc.md")
    assert "Sender" in names
    called(names, "test_missing")(called(names, "Files")(tmp_path))


def test_transports() -> None:
    for block in blocks("transports.md", "toml"):
        options = tomllib.loads(block)
        if "transports" in options:
            config.load(None, **options)
            SocketTransport(options["transports"]["socket"])


def test_no_page_has_a_block_that_nobody_tries() -> None:
    tried = {("apc.md", "python"), ("rpc.md", "python"), ("transports.md", "toml")}
    elsewhere = {("apc.md", "c")}  # needs Windows
    for page, text in PAGES.items():
        for language in re.findall(r"^```(\w+)$", text, re.MULTILINE):
            assert (page, language) in tried | elsewhere

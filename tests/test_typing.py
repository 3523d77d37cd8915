"""Both checkers accept the programs in tests/typing and refuse every mistake that is marked in wrong.py.

What lives here: one run of each checker over all of them, and the comparison of lines. What must not: the programs.

How it works. `wrong.py` begins with a line that keeps `make check` quiet about it. A copy without that line is checked
together with the right programs; the errors must stand on exactly the lines marked `expect-error`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "tests" / "typing"
WRONG = PROGRAMS / "wrong.py"

Found = set[tuple[str, int]]  # file name and line of each error


def _run(*command: str, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: there are errors; more: it did not get that far
    return done.stdout


def _mypy(wrong: Path) -> Found:
    arguments = ["--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary", "--hide-error-context"]
    output = _run("mypy", *arguments, str(PROGRAMS), str(wrong), folder=ROOT)
    return {
        (Path(match["file"]).name, int(match["line"]))
        for match in re.finditer(r"^(?P<file>[^:\n]+):(?P<line>\d+): error: ", output, re.MULTILINE)
    }


def _pyright(wrong: Path) -> Found:
    folder = wrong.parent
    checked = [str(folder), str(PROGRAMS)]
    settings = {
        "include": checked,
        "strict": checked,
        "extraPaths": [str(ROOT), str(ROOT / "transports")],
        "pythonVersion": "3.11",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    output = _run("pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(folder), folder=folder)
    return {
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1)
        for one in json.loads(output)["generalDiagnostics"]
        if one["severity"] == "error"
    }


@pytest.mark.timeout(300)  # a checker that has seen none of the code yet takes its time
@pytest.mark.parametrize("checker", [_mypy, _pyright])
def test_programs(checker: Callable[[Path], Found], tmp_path: Path) -> None:
    lines = WRONG.read_text().split("\n")
    assert lines[0].startswith("# type: ignore")
    marked = {number for number, line in enumerate(lines, 1) if "# expect-error" in line}
    assert len(marked) >= 8
    wrong = tmp_path / "copy_of_wrong.py"
    wrong.write_text("\n".join(["", *lines[1:]]))
    found = checker(wrong)
    assert {line for name, line in found if name == wrong.name} == marked
    assert {(name, line) for name, line in found if name != wrong.name} == set()

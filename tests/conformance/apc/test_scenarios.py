"""The recorded scenarios, in both faces: the same code that `python -m tests.conformance.apc` runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.apc.runner import FACES, check, find
from tests.conformance.apc.world import Face

HERE = Path(__file__).parent
SCENARIOS = list(find([HERE / "scenarios"]))


def test_all_are_here() -> None:
    assert len(SCENARIOS) == 91


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path, face: Face) -> None:
    verdict = check(path, face)
    assert not verdict.difference, verdict.difference


def test_a_wrong_trace_is_a_failure(tmp_path: Path) -> None:
    """The command says what differs, and its exit status says that something does."""
    for suffix in (".scn", ".expected"):
        (tmp_path / f"echo{suffix}").write_text((HERE / "scenarios" / f"echo{suffix}").read_text())
    good = _command(tmp_path / "echo.scn", "--face", "blocking")
    assert (good.returncode, good.stdout) == (0, "1 passed, 0 failed\n")
    expected = tmp_path / "echo.expected"
    expected.write_text(expected.read_text().replace("WAIT_IO_COMPLETION", "WAIT_TIMEOUT"))
    bad = _command(tmp_path, "--jobs", "1")
    assert bad.returncode == 1
    assert bad.stdout.endswith("\n0 passed, 2 failed\n")
    assert "-A: " in bad.stdout
    assert "+A: " in bad.stdout


def test_no_scenario_is_an_error(tmp_path: Path) -> None:
    assert _command(tmp_path).returncode == 1
    assert _command(tmp_path / "missing").returncode == 2


def _command(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.conformance.apc", *map(str, arguments)]
    return subprocess.run(command, cwd=HERE.parents[2], capture_output=True, text=True, timeout=50, check=False)

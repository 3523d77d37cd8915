"""The examples of foreign loops, as programs: every completion on the loop's own thread, and the loop goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.feature("NOTE-03")
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("with_asyncio", "1000 completions from 4 threads, 0 on a wrong thread"),
        ("with_posts", "20 calls completed on the loop's thread, 0 elsewhere"),
    ],
)
def test_program(name: str, shown: str) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "transports")])
    done = subprocess.run(
        [sys.executable, "-m", f"examples.foreign_loops.{name}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout

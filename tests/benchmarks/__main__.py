"""Run the measurements: all of them, or those whose name contains one of the arguments.

Each runs in a process of its own, so that none warms up or slows down the next.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run what was asked for; the exit status says whether all of it ran."""
    wanted = sys.argv[1:]
    names = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    chosen = [name for name in names if not wanted or any(part in name for part in wanted)]
    failed = []
    for name in chosen:
        print(f"== {name.removeprefix('bench_')}", flush=True)
        code = f"from tests.benchmarks import {name}; {name}.main()"
        if subprocess.run([sys.executable, "-c", code], check=False).returncode:
            failed.append(name)
    if failed or not chosen:
        print(
            f"failed: {', '.join(failed)}" if failed else f"no measurement is called so; there are {', '.join(names)}"
        )
    return 1 if failed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())

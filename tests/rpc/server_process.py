"""A server in a process of its own, for tests that kill it or measure it.

`python -m tests.rpc.server_process ENDPOINT` serves the sample's `Plain` manager and a few more habits, prints its
string binding as the first line, and ends when its standard input does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]


class Child:
    """A Python process that prints lines; `with` it, and it is gone afterwards.

    Args:
        module: what to run, with its arguments.
    """

    def __init__(self, module: str, *args: str) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "transports"), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            cwd=ROOT,
        )

    def line(self) -> str:
        """The next line it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, f"the process has ended with {self.process.poll()}"
        return line

    def tell(self, line: str) -> None:
        """Give it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        with self.process:
            pass


def main() -> None:
    """Serve until standard input ends."""
    import apcrt
    from tests.rpc.sample import Plain, Sample

    with apcrt.Runtime() as runtime, runtime.server() as server:
        server.register(Sample, Plain())
        print(server.start(sys.argv[1])[0], flush=True)
        sys.stdin.read()
        runtime.close(drain=False)


if __name__ == "__main__":
    main()

"""`python -m examples.filerep`."""

from __future__ import annotations

import sys


def run() -> int:
    """Import and run the program; Ctrl-C while it is still being imported ends it like later on."""
    try:
        from examples.filerep.cli import main

        return main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run())

"""`python -m examples.filerep`."""

from __future__ import annotations

import sys

from examples.filerep.cli import main

if __name__ == "__main__":
    sys.exit(main())

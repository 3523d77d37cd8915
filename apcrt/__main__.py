"""`python -m apcrt` is the `apcrt` command."""

from __future__ import annotations

import sys

from apcrt.cli import main

if __name__ == "__main__":
    sys.exit(main())

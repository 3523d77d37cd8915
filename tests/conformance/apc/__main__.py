"""`python -m tests.conformance.apc PATH...`."""

from __future__ import annotations

import sys

from tests.conformance.apc.runner import main

if __name__ == "__main__":
    sys.exit(main())

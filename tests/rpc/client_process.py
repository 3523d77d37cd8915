"""A client in a process of its own, for a test that kills it: `python -m tests.rpc.client_process BINDING upload`."""

from __future__ import annotations

import sys

import apcrt
from tests.rpc.sample import Sample


def main() -> None:
    """Begin an upload or a download, say so, and stay in it."""
    with apcrt.Runtime() as runtime:
        client = Sample(runtime.binding(sys.argv[1]))
        if sys.argv[2] == "upload":
            up: apcrt.InPipe[int] = apcrt.InPipe()
            with client.write.open("f", up):
                up.write(bytes(100_000))
                print("begun", flush=True)
                sys.stdin.read()
        else:
            down: apcrt.OutPipe[int] = apcrt.OutPipe()
            with client.read.open(1 << 30, 1 << 16, down):
                down.read_into(bytearray(100))
                print("begun", flush=True)
                sys.stdin.read()


if __name__ == "__main__":
    main()

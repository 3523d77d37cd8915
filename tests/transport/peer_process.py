"""The other end in a process of its own: connects, sends one byte, and stays until it is killed.

Its arguments are the parts of the address.
"""

from __future__ import annotations

import sys

import trio

from apcrt.transport import Address, Registry


async def _main() -> None:
    sequence, network_address, endpoint = sys.argv[1:]
    stream = await Registry().find(sequence).connect(Address(sequence, network_address, endpoint))
    assert stream.send((b"x",)) == 1
    await trio.sleep_forever()


trio.run(_main)

"""Fixtures of the tests of overlapped input and output."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from apcrt import apc
from apcrt.apc import lowlevel
from tests.apc.faces import FACES, Face


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def face(request: pytest.FixtureRequest) -> Face:
    """Each face in turn."""
    chosen: Face = request.param
    return chosen


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """The thread of the tests outlives each of them; the driver lives until it is stopped."""
    thread = apc.current_thread()
    thread.port.wake()  # has descriptors, which are not the test's
    yield
    thread.set_wakeup(None)
    lowlevel.stop_driver()
    assert not thread.queue
    assert not thread.homed
    assert not thread.dependents

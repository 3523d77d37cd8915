"""Fixtures of the thread tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from apcrt import apc
from tests.apc.faces import FACES, Face


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def face(request: pytest.FixtureRequest) -> Face:
    """Each face in turn."""
    chosen: Face = request.param
    return chosen


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """The thread of the tests outlives each of them: what a failed one leaves must not fail the next."""
    yield
    thread = apc.current_thread()
    thread.queue.clear()
    thread.dependents.clear()
    thread.set_wakeup(None)

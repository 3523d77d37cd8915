"""Fixtures of the thread tests."""

from __future__ import annotations

import pytest

from tests.apc.faces import FACES, Face


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def face(request: pytest.FixtureRequest) -> Face:
    """Each face in turn."""
    chosen: Face = request.param
    return chosen

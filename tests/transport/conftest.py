"""Fixtures of the tests of transports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from apcrt.transport import Stream
from tests.transport.makers import MAKERS, Maker, connected


@pytest.fixture(params=MAKERS)
def maker(request: pytest.FixtureRequest) -> Maker:
    """Each transport in turn."""
    return MAKERS[request.param]


@pytest.fixture
async def pair(maker: Maker, tmp_path: Path) -> AsyncIterator[tuple[Stream, Stream]]:
    """Connected streams, client's and server's."""
    client, server = await connected(maker, tmp_path)
    yield client, server
    client.close()
    server.close()

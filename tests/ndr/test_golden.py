"""Bytes of other implementations: ours are the same, and we read theirs, at whatever places they are cut."""

from __future__ import annotations

import pytest

from .captures import LONG_PIPES, PIPES, PLAIN, Stub
from .helpers import StubReader, written


@pytest.mark.feature("PIPE-19")
@pytest.mark.parametrize("stub", PIPES + LONG_PIPES + PLAIN, ids=str)
def test_written_as_others_write(stub: Stub) -> None:
    assert written(stub).hex() == stub.data.hex()


def assert_read(reader: StubReader, stub: Stub) -> None:
    assert reader.complete
    assert reader.fields == {name: value for name, _, value in stub.fields}
    assert reader.pipes == [[value for chunk in chunks for value in chunk] for _, chunks in stub.pipes]


@pytest.mark.feature("PIPE-19")
@pytest.mark.parametrize("stub", PIPES + PLAIN, ids=str)
def test_read_at_every_split(stub: Stub) -> None:
    for first in range(len(stub.data) + 1):
        for second in range(first, len(stub.data) + 1):
            reader = StubReader(stub)
            reader.feed(stub.data[:first], final=False)
            reader.feed(stub.data[first:second], final=False)
            reader.feed(stub.data[second:], final=True)
            assert_read(reader, stub)


@pytest.mark.parametrize("stub", PIPES + LONG_PIPES + PLAIN, ids=str)
@pytest.mark.parametrize("room", [1, 7, 10_000])
def test_read_byte_by_byte(stub: Stub, room: int) -> None:
    reader = StubReader(stub, room=room)
    for at in range(len(stub.data)):
        reader.feed(stub.data[at : at + 1], final=at == len(stub.data) - 1)
    assert_read(reader, stub)


@pytest.mark.parametrize("stub", LONG_PIPES, ids=str)
@pytest.mark.parametrize("fragment", [1408, 1000, 13])
def test_read_in_fragments(stub: Stub, fragment: int) -> None:
    reader = StubReader(stub, room=100)
    for at in range(0, len(stub.data), fragment):
        reader.feed(stub.data[at : at + fragment], final=at + fragment >= len(stub.data))
    assert_read(reader, stub)

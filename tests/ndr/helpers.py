"""What several test modules need: whole stubs written and read through public names, and a reference reader."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from apcrt import ndr

from .captures import Stub

ORDERS = [ndr.ByteOrder.LITTLE, ndr.ByteOrder.BIG]


def encoded(annotation: object, value: object, order: ndr.ByteOrder, *, offset: int = 0) -> bytes:
    encoder = ndr.Encoder(order, offset=offset)
    ndr.compile_type(annotation).encode(encoder, value, {})
    return bytes(encoder.data)


def decoded(annotation: object, data: bytes, order: ndr.ByteOrder, *, offset: int = 0) -> object:
    decoder = ndr.Decoder(memoryview(data), order, offset=offset, final=True)
    value = ndr.compile_type(annotation).decode(decoder, {})
    assert decoder.remaining == 0
    return value


def written(stub: Stub) -> bytes:
    """Return the stub's bytes as our encoder makes them."""
    data = bytearray()

    def fields() -> None:
        encoder = ndr.Encoder(stub.order, offset=len(data))
        ndr.Fields([(name, kind) for name, kind, _ in stub.fields]).encode(
            encoder, {name: value for name, _, value in stub.fields}, stub.env
        )
        data.extend(encoder.data)

    def pipes() -> None:
        for kind, chunks in stub.pipes:
            data.extend(pipe_bytes(kind, chunks, stub.order, len(data)))

    for part in (fields, pipes) if stub.request else (pipes, fields):
        part()
    return bytes(data)


def pipe_bytes(kind: object, chunks: Iterable[Sequence[object]], order: ndr.ByteOrder, offset: int) -> bytes:
    element = ndr.pipe_element(kind)
    writer = ndr.PipeWriter(element, order)
    data = bytearray()
    for chunk in chunks:
        source, elements = element.source(chunk)
        for piece in writer.chunk(offset + len(data), source, elements):
            data += piece
    return bytes(data + writer.end(offset + len(data)))


@dataclass
class Read:
    fields: Mapping[str, object]
    pipes: list[list[object]]
    offset: int


class StubReader:
    """Reads a stub that arrives in pieces, as an engine would: collected for the fields, passed through for pipes."""

    def __init__(self, stub: Stub, *, room: int = 3) -> None:
        self._stub = stub
        self._room = room
        self._fields = ndr.Fields([(name, kind) for name, kind, _ in stub.fields])
        self._held = b""
        self._needed = 0
        self._offset = 0
        self._reader: ndr.PipeReader | None = None
        self._steps = ["fields", *range(len(stub.pipes))] if stub.request else [*range(len(stub.pipes)), "fields"]
        self.fields: Mapping[str, object] = {}
        self.pipes: list[list[object]] = [[] for _ in stub.pipes]

    def feed(self, piece: bytes, *, final: bool) -> None:
        self._held += piece
        while self._steps:
            step = self._steps[0]
            done = self._read_fields(final=final) if isinstance(step, str) else self._read_pipe(step)
            if not done:
                return
            self._steps.pop(0)

    @property
    def complete(self) -> bool:
        return not self._steps and not self._held

    def _read_fields(self, *, final: bool) -> bool:
        if not final and self._offset + len(self._held) < self._needed:
            return False
        decoder = ndr.Decoder(memoryview(self._held), self._stub.order, offset=self._offset, final=final)
        try:
            self.fields = self._fields.decode(decoder, self._stub.env)
        except ndr.NeedMoreData as more:
            self._needed = more.needed
            # No progress would be an endless loop in whoever collects the bytes.
            if self._needed <= self._offset + len(self._held):
                raise AssertionError(f"asked for {more.needed} again") from more
            return False
        self._held = self._held[decoder.position :]
        self._offset = decoder.offset
        return True

    def _read_pipe(self, number: int) -> bool:
        element = ndr.pipe_element(self._stub.pipes[number][0])
        if self._reader is None:
            self._reader = ndr.PipeReader(element, self._stub.order, offset=self._offset)
        reader = self._reader
        while True:
            target = element.new_target(self._room)
            ready = reader.ready(memoryview(self._held))
            consumed, stored = reader.read(memoryview(self._held), target, 0)
            assert ready == bool(stored or reader.ended)
            self.pipes[number] += list(element.chunk(target, stored))
            self._held = self._held[consumed:]
            if reader.ended:
                self._offset = reader.offset
                self._reader = None
                return True
            if not stored:
                assert not self._held
                return False


def reference_pipe(
    data: bytes, offset: int, order: ndr.ByteOrder, members: Sequence[tuple[str, int]]
) -> tuple[list[list[tuple[object, ...]]], int]:
    """Read a pipe the slow way, as the specification says it: one member at a time, each aligned by itself.

    `members` are (struct character, alignment); returns the chunks as tuples of members, and the position of the end.
    """
    chunks: list[list[tuple[object, ...]]] = []
    align = max(alignment for _, alignment in members)
    at = offset

    def item(code: str, alignment: int) -> object:
        nonlocal at
        at += -at % alignment
        value = struct.unpack_from(order.prefix + code, data, at - offset)[0]
        at += struct.calcsize(order.prefix + code)
        return value

    while True:
        count = item("I", 4)
        assert isinstance(count, int)
        if not count:
            return chunks, at
        chunk: list[tuple[object, ...]] = []
        for _ in range(count):
            at += -at % align
            chunk.append(tuple(item(code, alignment) for code, alignment in members))
        chunks.append(chunk)

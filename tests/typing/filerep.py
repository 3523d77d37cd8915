"""An interface, declared once: what client and server share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import apcrt
from apcrt import ndr


class Mixed(NamedTuple):
    """Several results: [out] parameters in order, the return value last."""

    b: ndr.UInt32
    result: ndr.UInt32


@dataclasses.dataclass(frozen=True)
class Entry:
    """An element of a pipe of structures."""

    size: ndr.UInt64
    kind: ndr.UInt16


class FileRep(apcrt.Interface, uuid="fe7f2eda-5da1-4041-928c-d2534d3fa128", version="1.0"):
    """File replication."""

    @apcrt.operation
    def read(self, name: ndr.WString, data: apcrt.OutPipe[ndr.Byte]) -> ndr.UInt32:
        raise NotImplementedError

    @apcrt.operation
    def write(self, name: ndr.WString, data: apcrt.InPipe[ndr.Byte]) -> ndr.UInt64:
        raise NotImplementedError

    @apcrt.operation(opnum=7)
    def mixed(self, a: ndr.UInt16, b: ndr.UInt32) -> Mixed:
        raise NotImplementedError

    @apcrt.operation
    def find(
        self,
        count: ndr.UInt32,
        ids: Annotated[Sequence[int], ndr.Array(ndr.UInt32, size_is="count")],
        hint: ndr.Unique[ndr.WString],
    ) -> ndr.UInt32:
        raise NotImplementedError

    @apcrt.operation
    def entries(self, data: apcrt.OutPipe[Entry]) -> None:
        raise NotImplementedError

    @apcrt.operation
    def filter(self, factor: ndr.Double, data: apcrt.InOutPipe[ndr.Double]) -> None:
        raise NotImplementedError

    @apcrt.operation(idempotent=True)
    def remove(self, name: ndr.WString) -> None:
        raise NotImplementedError

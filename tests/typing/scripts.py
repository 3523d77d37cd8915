"""The blocking face: pipes get their other end at construction, or are moved inside a block."""

from __future__ import annotations

import array
from pathlib import Path
from typing import assert_type

import numpy as np

import apcrt
from apcrt import ndr
from tests.typing.filerep import Entry, FileRep, Mixed


def download() -> int:
    with apcrt.Runtime() as runtime, Path("a.txt").open("wb") as target:
        return FileRep(runtime.binding("files")).read("a.txt", apcrt.OutPipe[ndr.Byte](sink=target))


def sources_and_sinks(files: FileRep) -> None:
    with Path("a.txt").open("rb") as source:
        assert_type(files.write("a", apcrt.InPipe[ndr.Byte](source=source)), int)
    files.write("a", apcrt.InPipe[ndr.Byte](source=b"memory"))
    files.write("a", apcrt.InPipe[ndr.Byte](source=(bytes(n) for n in range(3))))
    files.write("a", apcrt.InPipe(source=np.zeros(100, dtype=np.uint8)))
    found: list[Entry] = []
    files.entries(apcrt.OutPipe(sink=found))
    files.read("a", apcrt.OutPipe(sink=bytearray()))
    files.read("a", apcrt.OutPipe(sink=print))


def the_longer_way(files: FileRep) -> int:
    data = apcrt.OutPipe[ndr.Byte]()
    whole = bytearray()
    with files.read.open("a", data) as call:
        for chunk in data:
            assert_type(chunk, memoryview)
            whole += chunk
    return call.reply


def any_buffer(pipe: apcrt.InOutPipe[ndr.UInt16], reals: apcrt.InOutPipe[ndr.Double]) -> None:
    pipe.write([1, 2, 3])
    pipe.write(array.array("H", [1, 2, 3]))
    pipe.write(memoryview(bytes(10)).cast("H"))
    pipe.write(np.arange(10, dtype=np.uint16))
    pipe.write_eof()
    assert_type(pipe.read_into(array.array("H", bytes(20))), int)
    pipe.read_into([0] * 10)
    pipe.read_into(np.zeros(10, dtype=np.uint16))
    reals.write(np.linspace(0.0, 1.0))
    for chunk in reals:
        assert_type(chunk, memoryview[float])


def arguments(files: FileRep) -> None:
    assert_type(files.mixed(1, b=2), Mixed)
    b, result = files.mixed(a=1, b=2)
    assert_type(b + result, int)
    assert_type(files.find(2, [1, 2], None), int)
    assert_type(files.find(2, (1, 2), hint="a"), int)


def failures(files: FileRep) -> str:
    try:
        files.remove("a")
    except apcrt.RpcFault as fault:
        return f"{fault.status} {fault.fault_code:#010x}"
    except (apcrt.RpcUnavailable, apcrt.RpcCancelled) as error:
        return error.detail
    return ""

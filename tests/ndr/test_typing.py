"""Annotated names read as their Python types; `assert_type` is what a checker sees, and costs nothing when it runs."""

from __future__ import annotations

from array import array
from typing import assert_type, get_type_hints
from uuid import UUID

import numpy as np

from apcrt import ndr


def numbers(byte: ndr.Byte, hyper: ndr.UInt64, real: ndr.Double, truth: ndr.Boolean, key: ndr.Guid) -> None:
    assert_type(byte, int)
    assert_type(hyper, int)
    assert_type(real, float)
    assert_type(truth, bool)
    assert_type(key, UUID)


def texts(name: ndr.WString, hint: ndr.Unique[ndr.WString], narrow: ndr.String) -> None:
    assert_type(name, str)
    assert_type(hint, str | None)
    assert_type(narrow, str)


def takes(data: ndr.Buffer) -> ndr.Buffer:
    return data


def test_hints_can_be_compiled() -> None:
    for function in (texts, numbers):
        hints = get_type_hints(function, include_extras=True)
        hints.pop("return")
        assert ndr.Fields(list(hints.items())).names == tuple(hints)


def test_buffers_of_all_kinds() -> None:
    for data in (
        takes(b""),
        takes(bytearray()),
        takes(memoryview(b"")),
        takes(array("I")),
        takes(array("d")),
        takes(np.zeros(0, dtype=np.uint8)),
    ):
        assert memoryview(data).nbytes == 0  # type: ignore[arg-type]

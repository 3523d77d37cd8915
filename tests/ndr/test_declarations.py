"""What may be declared, and what is refused at declaration time with advice; what may be the element of a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, Optional, TypeAlias

import pytest

from apcrt import ndr

from .captures import ContextHandle, OptionalText, Rec, Wide
from .test_constructed import Inner, Node, Shape


class Small(IntEnum):
    ONE = 1


class Negative(IntEnum):
    MINUS = -1


OptionalLong: TypeAlias = ndr.Unique[ndr.UInt32]
Sizeless: TypeAlias = ndr.Unique[int]


@dataclass
class Empty:
    pass


@dataclass
class Endless:
    inner: Endless


@dataclass
class HoldsPointer:
    id: ndr.UInt32
    name: ndr.Unique[ndr.WString]


@dataclass
class HoldsEnum16:
    id: ndr.UInt32
    small: Annotated[Small, ndr.Enum16]


@dataclass
class HoldsEnum32:
    small: Annotated[Small, ndr.Enum32]
    id: ndr.UInt64


@dataclass
class PlainInt:
    id: int


@dataclass
class StringFirst:
    name: ndr.WString
    id: ndr.UInt32


@dataclass
class StrangeSize:
    ids: Annotated[Sequence[int], ndr.Array(ndr.UInt32, size_is="count")]


@dataclass
class TextSize:
    count: ndr.Unique[ndr.UInt32]
    ids: Annotated[Sequence[int], ndr.Array(ndr.UInt32, size_is="count")]


@dataclass
class PointedSize:
    ids: ndr.Unique[Annotated[Sequence[int], ndr.Array(ndr.UInt32, size_is="total")]]


@dataclass
class Hidden:
    id: ndr.UInt32 = field(init=False)


@dataclass
class Unresolved:
    id: Missing  # type: ignore[name-defined] # noqa: F821


REFUSED: list[tuple[object, str]] = [
    (int, r"use ndr\.Int32"),
    (float, r"use ndr\.Double"),
    (bool, r"use ndr\.Boolean"),
    (str, r"use ndr\.WString"),
    (bytes, r"use Annotated\[bytes, ndr\.Bytes"),
    (list[int], r"use Annotated\[Sequence\[int\], ndr\.Array"),
    (tuple[int, int], "use a dataclass for a structure"),
    (Optional[int], r"use ndr\.Unique\[\.\.\.\]"),  # noqa: UP045 - the older spelling is met too
    (type(None), "None has no encoding"),
    (None, "has no encoding"),
    (object, "use the names of apcrt.ndr"),
    (Annotated[int, "a comment"], r"use ndr\.Int32"),
    ("UInt32", "resolve it with typing.get_type_hints"),
    (Annotated[ndr.UInt32, ndr.Array(ndr.UInt32)], "several ndr types"),
    (Annotated[int, ndr.Enum32], "marks an enum.IntEnum"),
    (Annotated[Negative, ndr.Enum32], "does not fit ndr.Enum32"),
    (Annotated[list[int], ndr.Array(ndr.UInt32, count=0)], "at least one element, not 0"),
    (Annotated[list[int], ndr.Array(ndr.UInt32, "n", 3)], "not both"),
    (Annotated[list[str], ndr.Array(ndr.WString)], r"point to it: ndr\.Unique"),
    (Annotated[list[Inner], ndr.Array(Inner)], r"point to it: ndr\.Unique"),
    (Empty, "has no members"),
    (Endless, r"Endless\.inner: Endless contains itself; only through ndr\.Unique"),
    (PlainInt, r"PlainInt\.id: .* use ndr\.Int32"),
    (StringFirst, r"StringFirst\.name is WString, whose size varies: it must be the last member"),
    (StrangeSize, r"size_is names 'count', which is no member of StrangeSize"),
    (TextSize, r"size_is names 'count', which is a Unique pointer, no integer"),
    (PointedSize, r"size_is names 'total', which is no member"),
    (Hidden, r"Hidden\.id has init=False"),
    (Unresolved, "name 'Missing', which its module does not know: define structures at module level"),
    (Sizeless, r"use ndr\.Int32"),
]


@pytest.mark.parametrize(("annotation", "advice"), REFUSED)
def test_refused(annotation: object, advice: str) -> None:
    with pytest.raises(ndr.DeclarationError, match=advice):
        ndr.compile_type(annotation)
    with pytest.raises(TypeError, match=f"^parameter: .*{advice}"):
        ndr.Fields([("parameter", annotation)])


def test_a_name_occurs_once() -> None:
    with pytest.raises(ndr.DeclarationError, match="a name occurs twice in a, b, a"):
        ndr.Fields([("a", ndr.Byte), ("b", ndr.Byte), ("a", ndr.Byte)])
    with pytest.raises(ndr.DeclarationError, match="size_is names 'count', which is WString, no integer"):
        ndr.Fields([("count", ndr.WString), ("ids", Annotated[list[int], ndr.Array(ndr.Byte, "count")])])


def test_compiled_once() -> None:
    for annotation in (ndr.UInt32, OptionalText, Node, Annotated[list[int], ndr.Array(ndr.UInt32)]):
        assert ndr.compile_type(annotation) is ndr.compile_type(annotation)
    assert ndr.pipe_element(Rec) is ndr.pipe_element(Rec)


ELEMENTS: list[tuple[object, int, int, int, str | None]] = [
    (ndr.Byte, 1, 1, 1, "B"),
    (ndr.Char, 1, 1, 1, "B"),
    (ndr.Int8, 1, 1, 1, "b"),
    (ndr.Int16, 2, 2, 2, "h"),
    (ndr.UInt32, 4, 4, 4, "I"),
    (ndr.Int64, 8, 8, 8, "q"),
    (ndr.Float, 4, 4, 4, "f"),
    (ndr.Double, 8, 8, 8, "d"),
    (ndr.Boolean, 1, 1, 1, "?"),
    (ndr.Guid, 16, 4, 16, None),
    (Annotated[Small, ndr.Enum32], 4, 4, 4, None),
    (Annotated[list[int], ndr.Array(ndr.UInt16, count=3)], 6, 2, 6, None),
    (Rec, 7, 4, 8, None),
    (Wide, 16, 8, 16, None),
    (ContextHandle, 20, 4, 20, None),
    (HoldsEnum32, 16, 8, 16, None),
    (Shape, 77, 8, 80, None),
]


@pytest.mark.parametrize(("annotation", "size", "align", "stride", "code"), ELEMENTS)
def test_elements(annotation: object, size: int, align: int, stride: int, code: str | None) -> None:
    element = ndr.pipe_element(annotation)
    assert (element.size, element.align, element.stride, element.format) == (size, align, stride, code)


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (OptionalLong, "cannot hold a pointer"),
        (HoldsPointer, "member name: a pipe element cannot hold a pointer"),
        (Node, "cannot hold a pointer"),
        (Annotated[list[int | None], ndr.Array(OptionalLong, count=2)], "cannot hold a pointer"),
        (Annotated[list[int], ndr.Array(ndr.UInt32)], "a conformant array has no fixed size"),
        (Inner, "member values: a conformant array has no fixed size"),
        (ndr.WString, "WString has no fixed size"),
        (Annotated[Small, ndr.Enum16], r"a 16-bit enum is no pipe element; use ndr\.Enum32"),
        (HoldsEnum16, "member small: a 16-bit enum is no pipe element"),
        (int, r"use ndr\.Int32"),
    ],
)
def test_no_elements(annotation: object, reason: str) -> None:
    with pytest.raises(ndr.DeclarationError, match=reason):
        ndr.pipe_element(annotation)

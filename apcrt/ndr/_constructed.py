"""Structures: dataclasses, frozen or not.

Members stand in order of declaration, each at its own alignment; the structure is aligned to its largest member and has
no padding at its end (C706 14.3.7). A structure whose members are all fixed becomes one `struct` format (`_layout`).
The last member may be a conformant array or a string, whose count is then hoisted in front of the outermost structure.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, cast

from apcrt.ndr._codec import Codec
from apcrt.ndr._errors import DeclarationError, NdrError, ValueRefused, shown
from apcrt.ndr._layout import INTEGER_RANGES, RecordLayout, ScalarLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from apcrt.ndr._cursor import Decoder, Encoder

NO_ENV: Mapping[str, object] = {}


class StructCodec(Codec):
    """A structure. Made empty and filled by `complete`: a type that contains itself meets the empty one."""

    def __init__(self, cls: type) -> None:
        self.name = cls.__name__
        self.cls = cls
        self.completed = False
        self._sized = False
        self.members: list[tuple[str, Codec]] = []

    def complete(self, members: Sequence[tuple[str, Codec]], make: Callable[..., object]) -> None:
        """Fill in the members.

        Args:
            members: names and codecs in order of declaration.
            make: called with the members' values in that order; the class itself, or a wrapper for keyword-only ones.

        Raises:
            DeclarationError: NDR has no such structure.
        """
        if not members:
            raise DeclarationError(f"{self.name} has no members; a structure on the wire has at least one")
        for name, codec in members[:-1]:
            if codec.dimensions:
                raise DeclarationError(
                    f"{self.name}.{name} is {codec.name}, whose size varies: it must be the last member, "
                    f"or be pointed to: ndr.Unique[...]"
                )
        self.members = list(members)
        self._make = make
        self._last = members[-1][1]
        self.dimensions = self._last.dimensions
        self.align = max(codec.align for _, codec in members)
        self.minimum = sum(codec.minimum for _, codec in members)
        self.deferred = any(codec.deferred for _, codec in members)
        self.refusal = next((f"member {name}: {codec.refusal}" for name, codec in members if codec.refusal), "")
        layouts = [(name, codec.layout) for name, codec in members if codec.layout is not None]
        if len(layouts) == len(members):
            self.layout = RecordLayout(self.name, self.cls, layouts, make)
        self._get_last: Callable[[object], object] = attrgetter(members[-1][0])
        self.completed = True

    def settle(self) -> None:
        """Look up the size members, when the pointees of the members are known too. Raises `DeclarationError`."""
        # Whether a member asks for the others: only then are they collected under their names.
        self._sized = any(codec.sizes for _, codec in self.members)
        check_sizes(self.name, self.members, others_allowed=False)

    def _env(self, value: object) -> Mapping[str, object]:
        return {name: getattr(value, name) for name, _ in self.members} if self._sized else NO_ENV

    def _expect(self, value: object) -> None:
        if not isinstance(value, self.cls):
            raise ValueRefused(f"expected {self.name}, not {shown(value)}")

    def put_counts(self, encoder: Encoder, value: object, _env: Mapping[str, object], /) -> None:
        self._expect(value)
        try:
            self._last.put_counts(encoder, self._get_last(value), self._env(value))
        except ValueRefused as refused:
            refused.inside(self.members[-1][0])
            raise

    def put(self, encoder: Encoder, value: object, _env: Mapping[str, object], /) -> None:
        encoder.align(self.align)
        if self.layout is not None:
            encoder.write(self.layout.pack(value, encoder.order_index))
            return
        self._expect(value)
        inner = self._env(value)
        for name, codec in self.members:
            try:
                codec.put(encoder, getattr(value, name), inner)
            except ValueRefused as refused:
                refused.inside(name)
                raise

    def take_counts(self, decoder: Decoder) -> None:
        self._last.take_counts(decoder)

    def take(self, decoder: Decoder, _env: Mapping[str, object], /) -> object:
        decoder.align(self.align)
        if self.layout is not None:
            return self.layout.unpack(decoder.data, decoder.take(self.layout.size), decoder.order_index)
        raw: dict[str, object] = {}
        for name, codec in self.members:
            try:
                raw[name] = codec.take(decoder, raw)
            except NdrError as error:
                error.inside(name)
                raise
        return raw if self.deferred else self._build(raw.values())

    def build(self, raw: object) -> object:
        if not self.deferred:
            return raw
        members = cast("dict[str, object]", raw)
        return self._build([codec.build(members[name]) for name, codec in self.members])

    def _build(self, values: object) -> object:
        try:
            return self._make(*cast("Sequence[object]", values))
        except (ValueError, TypeError) as error:
            raise NdrError(f"{self.name} refuses what the peer sent: {error}") from error


def check_sizes(owner: str, members: Sequence[tuple[str, Codec]], *, others_allowed: bool) -> frozenset[str]:
    """Check that what `size_is` names is an integer; return the names that are not among `members`.

    Raises:
        DeclarationError: a name stands for something else than an integer, or for nothing.
    """
    known = dict(members)
    missing: set[str] = set()
    for name, codec in members:
        for size in codec.sizes:
            if size not in known:
                if not others_allowed:
                    raise DeclarationError(f"{owner}.{name}: size_is names {size!r}, which is no member of {owner}")
                missing.add(size)
                continue
            layout = known[size].layout
            if not isinstance(layout, ScalarLayout) or layout.code not in INTEGER_RANGES:
                raise DeclarationError(
                    f"{owner}.{name}: size_is names {size!r}, which is {known[size].name}, no integer"
                )
    return frozenset(missing)

"""The contract of a type on the wire, and of the marks in annotations from which such types are made.

A `Codec` is one type in NDR20, compiled once from an annotation and shared by all calls (immutable after that, so safe
on every thread). What is common to all constructed types is here, once, so that new kinds of types are added beside the
existing ones:

- **whole or in place.** `encode`/`decode` handle a value that stands by itself: a parameter or a pointee. `put`/`take`
  handle the same value inside another one. They differ for two things only:
  - counts of a conformant array at the end of a structure are *hoisted* in front of the outermost structure
    (C706 14.3.7.1): `put_counts`/`take_counts`, called by the outermost codec before it puts the rest;
  - pointees of embedded pointers are *deferred* behind the outermost type, in order of appearance, each together with
    its own deferred ones (C706 14.3.12.3): `put` of a pointer registers them, `encode` of the outermost writes them.
- **raw and built.** A frozen dataclass cannot be made before its deferred pointees are there. `take` therefore returns
a
  raw value and `build` makes the final one; for types without pointers both are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from apcrt.ndr._cursor import Suspended
from apcrt.ndr._errors import NdrError, NeedMoreData, ValueRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from apcrt.ndr._cursor import Decoder, Encoder
    from apcrt.ndr._layout import Layout

MAX_ENCODE_DEPTH = 64


class Codec(ABC):
    """One type on the wire.

    Attributes:
        name: how a reader of the declaration would call it; used in error texts.
        align: alignment in the stub (bytes: 1, 2, 4 or 8).
        minimum: fewest bytes that a value takes in place, without a leading gap; at least 1. Counts are checked by it.
        dimensions: counts to be hoisted in front of the outermost structure (0: none).
        deferred: it contains embedded pointers, so pointees may follow and `build` has work to do.
        layout: the fixed layout in bytes; None for a type whose size depends on the value.
        refusal: why it cannot be the element of a pipe; empty if it can.
    """

    name: str
    align: int
    minimum: int
    dimensions: int = 0
    deferred: bool = False
    layout: Layout | None = None
    refusal: str = ""

    @property
    def sizes(self) -> tuple[str, ...]:
        """Names of the neighbours (parameters or members) that hold sizes of this value's arrays."""
        return ()

    def encode(self, encoder: Encoder, value: object, env: Mapping[str, object], /) -> None:
        """Write a whole value: hoisted counts, the value, deferred pointees.

        Args:
            env: values of the parameters (or members) beside this one, for `size_is`.

        Raises:
            ValueRefused: (87) the value does not fit.
        """
        if self.dimensions:
            self.put_counts(encoder, value, env)
        if not self.deferred:
            self.put(encoder, value, env)
            return
        outer, encoder.pending = encoder.pending, []
        self.put(encoder, value, env)
        pending, encoder.pending = encoder.pending, outer
        descend(encoder)
        for codec, pointee, pointee_env in pending:
            codec.encode(encoder, pointee, pointee_env)
        encoder.depth -= 1

    def decode(self, decoder: Decoder, env: Mapping[str, object], /) -> object:
        """Read a whole value.

        Raises:
            NdrError: (1783) the bytes are no value of this type, or a limit is passed.
            NeedMoreData: they have not all arrived; begin again with a fresh decoder.
        """
        if not self.deferred:
            if self.dimensions:
                self.take_counts(decoder)
            return self.take(decoder, env)
        progress = decoder.progress
        begin = decoder.offset
        suspended = None if progress is None else progress.suspended.pop(begin, None)
        if suspended is None:
            if self.dimensions:
                self.take_counts(decoder)
            outer, decoder.pending = decoder.pending, []
            raw = self.take(decoder, env)
            pending, decoder.pending = decoder.pending, outer
            index = 0
        else:
            raw, pending, index = suspended.raw, suspended.pending, suspended.index
            decoder.go_to(suspended.mark)
        decoder.descend()
        mark = decoder.mark()
        try:
            while index < len(pending):
                mark = decoder.mark()
                referent = pending[index]
                referent.value = referent.codec.decode(decoder, referent.env)
                index += 1
        except NeedMoreData:
            if progress is not None:
                progress.suspended[begin] = Suspended(raw, pending, index, mark)
            raise
        decoder.depth -= 1
        return self.build(raw)

    @abstractmethod
    def put(self, encoder: Encoder, value: object, env: Mapping[str, object], /) -> None:
        """Write the value in place, aligned. Raises `ValueRefused` (87)."""

    @abstractmethod
    def take(self, decoder: Decoder, env: Mapping[str, object], /) -> object:
        """Read the value in place, aligned, and return it raw. Raises as `decode` does."""

    def build(self, raw: object) -> object:
        """Return the final value of a raw one, after its deferred pointees have been read."""
        return raw

    def put_counts(  # noqa: B027 - most types hoist nothing
        self, encoder: Encoder, value: object, env: Mapping[str, object], /
    ) -> None:
        """Write the counts that are hoisted; called only when `dimensions` is not 0."""

    def take_counts(self, decoder: Decoder) -> None:  # noqa: B027 - most types hoist nothing
        """Read the hoisted counts into `decoder.hoisted`; called only when `dimensions` is not 0."""

    def __repr__(self) -> str:
        return f"<{self.name}>"


class TypeMark(ABC):
    """The mark in `Annotated[python_type, mark]` from which `compile_type` makes a codec.

    New kinds of types are new marks; the compiler knows none of them by name.
    """

    @abstractmethod
    def codec(self, python_type: object, compiler: Compiler, /) -> Codec:
        """Return the codec for an annotation that carries this mark.

        Args:
            python_type: the annotated type, as a checker sees it.
            compiler: compiles the types inside.

        Raises:
            DeclarationError: the two do not go together.
        """


class Compiler(ABC):
    """What a mark may ask of the compiler; the seam that keeps marks from importing it."""

    @abstractmethod
    def compile(self, annotation: object) -> Codec:
        """Return the codec of an annotation found inside another one. Raises `DeclarationError`."""

    @abstractmethod
    def compile_later(self, annotation: object, use: Callable[[Codec], None]) -> None:
        """Compile an annotation once the types around it are complete, and give the codec to `use`.

        For what is reached through a pointer, and so may contain the type that is being compiled.
        """


def descend(encoder: Encoder) -> None:
    """Go one pointer deeper while writing.

    Raises:
        ValueRefused: (87) deeper than a peer with our own limits would read.
    """
    encoder.depth += 1
    if encoder.depth > MAX_ENCODE_DEPTH:
        raise ValueRefused(
            f"pointers are nested deeper than {MAX_ENCODE_DEPTH}; a longer chain is better sent as an array"
        )


def check_size(name: str, size: object, count: int) -> None:
    """Compare the elements of an array read from a peer with the value of its size parameter.

    Raises:
        NdrError: (1783) they differ.
    """
    if size != count:
        raise NdrError(f"the array has {count} elements, {name} says {size}")

"""From annotations to codecs, once per annotation, and parameter lists.

`compile_type` takes real objects (as `typing.get_type_hints(..., include_extras=True)` gives them) and knows two kinds:
`Annotated[...]` with a `TypeMark`, whose mark does the work, and dataclasses, which are structures. Everything else is
refused with what to write instead, at declaration time.

`Fields` is a row of parameters: the non-pipe part of a request or of a response.
"""

from __future__ import annotations

import dataclasses
import typing
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, cast, get_args, get_origin

from apcrt.ndr._codec import Codec, Compiler, TypeMark, check_size
from apcrt.ndr._constructed import NO_ENV, StructCodec, check_sizes
from apcrt.ndr._cursor import SuspendedFields
from apcrt.ndr._errors import DeclarationError, NdrError, NeedMoreData, ValueRefused
from apcrt.ndr._order import TransferSyntax

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from apcrt.ndr._cursor import Decoder, Encoder

_HINTS: dict[object, str] = {
    int: "int says nothing about its size: use ndr.Int32, ndr.UInt32, ndr.Byte, ...",
    float: "float says nothing about its size: use ndr.Double or ndr.Float",
    bool: "use ndr.Boolean",
    str: "use ndr.WString, or ndr.String for one-byte characters",
    bytes: "use Annotated[bytes, ndr.Bytes()] or ndr.Bytes(size_is=...)",
    bytearray: "use Annotated[bytes, ndr.Bytes()] or ndr.Bytes(size_is=...)",
    list: "use Annotated[Sequence[int], ndr.Array(ndr.UInt32)] and the like",
    tuple: "use a dataclass for a structure, Annotated[Sequence[int], ndr.Array(ndr.UInt32)] for an array",
    typing.Union: "use ndr.Unique[...] for a value that may be None",
    type(None): "None has no encoding",
}


def compile_type(annotation: object, *, syntax: TransferSyntax = TransferSyntax.NDR20) -> Codec:
    """Return the codec of an annotation.

    Args:
        annotation: `ndr.Byte` and the like, `ndr.Unique[...]`, `Annotated[..., ndr.Array(...)]`, or a dataclass.
        syntax: the encoding; the codec is of that syntax only.

    Raises:
        DeclarationError: (a TypeError) it has no encoding; the text says what to write instead.

    Any thread. The result is immutable and cached.
    """
    try:
        return _compiled(annotation, syntax)
    except TypeError as error:
        if isinstance(error, DeclarationError) or "unhashable" not in str(error):
            raise
        return _compile(annotation, syntax)


def _compile(annotation: object, syntax: TransferSyntax) -> Codec:
    if syntax is not TransferSyntax.NDR20:
        raise DeclarationError(f"there are no codecs for {syntax}")
    return _Compilation().whole(annotation)


_compiled = lru_cache(maxsize=1024)(_compile)


class _Compilation(Compiler):
    """One run of the compiler; structures are shared within it, so that recursive ones find themselves."""

    def __init__(self) -> None:
        self._structs: dict[type, StructCodec] = {}
        self._later: list[tuple[object, Callable[[Codec], None]]] = []

    def whole(self, annotation: object) -> Codec:
        codec = self.compile(annotation)
        while self._later:
            pointee, use = self._later.pop()
            use(self.compile(pointee))
        for struct in self._structs.values():
            struct.settle()
        return codec

    def compile(self, annotation: object) -> Codec:
        if get_origin(annotation) is Annotated:
            python_type, *metadata = get_args(annotation)
            marks = [mark for mark in metadata if isinstance(mark, TypeMark)]
            if len(marks) > 1:
                raise DeclarationError(f"{annotation!r} carries several ndr types: {marks}")
            return marks[0].codec(python_type, self) if marks else self.compile(python_type)
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            return self._struct(annotation)
        if isinstance(annotation, str):
            raise DeclarationError(f"{annotation!r} is a name, not a type; resolve it with typing.get_type_hints")
        hint = _HINTS.get(annotation if isinstance(annotation, type) else get_origin(annotation))
        hint = hint or "use the names of apcrt.ndr, or a dataclass of them"
        raise DeclarationError(f"{annotation!r} has no encoding: {hint}")

    def compile_later(self, annotation: object, use: Callable[[Codec], None]) -> None:
        self._later.append((annotation, use))

    def _struct(self, cls: type) -> StructCodec:
        known = self._structs.get(cls)
        if known is not None:
            if not known.completed:
                raise DeclarationError(f"{cls.__name__} contains itself; only through ndr.Unique[...] can it do so")
            return known
        codec = self._structs[cls] = StructCodec(cls)
        fields = dataclasses.fields(cls)
        for field in fields:
            if not field.init:
                raise DeclarationError(
                    f"{cls.__name__}.{field.name} has init=False: a member must be settable when it arrives"
                )
        try:
            hints = typing.get_type_hints(cls, include_extras=True)
        except NameError as error:
            raise DeclarationError(
                f"the annotations of {cls.__name__} name {error.name!r}, which its module does not know: "
                f"define structures at module level and import what they use at run time, not under TYPE_CHECKING"
            ) from error
        members: list[tuple[str, Codec]] = []
        for field in fields:
            try:
                members.append((field.name, self.compile(hints[field.name])))
            except DeclarationError as error:
                raise DeclarationError(f"{cls.__name__}.{field.name}: {error}") from error
        codec.complete(members, _maker(cls, fields))
        return codec


def _maker(cls: type, fields: Sequence[dataclasses.Field[object]]) -> Callable[..., object]:
    """Return what makes an instance of a dataclass from its members in order of declaration."""
    make = cast("Callable[..., object]", cls)
    if not any(field.kw_only for field in fields):
        return make
    names = [field.name for field in fields]
    return lambda *values: make(**dict(zip(names, values, strict=True)))


class Fields:
    """A row of parameters, compiled: what a request or a response holds beside its pipes.

    Args:
        fields: (name, annotation) in wire order; the name of a return value is the caller's choice.
        syntax: the encoding.

    Attributes:
        names: names in wire order.
        required: names that `size_is` refers to and that are not among `names`: `env` must supply them.
        fixed_size_known: every value has a size known from the declaration, as operations with pipes must have it in
        MIDL.

    Raises:
        DeclarationError: (a TypeError) a parameter has no encoding.

    Immutable after construction, for any thread.
    """

    def __init__(self, fields: Sequence[tuple[str, object]], *, syntax: TransferSyntax = TransferSyntax.NDR20) -> None:
        self._fields: list[tuple[str, Codec]] = []
        for name, annotation in fields:
            try:
                self._fields.append((name, compile_type(annotation, syntax=syntax)))
            except DeclarationError as error:
                raise DeclarationError(f"{name}: {error}") from error
        self.names: tuple[str, ...] = tuple(name for name, _ in self._fields)
        if len(set(self.names)) != len(self.names):
            raise DeclarationError(f"a name occurs twice in {', '.join(self.names)}")
        self.required: frozenset[str] = check_sizes("parameters", self._fields, others_allowed=True)
        self.fixed_size_known: bool = all(codec.layout is not None for _, codec in self._fields)
        self._sized = any(codec.sizes for _, codec in self._fields)

    def encode(self, encoder: Encoder, values: Mapping[str, object], env: Mapping[str, object] = NO_ENV) -> None:
        """Write all parameters.

        Args:
            values: by name; every name of `names` must be there.
            env: other parameters of the call that `size_is` names (see `required`).

        Raises:
            ValueRefused: (87) a value is missing or does not fit; the text names the parameter and what would be right.
                The encoder is then of no further use.
        """
        scope = {**env, **values} if self._sized else values
        for name, codec in self._fields:
            try:
                value = values[name]
            except KeyError:
                raise ValueRefused(f"no value for {name}") from None
            try:
                codec.encode(encoder, value, scope)
            except ValueRefused as refused:
                refused.inside(name)
                raise

    def decode(self, decoder: Decoder, env: Mapping[str, object] = NO_ENV) -> dict[str, object]:
        """Read all parameters and return them by name, in wire order.

        Restartable: after `NeedMoreData` call again with a fresh decoder over more data from the same stub position.
        Give these decoders one `Progress`, then what has been read is not read again.

        Raises:
            NdrError: (1783) bytes are no value of their type, a size disagrees, or a limit is passed.
            NeedMoreData: (from a decoder that is not final) `needed` says how far the stub must have arrived.
        """
        progress = decoder.progress
        suspended = None if progress is None else progress.fields
        # A parameter that travels both ways is measured by the value that travels with it, not by the older one in env.
        scope = {name: value for name, value in env.items() if name not in self.names} if self._sized else {}
        values: dict[str, object] = {}
        late: list[tuple[str, str, int]] = []
        begin = 0
        if suspended is not None:
            begin, values, scope, late = suspended.index, suspended.values, suspended.scope, suspended.late
            decoder.go_to(suspended.mark)
        for index in range(begin, len(self._fields)):
            name, codec = self._fields[index]
            mark = decoder.mark()
            try:
                values[name] = scope[name] = codec.decode(decoder, scope)
            except NdrError as error:
                error.inside(name)
                raise
            except NeedMoreData:
                if progress is not None:
                    late += [(name, check.size_is, check.count) for check in decoder.late]
                    progress.fields = SuspendedFields(index, mark, values, scope, late)
                raise
            if decoder.late:
                late += [(name, check.size_is, check.count) for check in decoder.late]
                decoder.late.clear()
        for name, size_is, count in late:
            try:
                check_size(size_is, scope.get(size_is), count)
            except NdrError as error:
                error.inside(name)
                raise
        return values

    def __repr__(self) -> str:
        return f"Fields({', '.join(f'{name}: {codec.name}' for name, codec in self._fields)})"

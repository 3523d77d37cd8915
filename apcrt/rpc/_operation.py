"""An operation's declaration, compiled once: parameters, pipes, results.

What lives here: `OperationSpec` and what turns a Python signature into one. What must not: calling.

How it works. The annotations of the declaring function are resolved with their `Annotated` marks. Parameters that are
pipes become `PipeParameter`s in order; the others become the request's `ndr.Fields`. The return annotation becomes the
response's: nothing, one value, or the members of a NamedTuple in wire order ([out] parameters, then the return value).
What MIDL refuses is refused here, when the class is created.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, cast

from apcrt import ndr
from apcrt.rpc.pipe import InOutPipe, InPipe, OutPipe, Pipe
from apcrt.status import RpcUsageError, Status
from apcrt.wire import SyntaxId

__all__ = ["OperationSpec", "PipeParameter", "ReplyKind"]


class ReplyKind(enum.Enum):
    """What an operation replies with."""

    NOTHING = enum.auto()
    VALUE = enum.auto()
    TUPLE = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class PipeParameter:
    """A parameter that is a pipe."""

    name: str
    kind: type[Pipe[Any]]
    element: ndr.Element

    @property
    def carries_in(self) -> bool:
        """Does the client push?"""
        return self.kind is not OutPipe

    @property
    def carries_out(self) -> bool:
        """Does the server push?"""
        return self.kind is not InPipe


@dataclasses.dataclass(frozen=True)
class OperationSpec:
    """Everything about an operation that does not change from call to call."""

    name: str
    interface: SyntaxId
    opnum: int
    signature: inspect.Signature
    parameters: tuple[str, ...]
    request: ndr.Fields
    response: ndr.Fields
    pipes: tuple[PipeParameter, ...]
    reply_kind: ReplyKind
    reply_type: Callable[..., object] | None

    @property
    def streams_in(self) -> bool:
        """Does the request carry pipes?"""
        return any(pipe.carries_in for pipe in self.pipes)

    def bind(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
        """The arguments by name, in order.

        Raises:
            RpcUsageError: 87, they do not fit the declaration.
        """
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise RpcUsageError(Status.RPC_S_INVALID_ARG, f"{self.name}{self.signature}: {error}") from error
        bound.apply_defaults()
        return dict(bound.arguments)

    def encode_reply(self, encoder: ndr.Encoder, reply: object, arguments: Mapping[str, object]) -> None:
        """Write the results of a reply, checking its shape.

        Raises:
            RpcUsageError: 87, it is no reply of this operation.
        """
        match self.reply_kind:
            case ReplyKind.NOTHING:
                if reply is not None:
                    raise RpcUsageError(
                        Status.RPC_S_INVALID_ARG, f"{self.name} replies with nothing; return None, not {reply!r:.60}"
                    )
                values: dict[str, object] = {}
            case ReplyKind.VALUE:
                values = {self.response.names[0]: reply}
            case ReplyKind.TUPLE:
                names = self.response.names
                if not isinstance(reply, tuple) or len(cast("tuple[object, ...]", reply)) != len(names):
                    raise RpcUsageError(
                        Status.RPC_S_INVALID_ARG,
                        f"{self.name} replies with a tuple of {', '.join(names)}; got {reply!r:.60}",
                    )
                values = dict(zip(names, cast("tuple[object, ...]", reply), strict=True))
        self.response.encode(encoder, values, arguments)

    def decode_reply(self, decoder: ndr.Decoder, arguments: Mapping[str, object]) -> object:
        """Read the results of a response."""
        values = self.response.decode(decoder, arguments)
        match self.reply_kind:
            case ReplyKind.NOTHING:
                return None
            case ReplyKind.VALUE:
                return next(iter(values.values()))
            case ReplyKind.TUPLE:
                make = self.reply_type
                return make(**values) if make is not None else tuple(values.values())


def compile_operation(
    function: Callable[..., object],
    opnum: int,
    namespace: Mapping[str, object],
    *,
    interface: SyntaxId,
    idempotent: bool = False,
) -> OperationSpec:
    """Compile a declaration.

    Args:
        function: the declaring function; its body is never run.
        opnum: the operation's number.
        namespace: names of the scope in which the interface is declared, for annotations that are strings.
        interface: what it is an operation of.
        idempotent: it was declared so.

    Raises:
        ndr.DeclarationError: (a TypeError) MIDL would refuse it; the text says why.
    """
    name = function.__name__
    try:
        hints = typing.get_type_hints(function, localns=dict(namespace), include_extras=True)
    except NameError as error:
        raise ndr.DeclarationError(f"{name}: {error}") from error
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1:]
    fields: list[tuple[str, object]] = []
    pipes: list[PipeParameter] = []
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ndr.DeclarationError(f"{name}: {parameter} cannot travel; declare plain parameters")
        if parameter.name not in hints:
            raise ndr.DeclarationError(f"{name}: parameter {parameter.name} has no annotation")
        annotation = hints[parameter.name]
        pipe = _pipe_parameter(name, parameter.name, annotation)
        if pipe is None:
            fields.append((parameter.name, annotation))
        else:
            pipes.append(pipe)
    if pipes and idempotent:
        raise ndr.DeclarationError(f"{name}: an [idempotent] operation cannot have pipes")
    kind, make, results = _reply(name, hints.get("return", type(None)))
    try:
        request, response = ndr.Fields(fields), ndr.Fields(results)
    except ndr.DeclarationError as error:
        raise ndr.DeclarationError(f"{name}: {error}") from error
    plain = {field for field, _ in fields} | {field for field, _ in results}
    missing = sorted((request.required | response.required) - plain)
    if missing:
        raise ndr.DeclarationError(f"{name}: size_is names {missing[0]!r}, which is no parameter of it")
    return OperationSpec(
        name,
        interface,
        opnum,
        signature.replace(parameters=parameters),
        tuple(parameter.name for parameter in parameters),
        request,
        response,
        tuple(pipes),
        kind,
        make,
    )


def _pipe_parameter(operation: str, name: str, annotation: object) -> PipeParameter | None:
    origin = typing.get_origin(annotation) or annotation
    if not (isinstance(origin, type) and issubclass(origin, Pipe)):
        return None
    arguments = typing.get_args(annotation)
    if origin not in (InPipe, OutPipe, InOutPipe) or len(arguments) != 1:
        raise ndr.DeclarationError(
            f"{operation}: pipe {name} is declared as InPipe[T], OutPipe[T] or InOutPipe[T] with an element type T"
        )
    try:
        element = ndr.pipe_element(arguments[0])
    except ndr.DeclarationError as error:
        raise ndr.DeclarationError(f"{operation}: pipe {name}: {error}") from error
    return PipeParameter(name, cast("type[Pipe[Any]]", origin), element)


def _reply(name: str, annotation: object) -> tuple[ReplyKind, Callable[..., object] | None, list[tuple[str, object]]]:
    if annotation is type(None) or annotation is None:
        return ReplyKind.NOTHING, None, []
    origin = typing.get_origin(annotation) or annotation
    if isinstance(origin, type) and issubclass(origin, Pipe):
        raise ndr.DeclarationError(f"{name}: a pipe is a parameter, it cannot be a result")
    if isinstance(annotation, type) and _is_named_tuple(annotation):
        hints = typing.get_type_hints(annotation, include_extras=True)
        return ReplyKind.TUPLE, annotation, list(hints.items())
    return ReplyKind.VALUE, None, [("return_value", annotation)]


def _is_named_tuple(kind: type) -> bool:
    return hasattr(kind, "_fields") and issubclass(kind, tuple)

"""Interfaces: declared once, called in four ways, served by marked routines.

What lives here: `Interface`, `operation`, `Operation` (seen on the class: marks managers) and `BoundOperation` (seen on
an instance: calls). What must not: what a call does (`_client_call.py`, `_open.py`).

How it works. Creating the class compiles every operation, so a declaration that cannot work fails where it stands.
`FileRep(binding)` is cheap and connects nothing. The four faces differ in who waits: `begin` nobody, `__call__` the
thread, `call` the task, `open` the block.
"""

from __future__ import annotations

import sys
import uuid as uuid_module
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from apcrt.apc import current_thread, lowlevel
from apcrt.ndr import DeclarationError
from apcrt.rpc import _ends
from apcrt.rpc._client_call import ClientCall
from apcrt.rpc._open import OpenCall
from apcrt.rpc._operation import OperationSpec, compile_operation
from apcrt.rpc.handle import AsyncHandle, Pending, ServerHandle
from apcrt.status import RpcUsageError, Status
from apcrt.wire import SyntaxId

if TYPE_CHECKING:
    from apcrt.rpc.binding import Binding

__all__ = ["BoundOperation", "Interface", "Operation", "operation"]

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M")

#: The attribute by which a routine says which operations it serves.
MANAGES = "_apcrt_operations"


class Operation(Generic[P, R]):
    """An operation as it was declared: `FileRep.read`. Made by `@apcrt.operation`."""

    spec: OperationSpec

    def __init__(self, function: Callable[..., R], opnum: int | None, *, idempotent: bool) -> None:
        self.function = function
        self.opnum = opnum
        self.idempotent = idempotent
        self.name: str = function.__name__
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type, /) -> Operation[P, R]: ...
    @overload
    def __get__(self, instance: Interface, owner: type, /) -> BoundOperation[P, R]: ...
    def __get__(self, instance: Interface | None, owner: type, /) -> Operation[P, R] | BoundOperation[P, R]:
        if instance is None:
            return self
        return BoundOperation(self.spec, instance.binding)

    def manager(
        self, routine: Callable[Concatenate[M, ServerHandle[R], P], R | Pending | Awaitable[R]], /
    ) -> Callable[Concatenate[M, ServerHandle[R], P], R | Pending | Awaitable[R]]:
        """Mark a routine of a manager object as the one that serves this operation.

        The routine gets the `ServerHandle` and the arguments, pipes included. A plain one runs on a dispatch thread
        and may block; an `async def` one runs in the trio run that serves. It returns the reply, or `apcrt.PENDING` to
        hand the call off. What it raises ends the call: a StatusError with its status, anything else as an unspecified
        fault.
        """
        marked: list[Operation[Any, Any]] = getattr(routine, MANAGES, [])
        setattr(routine, MANAGES, [*marked, self])
        return routine

    def __repr__(self) -> str:
        return f"<Operation {self.name}>"


class BoundOperation(Generic[P, R]):
    """An operation of one server: `FileRep(binding).read`. Made by reading that attribute; any thread."""

    __slots__ = ("_binding", "_spec")

    def __init__(self, spec: OperationSpec, binding: Binding) -> None:
        self._spec = spec
        self._binding = binding

    def begin(self, handle: AsyncHandle[R], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Start the call and return at once; never waits, not for a name look-up and not for a connect.

        Notifications go where the handle says; those by APC without a thread to the calling thread.

        Raises:
            RpcUsageError: 87 arguments, 1830 a used pipe, 1914 a busy handle. The call then never existed, no
                notification comes, and the handle is free. How it fails later comes as call-complete.
        """
        home = current_thread()
        notification = handle.notification
        reports_to = getattr(notification, "thread", home) or home
        call = ClientCall(self._spec, self._binding, self._spec.bind(args, kwargs), handle, reports_to)
        if notification is None or not hasattr(notification, "routine"):
            call.home = self._binding.io.thread
        elif reports_to is home and lowlevel.in_trio_run():
            lowlevel.ensure_pump()
        call.submit()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call and block for the reply. Pipes need their `source=` or `sink=`.

        Raises:
            RpcUsageError: 87, 1830 as `begin`; on a thread that runs trio (await `call` there).
            RpcFault: the server's error. RpcUnavailable: 1722, 1726, 1727. RpcCancelled: 1818, the binding's call
                time-out.
        """
        if lowlevel.in_trio_run():
            raise RpcUsageError(
                Status.RPC_S_CANNOT_SUPPORT,
                f"{self._spec.name}() would block a thread that runs trio; await {self._spec.name}.call() there",
            )
        call, arguments = self._make(args, kwargs)
        try:
            call.submit()
            _ends.drive(call, arguments)
            if not call.wait_until(call.settled, call.silence_limit()):
                call.timed_out()
        except BaseException:
            call.cancel(abort=True)
            raise
        return cast("R", call.outcome())

    async def call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call and await the reply. Pipes need their `source=` or `sink=`. Cancelled: the call is aborted."""
        lowlevel.ensure_pump()
        call, arguments = self._make(args, kwargs)
        try:
            call.submit()
            await _ends.drive_async(call, arguments)
            await call.wait_until_async(call.settled)
        except BaseException:
            call.cancel(abort=True)
            raise
        return cast("R", call.outcome())

    def open(self, *args: P.args, **kwargs: P.kwargs) -> OpenCall[R]:
        """A block around the call, for programs that move its pipes themselves: `with` or `async with`.

        The block's value has `reply` after it has ended, and `cancel(abort=)`. Leaving it with all streams finished
        waits for the reply. Leaving it earlier ends the call: an output that was not drained cancels it quietly (and
        `reply` raises 1818), an input that was not ended raises 1917, an exception aborts it.
        """
        return OpenCall(self._spec, self._binding, self._spec.bind(args, kwargs))

    def _make(self, args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[ClientCall, dict[str, object]]:
        arguments = self._spec.bind(args, kwargs)
        _ends.check(self._spec, arguments)
        return ClientCall(self._spec, self._binding, arguments, None, current_thread()), arguments

    def __repr__(self) -> str:
        return f"<BoundOperation {self._spec.name} at {self._binding}>"


@overload
def operation(function: Callable[Concatenate[Any, P], R], /) -> Operation[P, R]: ...
@overload
def operation(
    *, opnum: int | None = None, idempotent: bool = False
) -> Callable[[Callable[Concatenate[Any, P], R]], Operation[P, R]]: ...
def operation(
    function: Callable[..., Any] | None = None, /, *, opnum: int | None = None, idempotent: bool = False
) -> Any:
    """Declare an operation of an interface.

    Args:
        function: whose signature is the operation's; its body is never run.
        opnum: its number; by default the one after the operation declared before it.
        idempotent: [idempotent] in MIDL; such an operation cannot have pipes.
    """
    if function is not None:
        return Operation(function, None, idempotent=False)

    def declare(declared: Callable[..., Any]) -> Operation[..., Any]:
        return Operation(declared, opnum, idempotent=idempotent)

    return declare


class Interface:
    """Base of interfaces: `class FileRep(apcrt.Interface, uuid="...", version="1.0")`.

    An instance, `FileRep(runtime.binding(...))`, is a client of it: its operations can be called. Any thread.

    Raises, when a class is created:
        ndr.DeclarationError: (a TypeError) something in it has no encoding, or MIDL would refuse it.
        RpcUsageError: 1705 for the UUID, 87 for the version.
    """

    syntax: ClassVar[SyntaxId]
    operations: ClassVar[dict[int, OperationSpec]]

    def __init_subclass__(cls, *, uuid: str | None = None, version: str = "1.0") -> None:
        super().__init_subclass__()
        if uuid is None:
            raise DeclarationError(f'{cls.__name__} needs its UUID: class {cls.__name__}(apcrt.Interface, uuid="...")')
        cls.syntax = _syntax(cls.__name__, uuid, version)
        # Where the class stands: for annotations of local names.
        namespace = dict(sys._getframe(1).f_locals)  # pyright: ignore[reportPrivateUsage]
        cls.operations = {}
        following = 0
        for declared in list(vars(cls).values()):
            if not isinstance(declared, Operation):
                continue
            found = cast("Operation[..., object]", declared)
            opnum = following if found.opnum is None else found.opnum
            if not 0 <= opnum <= 0xFFFF or opnum in cls.operations:
                raise DeclarationError(
                    f"{cls.__name__}.{found.name}: operation number {opnum} is taken or out of range"
                )
            found.spec = compile_operation(
                found.function, opnum, namespace, interface=cls.syntax, idempotent=found.idempotent
            )
            cls.operations[opnum] = found.spec
            following = opnum + 1

    def __init__(self, binding: Binding) -> None:
        self.binding = binding

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.binding}>"


def _syntax(name: str, text: str, version: str) -> SyntaxId:
    try:
        identity = uuid_module.UUID(text)
    except ValueError as error:
        raise RpcUsageError(Status.RPC_S_INVALID_STRING_UUID, f"{name}: {text!r} is no UUID") from error
    major, _, minor = version.partition(".")
    if not (major.isdigit() and (minor or "0").isdigit()):
        raise RpcUsageError(Status.RPC_S_INVALID_ARG, f'{name}: a version is written "1.0", not {version!r}')
    return SyntaxId(identity, int(major), int(minor or "0"))

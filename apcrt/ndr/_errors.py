"""What can go wrong between values and bytes, divided by whose fault it is.

- `DeclarationError`: an annotation that has no encoding. Found when the interface is declared, never during a call.
- `ValueRefused` (87): a value that the local caller gave and that its declared type cannot carry.
- `NdrError` (1783): bytes of a peer that break the rules of NDR or our limits.
- `NeedMoreData`: no error; the stub has not arrived as far as the decoder wanted to read.

The two in the middle know *where*: every container that an exception passes on its way out puts its member's name in
front of the path, which costs nothing as long as nothing fails.
"""

from __future__ import annotations

from apcrt.status import RpcError, RpcUsageError, Status


class DeclarationError(TypeError):
    """An annotation cannot be encoded; the text says which, why, and what to write instead."""


class NeedMoreData(Exception):
    """The decoder came to the end of what has arrived; begin again when `needed` bytes are there.

    Attributes:
        needed: stub bytes, counted from the start of the stub, without which decoding cannot get further than this
            time. Always more than the decoder was given.
    """

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed

    def __str__(self) -> str:
        return f"the stub is needed up to byte {self.needed}"


class NdrError(RpcError):
    """Bytes of a peer are not an encoding of the declared type, or exceed a limit (1783 RPC_X_BAD_STUB_DATA).

    Attributes:
        path: the member that was being decoded, as `entry.names[3]`; empty at the top.
        reason: what was wrong with it.
    """

    def __init__(self, reason: str, *, status: int = Status.RPC_X_BAD_STUB_DATA) -> None:
        super().__init__(status, reason)
        self.reason = reason
        self.path: str = ""

    def inside(self, name: str) -> None:
        """Note that the failing item is part of `name`; called by each container on the way out."""
        self.path = joined(name, self.path)
        self.detail: str = f"{self.path}: {self.reason}"


class ValueRefused(RpcUsageError):
    """A value given by the local caller does not fit its declared type (87 ERROR_INVALID_PARAMETER).

    Attributes:
        path: the parameter or member concerned, as `entry.names[3]`; empty at the top.
        reason: what is wrong with the value and what would be right.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(Status.ERROR_INVALID_PARAMETER, reason)
        self.reason = reason
        self.path: str = ""

    def inside(self, name: str) -> None:
        """Note that the failing item is part of `name`; called by each container on the way out."""
        self.path = joined(name, self.path)
        self.detail: str = f"{self.path}: {self.reason}"


def joined(name: str, path: str) -> str:
    """Return `name` followed by `path`, with a dot where the path goes on with a member and not with an index."""
    if not path or path.startswith("["):
        return name + path
    return f"{name}.{path}"


def shown(value: object) -> str:
    """Return a short repr for error texts: a peer's or caller's data must not fill a log."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

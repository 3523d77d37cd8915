"""String bindings: `ObjectUUID@ProtocolSequence:NetworkAddress[Endpoint,Option=Value,...]`.

What lives here: parsing and composing, with the published error for each mistake. What must not: looking anything up.

How it works. Everything but the protocol sequence may be left out. A backslash makes the next character plain, so a
literal one is written twice; `[endpoint=X]` is accepted for `[X]`; white space is allowed in option values only.
Source: the RPC documentation of Win32, "String Binding"; RpcStringBindingParse, RpcStringBindingCompose.
"""

from __future__ import annotations

import dataclasses
import re
import uuid
from typing import Final

from apcrt.status import RpcUsageError, Status

__all__ = ["HISTORIC", "StringBinding"]

#: Sequences that no system speaks any more: refused with 1703 and not with 1704, as Windows does.
HISTORIC: Final = frozenset(
    {
        "ncacn_nb_tcp",
        "ncacn_nb_ipx",
        "ncacn_nb_nb",
        "ncacn_dnet_nsp",
        "ncacn_vns_spp",
        "ncadg_mq",
        "ncadg_ipx",
        "ncacn_spx",
        "ncacn_at_dsp",
        "ncacn_http",
        "ncadg_ip_udp",
    }
)
_KNOWN: Final = re.compile(r"nca(cn|dg|lrpc)(_[a-z0-9_]+)?")
_SPECIAL: Final = frozenset("@:[],=\\")


@dataclasses.dataclass(frozen=True, slots=True)
class StringBinding:
    """A string binding in its parts; empty strings for what is left out."""

    protocol_sequence: str
    network_address: str = ""
    endpoint: str = ""
    options: tuple[tuple[str, str], ...] = ()
    object_uuid: uuid.UUID | None = None

    @classmethod
    def parse(cls, text: str) -> StringBinding:
        """Take a string binding apart.

        Raises:
            RpcUsageError: 1700 RPC_S_INVALID_STRING_BINDING for its form, 1703 RPC_S_PROTSEQ_NOT_SUPPORTED for a
                historic sequence, 1704 RPC_S_INVALID_RPC_PROTSEQ for what is none, 1705 RPC_S_INVALID_STRING_UUID,
                1706 RPC_S_INVALID_ENDPOINT_FORMAT, 1724 RPC_S_INVALID_NETWORK_OPTIONS.
        """
        tokens = list(_tokens(text))
        object_uuid = None
        if ("@", True) in tokens:
            at = tokens.index(("@", True))
            object_uuid = _uuid(_plain(tokens[:at], text))
            tokens = tokens[at + 1 :]
        if (":", True) not in tokens:
            raise _bad(text, "a protocol sequence and a colon are missing, as in ncacn_ip_tcp:host[port]")
        colon = tokens.index((":", True))
        sequence = _plain(tokens[:colon], text)
        _check_sequence(sequence)
        rest = tokens[colon + 1 :]
        if ("[", True) not in rest:
            if ("]", True) in rest:
                raise _bad(text, "there is a ] without a [")
            return cls(sequence, _plain(rest, text, allowed=":"), "", (), object_uuid)
        bracket = rest.index(("[", True))
        address = _plain(rest[:bracket], text, allowed=":")
        if rest[-1] != ("]", True) or ("[", True) in rest[bracket + 1 :] or rest.count(("]", True)) != 1:
            raise _bad(text, "the part in brackets comes last and is closed once")
        endpoint, options = _bracketed(rest[bracket + 1 : -1], text)
        return cls(sequence, address, endpoint, options, object_uuid)

    def compose(self) -> str:
        """Put it together again; `parse` gives the same parts back."""
        parts: list[str] = []
        if self.object_uuid is not None:
            parts.append(f"{self.object_uuid}@")
        parts.append(f"{self.protocol_sequence}:{_escape(self.network_address, _SPECIAL - {':'})}")
        inside = [_escape(self.endpoint)] if self.endpoint else []
        inside += [f"{_escape(name)}={_escape(value)}" for name, value in self.options]
        if inside:
            parts.append(f"[{','.join(inside)}]")
        return "".join(parts)

    def __str__(self) -> str:
        return self.compose()


_Token = tuple[str, bool]  # a character, and whether it is a separator (not escaped)


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    characters = iter(text)
    for character in characters:
        if character == "\\":
            escaped = next(characters, None)
            if escaped is None:
                raise _bad(text, "it ends with a single backslash; a literal one is written twice")
            found.append((escaped, False))
        else:
            found.append((character, character in "@:[],="))
    return found


def _plain(tokens: list[_Token], text: str, *, allowed: str = "") -> str:
    for character, separator in tokens:
        if separator and character not in allowed:
            raise _bad(text, f"{character!r} stands where it does not belong; a plain one is written \\{character}")
        if character.isspace():
            raise _bad(text, "white space is allowed in option values only")
    return "".join(character for character, _ in tokens)


def _bracketed(tokens: list[_Token], text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    endpoint = ""
    options: list[tuple[str, str]] = []
    for index, part in enumerate(_split(tokens)):
        if ("=", True) not in part:
            if index:
                raise RpcUsageError(Status.RPC_S_INVALID_NETWORK_OPTIONS, f"{text!r}: an option is written name=value")
            endpoint = _plain(part, text, allowed=":")
            continue
        equals = part.index(("=", True))
        name = _plain(part[:equals], text)
        value = "".join(character for character, _ in part[equals + 1 :])
        if name.lower() == "endpoint":
            if endpoint:
                raise RpcUsageError(Status.RPC_S_INVALID_ENDPOINT_FORMAT, f"{text!r} has two endpoints")
            endpoint = value
        elif not name or not value:
            raise RpcUsageError(Status.RPC_S_INVALID_NETWORK_OPTIONS, f"{text!r}: an option is written name=value")
        else:
            options.append((name, value))
    return endpoint, tuple(options)


def _split(tokens: list[_Token]) -> list[list[_Token]]:
    parts: list[list[_Token]] = [[]]
    for token in tokens:
        if token == (",", True):
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _uuid(text: str) -> uuid.UUID:
    try:
        if len(text) != 36:
            raise ValueError(text)
        return uuid.UUID(text)
    except ValueError as error:
        raise RpcUsageError(
            Status.RPC_S_INVALID_STRING_UUID, f"{text!r} is no object UUID, like 12345678-1234-1234-1234-123456789abc"
        ) from error


def _check_sequence(sequence: str) -> None:
    if sequence in HISTORIC:
        raise RpcUsageError(Status.RPC_S_PROTSEQ_NOT_SUPPORTED, f"{sequence} is not supported")
    if not _KNOWN.fullmatch(sequence):
        raise RpcUsageError(
            Status.RPC_S_INVALID_RPC_PROTSEQ, f"{sequence!r} is no protocol sequence, like ncacn_ip_tcp or ncalrpc"
        )


def _escape(text: str, special: frozenset[str] = _SPECIAL) -> str:
    return "".join(f"\\{character}" if character in special else character for character in text)


def _bad(text: str, why: str) -> RpcUsageError:
    return RpcUsageError(Status.RPC_S_INVALID_STRING_BINDING, f"{text!r}: {why}")

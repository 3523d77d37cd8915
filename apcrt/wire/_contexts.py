"""Presentation contexts at the server's end: what is offered, asked for and agreed.

What lives here: the two protocols by which a server says what it serves, the rules for one context, and the size of
fragments. What must not: PDUs and the state of the connection.

Sources: C706 12.6.3.1, MS-RPCE 2.2.2.4, 3.3.1.5.6, 3.3.3.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from apcrt.wire._numbers import (
    APCRT_FRAGMENT,
    APCRT_RECEIVED,
    NDR20,
    STRANGER_FRAGMENT,
    ContextOutcome,
    ContextReason,
    SyntaxId,
    offers_features,
)
from apcrt.wire._pdu import ContextResult, PresentationContext

_FRAGMENT_FLOOR: Final = 2048  # what Windows answers to proposals below it


class InterfaceShape(Protocol):
    """What an association must know about an interface."""

    @property
    def operations(self) -> int:
        """Number of operations: valid operation numbers are below it."""
        ...

    def streams_in(self, opnum: int) -> bool:
        """Whether the request of an operation carries pipes, so that its length is not limited."""
        ...


class InterfaceOffer(Protocol):
    """What a server serves."""

    def find(self, abstract: SyntaxId) -> InterfaceShape | None:
        """The interface for `abstract`: same UUID and major version, and at least the minor version asked for."""
        ...


@dataclass(frozen=True, slots=True)
class AgreedContext:
    """An accepted context."""

    abstract: SyntaxId
    transfer: SyntaxId
    shape: InterfaceShape


class ContextConflict(Exception):
    """A known context was offered again and means something else now. Never leaves the room."""


_REFUSED: Final = {
    reason: ContextResult(ContextOutcome.PROVIDER_REJECTION, reason)
    for reason in ContextReason
    if reason is not ContextReason.NOT_SPECIFIED
}


def agree(
    agreed: dict[int, AgreedContext],
    offer: InterfaceOffer,
    wanted: PresentationContext,
    *,
    limit: int,
    binding: bool,
) -> ContextResult:
    """Answer one offered context, and enter it into `agreed` if it is accepted.

    Args:
        agreed: the contexts of the connection.
        offer: what is served.
        wanted: the offered context, with at least one transfer syntax.
        limit: how many contexts the connection may have.
        binding: in a bind a first transfer syntax may be an offer of features, whatever the interface; they are not
            supported, which is answered like an unknown transfer syntax (MS-RPCE 3.3.1.5.3).

    Raises:
        ContextConflict: `wanted` names a known context but another interface or transfer syntax.
    """
    if binding and offers_features(wanted.transfers[0]):
        return _REFUSED[ContextReason.TRANSFER_SYNTAXES_NOT_SUPPORTED]
    known = agreed.get(wanted.context_id)
    if known is not None and known.abstract != wanted.abstract:
        raise ContextConflict("another meaning for a known context")
    shape = known.shape if known is not None else offer.find(wanted.abstract)
    if shape is None:
        return _REFUSED[ContextReason.ABSTRACT_SYNTAX_NOT_SUPPORTED]
    if NDR20 not in wanted.transfers:
        return _REFUSED[ContextReason.TRANSFER_SYNTAXES_NOT_SUPPORTED]
    if known is None:
        if len(agreed) >= limit:
            return _REFUSED[ContextReason.LOCAL_LIMIT_EXCEEDED]
        agreed[wanted.context_id] = AgreedContext(wanted.abstract, NDR20, shape)
    return ContextResult(ContextOutcome.ACCEPTANCE, ContextReason.NOT_SPECIFIED, NDR20)


def grant(max_xmit: int, max_recv: int) -> tuple[int, int]:
    """Bytes of the largest fragments that a server will send and receive, answering a client's proposal.

    Another end of this runtime is known by proposing exactly `APCRT_FRAGMENT` twice, and answered in a way that tells
    it the same. Everybody else gets the answer of Windows: the smaller of both, between 2048 and 5840, a multiple of 8.
    """
    if max_xmit == max_recv == APCRT_FRAGMENT:
        return APCRT_FRAGMENT, APCRT_RECEIVED
    size = min(max(_FRAGMENT_FLOOR, min(max_xmit, max_recv)), STRANGER_FRAGMENT) & 0xFFF8
    return size, size

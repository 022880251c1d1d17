"""What a turn that records something needs of whoever runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.blobs import Blobs
    from actors.context import Context
    from actors.journal import Journal
    from actors.ledger import Ledger
    from bus.envelope import Envelope
    from storage.standing import Standing


class TurnKeeper(Protocol):
    blobs: Blobs
    ledger: Ledger

    def begin_journal(self, ctx: Context, activation: Activation, envelope: Envelope) -> Journal: ...

    async def standing(self, tenant: str, domain: str, promise: str, by: str) -> Standing | None: ...

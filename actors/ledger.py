"""What a call of a tool must know of calls made before it, by turns and hosts that are no more."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from actors.blobs import BlobsUnavailable
from bus.envelope import Envelope
from bus.errors import StorageUnavailable
from storage.ledger import EarlierCall


class LedgerStore(Protocol):
    async def earlier_calls(
        self, domain: str, tenant: str, agent: str, message: str
    ) -> list[EarlierCall]: ...

    async def is_gone(self, domain: str, epoch: int) -> bool: ...


class Ledger:
    """Reads a domain's ledger for one host, whose `epoch` stands on each intent."""

    def __init__(self, domain: str, epoch: int, storage: LedgerStore) -> None:
        self.epoch = epoch
        self._domain = domain
        self._storage = storage

    async def of_message(self, tenant: str, agent: str, message: str) -> list[EarlierCall]:
        """The calls that were made for a message, and have acted or may have; raises BlobsUnavailable."""
        try:
            return await self._storage.earlier_calls(self._domain, tenant, agent, message)
        except StorageUnavailable as error:
            raise BlobsUnavailable(error.message) from error

    async def is_gone(self, epoch: int) -> bool:
        """Whether the process of a host is known to be gone; raises BlobsUnavailable."""
        try:
            return await self._storage.is_gone(self._domain, epoch)
        except StorageUnavailable as error:
            raise BlobsUnavailable(error.message) from error


class EarlierCalls:
    """Those that turns before this one have made for the same message: an operator's retry finds them.

    Each is taken once, by a call of the same tool with the same arguments; of several by the one at its place. `taken`
    are those (their ids) that this turn had taken when it ran before.
    """

    def __init__(self, ledger: Ledger, envelope: Envelope, taken: Collection[str]) -> None:
        self._ledger = ledger
        self._of = envelope.tenant, envelope.agent, envelope.header.id
        self._taken = taken
        self._left: list[EarlierCall] | None = None

    async def take(self, turn: str, tool: str, digest: str, place: str) -> EarlierCall | None:
        if self._left is None:
            found = await self._ledger.of_message(*self._of)
            if self._left is None:  # a call beside this one may have read them meanwhile
                self._left = [c for c in found if c.turn != turn and c.id not in self._taken]
        like = [call for call in self._left if (call.tool, call.digest) == (tool, digest)]
        if not like:
            return None
        call = next((call for call in like if call.key == place), like[0])
        self._left.remove(call)
        return call

"""A partition on its way from one host to another."""

from __future__ import annotations

from bus import subjects
from bus.address import parse_address
from callboard.testing import TestKit
from tests.unit.tools.caller import AT
from tests.unit.waiter import until


class Move:
    """Of the caller's partition, from the host that has it to the other one."""

    def __init__(self, kit: TestKit) -> None:
        self.kit = kit
        self.partition = kit._partition(parse_address(AT))
        self.giver, self.taker = (r.host for r in kit._running)
        if self.partition not in kit._running[0].partitions:
            self.giver, self.taker = self.taker, self.giver
        self.row = kit.store.hosts[("test", self.giver.fence.epoch)]

    def beside(self, kind: str) -> list[str]:
        """Addresses of other agents of that kind in the same partition."""
        addresses = [f"test/{kind}/{n}" for n in range(99)]
        return [a for a in addresses if self.kit._partition(parse_address(a)) == self.partition]

    async def ask_back(self) -> None:
        self.kit.store.set_wanted(self.giver.fence, self.row.wanted - {self.partition})
        await self.giver.holdings.refresh()

    async def stay(self) -> None:
        self.kit.store.set_wanted(self.giver.fence, self.row.wanted | {self.partition})
        await self.giver.holdings.refresh()

    async def grant(self) -> None:
        """Once it has been given back, as a coordinator does."""
        await until(lambda: self.partition not in self.row.owned)
        self.kit.store.grant(self.taker.fence, {self.partition})
        self.kit.transport.publish(subjects.placement("test"), b"changed")

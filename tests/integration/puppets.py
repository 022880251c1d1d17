"""Hosts that are only rows: the test says when they beat, obey and die. Real Postgres, a real coordinator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from coordinators.domain import DomainCoordinator
from storage.placement import HostRow, claim_coordinator, live_hosts
from storage.queries import query
from storage.release import release
from tests.integration.deployment import Deployment, cancelled

BEAT_EVERY_S = 0.1


@dataclass(eq=False)
class Puppet:
    """Implements coordinators.launcher.HostProcess. `obeys`: it gives back what it should not keep."""

    host: str
    epoch: int = 0
    beats: bool = True
    obeys: bool = True
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def ended(self) -> None:
        await self.gone.wait()

    async def kill(self) -> None:
        self.gone.set()


class Puppets:
    """Implements coordinators.launcher.Launcher. `stillborn`: what it starts ends at once, else it never registers."""

    def __init__(self, deployment: Deployment) -> None:
        self.stillborn = False
        self.starts = 0
        self.rounds = 0
        self._deployment = deployment
        self._pool = deployment.pool
        self._domain = deployment.domain.name
        self._hosts: dict[str, Puppet] = {}
        self._round = asyncio.Event()

    async def start(self, domain: str, host: str) -> Puppet:
        self.starts += 1
        puppet = Puppet(host)
        if self.stillborn:
            puppet.gone.set()
        return puppet

    async def attach(self, domain: str, host: str, pid: int) -> Puppet | None:
        return self._hosts[host]

    async def register(
        self, name: str, *, code: str = "", obeys: bool = True, ready: bool = True, of: str | None = None
    ) -> Puppet:
        """A host that is found by the coordinator, `of` another release."""
        epoch = await self._pool.fetchval(
            query("register_host"), self._domain, name, "node", 1, "", "", code, of or release(), 1
        )
        if ready:
            await self._pool.execute(query("host_ready"), self._domain, epoch)
        self._hosts[name] = Puppet(name, epoch, obeys=obeys)
        return self._hosts[name]

    async def rows(self) -> dict[int, HostRow]:
        """The live hosts by epoch."""
        return {row.epoch: row for row in await live_hosts(self._pool, self._domain)}

    async def rounds_pass(self, count: int) -> None:
        """Wait for the ends of so many rounds."""
        goal = self.rounds + count
        while self.rounds < goal:
            self._round.clear()
            await self._round.wait()

    @contextlib.asynccontextmanager
    async def led(self, *, hosts: int, hurry: bool = False) -> AsyncIterator[DomainCoordinator]:
        """A coordinator leads; in a `hurry` one round follows the other."""
        await self._pool.execute(query("set_host_target"), self._domain, hosts)
        epoch = await claim_coordinator(self._pool, self._domain, "test")
        coordinator = DomainCoordinator(self._pool, self._deployment.transport, self, self._domain, epoch)

        async def count() -> None:
            self.rounds += 1
            self._round.set()
            if hurry:
                coordinator.look_soon()

        coordinator.every_round.append(count)
        tasks = [asyncio.create_task(coordinator.run()), asyncio.create_task(self._live())]
        try:
            yield coordinator
        finally:
            for task in tasks:
                await cancelled(task)

    async def _live(self) -> None:
        while True:
            rows = await self.rows()
            for puppet in self._hosts.values():
                if puppet.gone.is_set() or puppet.epoch not in rows:
                    continue
                if puppet.beats:
                    await self.beat(puppet)
                row = rows[puppet.epoch]
                if puppet.obeys and row.owned - row.wanted:
                    await self._pool.execute(
                        query("release_partitions"),
                        self._domain,
                        puppet.epoch,
                        sorted(row.owned - row.wanted),
                        "[]",
                    )
            await asyncio.sleep(BEAT_EVERY_S)

    async def beat(self, puppet: Puppet) -> None:
        await self._pool.execute(query("beat"), self._domain, puppet.epoch, 0.0, None, 0, 0, 0, 0)

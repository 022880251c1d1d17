"""Endless chains over hosts that are Ray actors, on a deployment as `callboard up` makes it; its hosts can be killed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator

import psutil

from callboard.bench.hops import DOMAIN, first_hops
from callboard.bench.rig import rig
from storage.placement import HostRow
from tests.faults.watched import SOON_S, Void, Watched

ENDLESS = 1_000_000_000

_logger = logging.getLogger("tests.faults")


class OnRay(Watched):
    """The hosts are workers of a Ray on this machine, which starts others for them."""

    def signal_host(self, host: HostRow, what: signal.Signals) -> None:
        if not self.is_running(host.pid):
            raise Void(f"host {host.host} (pid {host.pid}) is gone already")
        os.kill(host.pid, what)

    def is_running(self, pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    async def gone(self, pid: int, timeout_s: float = SOON_S) -> None:
        async def look() -> bool:
            return not self.is_running(pid)

        await self.until(look, f"process {pid} to end", timeout_s)


@contextlib.asynccontextmanager
async def ray_hosts(chains: int, agents: int) -> AsyncIterator[OnRay]:
    """Two hosts in a Ray of their own, with the chains running."""
    async with rig(DOMAIN, 2, _logger.info) as on:
        await on.give(first_hops([ENDLESS] * chains, agents))
        watched = OnRay(on.cluster.endpoints.postgres_url, DOMAIN)
        try:
            yield watched
        finally:
            watched.forget()

"""The master coordinator: every domain has its coordinator and as many hosts as its backlog asks for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg

from actors.domain import DomainSpec
from bus.errors import CallboardError, Fenced, InvalidDomainFile, StorageUnavailable
from coordinators.launcher import Leaders
from coordinators.scaling import Load, desired_hosts
from storage.boundary import translated
from storage.domains import ASLEEP, DomainRow, all_domains, forget_coordinator, wake_if_due
from storage.placement import live_hosts, report_refusal
from storage.queries import query

_logger = logging.getLogger("callboard.master")

ROUND_EVERY_S = 0.5
LEAD_EVERY_S = 3.0  # a coordinator that is gone for good is missed for so long; a restart is Ray's work
LOOK_FOR_MAIL_EVERY_S = 1.0
LOOK_FOR_MAIL_SHARE = 0.05  # of the time at most: it reads all that waits for a domain that is asleep


class Master:
    """Level-triggered like the domain coordinators; it knows nothing of Ray. `run` ends when fenced."""

    def __init__(self, pool: asyncpg.Pool[Any], epoch: int, leaders: Leaders) -> None:
        self._pool = pool
        self._epoch = epoch
        self._leaders = leaders
        self._changed_at: dict[str, float] = {}
        self._led_until: dict[str, float] = {}
        self._mail_at: dict[str, float] = {}
        self._ends_at = 0.0
        self.every_round: list[Callable[[], Awaitable[None]]] = []

    async def run(self) -> None:
        while True:
            try:
                await self._round()
                for work in self.every_round:
                    await work()
            except Fenced as error:
                _logger.info("%s", error.message)
                return
            except StorageUnavailable as error:
                _logger.warning("the round is put off: %s", error.message)
            except CallboardError as error:
                _logger.error("a round failed: %s", error)
            await asyncio.sleep(ROUND_EVERY_S)

    async def _round(self) -> None:
        with translated():
            if not await self._pool.fetchval(query("lock_coordinator"), "master", self._epoch):
                raise Fenced("Another master coordinator leads now.")
        rows = await all_domains(self._pool)
        for row in rows:
            if row.state == ASLEEP and not await self._wakes(row.domain):
                continue
            try:
                spec = DomainSpec.from_json(row.spec)
            except InvalidDomainFile as error:  # the other domains go on
                if await report_refusal(self._pool, row.domain, row.code, str(error)):
                    _logger.error("%s gets no hosts: %s", row.domain, error)
                continue
            await self._scale(row, spec)
            if time.monotonic() > self._led_until.get(row.domain, 0.0):
                await self._leaders.lead(row.domain)
                self._led_until[row.domain] = time.monotonic() + LEAD_EVERY_S
        await self._end_removed(rows)

    async def _wakes(self, domain: str) -> bool:
        """Whether a domain that is asleep has something to do; looked at now and then."""
        if time.monotonic() < self._mail_at.get(domain, 0.0):
            return False
        began = time.monotonic()
        self._mail_at[domain] = began + LOOK_FOR_MAIL_EVERY_S
        why = await wake_if_due(self._pool, domain)
        took = time.monotonic() - began
        self._mail_at[domain] = began + max(LOOK_FOR_MAIL_EVERY_S, took / LOOK_FOR_MAIL_SHARE)
        if why is None:
            return False
        _logger.info("%s wakes: %s", domain, why)
        return True

    async def _end_removed(self, registered: Sequence[DomainRow]) -> None:
        """End the coordinators of domains that were removed, once they have drained their hosts."""
        if time.monotonic() < self._ends_at:
            return
        self._ends_at = time.monotonic() + LEAD_EVERY_S
        for domain in await self._leaders.led() - {row.domain for row in registered}:
            if not await live_hosts(self._pool, domain):
                _logger.info("%s was removed; its coordinator ends", domain)
                await self._leaders.end(domain)
                await forget_coordinator(self._pool, domain)
                self._led_until.pop(domain, None)

    async def _scale(self, row: DomainRow, spec: DomainSpec) -> None:
        hosts = await live_hosts(self._pool, row.domain)
        now = time.monotonic()
        load = Load(
            hosts=row.hosts,
            backlog=sum(host.backlog for host in hosts),
            since_change_s=now - self._changed_at.setdefault(row.domain, now),
        )
        target = desired_hosts(spec.hosts, load)
        with translated():
            changed = await self._pool.fetchval(query("set_host_target"), row.domain, target)
        if changed is not None:
            _logger.info("%s shall have %d hosts (backlog %d)", row.domain, target, load.backlog)
            self._changed_at[row.domain] = now

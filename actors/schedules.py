"""The schedules of a domain, kept by the host that owns its first partition: no coordinator is needed for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from actors.schedule import ScheduleSpec
from actors.scope import WHOLE, Scope
from bus.address import partition_of
from bus.envelope import Header, Outgoing, header_to_json, new_id
from bus.errors import Fenced, StorageUnavailable
from bus.transport import Transport
from storage.intake import nudge
from storage.records import Fence
from storage.schedules import Firing, ScheduleRow
from storage.store import ScheduleStore

if TYPE_CHECKING:
    from actors.holdings import Holdings

_logger = logging.getLogger("callboard.schedules")

KEEPER = 0  # the partition whose owner keeps the schedules
_EVERY_S = 0.5
_RETRY_S = 1.0


class Schedules:
    """Sends each due occurrence once: the row says when the next one comes, and moves with the messages."""

    def __init__(
        self,
        scope: Scope,
        fence: Fence,
        partitions: int,
        store: ScheduleStore,
        transport: Transport,
        holdings: Holdings,
        fenced: Callable[[], Awaitable[bool]],
    ) -> None:
        self._scope = scope
        self._fence = fence
        self._partitions = partitions
        self._store = store
        self._transport = transport
        self._holdings = holdings
        self._fenced = fenced
        self._specs = {spec.name: spec for spec in scope.schedules}
        self._taken_over = asyncio.Event()

    def taken_over(self, partitions: Iterable[int]) -> None:
        if KEEPER in partitions:
            self._taken_over.set()

    async def run(self) -> None:
        """Runs until the incarnation has ended."""
        while True:
            await self._taken_over.wait()
            self._taken_over.clear()
            kept = False
            while self._holdings.may_run(KEEPER):
                try:
                    if not kept:
                        await self._keep()
                        kept = True
                    if not self._specs:
                        break
                    if WHOLE not in self._scope.paused:  # afterwards it catches up, as after any standstill
                        await self._fire()
                except Fenced:
                    if not await self._fenced():
                        return
                except StorageUnavailable as error:
                    _logger.warning("schedules wait for storage: %s", error.message)
                    await asyncio.sleep(_RETRY_S)
                await self._scope.clock.pause(_EVERY_S)

    async def _keep(self) -> None:
        now, _ = await self._store.read_schedules(self._fence.domain)
        rows = [
            ScheduleRow(
                name=spec.name, cron=spec.cron, timezone=spec.timezone, recipient=spec.to, catch_up=spec.catch_up,
                next_at=spec.after(now),
            )
            for spec in self._specs.values()
        ]  # fmt: skip
        await self._store.keep_schedules(self._fence, rows)

    async def _fire(self) -> None:
        now, rows = await self._store.read_schedules(self._fence.domain)
        for row in rows:
            spec = self._specs.get(row.name)
            if spec is None or row.next_at > now:
                continue
            firing = self._firing(spec, row.next_at, now)
            if await self._store.fire_schedule(self._fence, firing):
                nudge(self._transport, [(self._fence.domain, firing.partition, firing.tenant, firing.agent)])

    def _firing(self, spec: ScheduleSpec, first: float, now: float) -> Firing:
        moments, following = spec.due(first, now)
        if not moments or moments[0] != first:
            _logger.warning(
                "%s: occurrences passed while no host ran, and are not all made up for", spec.name
            )
        partition = partition_of(spec.tenant, spec.to, self._partitions)
        return Firing(
            name=spec.name, due=first, next_at=following, tenant=spec.tenant, partition=partition, agent=spec.to,
            payload=spec.payload_json,
            messages=[
                (f"schedule:{spec.name}:{moment:.0f}", self._message(spec, partition, moment)) for moment in moments
            ],
        )  # fmt: skip

    def _message(self, spec: ScheduleSpec, partition: int, moment: float) -> Outgoing:
        """Sent, as its header says, when it was due, however late that is made up for."""
        header = Header(
            id=new_id(), type=spec.message, sender=f"external/schedules/{spec.name}", sent_at=moment,
            priority=spec.rank,
        )  # fmt: skip
        return Outgoing(
            domain=self._fence.domain, tenant=spec.tenant, agent=spec.to, partition=partition, header=header,
            header_json=header_to_json(header), payload=spec.payload_json,
        )  # fmt: skip

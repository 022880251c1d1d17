"""What a host does in Postgres again and again beside its turns: timers, events, schedules, cancellations, its own row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from bus.errors import Fenced
from bus.limits import SEEN_WINDOW
from storage.batch import event_arguments
from storage.pooled import Pooled
from storage.queries import query
from storage.records import Attempt, Cancellation, EventBatch, EventCursor, Fence, MailPlace, Ownership
from storage.room import Bounds, Lack, Recipient, lack_of_room
from storage.schedules import Firing, ScheduleRow

CANCELLATIONS_READ = 100_000  # ended ones that a host knows from its start; each takes about 300 bytes


class PostgresRounds(Pooled):
    """Each write is fenced by the row of the host that makes it."""

    # -- what is due ---------------------------------------------------------------------------------

    async def fire_timers(self, fence: Fence, partitions: Sequence[int], limit: int) -> list[MailPlace]:
        async with self.reader() as connection:
            rows = await connection.fetch(
                query("fire_timers"), fence.domain, fence.epoch, list(partitions), limit
            )
        return [MailPlace(**dict(row)) for row in rows]

    async def settle_due(self, fence: Fence, partitions: Sequence[int], limit: int) -> list[MailPlace]:
        async with self.reader() as connection:
            rows = await connection.fetch(
                query("settle_due"), fence.domain, fence.epoch, list(partitions), limit
            )
        return [MailPlace(**dict(row)) for row in rows]

    async def is_gone(self, domain: str, epoch: int) -> bool:
        async with self.reader() as connection:
            return bool(await connection.fetchval(query("host_is_gone"), domain, epoch))

    # -- events --------------------------------------------------------------------------------------

    async def event_cursor(self, domain: str) -> EventCursor | None:
        async with self.reader() as connection:
            row = await connection.fetchrow(query("event_cursor"), domain)
        return EventCursor(**dict(row)) if row is not None else None

    async def accept_events(self, fence: Fence, cursor: EventCursor, batch: EventBatch) -> dict[str, int]:
        async with self.reader() as connection:
            rows = await connection.fetch(query("accept_events"), *event_arguments(fence, cursor, batch))
        return {row["id"]: row["seq"] for row in rows}

    # -- schedules -----------------------------------------------------------------------------------

    async def read_schedules(self, domain: str) -> tuple[float, list[ScheduleRow]]:
        async with self.reader() as connection:
            rows = await connection.fetch(query("read_schedules"), domain)
        found = [{key: value for key, value in row.items() if key != "now"} for row in rows]
        return rows[0]["now"], [ScheduleRow(**row) for row in found if row["name"] is not None]

    async def keep_schedules(self, fence: Fence, rows: Sequence[ScheduleRow]) -> None:
        await self.execute(
            "keep_schedules", fence.domain, fence.epoch, [r.name for r in rows], [r.cron for r in rows],
            [r.timezone for r in rows], [r.recipient for r in rows], [r.catch_up for r in rows],
            [r.next_at for r in rows],
        )  # fmt: skip

    async def fire_schedule(self, fence: Fence, firing: Firing) -> bool:
        f = firing
        async with self.reader() as connection:
            sent = await connection.fetch(
                query("fire_schedule"), fence.domain, fence.epoch, f.name, f.due, f.next_at,
                [key for key, _ in f.messages], SEEN_WINDOW, f.tenant, f.partition, f.agent,
                [message.header.id for _, message in f.messages],
                [message.header_json for _, message in f.messages], f.payload,
            )  # fmt: skip
        return bool(sent)

    # -- cancelled tasks -----------------------------------------------------------------------------

    async def read_cancellations(self, *, ended: bool) -> list[Cancellation]:
        async with self.reader() as connection:
            rows = await connection.fetch(query("read_cancellations"), ended, CANCELLATIONS_READ)
        return [Cancellation(**dict(row)) for row in rows]

    async def read_pauses(self, domain: str) -> list[tuple[str, str]]:
        async with self.reader() as connection:
            rows = await connection.fetch(query("read_pauses"), domain)
        return [(row["tenant"], row["task"]) for row in rows]

    async def stop_cancelled(self, fence: Fence, partitions: Sequence[int]) -> list[MailPlace]:
        async with self.reader() as connection:
            rows = await connection.fetch(
                query("stop_cancelled"), fence.domain, fence.epoch, list(partitions)
            )
        return [MailPlace(**dict(row)) for row in rows]

    async def has_stopped(self, fence: Fence, cancellations: Sequence[int]) -> None:
        await self.execute("host_has_stopped", fence.domain, fence.epoch, list(cancellations))

    async def end_cancellations(self, fence: Fence, partitions: Sequence[int]) -> list[MailPlace]:
        async with self.reader() as connection:
            rows = await connection.fetch(
                query("end_cancellations"), fence.domain, fence.epoch, list(partitions)
            )
        return [MailPlace(**dict(row)) for row in rows]

    async def lack_of_room(self, domain: str, wanted: Mapping[Recipient, int], bounds: Bounds) -> Lack | None:
        return await lack_of_room(self._pool, domain, wanted, bounds)

    # -- the host's own row --------------------------------------------------------------------------

    async def read_ownership(self, fence: Fence) -> Ownership:
        async with self.reader() as connection:
            row = await connection.fetchrow(query("read_ownership"), fence.domain, fence.epoch)
        if row is None:
            raise Fenced(f"Epoch {fence.epoch} of {fence.domain} is unknown to Postgres.")
        return Ownership(
            owned=frozenset(row["owned"]),
            wanted=frozenset(row["wanted"]),
            kept=frozenset(row["kept"]),
            suspect=frozenset(row["suspect"]),
            taken=tuple(row["taken"]),
            draining=row["draining"],
            ended=row["ended"],
            ended_why=row["ended_why"],
        )

    async def release(
        self, fence: Fence, partitions: Sequence[int], attempts: Sequence[Attempt] = ()
    ) -> None:
        ended = msgspec.json.encode(attempts).decode()
        await self.execute("release_partitions", fence.domain, fence.epoch, list(partitions), ended)

    async def keep(self, fence: Fence, partitions: Sequence[int]) -> None:
        await self.execute("keep_partitions", fence.domain, fence.epoch, list(partitions))

    async def clear_suspects(self, fence: Fence, partitions: Sequence[int]) -> None:
        await self.execute("clear_suspects", fence.domain, fence.epoch, list(partitions))

    async def ready(self, fence: Fence) -> None:
        await self.execute("host_ready", fence.domain, fence.epoch)

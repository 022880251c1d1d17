"""A host's storage in Postgres."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Self

import asyncpg
import msgspec

from bus import faultpoints
from bus.envelope import Envelope, header_from_json
from bus.errors import Fenced, InvalidPayload, StorageUnavailable
from bus.limits import SEEN_WINDOW
from storage.batch import Write, commit_call, event_arguments
from storage.boundary import translated
from storage.connect import connect, create_pool, host_application
from storage.edges import Agent, Gate, Refusal, WaitEdge
from storage.journal import CLOCK_SLACK_S, JournalEntry, OpenPromise, StoredJournal
from storage.ledger import EarlierCall
from storage.mail_reader import Mailbox, MailReader
from storage.queries import query
from storage.records import (
    PAGE_AGENTS,
    PAGE_BYTES,
    Cancellation,
    EventBatch,
    EventCursor,
    Fence,
    MailHead,
    MailPlace,
    Mark,
    Ownership,
    Share,
    StoredState,
    TurnRecord,
)
from storage.room import Bounds, Lack, Recipient, lack_of_room
from storage.schedules import Firing, ScheduleRow
from storage.spending import charging, read_reached, spent_argument
from storage.spent import Reached
from storage.standing import Standing

CANCELLATIONS_READ = 100_000  # ended ones that a host knows from its start; each takes about 300 bytes
_NO_BOUND = 2**63 - 1  # above every message's number
# A journal's first entries may be a little older than its turn's row says: clocks differ, but not by so much.
_SETTLE_LOCK_TIMEOUT_MS = 500  # a look waits this long for the old backend before it ends that backend


class PostgresStore:
    """Implements HostStore. One connection commits, a small pool reads; `open` makes both.

    The commit connection is remade when it breaks; whoever got StorageUnavailable settles first.
    """

    def __init__(self, url: str, application: str, pool: asyncpg.Pool[Any], code: str) -> None:
        self._url = url
        self._code = code
        self._application = application
        self._pool = pool
        self.on_limit: Callable[[Reached], None] = lambda reached: None
        self._mail = MailReader(self._reader)
        self._committer: asyncpg.Connection[Any] | None = None

    @classmethod
    async def open(cls, url: str, fence: Fence, code: str = "") -> Self:
        """`code` is the digest of the domain's code that this host runs: it stands on the turns that open here."""
        application = host_application(fence.domain, fence.epoch)
        return cls(url, application, await create_pool(url, application=application, by_key=True), code)

    async def close(self) -> None:
        """Close what is open; a connection that does not answer is cut."""
        self._drop_committer()
        await self._mail.close()
        try:
            await asyncio.wait_for(self._pool.close(), timeout=2.0)
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()

    # -- turns ---------------------------------------------------------------------------------------

    async def commit(self, fence: Fence, writes: Sequence[Write], marks: Sequence[Mark]) -> list[int | None]:
        name, arguments = commit_call(fence, writes, marks, self._code)
        statement, journal = query(name), name != "commit_turns"
        spent = spent_argument(writes)
        if spent is not None:
            statement = charging(name, len(arguments))
            arguments.append(spent)
        connection = await self._commit_connection()
        faultpoints.reached("commit.before")
        if journal:
            faultpoints.reached("flush.before")
        try:
            with translated():
                if faultpoints.is_armed("commit.between_fence_and_commit"):
                    async with connection.transaction():
                        row = await connection.fetchrow(statement, *arguments)
                        faultpoints.reached("commit.between_fence_and_commit")
                else:
                    row = await connection.fetchrow(statement, *arguments)
        except StorageUnavailable:
            self._drop_committer()
            raise
        if journal:
            faultpoints.reached("flush.after")
        assert row is not None
        if spent is not None:
            for reached in read_reached(row["over"]):
                self.on_limit(reached)
        return row["numbers"] or []

    async def settle(self, fence: Fence, write: Write) -> bool:
        """The share lock of an unfinished commit keeps this waiting; past a bound its backend is ended."""
        connection = await connect(self._url, application=f"{self._application} settle"[:63])
        try:
            for last_try in (False, True):
                try:
                    with translated():
                        return await self._look(connection, fence, write)
                except StorageUnavailable:
                    if last_try:
                        raise
                    with translated():
                        await connection.execute(query("terminate_backends"), self._application)
            raise AssertionError("unreachable")
        finally:
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await connection.close(timeout=2.0)

    async def _look(self, connection: asyncpg.Connection[Any], fence: Fence, write: Write) -> bool:
        async with connection.transaction():
            await connection.execute(f"set local lock_timeout = {_SETTLE_LOCK_TIMEOUT_MS}")
            row = await connection.fetchrow(query("lock_host"), fence.domain, fence.epoch)
            if row is None or not row["live"] or write.partition not in row["owned"]:
                raise Fenced(
                    f"Epoch {fence.epoch} of {fence.domain} no longer owns partition {write.partition}."
                )
            proof: tuple[Any, ...] = (fence.domain, write.tenant, write.agent)
            if isinstance(write, TurnRecord):
                name = "turn_committed"
                proof += write.version, write.hash
            else:
                name = "turn_flushed"
                journal = write.journal
                if not journal.leaves_trace:
                    return False
                proof += (
                    journal.turn,
                    journal.entries[-1].number if journal.entries else None,
                    journal.promises[-1].id if journal.promises else None,
                )
            return bool(await connection.fetchval(query(name), *proof))

    async def fire_timers(self, fence: Fence, partitions: Sequence[int], limit: int) -> list[MailPlace]:
        async with self._reader() as connection:
            rows = await connection.fetch(
                query("fire_timers"), fence.domain, fence.epoch, list(partitions), limit
            )
        return [MailPlace(**dict(row)) for row in rows]

    # -- mailboxes and states ------------------------------------------------------------------------

    async def load_partition(
        self,
        domain: str,
        partition: int,
        *,
        after: tuple[str, str],
        agents: int,
        each: Share,
        page_bytes: int,
    ) -> tuple[list[Envelope], set[tuple[str, str]], tuple[str, str] | None]:
        async with self._reader() as connection:
            tenants = [row["tenant"] for row in await connection.fetch(query("tenants_with_mail"), domain)]
            for tenant in tenants:
                if tenant < after[0]:
                    continue
                start = after[1] if tenant == after[0] else ""
                rows = await connection.fetch(
                    query("load_mail"),
                    domain, tenant, partition, start, agents, each.messages, each.size, page_bytes,
                )  # fmt: skip
                if not rows:
                    continue
                place: tuple[str, str] | None = None
                if rows[-1]["seq"] is None:
                    place = tenant, rows.pop()["agent"]
                else:
                    later = [t for t in tenants if t > tenant]
                    place = (later[0], "") if later else None
                more = {(tenant, row["agent"]) for row in rows if row["more"]}
                return [_envelope(tenant, row["agent"], row) for row in rows], more, place
        return [], set(), None

    async def load_agent(
        self,
        domain: str,
        partition: int,
        tenant: str,
        agent: str,
        share: Share,
        *,
        control_only: bool = False,
    ) -> tuple[list[Envelope], bool]:
        mailbox = Mailbox(
            domain=domain, tenant=tenant, partition=partition, agent=agent, below=0 if control_only else _NO_BOUND,
            messages=share.messages, size=share.size,
        )  # fmt: skip
        rows = await self._mail.read(mailbox)
        found = [_envelope(tenant, agent, row, open_=row["open"]) for row in rows]
        return found, bool(rows and rows[-1]["more"])

    async def mail_heads(
        self, domain: str, after: tuple[str, int, str], partitions: Sequence[int], limit: int
    ) -> tuple[list[MailHead], tuple[str, int, str] | None]:
        async with self._reader() as connection:
            rows = await connection.fetch(query("mail_heads"), domain, *after, list(partitions), limit)
        place: tuple[str, int, str] | None = None
        if rows and rows[-1]["seq"] is None:
            last = rows.pop()
            place = last["tenant"], last["partition"], last["agent"]
        return [MailHead(**dict(row)) for row in rows], place

    async def load_states(
        self, domain: str, agents: Sequence[tuple[str, str]], *, page_bytes: int = PAGE_BYTES
    ) -> tuple[list[StoredState], int]:
        async with self._reader() as connection:
            rows = await connection.fetch(
                query("load_states"), domain, [tenant for tenant, _ in agents], [agent for _, agent in agents],
                page_bytes,
            )  # fmt: skip
        looked = rows.pop()["n"] if rows and rows[-1]["version"] is None else len(agents)
        return [StoredState(**{k: v for k, v in row.items() if k != "n"}) for row in rows], looked

    async def load_turns(
        self,
        domain: str,
        partition: int,
        *,
        after: tuple[str, str] = ("", ""),
        turns: int = PAGE_AGENTS,
        page_bytes: int = PAGE_BYTES,
    ) -> tuple[list[Envelope], tuple[str, str] | None]:
        async with self._reader() as connection:
            rows = await connection.fetch(query("load_turns"), domain, partition, *after, turns, page_bytes)
        place: tuple[str, str] | None = None
        if rows and rows[-1]["seq"] is None:
            last = rows.pop()
            place = last["tenant"], last["agent"]
        return [_envelope(row["tenant"], row["agent"], row, open_=True) for row in rows], place

    async def load_journal(self, domain: str, tenant: str, agent: str) -> StoredJournal | None:
        async with self._reader() as connection:
            turn = await connection.fetchrow(query("load_turn"), domain, tenant, agent)
            if turn is None:
                return None
            entries = await connection.fetch(
                query("load_journal"), domain, tenant, agent, turn["turn"], turn["began_at"] - CLOCK_SLACK_S
            )
            promises = await connection.fetch(query("load_promises"), domain, tenant, agent, turn["turn"])
        return StoredJournal(
            seq=turn["seq"], turn=turn["turn"], header_json=turn["header"], payload=turn["payload"],
            failures=turn["failures"], trials=turn["trials"], retry_at=turn["retry_at"],
            began_at=turn["began_at"], waiting=turn["waiting"],
            recorded=turn["recorded"], entries=tuple(JournalEntry(**dict(row)) for row in entries),
            promises=tuple(OpenPromise(**dict(row)) for row in promises),
        )  # fmt: skip

    async def promise_standing(self, domain: str, tenant: str, id_: str, by: str) -> Standing | None:
        async with self._reader() as connection:
            row = await connection.fetchrow(query("promise_standing"), domain, tenant, id_, by)
        return None if row is None else Standing(**dict(row))

    async def earlier_calls(self, domain: str, tenant: str, agent: str, message: str) -> list[EarlierCall]:
        async with self._reader() as connection:
            rows = await connection.fetch(query("earlier_calls"), domain, tenant, agent, message)
        return [EarlierCall(**dict(row)) for row in rows]

    async def is_gone(self, domain: str, epoch: int) -> bool:
        async with self._reader() as connection:
            return bool(await connection.fetchval(query("host_is_gone"), domain, epoch))

    async def settle_due(self, fence: Fence, partitions: Sequence[int], limit: int) -> list[MailPlace]:
        async with self._reader() as connection:
            rows = await connection.fetch(
                query("settle_due"), fence.domain, fence.epoch, list(partitions), limit
            )
        return [MailPlace(**dict(row)) for row in rows]

    async def find_mail(
        self, domain: str, partition: int, tenant: str, agent: str, message: str
    ) -> int | None:
        async with self._reader() as connection:
            seq = await connection.fetchval(query("find_mail"), domain, tenant, partition, agent, message)
        return None if seq is None else int(seq)

    # -- asks as edges -------------------------------------------------------------------------------

    async def wait_edges(self, agents: Sequence[Agent], limit: int) -> list[WaitEdge]:
        async with self._reader() as connection:
            rows = await connection.fetch(query("wait_edges"), *map(list, zip(*agents, strict=True)), limit)
        return [_edge(row) for row in rows]

    async def refuse_ask(self, newest: WaitEdge, cycle: Sequence[WaitEdge], agents: Sequence[str]) -> Refusal:
        async with self._reader() as connection:
            rows = await connection.fetch(
                query("refuse_ask"), [e.asker[0] for e in cycle], [e.asker[1] for e in cycle],
                [e.id for e in cycle], 1 + [e.id for e in cycle].index(newest.id), json.dumps(agents),
            )  # fmt: skip
        return Refusal(
            mail=tuple(
                (r["domain"], r["partition"], r["tenant"], r["agent"]) for r in rows if r["gone"] is None
            ),
            gone=frozenset(row["gone"] for row in rows if row["gone"] is not None),
        )

    async def chained_asks(self, domain: str, partitions: Sequence[int], limit: int) -> list[tuple[str, str]]:
        async with self._reader() as connection:
            rows = await connection.fetch(query("chained_asks"), domain, list(partitions), limit)
        return [(row["tenant"], row["agent"]) for row in rows]

    async def put_blob(self, domain: str, tenant: str, digest: str, data: bytes) -> None:
        async with self._reader() as connection:
            await connection.execute(query("put_blob"), domain, tenant, digest, data)

    async def get_blob(self, domain: str, tenant: str, digest: str) -> bytes:
        async with self._reader() as connection:
            data = await connection.fetchval(query("get_blob"), domain, tenant, digest)
        if data is None:
            raise InvalidPayload(
                f"The blob {digest[:12]}... is not in storage.", fix="Restore it from a backup."
            )
        return bytes(data)

    async def read_dead_letter(
        self, domain: str, tenant: str, agent: str, number: int
    ) -> tuple[str, str] | None:
        async with self._reader() as connection:
            row = await connection.fetchrow(query("read_dead_letter"), domain, tenant, agent, number)
        return (row["header"], row["payload"]) if row is not None else None

    # -- events --------------------------------------------------------------------------------------

    async def event_cursor(self, domain: str) -> EventCursor | None:
        async with self._reader() as connection:
            row = await connection.fetchrow(query("event_cursor"), domain)
        return EventCursor(**dict(row)) if row is not None else None

    async def accept_events(self, fence: Fence, cursor: EventCursor, batch: EventBatch) -> dict[str, int]:
        async with self._reader() as connection:
            rows = await connection.fetch(query("accept_events"), *event_arguments(fence, cursor, batch))
        return {row["id"]: row["seq"] for row in rows}

    # -- schedules -----------------------------------------------------------------------------------

    async def read_schedules(self, domain: str) -> tuple[float, list[ScheduleRow]]:
        async with self._reader() as connection:
            rows = await connection.fetch(query("read_schedules"), domain)
        found = [{key: value for key, value in row.items() if key != "now"} for row in rows]
        return rows[0]["now"], [ScheduleRow(**row) for row in found if row["name"] is not None]

    async def keep_schedules(self, fence: Fence, rows: Sequence[ScheduleRow]) -> None:
        await self._execute(
            "keep_schedules", fence.domain, fence.epoch, [r.name for r in rows], [r.cron for r in rows],
            [r.timezone for r in rows], [r.recipient for r in rows], [r.catch_up for r in rows],
            [r.next_at for r in rows],
        )  # fmt: skip

    async def fire_schedule(self, fence: Fence, firing: Firing) -> bool:
        f = firing
        async with self._reader() as connection:
            sent = await connection.fetch(
                query("fire_schedule"), fence.domain, fence.epoch, f.name, f.due, f.next_at,
                [key for key, _ in f.messages], SEEN_WINDOW, f.tenant, f.partition, f.agent,
                [message.header.id for _, message in f.messages],
                [message.header_json for _, message in f.messages], f.payload,
            )  # fmt: skip
        return bool(sent)

    # -- cancelled tasks -----------------------------------------------------------------------------

    async def read_cancellations(self, *, ended: bool) -> list[Cancellation]:
        async with self._reader() as connection:
            rows = await connection.fetch(query("read_cancellations"), ended, CANCELLATIONS_READ)
        return [Cancellation(**dict(row)) for row in rows]

    async def read_pauses(self, domain: str) -> list[tuple[str, str]]:
        async with self._reader() as connection:
            rows = await connection.fetch(query("read_pauses"), domain)
        return [(row["tenant"], row["task"]) for row in rows]

    async def stop_cancelled(self, fence: Fence, partitions: Sequence[int]) -> list[MailPlace]:
        async with self._reader() as connection:
            rows = await connection.fetch(
                query("stop_cancelled"), fence.domain, fence.epoch, list(partitions)
            )
        return [MailPlace(**dict(row)) for row in rows]

    async def has_stopped(self, fence: Fence, cancellations: Sequence[int]) -> None:
        await self._execute("host_has_stopped", fence.domain, fence.epoch, list(cancellations))

    async def end_cancellations(self, fence: Fence, partitions: Sequence[int]) -> list[MailPlace]:
        async with self._reader() as connection:
            rows = await connection.fetch(
                query("end_cancellations"), fence.domain, fence.epoch, list(partitions)
            )
        return [MailPlace(**dict(row)) for row in rows]

    async def lack_of_room(self, domain: str, wanted: Mapping[Recipient, int], bounds: Bounds) -> Lack | None:
        return await lack_of_room(self._pool, domain, wanted, bounds)

    # -- the host's own row --------------------------------------------------------------------------

    async def read_ownership(self, fence: Fence) -> Ownership:
        async with self._reader() as connection:
            row = await connection.fetchrow(query("read_ownership"), fence.domain, fence.epoch)
        if row is None:
            raise Fenced(f"Epoch {fence.epoch} of {fence.domain} is unknown to Postgres.")
        return Ownership(
            owned=frozenset(row["owned"]),
            wanted=frozenset(row["wanted"]),
            suspect=frozenset(row["suspect"]),
            draining=row["draining"],
            ended=row["ended"],
            ended_why=row["ended_why"],
        )

    async def release(self, fence: Fence, partitions: Sequence[int]) -> None:
        await self._execute("release_partitions", fence.domain, fence.epoch, list(partitions))

    async def clear_suspects(self, fence: Fence, partitions: Sequence[int]) -> None:
        await self._execute("clear_suspects", fence.domain, fence.epoch, list(partitions))

    async def ready(self, fence: Fence) -> None:
        await self._execute("host_ready", fence.domain, fence.epoch)

    # -- connections ---------------------------------------------------------------------------------

    async def _execute(self, name: str, *arguments: Any) -> None:
        async with self._reader() as connection:
            await connection.execute(query(name), *arguments)

    @contextlib.asynccontextmanager
    async def _reader(self) -> AsyncIterator[Any]:
        with translated():
            async with self._pool.acquire() as connection:
                yield connection

    async def _commit_connection(self) -> asyncpg.Connection[Any]:
        if self._committer is None or self._committer.is_closed():
            self._committer = await connect(self._url, application=self._application, by_key=True)
        return self._committer

    def _drop_committer(self) -> None:
        if self._committer is not None:
            self._committer.terminate()
            self._committer = None


def _envelope(tenant: str, agent: str, row: Any, *, open_: bool = False) -> Envelope:
    return Envelope(
        seq=row["seq"],
        tenant=tenant,
        agent=agent,
        header=header_from_json(row["header"]),
        header_json=row["header"],
        payload=row["payload"],
        failures=row["failures"],
        trials=row["trials"],
        retry_at=row["retry_at"],
        open=open_,
    )


def _edge(row: Any) -> WaitEdge:
    domain, _, agent = row["target"].partition("/")
    gates = row["gates"]
    return WaitEdge(
        id=row["id"], asker=(row["domain"], row["tenant"], row["agent"]), asked=(domain, row["tenant"], agent),
        made_at=row["made_at"], gates=msgspec.json.decode(gates, type=tuple[Gate, ...]) if gates else (),
    )  # fmt: skip

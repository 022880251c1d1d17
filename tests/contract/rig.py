"""A store under test, with what a coordinator, the intake and an operator would do beside it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

import asyncpg

from bus.address import DEFAULT_TENANT
from bus.amount import encode_numbers
from bus.envelope import Header, Outgoing, header_to_json, new_id
from bus.errors import StorageUnavailable
from storage.connect import create_pool
from storage.domains import DomainRow, register_domain
from storage.memory import MemoryStore
from storage.placement import Placement
from storage.postgres import PostgresStore
from storage.queries import query
from storage.records import GENESIS, Fence, TurnRecord
from storage.store import HostStore

DOMAIN = "shop"


class Mail(NamedTuple):
    """A row of a mailbox, without the message."""

    seq: int
    failures: int
    trials: int
    retry_in: float | None
    last_error: str | None


class Rig(Protocol):
    """The same for both stores. Everything is in the domain `shop`."""

    @property
    def store(self) -> HostStore: ...

    async def host(self, *partitions: int, suspect: Sequence[int] = ()) -> Fence: ...

    async def take_back(self, fence: Fence, *partitions: int) -> None: ...

    async def suspects(self) -> set[int]:
        """The partitions that their next owner is to try carefully."""
        ...

    async def end(self, fence: Fence) -> None: ...

    async def accept(self, message: Outgoing, key: str | None = None, window_s: float = 60) -> int | None:
        """Put a message from outside into its mailbox; return its number."""
        ...

    async def mail(self, agent: str, partition: int = 0, tenant: str = DEFAULT_TENANT) -> list[Mail]: ...

    async def history(self, agent: str) -> list[tuple[int, str, bytes, bytes]]: ...

    async def dead_letters(self) -> list[tuple[int, str, str, str, int, str]]:
        """Number, agent, reason, error, failures."""
        ...

    async def timers(self) -> int: ...

    async def add_task(self, task: str) -> None: ...

    async def limit(self, task: str, limits: dict[str, Decimal]) -> None:
        """What a task may use, by name."""
        ...

    async def used(self, root: str) -> tuple[float | Decimal, ...]:
        """Hops, asks in flight, steps, tokens, cost."""
        ...

    async def task(self, task: str) -> tuple[str, str | None, bool]:
        """Status, result, whether it is finished."""
        ...

    async def task_events(self, task: str) -> list[tuple[int, str, str]]: ...

    async def now(self) -> float: ...

    async def settle(
        self, promise: str, value: str, *, by: str = "external/test", status: str = "resolved"
    ) -> bool:
        """Settle a promise from outside; False when it may not be, or was before."""
        ...

    async def said_of(self, call: str) -> tuple[str | None, str | None]:
        """Who has said what a call of a tool did, and the approval that it had."""
        ...

    async def promises(self) -> dict[str, str]:
        """The status of each promise, by its id."""
        ...

    def lose_the_answer(self) -> None:
        """The next commit is written, and its caller gets StorageUnavailable."""
        ...

    def lose_the_request(self) -> None:
        """The next commit is not written, and its caller gets StorageUnavailable."""
        ...


class MemoryRig:
    def __init__(self) -> None:
        self.store = MemoryStore()

    async def host(self, *partitions: int, suspect: Sequence[int] = ()) -> Fence:
        fence = self.store.register_host(DOMAIN)
        self.store.grant(fence, partitions, suspect)
        return fence

    async def take_back(self, fence: Fence, *partitions: int) -> None:
        await self.store.take_back(fence, partitions)

    async def suspects(self) -> set[int]:
        return set(self.store.suspect.get(DOMAIN, ()))

    async def end(self, fence: Fence) -> None:
        self.store.end_host(fence, "ended by a test")

    async def accept(self, message: Outgoing, key: str | None = None, window_s: float = 60) -> int | None:
        envelope = self.store.accept(message, key=key, window_s=window_s)
        return None if envelope is None else envelope.seq

    async def mail(self, agent: str, partition: int = 0, tenant: str = DEFAULT_TENANT) -> list[Mail]:
        rows = sorted(self.store.mail.boxes.get((DOMAIN, tenant, partition, agent), {}).items())
        now = self.store.now()
        return [
            Mail(seq, r.failures, r.trials, None if r.retry_at is None else r.retry_at - now, r.last_error)
            for seq, r in rows
        ]

    async def history(self, agent: str) -> list[tuple[int, str, bytes, bytes]]:
        rows = self.store.agents.transitions.get((DOMAIN, DEFAULT_TENANT, agent), [])
        return [(t.version, t.body, t.prev, t.hash) for t in rows]

    async def dead_letters(self) -> list[tuple[int, str, str, str, int, str]]:
        return [
            (r.id, r.agent, r.reason, r.error, r.failures, r.frames)
            for r in self.store.agents.dead_letters.values()
        ]

    async def timers(self) -> int:
        return len(self.store.timers)

    async def add_task(self, task: str) -> None:
        self.store.tasks.add(DOMAIN, DEFAULT_TENANT, task)

    async def limit(self, task: str, limits: dict[str, Decimal]) -> None:
        self.store.spending.limits[(DEFAULT_TENANT, f"{DOMAIN}/{task}")] = limits

    async def used(self, root: str) -> tuple[float | Decimal, ...]:
        spent = self.store.spending.used(DEFAULT_TENANT, root)
        return spent.hops, spent.asks, spent.steps, spent.tokens, spent.cost

    async def task(self, task: str) -> tuple[str, str | None, bool]:
        row = self.store.tasks.rows[(DOMAIN, DEFAULT_TENANT, task)]
        return row.status, row.result, row.finished

    async def task_events(self, task: str) -> list[tuple[int, str, str]]:
        return [(e.number, e.kind, e.body) for e in self.store.tasks.events.values() if e.task == task]

    async def now(self) -> float:
        return self.store.now()

    async def settle(
        self, promise: str, value: str, *, by: str = "external/test", status: str = "resolved"
    ) -> bool:
        wake = self.store.waits.promises.settle(
            DOMAIN, DEFAULT_TENANT, promise, status=status, value=value, by=by
        )
        return wake is not None

    async def said_of(self, call: str) -> tuple[str | None, str | None]:
        written = self.store.waits.ledger.rows[(DOMAIN, DEFAULT_TENANT, call)].call
        return written.said_by, written.approval

    async def promises(self) -> dict[str, str]:
        return {id_: row.status for (_, _, id_), row in self.store.waits.promises.rows.items()}

    def lose_the_answer(self) -> None:
        self._fail_at("commit.after")

    def lose_the_request(self) -> None:
        self._fail_at("commit.before")

    def _fail_at(self, where: str) -> None:
        def passing(point: str) -> None:
            if point == where:
                self.store.passing = lambda point: None
                raise StorageUnavailable("The connection was lost.")

        self.store.passing = passing


class PostgresRig:
    def __init__(self, url: str, pool: asyncpg.Pool[Any], store: _DisturbedPostgres) -> None:
        self._url = url
        self._pool = pool
        self.store = store

    async def host(self, *partitions: int, suspect: Sequence[int] = ()) -> Fence:
        epoch = await self._pool.fetchval(
            query("register_host"), DOMAIN, "h", "local", 1, "", "", "", "1.0", 1
        )
        fence = Fence(domain=DOMAIN, epoch=epoch)
        await self._pool.execute(query("set_wanted"), DOMAIN, epoch, list(partitions), False)
        granted = await self._pool.fetchval(
            query("grant_partitions"), DOMAIN, epoch, list(partitions), list(suspect)
        )
        assert granted == epoch
        return fence

    async def take_back(self, fence: Fence, *partitions: int) -> None:
        await Placement(self._pool, DOMAIN).take_back(fence.epoch, frozenset(partitions))

    async def suspects(self) -> set[int]:
        return set(await self._pool.fetchval("select suspect from domains where domain = $1", DOMAIN))

    async def end(self, fence: Fence) -> None:
        await self._pool.execute(query("end_host"), fence.domain, fence.epoch, "ended by a test")

    async def accept(self, message: Outgoing, key: str | None = None, window_s: float = 60) -> int | None:
        m = message
        row = await self._pool.fetchrow(
            query("accept_messages"), [key], timedelta(seconds=window_s), [m.domain], [m.tenant], [m.partition],
            [m.agent], [m.control], [m.header.id], [m.header_json], [m.payload],
        )  # fmt: skip
        return None if row is None else row["seq"]

    async def mail(self, agent: str, partition: int = 0, tenant: str = DEFAULT_TENANT) -> list[Mail]:
        rows = await self._pool.fetch(
            "select seq, failures, trials, extract(epoch from retry_at - now())::float8 as retry_in, last_error"
            " from mailbox where domain = $1 and tenant = $2 and partition = $3 and agent = $4 order by seq",
            DOMAIN, tenant, partition, agent,
        )  # fmt: skip
        return [Mail(**dict(row)) for row in rows]

    async def history(self, agent: str) -> list[tuple[int, str, bytes, bytes]]:
        rows = await self._pool.fetch(
            "select version, body::text as body, prev, hash from transitions"
            " where domain = $1 and tenant = $2 and agent = $3 order by version",
            DOMAIN, DEFAULT_TENANT, agent,
        )  # fmt: skip
        return [tuple(row) for row in rows]

    async def dead_letters(self) -> list[tuple[int, str, str, str, int, str]]:
        rows = await self._pool.fetch(
            "select id, agent, reason, error, failures, frames from dead_letters where domain = $1 order by id",
            DOMAIN,
        )
        return [tuple(row) for row in rows]

    async def timers(self) -> int:
        return int(await self._pool.fetchval("select count(*) from timers where domain = $1", DOMAIN))

    async def add_task(self, task: str) -> None:
        await self._pool.execute(
            "insert into tasks (domain, tenant, id, status, goal, input, priority)"
            " values ($1, $2, $3, 'submitted', 'a goal', 'null', 5)",
            DOMAIN, DEFAULT_TENANT, task,
        )  # fmt: skip

    async def limit(self, task: str, limits: dict[str, Decimal]) -> None:
        await self._pool.execute(
            "update tasks set limits = $2 where id = $1", task, encode_numbers(limits).decode()
        )

    async def used(self, root: str) -> tuple[float | Decimal, ...]:
        domain, _, task = root.partition("/")
        row = await self._pool.fetchrow("select * from used_by($1, $2, $3)", domain, DEFAULT_TENANT, task)
        assert row is not None
        return row["hops"], row["asks"], row["steps"], row["tokens"], row["cost"]

    async def task(self, task: str) -> tuple[str, str | None, bool]:
        row = await self._pool.fetchrow(
            "select status, result::text as result, finished_at is not null as finished from tasks where id = $1",
            task,
        )
        assert row is not None
        return row["status"], row["result"], row["finished"]

    async def task_events(self, task: str) -> list[tuple[int, str, str]]:
        rows = await self._pool.fetch(
            "select number, kind, body::text as body from task_events where task = $1 order by number", task
        )
        return [tuple(row) for row in rows]

    async def now(self) -> float:
        return float(await self._pool.fetchval("select extract(epoch from now())::float8"))

    async def settle(
        self, promise: str, value: str, *, by: str = "external/test", status: str = "resolved"
    ) -> bool:
        row = await self._pool.fetchrow(
            query("settle_promise"), DOMAIN, DEFAULT_TENANT, promise, status, value, by, None
        )
        return row is not None

    async def said_of(self, call: str) -> tuple[str | None, str | None]:
        [row] = await self._pool.fetch("select said_by, approval::text from ledger where id = $1", call)
        return row[0], row[1]

    async def promises(self) -> dict[str, str]:
        return dict(await self._pool.fetch("select id::text, status from promises"))

    def lose_the_answer(self) -> None:
        self.store.lose = "answer"

    def lose_the_request(self) -> None:
        self.store.lose = "request"


class _DisturbedPostgres(PostgresStore):
    """The real store; its commit connection breaks before or after one commit."""

    lose: str | None = None

    async def commit(self, fence: Fence, writes: Any, marks: Any) -> list[int | None]:
        lose, self.lose = self.lose, None
        if lose == "request":
            connection = await self._commit_connection()
            connection.terminate()
            raise StorageUnavailable("The connection was lost.")
        numbers = await super().commit(fence, writes, marks)
        if lose == "answer":
            self._drop_committer()
            raise StorageUnavailable("The connection was lost.")
        return numbers


@asynccontextmanager
async def postgres_rig(url: str) -> AsyncIterator[PostgresRig]:
    pool = await create_pool(url, application="contract")
    await register_domain(
        pool, DomainRow(domain=DOMAIN, partitions=64, spec="{}", kinds=[], home="", code="")
    )
    store = await _DisturbedPostgres.open(url, Fence(domain=DOMAIN, epoch=0))
    try:
        yield PostgresRig(url, pool, store)
    finally:
        await store.close()
        await pool.close()


# -- what is written ---------------------------------------------------------------------------------


def letter(
    agent: str = "order/1",
    payload: str = "{}",
    *,
    partition: int = 0,
    tenant: str = DEFAULT_TENANT,
    control: bool = False,
    due: float | None = None,
    domain: str = DOMAIN,
    settles: str | None = None,
    task: str | None = None,
    sender: str = "shop/till/1",
    undoes: bool = False,
) -> Outgoing:
    """A message on its way to an agent."""
    header = Header(id=new_id(), type="shop.order.v1", sender=sender, sent_at=0.0, task=task, undoes=undoes)
    return Outgoing(
        domain=domain, tenant=tenant, agent=agent, partition=partition, header=header,
        header_json=header_to_json(header), payload=payload, control=control, visible_at=due,
        settles=settles,
    )  # fmt: skip


def turn(
    seq: int | None,
    version: int = 1,
    *,
    agent: str = "order/1",
    partition: int = 0,
    tenant: str = DEFAULT_TENANT,
    state: str | None = '{"n":1}',
    body: str | None = None,
    prev: bytes = GENESIS,
    lifecycle: str = "running",
    **more: Any,
) -> TurnRecord:
    """A turn that brings its agent to `version`."""
    body = body or f'{{"version":{version},"nonce":"{secrets.token_hex(4)}"}}'
    return TurnRecord(
        tenant=tenant, agent=agent, partition=partition, seq=seq, version=version, schema_version=1,
        lifecycle=lifecycle, state=state, body=body, prev=prev, hash=sha256(prev + body.encode()).digest(),
        message_id=new_id(), header_json="{}", payload="{}", **more,
    )  # fmt: skip

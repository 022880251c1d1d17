"""Reads for people: what agents, mailboxes, histories, hosts and tasks look like right now.

Nothing here locks a row or depends on a running host. JSON that authors made is handed on as text.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from bus.address import Address, partition_of
from bus.envelope import Header, header_from_json
from bus.errors import BrokenChain, UnknownDeadLetter, UnknownKind, UnknownTask
from storage import chain
from storage.boundary import translated
from storage.domains import Connection, all_domains, find_domain
from storage.queries import query
from storage.records import StoredState

SILENT_AFTER_S = 3.0  # a host that has not beaten for so long is stuck, dead or cut off
LAST_VERSION = 2**63 - 1
_CHAIN_PAGE = 1_000


class AgentRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a list of agents. `waiting` stops counting at 1,000."""

    address: str
    tenant: str
    partition: int
    lifecycle: str
    version: int
    waiting: int
    updated_at: datetime


class WaitingMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message in a mailbox, without its payload."""

    seq: int
    header: Header
    failures: int
    trials: int
    retry_at: datetime | None
    last_error: str | None


class WaitingTimer(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is due later."""

    seq: int
    header: Header
    due_at: datetime


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """The host that owns an agent's partition; `silent_s` is None before its first beat."""

    epoch: int
    host: str
    node: str
    pid: int
    silent_s: float | None


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One row of an agent's history; `body` is its JSON exactly as hashed."""

    version: int
    at: datetime
    body: str
    prev: bytes
    hash: bytes


class ChainVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a history hashes to what its chain says, from its oldest stored transition to the state.

    `broken` says where and how it does not. `since` is above 1 when retention has dropped older months.
    """

    intact: bool
    length: int
    since: int | None
    broken: str | None


class AgentView(msgspec.Struct, frozen=True, kw_only=True):
    """One agent as a whole. An agent that no message has reached has lifecycle `created` and version 0."""

    address: str
    tenant: str
    partition: int
    lifecycle: str
    version: int
    schema_version: int
    state: str | None
    updated_at: datetime | None
    owner: Owner | None
    mailbox: list[WaitingMessage]
    mailbox_size: int
    timers: list[WaitingTimer]
    history: list[Transition]


class DeadLetterView(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was given up. `header` and `payload` are set when one is looked at alone."""

    domain: str
    tenant: str
    id: int
    agent: str
    message: str
    at: datetime
    reason: str
    error: str
    failures: int
    type: str
    sender: str
    task: str | None
    header: str | None = None
    payload: str | None = None

    @property
    def address(self) -> str:
        return f"{self.domain}/{self.agent}"


class HostView(msgspec.Struct, frozen=True, kw_only=True):
    """One incarnation of a host with its last heartbeat."""

    domain: str
    epoch: int
    host: str
    node: str
    pid: int
    owned: list[int]
    wanted: list[int]
    suspect: list[int]
    draining: bool
    started_at: datetime
    ready: bool
    ended_at: datetime | None
    ended_why: str | None
    silent_s: float
    lag_ms: float
    blocked_by: str | None
    backlog: int
    agents: int
    turns: int
    rss_bytes: int

    @property
    def is_silent(self) -> bool:
        return self.ended_at is None and self.silent_s > SILENT_AFTER_S


class CoordinatorView(msgspec.Struct, frozen=True, kw_only=True):
    """Who coordinates: `master`, or the domain of that name."""

    name: str
    epoch: int
    node: str
    pid: int
    started_at: datetime


class DomainView(msgspec.Struct, frozen=True, kw_only=True):
    """A domain in numbers; `unowned` are the partitions that no living host owns."""

    domain: str
    partitions: int
    kinds: list[str]
    home: str
    updated_at: datetime
    backlog: int
    timers: int
    agents: int
    dead_letters: int
    open_tasks: int
    unowned: list[int]


class TableSize(msgspec.Struct, frozen=True, kw_only=True):
    """A table with its indexes; the rows are the statistics' estimate."""

    name: str
    bytes: int
    rows: int
    dead_rows: int


class Months(msgspec.Struct, frozen=True, kw_only=True):
    """The history's monthly tables (`YYYYMM`), and rows that found none of theirs (counted up to 1,000)."""

    months: list[str]
    astray: int
    now: str

    @property
    def ahead(self) -> int:
        """How many months after this one have their table already."""
        return sum(month > self.now for month in self.months)


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task. `input`, `result` and `error` (JSON text) are set when one is looked at alone."""

    domain: str
    tenant: str
    id: str
    status: str
    goal: str
    priority: int
    policy: str | None
    assignee: str | None
    progress: float
    deadline: datetime | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    input: str | None = None
    result: str | None = None
    error: str | None = None


class TaskEventView(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a task's log; `body` is JSON text."""

    number: int
    at: datetime
    kind: str
    body: str


# -- agents ------------------------------------------------------------------------------------------


async def list_agents(
    db: Connection, domain: str, *, tenant: str, after: str = "", limit: int = 100
) -> list[AgentRow]:
    """One page of a domain's agents, by `kind/key`; raises UnknownDomain."""
    await find_domain(db, domain)
    with translated():
        rows = await db.fetch(query("inspect_agents"), domain, tenant, after, limit)
    return [
        AgentRow(
            address=f"{domain}/{row['agent']}",
            **{name: value for name, value in row.items() if name != "agent"},
        )
        for row in rows
    ]


async def view_agent(
    db: Connection, address: Address, *, tenant: str, messages: int = 10, history: int = 10
) -> AgentView:
    """An agent with the head of its mailbox and its newest transitions.

    Raises UnknownDomain, or UnknownKind where nothing is stored either: a kind that was removed can be read.
    """
    domain = await find_domain(db, address.domain)
    partition = partition_of(tenant, address.agent, domain.partitions)
    place = (address.domain, tenant, partition, address.agent)
    with translated():
        agent = await db.fetchrow(query("inspect_agent"), address.domain, tenant, address.agent)
        mail = await db.fetch(query("inspect_mailbox"), *place, messages)
        size = await db.fetchval(query("inspect_mailbox_size"), *place)
        timers = await db.fetch(query("inspect_timers"), *place, messages)
        owner = await db.fetchrow(query("inspect_owner"), address.domain, partition)
    if agent is None and not size and domain.kinds and address.kind not in domain.kinds:
        raise UnknownKind(f"The domain {address.domain!r} has no agent kind {address.kind!r}.")
    return AgentView(
        address=str(address),
        tenant=tenant,
        partition=partition,
        lifecycle=agent["lifecycle"] if agent else "created",
        version=agent["version"] if agent else 0,
        schema_version=agent["schema_version"] if agent else 0,
        state=agent["state"] if agent else None,
        updated_at=agent["updated_at"] if agent else None,
        owner=Owner(**dict(owner)) if owner else None,
        mailbox=[
            WaitingMessage(
                seq=row["seq"],
                header=header_from_json(row["header"]),
                failures=row["failures"],
                trials=row["trials"],
                retry_at=row["retry_at"],
                last_error=row["last_error"],
            )
            for row in mail
        ],
        mailbox_size=size,
        timers=[
            WaitingTimer(seq=row["seq"], header=header_from_json(row["header"]), due_at=row["due_at"])
            for row in timers
        ],
        history=await list_history(db, address, tenant=tenant, limit=history),
    )


async def list_history(
    db: Connection, address: Address, *, tenant: str, below: int = LAST_VERSION, limit: int = 20
) -> list[Transition]:
    """A page of an agent's history, newest first, of the versions below one."""
    with translated():
        rows = await db.fetch(query("inspect_history"), address.domain, tenant, address.agent, below, limit)
    return [Transition(**dict(row)) for row in rows]


async def verify_history(db: Connection, address: Address, *, tenant: str) -> ChainVerdict:
    """Check the hash chain of an agent's whole history on one snapshot, a page at a time."""
    if isinstance(db, asyncpg.Pool):
        async with db.acquire() as connection:
            return await _walk(connection, address, tenant)
    return await _walk(db, address, tenant)


async def _walk(db: Any, address: Address, tenant: str) -> ChainVerdict:
    place = (address.domain, tenant, address.agent)
    length, since = 0, None
    page: list[chain.Transition] = []
    with translated():
        async with db.transaction(isolation="repeatable_read", readonly=True):
            states = await db.fetch(query("load_states"), address.domain, [tenant], [address.agent])
            newest = StoredState(**dict(states[0])) if states else None
            while True:
                # Each page begins with the last transition of the one before, so that the link is checked.
                last = page[-1:]
                after = last[0].version if last else 0
                rows = await db.fetch(query("inspect_chain"), *place, after, _CHAIN_PAGE)
                page = last + [chain.Transition(**dict(row)) for row in rows]
                since = since or (page[0].version if page else None)
                is_end = len(rows) < _CHAIN_PAGE
                try:
                    chain.verify_chain(str(address), page, newest if is_end else None)
                except BrokenChain as error:
                    return ChainVerdict(intact=False, length=length, since=since, broken=error.message)
                length += len(rows)
                if is_end:
                    return ChainVerdict(intact=True, length=length, since=since, broken=None)


async def lifecycle_of(db: Connection, address: Address, *, tenant: str) -> str:
    with translated():
        row = await db.fetchrow(query("inspect_agent"), address.domain, tenant, address.agent)
    return str(row["lifecycle"]) if row else "created"


# -- dead letters ------------------------------------------------------------------------------------


async def list_dead_letters(
    db: Connection, *, tenant: str, domain: str | None = None, after: int = 0, limit: int = 100
) -> list[DeadLetterView]:
    """Dead letters by number; raises UnknownDomain."""
    names = await _domain_names(db, domain)
    with translated():
        rows = await db.fetch(query("inspect_dead_letters"), names, tenant, after, limit)
    return [DeadLetterView(**dict(row)) for row in rows]


async def find_dead_letter(db: Connection, number: int, *, tenant: str) -> DeadLetterView:
    """Raises UnknownDeadLetter."""
    names = await _domain_names(db, None)
    with translated():
        row = await db.fetchrow(query("inspect_dead_letter"), names, tenant, number)
    if row is None:
        raise UnknownDeadLetter(f"There is no dead letter {number}.")
    return DeadLetterView(**dict(row))


# -- the deployment ----------------------------------------------------------------------------------


async def list_domains(db: Connection) -> list[DomainView]:
    return await _all(db, DomainView, "inspect_domains")


async def list_hosts(db: Connection, *, ended_within_s: float = 0.0) -> list[HostView]:
    """The living hosts of all domains, and those that ended lately."""
    return await _all(db, HostView, "inspect_hosts", ended_within_s)


async def list_coordinators(db: Connection) -> list[CoordinatorView]:
    return await _all(db, CoordinatorView, "inspect_coordinators")


async def list_tables(db: Connection) -> list[TableSize]:
    """The tables, largest first."""
    return await _all(db, TableSize, "inspect_tables")


async def history_months(db: Connection) -> Months:
    months: list[Months] = await _all(db, Months, "inspect_months")
    return months[0]


# -- tasks -------------------------------------------------------------------------------------------


async def list_tasks(
    db: Connection, *, tenant: str, domain: str | None = None, finished: bool = True, limit: int = 50
) -> list[TaskView]:
    """Tasks, newest first; raises UnknownDomain."""
    if domain is not None:
        await find_domain(db, domain)
    return await _all(db, TaskView, "inspect_tasks", tenant, domain, finished, limit)


async def find_task(db: Connection, task: str, *, tenant: str) -> TaskView:
    """Raises UnknownTask, also for what is no id at all."""
    try:
        number = uuid.UUID(task)
    except ValueError:
        raise UnknownTask(f"{task[:60]!r} is not the id of a task.") from None
    names = await _domain_names(db, None)
    found: list[TaskView] = await _all(db, TaskView, "inspect_task", names, tenant, number)
    if not found:
        raise UnknownTask(f"There is no task {number}.")
    return found[0]


async def list_task_events(
    db: Connection, domain: str, task: str, *, tenant: str, after: int = -1, limit: int = 1000
) -> list[TaskEventView]:
    """A task's log, oldest first, after a number."""
    return await _all(db, TaskEventView, "inspect_task_events", domain, tenant, uuid.UUID(task), after, limit)


async def _domain_names(db: Connection, domain: str | None) -> Sequence[str]:
    if domain is not None:
        return [(await find_domain(db, domain)).domain]
    return [row.domain for row in await all_domains(db)]


async def _all(db: Connection, record: type[Any], name: str, *arguments: Any) -> list[Any]:
    with translated():
        rows = await db.fetch(query(name), *arguments)
    return [record(**dict(row)) for row in rows]

"""Agents with their mailboxes and timers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from bus.address import Address, partition_of
from bus.envelope import Header, header_from_json
from bus.errors import UnknownKind
from storage.boundary import translated
from storage.domains import Connection, find_domain
from storage.inspect.history import Transition, list_history
from storage.inspect.rows import fetch_all
from storage.inspect.turns import OpenTurn, find_open_turn, why_paused
from storage.queries import query


class AgentRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a list of agents. `waiting` stops counting messages at 1,000.

    `turn` is `open` or `waiting` (put away, without memory) while one has not ended: then `waits_for` is the kind of
    its oldest pending promise, `waits_on` whom or what that waits for, and `pending` counts them, up to 100.
    """

    address: str
    tenant: str
    partition: int
    lifecycle: str
    version: int
    waiting: int
    updated_at: datetime | None
    turn: str | None
    waits_for: str | None
    waits_on: str | None
    due_at: datetime | None
    pending: int
    failures: int | None
    last_error: str | None


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


class PausedWork(msgspec.Struct, frozen=True, kw_only=True):
    """What is paused while a task waits for it. Of one that is `unfit` the handler does not fit the record of its turn: it
    would be paused again at once."""

    address: str
    unfit: bool


class AgentView(msgspec.Struct, frozen=True, kw_only=True):
    """One agent as a whole. An agent that has had no turn has lifecycle `created` and version 0."""

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
    open_turn: OpenTurn | None
    paused: dict[str, Any] | None
    history: list[Transition]

    @property
    def is_untouched(self) -> bool:
        """Whether no message has ever reached it."""
        return self.version == 0 and not (self.mailbox_size or self.timers or self.open_turn)


async def list_agents(
    db: Connection, domain: str, *, tenant: str, after: str = "", limit: int = 100
) -> list[AgentRow]:
    """One page of a domain's agents, by `kind/key`; raises UnknownDomain."""
    await find_domain(db, domain, removed=True)
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
    domain = await find_domain(db, address.domain, removed=True)
    partition = partition_of(tenant, address.agent, domain.partitions)
    place = (address.domain, tenant, partition, address.agent)
    with translated():
        agent = await db.fetchrow(query("inspect_agent"), address.domain, tenant, address.agent)
        mail = await db.fetch(query("inspect_mailbox"), *place, messages)
        size = await db.fetchval(query("inspect_mailbox_size"), *place)
        timers = await db.fetch(query("inspect_timers"), *place, messages)
        owner = await db.fetchrow(query("inspect_owner"), address.domain, partition)
    turn = await find_open_turn(db, address, tenant=tenant)
    if agent is None and not size and turn is None and domain.kinds and address.kind not in domain.kinds:
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
        open_turn=turn,
        paused=await why_paused(db, address, tenant=tenant)
        if agent and agent["lifecycle"] == "paused"
        else None,
        history=await list_history(db, address, tenant=tenant, limit=history),
    )


async def lifecycle_of(db: Connection, address: Address, *, tenant: str) -> str:
    with translated():
        row = await db.fetchrow(query("inspect_agent"), address.domain, tenant, address.agent)
    return str(row["lifecycle"]) if row else "created"


async def paused_of(db: Connection, addresses: Sequence[str], *, tenant: str) -> list[PausedWork]:
    """Of these agents those that are paused, and the paused tasks and domains that they belong to."""
    places = [address.partition("/") for address in addresses]
    domains, agents = [p[0] for p in places], [p[2] for p in places]
    return await fetch_all(db, PausedWork, "inspect_paused_of", tenant, domains, agents)


async def paused_at_work(db: Connection, domain: str, *, tenant: str, limit: int = 5) -> list[PausedWork]:
    """The paused agents for which open tasks of a domain wait: those assigned, and those that lead them."""
    return await fetch_all(db, PausedWork, "inspect_paused_at_work", domain, tenant, limit)

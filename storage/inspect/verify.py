"""Whether every history still hashes to what its chain says: page by page, each on a snapshot of its own.

A snapshot held for as long as all of it takes would keep the hot tables from being vacuumed. What has been looked at
only grows at its end, and an agent's end is compared with its row on one snapshot.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, NamedTuple

import asyncpg
import msgspec

from bus.address import Address
from bus.errors import BrokenChain
from storage.boundary import translated
from storage.chain import BEGINNING, JOURNAL, NEWEST, PAYLOAD, TASK, Anchor, Chain, Link, Tip
from storage.domains import Connection
from storage.inspect.rows import domain_names, in_index_order
from storage.queries import query

PAGE = 5_000  # transitions, and agents, in memory
_BLOBS = 64  # Postgres hashes them, one by one
_MOST_NAMED = 1_000
_LAST = "\U0010ffff"  # sorts after every tenant


class BrokenLink(msgspec.Struct, frozen=True, kw_only=True):
    """The first broken link of an agent. `what` differs: a word or two; `detail` says it in a sentence."""

    address: str
    tenant: str
    version: int
    what: str
    detail: str


class AgentVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's history: `since` is its oldest version that is stored, `dropped` the newest that retention has dropped."""

    length: int
    since: int | None
    broken: BrokenLink | None
    dropped: Anchor | None = None


class Verdict(msgspec.Struct, kw_only=True):
    """What was looked at, and what was found: `broken` names the first thousand, `broken_agents` counts all."""

    domains: list[str]
    agents: int = 0
    transitions: int = 0
    shortened: int = 0
    blobs: int = 0
    broken_agents: int = 0
    broken: list[BrokenLink] = []
    broken_blobs: list[str] = []

    @property
    def is_intact(self) -> bool:
        return not (self.broken_agents or self.broken_blobs)

    def add(self, agent: AgentVerdict) -> None:
        self.agents += 1
        self.shortened += agent.dropped is not None
        if agent.broken is not None:
            self.broken_agents += 1
            if len(self.broken) < _MOST_NAMED:
                self.broken.append(agent.broken)


Agent = tuple[str, str]  # tenant and kind/key


class Place(NamedTuple):
    """Where a walk stands: after this version of this agent; None after all of them."""

    tenant: str
    agent: str
    version: int | None


async def count_agents(db: Connection, *, domain: str | None = None) -> int:
    with translated():
        return int(await db.fetchval(query("verify_count"), await domain_names(db, domain)))


async def verify_all(
    db: asyncpg.Pool[Any],
    *,
    domain: str | None = None,
    page: int = PAGE,
    looked_at: Callable[[Verdict], None] = lambda _: None,
) -> Verdict:
    """Check the histories of all agents of all tenants, and the blobs; raises UnknownDomain.

    `looked_at` is told after each page how far it is.
    """
    verdict = Verdict(domains=list(await domain_names(db, domain)))
    for name in verdict.domains:
        walk, before = Walk(db, name, Place("", "", None), (_LAST, ""), page), verdict.transitions
        async for agents in walk.pages():
            for agent in agents:
                verdict.add(agent)
            verdict.transitions = before + walk.followed
            looked_at(verdict)
        async for count, bad in _blobs(db, name):
            verdict.blobs += count
            verdict.broken_blobs += bad
            looked_at(verdict)
    return verdict


async def verify_agent(db: Connection, address: Address, *, tenant: str) -> AgentVerdict:
    """Check one agent's history, never holding all of it."""
    walk = Walk(db, address.domain, Place(tenant, address.agent, 0), (tenant, address.agent), PAGE)
    found = [agent async for agents in walk.pages() for agent in agents]
    return found[0] if found else AgentVerdict(length=0, since=None, broken=None)


class Walk:
    """Along the agents of one domain, from after a place up to an agent, that one included."""

    def __init__(self, db: Connection, domain: str, start: Place, upto: Agent, page: int) -> None:
        self._db = db
        self._domain = domain
        self._place = start
        self._upto = upto
        self._page = page
        self._chain: Chain | None = None  # of the agent in whose midst the walk stands
        self.followed = 0
        """Transitions, so far."""

    async def pages(self) -> AsyncIterator[list[AgentVerdict]]:
        """The agents whose end each page has reached, or that it has found broken."""
        more = True
        while more:
            with translated():
                links, tips = await self._read()
                more = len(links) == self._page or len(tips) == self._page
                ended = await self._take(links, tips)
            yield ended

    async def _read(self) -> tuple[list[Any], list[Any]]:
        tenant, agent, version = self._place
        after = 2**63 - 1 if version is None else version
        async with in_index_order(self._db) as db:
            await db.execute(query("verify_hold"))
            links = await db.fetch(
                query("verify_links"), self._domain, tenant, agent, after, *self._upto, self._page
            )
            upto = _agent(links[-1]) if len(links) == self._page else self._upto
            # One more than a page: the agent at which the walk stands may be over.
            tips = await db.fetch(query("verify_tips"), self._domain, tenant, agent, *upto, self._page + 1)
        if version is None and tips and _agent(tips[0]) == (tenant, agent):
            tips = tips[1:]
        return links, tips[: self._page]

    async def _take(self, links: list[Any], tips: list[Any]) -> list[AgentVerdict]:
        """Follow the agents that the page has whole, and then the one that it cuts; leave the walk after them."""
        cut = _agent(links[-1]) if len(links) == self._page else None
        last = _agent(tips[-1]) if len(tips) == self._page else None
        by_agent: dict[Agent, list[Any]] = {agent: list(rows) for agent, rows in groupby(links, key=_agent)}
        tip_of = {_agent(row): row for row in tips}
        agents = by_agent.keys() | tip_of.keys()
        if self._place.version is not None and self._chain is not None:
            agents |= {self._place[:2]}
        verdicts: list[AgentVerdict] = []
        for agent in sorted(agents):
            if last is not None and agent > last:
                break
            is_whole = agent != cut
            rows = by_agent.get(agent, [])
            if not is_whole:  # the same version may stand again on the next page
                rows = [row for row in rows if row["version"] != rows[-1]["version"]] or rows
            broken = await self._follow(agent, rows, _anchor(tip_of.get(agent)))
            if is_whole and broken is None:
                broken = await self._end(tip_of.get(agent))
            if is_whole or broken is not None:
                assert self._chain is not None
                verdicts.append(_verdict(self._chain, broken))
                self._chain = None
                self._place = Place(*agent, None)
            else:
                self._place = Place(*agent, rows[-1]["version"])
        return verdicts

    async def _follow(self, agent: Agent, rows: list[Any], anchor: Anchor) -> BrokenLink | None:
        if self._chain is None:
            self._chain = Chain(f"{self._domain}/{agent[1]}")
        chain = self._chain
        chain.anchor = anchor
        try:
            for row in rows:
                self.followed += 1
                is_kept = chain.follow(
                    Link(version=row["version"], prev=row["prev"], hash=row["hash"], is_sound=row["sound"])
                )
                if is_kept and row["other_task"]:
                    raise chain.broken(row["version"], TASK, "stands under another task than its own")
                if is_kept and row["blob_gone"]:
                    raise chain.broken(row["version"], PAYLOAD, "handled a message whose payload is gone")
                if is_kept and row["call"] is not None:
                    await self._check_call(chain, row)
        except BrokenChain as error:
            return _named(chain, agent, error)
        return None

    async def _check_call(self, chain: Chain, row: Any) -> None:
        """A call differs from the journal: raises BrokenChain, unless the journal's month may have been dropped."""
        what = "lacks" if row["call_gone"] else "has otherwise"
        if row["call_gone"]:
            began = datetime.fromtimestamp((uuid.UUID(row["turn"]).int >> 80) / 1000, UTC)
            oldest = await self._db.fetchval(query("verify_oldest_month"))
            if oldest is not None and began < oldest:
                return
        raise chain.broken(row["version"], JOURNAL, f"has a call at {row['call']!r} that the journal {what}")

    async def _end(self, row: Any) -> BrokenLink | None:
        chain = self._chain
        assert chain is not None
        agent = self._place[:2] if row is None else _agent(row)
        try:
            if row is None:
                if chain.last is not None:
                    raise chain.broken(chain.last.version, NEWEST, "leads to no agent: its row is gone")
            else:
                chain.end(
                    Tip(
                        version=row["version"], hash=row["hash"], state_hash=row["state_hash"],
                        recorded_state_hash=row["recorded_state_hash"],
                    )
                )  # fmt: skip
        except BrokenChain as error:
            return _named(chain, agent, error)
        return None


def _agent(row: Any) -> Agent:
    return row["tenant"], row["agent"]


def _anchor(row: Any) -> Anchor:
    if row is None or row["dropped"] is None:
        return BEGINNING
    return Anchor(version=row["dropped"], hash=row["dropped_hash"], dropped_at=row["dropped_at"])


def _verdict(chain: Chain, broken: BrokenLink | None) -> AgentVerdict:
    dropped = None if chain.anchor is BEGINNING else chain.anchor
    return AgentVerdict(length=chain.length, since=chain.since, broken=broken, dropped=dropped)


def _named(chain: Chain, agent: Agent, error: BrokenChain) -> BrokenLink:
    return BrokenLink(
        address=chain.address, tenant=agent[0], version=error.version, what=error.what, detail=error.detail
    )


async def _blobs(db: Connection, domain: str) -> AsyncIterator[tuple[int, list[str]]]:
    """How many blobs each page had, and the digests of those that do not hash to their name."""
    tenant = digest = ""
    while True:
        with translated():
            rows = await db.fetch(query("verify_blobs"), domain, tenant, digest, _BLOBS)
        if not rows:
            return
        yield len(rows), [row["digest"] for row in rows if not row["sound"]]
        tenant, digest = rows[-1]["tenant"], rows[-1]["digest"]

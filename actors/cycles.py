"""The watch over this host's asks: those that wait for each other are found, and the newest of them is refused.

Two asks that close a cycle together, on two hosts, cannot miss each other: each host looks after its ask has
committed, so whoever looks last sees both; and both would refuse the same one, which can be settled once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence

import msgspec

from actors.activation import Activation
from actors.ask_cycle import AskDeadlock, find_deadlock, may_come
from actors.journal import Journal
from actors.scope import Scope
from bus.errors import StorageError
from bus.transport import Transport
from storage.edges import FIRST_PLACE, Agent, Gate, WaitEdge
from storage.intake import nudge
from storage.journal import JournalWrite, Kind
from storage.records import TurnRecord
from storage.store import AskStore

_logger = logging.getLogger("callboard.cycles")

LOOK_AFTER_S = 0.02  # most asks are answered sooner, and need no look
MOST_EDGES = 5_000  # seen at once, which bounds what it costs
MOST_TOGETHER = 1_000  # askers
MOST_HALVINGS = 50  # in one look, of those that lead to more
PROMISES_A_PAGE = 10_000  # read at once when partitions are taken over
LOOK_AGAIN_S = 2.0  # at cycles through a task of which more is under way
_RETRY_S = 0.5


class _Led(msgspec.Struct):
    """What the state of a task's agent says: the promise of who waits for the task's end."""

    waiter: str | None = None


class CycleWatch:
    """Looks at each ask once after its commit, a little later, many in one query."""

    def __init__(self, scope: Scope, store: AskStore, transport: Transport) -> None:
        self._scope = scope
        self._store = store
        self._transport = transport
        self._asked: list[tuple[Journal | None, str, tuple[str, str]]] = []
        self._assigned: set[Agent] = set()
        self._unsettled: set[Agent] = set()
        self._taken_over: frozenset[int] = frozenset()
        self._read_to = FIRST_PLACE  # of what their last owners have left
        self._wanted = asyncio.Event()
        self.looks = 0

    def committed(self, activation: Activation, write: JournalWrite) -> None:
        """These promises are durable; asks among them may have closed a cycle."""
        for made in write.promises:
            if made.kind is Kind.ASK:
                self._asked.append((activation.journal, made.id, activation.key))
                self._wanted.set()
        for id_, given_up in write.given_up:
            if not given_up:
                self._asked.append((activation.journal, id_, activation.key))
                self._wanted.set()

    def assigned(self, turn: TurnRecord) -> None:
        """This turn of a task's agent is durable; it may have given the task to one that waits for who waits for it, or have
        come to wait for its children, which wait for who waits for it."""
        for task in turn.tasks:
            begins = task.assignee if task.status == "assigned" else None
            if task.status == "ending" and turn.state is not None:
                ref = msgspec.json.decode(turn.state, type=_Led).waiter
                begins = None if ref is None else ref.rpartition("#")[0]
            if begins is not None:
                domain, _, agent = begins.partition("/")
                self._assigned.add((domain, turn.tenant, agent))
                self._wanted.set()

    def taken_over(self, partitions: Iterable[int]) -> None:
        """Whoever has owned these may have died between a commit and its look."""
        self._taken_over = self._taken_over.union(partitions)
        self._read_to = FIRST_PLACE
        self._wanted.set()

    @property
    def is_at_rest(self) -> bool:
        return not self._wanted.is_set()

    async def run(self) -> None:
        """Runs for ever."""
        while True:
            await self._until_wanted()
            await asyncio.sleep(LOOK_AFTER_S)
            asked, self._asked = self._asked, []
            assigned, self._assigned = self._assigned | self._unsettled, set()
            self._unsettled = set()
            own = self._scope.domain
            askers = assigned | {(own, *key) for journal, id_, key in asked if _still_waits(journal, id_)}
            try:
                if askers:
                    self.looks += 1
                    await self._look_for(sorted(askers))
                if self._taken_over:
                    await self._make_up()
            except StorageError as error:
                _logger.warning("asks cannot be looked at yet: %s", error.message)
                self._asked += asked
                self._assigned |= assigned
                self._wanted.set()  # also where this was but a further look
                await asyncio.sleep(_RETRY_S)
            if not (self._asked or self._assigned or self._taken_over):
                self._wanted.clear()

    async def _make_up(self) -> None:
        """A page of what was there when partitions were taken over; new asks come first before the next one."""
        taken_over = self._taken_over
        own = self._scope.domain
        page = await self._store.chained_asks(own, sorted(taken_over), self._read_to, PROMISES_A_PAGE)
        if page.agents:
            self.looks += 1
            await self._look_for(sorted((own, *key) for key in page.agents))
        if self._taken_over is not taken_over:  # some have come meanwhile, and it begins from the first page
            return
        if page.last is None:
            self._taken_over = frozenset()
        else:
            self._read_to = page.last

    async def _until_wanted(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_AGAIN_S if self._unsettled else None):
                await self._wanted.wait()

    async def _look_for(self, askers: Sequence[Agent]) -> None:
        """Together, so far as they lead to few enough asks; else in halves, and so not without an end."""
        slices = [askers[at : at + MOST_TOGETHER] for at in range(0, len(askers), MOST_TOGETHER)]
        halvings = MOST_HALVINGS
        while slices:
            part = slices.pop()
            edges, is_whole = await self._walk(part)
            if not is_whole and len(part) > 1 and halvings:
                halvings -= 1
                slices += [part[len(part) // 2 :], part[: len(part) // 2]]
                continue
            if not is_whole:
                _logger.warning(
                    "agents that ask each other form a chain of more than %d asks; it is not searched for a cycle"
                    " to its end", MOST_EDGES,
                )  # fmt: skip
            await self._look(edges)

    async def _look(self, found_edges: Sequence[WaitEdge]) -> None:
        edges = list(found_edges)
        while (found := find_deadlock(edges)) is not None:
            addresses = [f"{domain}/{agent}" for domain, _, agent in found.agents]
            refusal = await self._store.refuse_ask(found.newest, found.asks, addresses)
            gone = refusal.gone or {found.newest.id}
            edges = [edge for edge in edges if edge.id not in gone]
            if refusal.moves:
                self._unsettled.add(found.newest.asker)
            if refusal.mail:
                _say(found, addresses)
                nudge(self._transport, set(refusal.mail))
        self._unsettled.update(may_come(edges))

    async def _walk(self, askers: Sequence[Agent]) -> tuple[list[WaitEdge], bool]:
        """The asks that these lead to, and whether that is all. Few lead further than to an agent whose turn asks
        nobody."""
        edges: dict[tuple[str, Agent, tuple[Gate, ...]], WaitEdge] = {}
        seen: set[Agent] = set()
        ahead = set(askers)
        while ahead:
            seen |= ahead
            room = MOST_EDGES - len(edges)
            found = await self._store.wait_edges(sorted(ahead), room)
            if len(found) >= room:
                return list(edges.values()), False
            edges.update(((edge.id, edge.asked, edge.gates), edge) for edge in found)
            ahead = {edge.asked for edge in found} - seen
        return list(edges.values()), True


def _still_waits(journal: Journal | None, promise: str) -> bool:
    """A turn that is not in memory may wait."""
    return journal is None or journal.is_closed or promise in journal.promises


def _say(found: AskDeadlock, addresses: Sequence[str]) -> None:
    _logger.warning("%s has asked into a cycle, and is refused: %s", addresses[0], " -> ".join(addresses))

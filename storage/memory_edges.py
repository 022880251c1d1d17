"""Asks in memory as edges from one agent to another, for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence

import msgspec

from bus.envelope import Header, Outgoing, header_from_json, header_to_json, new_id
from storage.edges import Agent, ChainedAsks, PromisePlace, Refusal, WaitEdge, holder_gate
from storage.journal import Kind
from storage.memory_mail import MemoryMail
from storage.memory_promises import Key, MemoryPromises
from storage.memory_rows import PromiseRow, TimerRow, TurnRow
from storage.memory_tasks import MemoryTasks

# As in the SQL: this room knows no agents.
WITHDRAW = "callboard.withdraw.v1"
CANCEL_CHILD = "callboard.cancel_child.v1"
CANCEL_TASK = "callboard.cancel_task.v1"
WORK = "callboard.task.v1"
CALL = "callboard.call_for_bids.v1"
ENDS = {f"callboard.{end}.v1" for end in ("task_completed", "task_failed", "task_part", "cancel_task")}


class MemoryEdges:
    """What the open turns of all domains wait for of each other."""

    def __init__(
        self,
        mail: MemoryMail,
        turns: dict[Key, TurnRow],
        promises: MemoryPromises,
        tasks: MemoryTasks,
        timers: Callable[[], list[TimerRow]],
        now: Callable[[], float],
    ) -> None:
        self._mail = mail
        self._turns = turns
        self._promises = promises
        self._tasks = tasks
        self._timers = timers
        self._now = now

    def of(self, agents: Collection[Agent], limit: int) -> list[WaitEdge]:
        found = [
            edge
            for (domain, _, _), row in self._promises.rows.items()
            if (domain, row.tenant, row.agent) in agents and self._holds(domain, row)
            for edge in self._edges(domain, row)
        ]
        return found[:limit]

    def _edges(self, domain: str, row: PromiseRow) -> list[WaitEdge]:
        edge = _edge(domain, row)
        found = []
        for path in self._paths(row):
            holders = sorted(self._holders(row.tenant, path[-1]))
            gates = (holder_gate(edge.id, path[-1], len(holders), n) for n in range(len(holders)))
            found += [
                msgspec.structs.replace(edge, asked=asked, gates=(*edge.gates, gate))
                for asked, gate in zip(holders, gates, strict=True)
            ]
        return found or [edge]

    # -- tasks that are waited for -------------------------------------------------------------------

    def _child(self, row: PromiseRow) -> str | None:
        """The task that an ask of a task's leader waits for, as `domain/id`."""
        domain, _, leader = (row.made.target or "").partition("/")
        for (of, tenant, id_), child in self._tasks.children.items():
            is_it = (tenant, id_) == (row.tenant, row.made.message) and leader.startswith("task/")
            if is_it and child.parent == f"{domain}/{leader.removeprefix('task/')}":
                return None if self._tasks.rows[(of, tenant, id_)].finished else f"{of}/{id_}"
        return None

    def _paths(self, row: PromiseRow) -> list[tuple[str, ...]]:
        """See task_holders in the SQL."""
        child = self._child(row)
        return [] if child is None else self._open_below(row.tenant, (child,))

    def _open_below(self, tenant: str, path: tuple[str, ...]) -> list[tuple[str, ...]]:
        domain, _, id_ = path[-1].partition("/")
        if self._tasks.rows[(domain, tenant, id_)].status != "ending":
            return [] if path[1:] and self._is_told_to_end(tenant, path) else [path]
        found = []
        for (of, owner, child), task in self._tasks.children.items():
            row = self._tasks.rows[(of, owner, child)]
            is_open = not row.finished and row.status != "cancelling"
            if (owner, task.parent) == (tenant, path[-1]) and is_open:
                found += self._open_below(tenant, (*path, f"{of}/{child}"))
        return found

    def _is_told_to_end(self, tenant: str, path: tuple[str, ...]) -> bool:
        leaders = [tuple(ref.replace("/", "/task/", 1).split("/", 1)) for ref in path]
        return any(
            header_from_json(row.header_json).type in (CANCEL_CHILD, CANCEL_TASK)
            for (domain, of, _, agent), box in self._mail.boxes.items()
            if of == tenant and (domain, agent) in leaders
            for row in box.values()
        )

    def _holders(self, tenant: str, task: str) -> set[Agent]:
        domain, _, id_ = task.partition("/")
        to, _, agent = (self._tasks.rows[(domain, tenant, id_)].assignee or "").partition("/")
        found = {
            key for key, row in self._turns.items()
            if key[1] == tenant and header_from_json(row.message.header_json).task == task
        }  # fmt: skip
        if (to, tenant, agent) in self._turns and any(
            place == (to, tenant, agent) and header.type == WORK
            for place, header in self._mail_of(tenant, task)
        ):
            found.add((to, tenant, agent))
        return found - {(domain, tenant, f"task/{id_}")}

    def _mail_of(self, tenant: str, task: str) -> list[tuple[Agent, Header]]:
        mail = [
            ((domain, of, agent), header_from_json(row.header_json))
            for (domain, of, _, agent), box in self._mail.boxes.items() if of == tenant
            for row in box.values()
        ]  # fmt: skip
        return [(place, header) for place, header in mail if header.task == task]

    def _is_held(self, tenant: str, task: str, agents: Collection[Agent]) -> bool:
        """See task_is_held in the SQL."""
        domain, _, id_ = task.partition("/")
        leader = (domain, tenant, f"task/{id_}")
        timers = {
            (t.message.domain, tenant, t.message.agent) for t in self._timers()
            if t.message.tenant == tenant and t.message.header.task == task
        }  # fmt: skip
        mail = {
            place for place, header in self._mail_of(tenant, task)
            if header.type != CALL and (not place[2].startswith("task/") or (place == leader and header.type in ENDS))
        }  # fmt: skip
        others = self._holders(tenant, task) | mail | (timers - {leader})
        return others <= set(agents)

    def _holds(self, domain: str, row: PromiseRow) -> bool:
        turn = self._turns.get((domain, row.tenant, row.agent))
        waits = row.made.kind == Kind.ASK and row.status == "pending" and not row.given_up
        return waits and turn is not None and turn.turn == row.turn

    def refuse(self, newest: WaitEdge, cycle: Sequence[WaitEdge], agents: Sequence[str]) -> Refusal:
        askers = {edge.asker for edge in cycle}
        gone = frozenset(edge.id for edge in cycle if not self._waits_for_a_turn(edge, askers))
        if gone:
            return Refusal(gone=gone, moves=any(edge.id in gone and self._moves(edge) for edge in cycle))
        domain, tenant, _ = newest.asker
        row = self._promises.rows[(domain, tenant, newest.id)]
        wake = self._promises.settled(domain, row, "cycle", json.dumps(agents), "external/cycle")
        asked, _, other = (row.made.target or "").partition("/")
        leads = other.startswith("task/")
        task = other.removeprefix("task/")
        place = self._tasks.places[(asked, tenant, task)] if leads else self._turns[newest.asked].partition
        header = Header(
            id=new_id(),
            type=CANCEL_CHILD if leads else WITHDRAW,
            sender="external/cycle",
            sent_at=self._now(),
        )
        self._mail.post(
            Outgoing(
                domain=asked, tenant=tenant, agent=other, partition=place, header=header, control=not leads,
                header_json=header_to_json(header), payload=json.dumps({"id": row.made.message, "reason": "a circle"}),
            )
        )  # fmt: skip
        return Refusal(mail=((domain, row.partition, tenant, wake.agent), (asked, place, tenant, other)))

    def _moves(self, edge: WaitEdge) -> bool:
        domain, tenant, _ = edge.asker
        row = self._promises.rows.get((domain, tenant, edge.id))
        return row is not None and self._holds(domain, row) and self._child(row) is not None

    def _waits_for_a_turn(self, edge: WaitEdge, askers: Collection[Agent]) -> bool:
        domain, tenant, _ = edge.asker
        row = self._promises.rows.get((domain, tenant, edge.id))
        other = self._turns.get(edge.asked)
        if row is None or other is None or not self._holds(domain, row):
            return False
        if self._child(row) is not None:
            return any(
                self._holders(tenant, path[-1]) and all(self._is_held(tenant, task, askers) for task in path)
                for path in self._paths(row)
            )
        box = self._mail.boxes.get((edge.asked[0], tenant, other.partition, edge.asked[2]), {})
        return any(mail.id == row.made.message for mail in (other.message, *box.values()))

    def chained(
        self, domain: str, partitions: Collection[int], after: PromisePlace, limit: int
    ) -> ChainedAsks:
        edges = [_edge(of, row) for (of, _, _), row in self._promises.rows.items() if self._holds(of, row)]
        askers = {edge.asker for edge in edges}
        places = ((tenant, id_) for of, tenant, id_ in self._promises.rows if of == domain)
        page = sorted(place for place in places if place > after)[:limit]
        rows = [self._promises.rows[(domain, *place)] for place in page]
        found = {
            (row.tenant, row.agent) for row in rows
            if row.partition in partitions and self._holds(domain, row)
            and (self._child(row) is not None or _edge(domain, row).asked in askers)
        }  # fmt: skip
        return ChainedAsks(agents=tuple(sorted(found)), last=page[-1] if page else None)


def _edge(domain: str, row: PromiseRow) -> WaitEdge:
    to, _, agent = (row.made.target or "").partition("/")
    return WaitEdge(
        id=row.made.id, asker=(domain, row.tenant, row.agent), asked=(to, row.tenant, agent),
        made_at=int(row.made_at * 1e6), gates=row.made.gates,
    )  # fmt: skip

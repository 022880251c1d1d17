"""Asks in memory as edges from one agent to another, for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence

from bus.envelope import Header, Outgoing, header_to_json, new_id
from storage.edges import Agent, Refusal, WaitEdge
from storage.journal import Kind
from storage.memory_mail import MemoryMail
from storage.memory_promises import Key, MemoryPromises
from storage.memory_rows import PromiseRow, TurnRow

WITHDRAW = "callboard.withdraw.v1"  # as in the SQL: this room knows no agents


class MemoryEdges:
    """What the open turns of all domains wait for of each other."""

    def __init__(
        self, mail: MemoryMail, turns: dict[Key, TurnRow], promises: MemoryPromises, now: Callable[[], float]
    ) -> None:
        self._mail = mail
        self._turns = turns
        self._promises = promises
        self._now = now

    def of(self, agents: Collection[Agent], limit: int) -> list[WaitEdge]:
        found = [
            _edge(domain, row)
            for (domain, _, _), row in self._promises.rows.items()
            if (domain, row.tenant, row.agent) in agents and self._holds(domain, row)
        ]
        return found[:limit]

    def _holds(self, domain: str, row: PromiseRow) -> bool:
        turn = self._turns.get((domain, row.tenant, row.agent))
        waits = row.made.kind == Kind.ASK and row.status == "pending" and not row.given_up
        return waits and turn is not None and turn.turn == row.turn

    def refuse(self, newest: WaitEdge, cycle: Sequence[WaitEdge], agents: Sequence[str]) -> Refusal:
        gone = frozenset(edge.id for edge in cycle if not self._waits_for_a_turn(edge))
        if gone:
            return Refusal(gone=gone)
        domain, tenant, _ = newest.asker
        row = self._promises.rows[(domain, tenant, newest.id)]
        wake = self._promises.settled(domain, row, "cycle", json.dumps(agents), "external/cycle")
        asked, _, other = newest.asked
        place = self._turns[newest.asked].partition
        header = Header(id=new_id(), type=WITHDRAW, sender="external/cycle", sent_at=self._now())
        self._mail.post(
            Outgoing(
                domain=asked, tenant=tenant, agent=other, partition=place, header=header, control=True,
                header_json=header_to_json(header), payload=json.dumps({"id": row.made.message}),
            )
        )  # fmt: skip
        return Refusal(mail=((domain, row.partition, tenant, wake.agent), (asked, place, tenant, other)))

    def _waits_for_a_turn(self, edge: WaitEdge) -> bool:
        domain, tenant, _ = edge.asker
        row = self._promises.rows.get((domain, tenant, edge.id))
        other = self._turns.get(edge.asked)
        if row is None or other is None or not self._holds(domain, row):
            return False
        box = self._mail.boxes.get((edge.asked[0], tenant, other.partition, edge.asked[2]), {})
        return any(mail.id == row.made.message for mail in (other.message, *box.values()))

    def chained(self, domain: str, partitions: Collection[int], limit: int) -> list[tuple[str, str]]:
        edges = [_edge(of, row) for (of, _, _), row in self._promises.rows.items() if self._holds(of, row)]
        askers = {edge.asker for edge in edges}
        return [
            (row.tenant, row.agent)
            for (of, _, _), row in self._promises.rows.items()
            if of == domain and row.partition in partitions and self._holds(of, row)
            and _edge(of, row).asked in askers
        ][:limit]  # fmt: skip


def _edge(domain: str, row: PromiseRow) -> WaitEdge:
    to, _, agent = (row.made.target or "").partition("/")
    return WaitEdge(
        id=row.made.id, asker=(domain, row.tenant, row.agent), asked=(to, row.tenant, agent),
        made_at=int(row.made_at * 1e6), gates=row.made.gates,
    )  # fmt: skip

"""Promises in memory, for tests: what settles them, and who may."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection

from bus.envelope import Envelope, Header, Outgoing, header_from_json, header_to_json, new_id
from storage.journal import JournalWrite, Kind
from storage.memory_rows import PromiseRow, TurnRow
from storage.records import MailPlace
from storage.standing import OUTSIDE, Standing

WAKE = "callboard.wake.v1"  # as in the SQL: this room knows no agents

Key = tuple[str, str, str]  # domain, tenant, and the agent or the promise


class MemoryPromises:
    """The table `promises` of all domains."""

    def __init__(
        self, turns: dict[Key, TurnRow], post: Callable[[Outgoing], Envelope], now: Callable[[], float]
    ) -> None:
        self.rows: dict[Key, PromiseRow] = {}
        self._turns = turns
        self._post = post
        self._now = now

    def apply(self, domain: str, tenant: str, agent: str, partition: int, part: JournalWrite) -> None:
        for made in part.promises:
            self.rows[(domain, tenant, made.id)] = PromiseRow(
                tenant=tenant,
                agent=agent,
                partition=partition,
                turn=part.turn,
                made=made,
                made_at=self._now(),
            )
        for id_, given_up in part.given_up:
            if (domain, tenant, id_) in self.rows:
                self.rows[(domain, tenant, id_)].given_up = given_up
        for id_ in part.done:
            promise = self.rows.get((domain, tenant, id_))
            if promise is not None and promise.leaves_no_row:
                del self.rows[(domain, tenant, id_)]
            elif promise is not None and promise.status == "pending":
                promise.status = "abandoned"
                promise.settled_at = self._now()

    def settles(self, reply: Outgoing) -> bool:
        """Settle the promise that the reply is for; False when it came too late."""
        promise = self.rows.get((reply.domain, reply.tenant, reply.settles or ""))
        if promise is None or promise.status != "pending" or promise.agent != reply.agent:
            return False
        body = json.loads(reply.payload)
        if promise.made.kind == Kind.APPROVAL:
            by, digest = reply.header.sender, body.get("digest", "")
            if not self._may_besettled(reply.domain, promise, body["status"], by, digest):
                return False
        elif promise.made.kind not in (Kind.ASK, Kind.PROMISE):
            return False
        promise.status, promise.settled_by = body["status"], reply.header.sender
        promise.settled_at = self._now()
        if not promise.leaves_no_row:
            promise.value = json.dumps(body.get("value"))
        return True

    def settle(
        self, domain: str, tenant: str, id_: str, *, status: str, value: str | None, by: str, digest: str = ""
    ) -> Envelope | None:
        """Settle a promise from outside; None when it may not be settled so, or had been settled before."""
        promise = self.rows.get((domain, tenant, id_))
        if promise is None or promise.status != "pending":
            return None
        if promise.made.kind == Kind.APPROVAL:
            if not self._may_besettled(domain, promise, status, by, digest):
                return None
        elif status != "resolved" or promise.made.kind not in (Kind.PROMISE, Kind.OUTCOME):
            return None
        if promise.made.due_at is not None and promise.made.due_at <= self._now():
            return None
        return self.settled(domain, promise, status, value, by)

    def _may_besettled(self, domain: str, promise: PromiseRow, status: str, by: str, digest: str) -> bool:
        is_in_time = promise.made.due_at is None or promise.made.due_at > self._now()
        seen = json.loads(promise.made.details or "{}")["digest"].startswith(digest)
        is_decision = status in ("approved", "denied")
        return is_decision and is_in_time and seen and self._may_decide(domain, promise, by, status)

    def _may_decide(self, domain: str, promise: PromiseRow, by: str, status: str) -> bool:
        approvers = json.loads(promise.made.details or "{}")["approvers"]
        if by.startswith(OUTSIDE):
            name = by.removeprefix(OUTSIDE)
            return not approvers or (name.count("/") < 2 and (status == "denied" or name in approvers))
        turn = self._turns.get((domain, promise.tenant, promise.agent))
        asked_by = [f"{domain}/{promise.agent}"]
        if turn is not None and turn.turn == promise.turn:
            asked_by.append(header_from_json(turn.message.header_json).sender)
        return by in approvers and by not in asked_by

    def standing(self, domain: str, tenant: str, id_: str, by: str) -> Standing | None:
        row = self.rows.get((domain, tenant, id_))
        if row is None:
            return None
        due_at = row.made.due_at
        return Standing(
            address=f"{domain}/{row.agent}", kind=row.made.kind, name=row.made.name, status=row.status, settled_by=row.settled_by,
            settled_at=row.settled_at, due_at=due_at, is_due=due_at is not None and due_at <= self._now(),
            may_approve=row.made.kind != Kind.APPROVAL or self._may_decide(domain, row, by, "approved"),
            may_deny=row.made.kind != Kind.APPROVAL or self._may_decide(domain, row, by, "denied"),
            details=row.made.details, value=row.value,
        )  # fmt: skip

    def settle_due(self, domain: str, partitions: Collection[int], limit: int) -> list[MailPlace]:
        due = sorted(
            (row.made.due_at, id_, row)
            for (of, _, id_), row in self.rows.items()
            if of == domain and row.partition in partitions and row.status == "pending"
            and row.made.due_at is not None and row.made.due_at <= self._now()
        )[:limit]  # fmt: skip
        wakes = []
        for _, _, row in due:
            status = "resolved" if row.made.kind == Kind.SLEEP else "expired"
            wake = self.settled(domain, row, status, None, "external/clock")
            wakes.append(MailPlace(tenant=wake.tenant, partition=row.partition, agent=wake.agent))
        return wakes

    def next_due(self, domain: str, partitions: Collection[int]) -> float | None:
        """When the clock will settle the first promise of these partitions."""
        return min(
            (
                row.made.due_at
                for (of, _, _), row in self.rows.items()
                if of == domain and row.partition in partitions and row.status == "pending"
                and row.made.due_at is not None
            ),
            default=None,
        )  # fmt: skip

    def settled(self, domain: str, promise: PromiseRow, status: str, value: str | None, by: str) -> Envelope:
        """Write it, and leave the wake-up."""
        promise.status, promise.value, promise.settled_by = status, value, by
        promise.settled_at = self._now()
        header = Header(id=new_id(), type=WAKE, sender=by, sent_at=self._now())
        body = {
            "promise": promise.made.id, "status": status,
            "value": None if value is None else json.loads(value), "by": by, "at": self._now(),
        }  # fmt: skip
        return self._post(
            Outgoing(
                domain=domain, tenant=promise.tenant, agent=promise.agent, partition=promise.partition,
                header=header, header_json=header_to_json(header), payload=json.dumps(body), control=True,
            )
        )  # fmt: skip

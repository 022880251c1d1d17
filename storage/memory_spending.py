"""What tasks have used, in memory: what storage/migrations/0008_spending.sql does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

import msgspec

from bus.amount import encode_numbers
from bus.envelope import Envelope, Header, Outgoing, header_to_json, new_id
from bus.task_ref import split_task_ref
from storage.journal import Flush
from storage.records import TurnRecord
from storage.spending import added_up
from storage.spent import Reached, Spent

REACHED = "callboard.limit_reached.v1"  # as in the SQL: this room knows no agents
_COUNTED = ("hops", "asks", "steps", "tokens", "cost")

Task = tuple[str, str]  # tenant, reference


class MemorySpending:
    """The tables `spending` and `limits_reached`, and the limits in `tasks`, of all domains."""

    def __init__(self, post: Callable[[Outgoing], Envelope], now: Callable[[], float]) -> None:
        self._post = post
        self._now = now
        self.limits: dict[Task, Mapping[str, Decimal]] = {}
        self.rows: dict[tuple[str, str, int], Spent] = {}
        self.reached: dict[Task, Reached] = {}

    def used(self, tenant: str, root: str) -> Spent:
        total = Spent(root=root, partition=None)
        for (of, task, _), row in self.rows.items():
            if (of, task) == (tenant, root):
                total += row
        return total

    def charge(self, epoch: int, writes: Sequence[TurnRecord | Flush]) -> list[Reached]:
        over = []
        for (tenant, root), spent in added_up(writes).items():
            key = tenant, root, epoch
            self.rows[key] = self.rows[key] + spent if key in self.rows else spent
            told = self._look(tenant, root, spent.partition)
            if (tenant, root) in self.reached:
                over.append(msgspec.structs.replace(self.reached[(tenant, root)], told=told))
        return over

    def _look(self, tenant: str, root: str, partition: int | None) -> int | None:
        limits = self.limits.get((tenant, root), {})
        if (tenant, root) in self.reached:
            return None
        used = self.used(tenant, root)
        for name in _COUNTED:
            if name in limits and getattr(used, name) > limits[name]:
                reached = Reached(
                    tenant=tenant, task=root, limit=name, used=getattr(used, name), allowed=limits[name]
                )
                self.reached[(tenant, root)] = reached
                if partition is not None:
                    self._tell(reached, partition)
                return partition
        return None

    def _tell(self, reached: Reached, partition: int) -> None:
        domain, task = split_task_ref(reached.task)
        header = Header(
            id=new_id(), type=REACHED, sender="external/limits", sent_at=self._now(), task=reached.task
        )
        body = {"limit": reached.limit, "used": reached.used, "allowed": reached.allowed}
        self._post(
            Outgoing(
                domain=domain, tenant=reached.tenant, agent=f"task/{task}", partition=partition, header=header,
                header_json=header_to_json(header), payload=encode_numbers(body).decode(),
            )
        )  # fmt: skip

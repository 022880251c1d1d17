"""Cancelled tasks in memory: what storage/migrations/0006_cancellation.sql does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from bus.envelope import Envelope, Header, Outgoing, header_from_json, header_to_json, new_id
from storage.memory_rows import HostRow, TimerRow
from storage.memory_turns import MemoryTurns
from storage.records import Cancellation, MailPlace, TurnRecord

STOPPED = "callboard.task_stopped.v1"  # as in the SQL: this room knows no agents


class CancellationRow(msgspec.Struct, kw_only=True):
    """One cancelled task; `partition` is that of its agent."""

    number: int
    domain: str
    tenant: str
    task: str
    partition: int
    why: str
    ended: bool = False

    @property
    def ref(self) -> str:
        return f"{self.domain}/{self.task}"

    @property
    def leader(self) -> str:
        return f"task/{self.task}"


class MemoryCancellations:
    """The table `cancellations` of all domains."""

    def __init__(
        self, waits: MemoryTurns, post: Callable[[Outgoing], Envelope], now: Callable[[], float]
    ) -> None:
        self._waits = waits
        self._post = post
        self._now = now
        self.rows: dict[tuple[str, str, str], CancellationRow] = {}

    def add(self, domain: str, turn: TurnRecord) -> None:
        for cancel in turn.cancels:
            self.rows.setdefault(
                (domain, turn.tenant, cancel.task),
                CancellationRow(
                    number=len(self.rows) + 1, domain=domain, tenant=turn.tenant, task=cancel.task,
                    partition=turn.partition, why=cancel.why,
                ),
            )  # fmt: skip

    def read(self, *, ended: bool) -> list[Cancellation]:
        return [
            Cancellation(number=r.number, tenant=r.tenant, task=r.ref, why=r.why, is_open=not r.ended)
            for r in self.rows.values()
            if ended or not r.ended
        ]

    def stop(self, domain: str, partitions: Collection[int], timers: list[TimerRow]) -> list[MailPlace]:
        cancelled = {(row.tenant, row.ref) for row in self._open()}
        for timer in list(timers):
            message = timer.message
            if (message.tenant, _part_of(message.header)) in cancelled and message.partition in partitions:
                timers.remove(timer)
        found = []
        for (of, tenant, agent), turn in self._waits.turns.items():
            task = _part_of(header_from_json(turn.message.header_json))
            if of == domain and turn.partition in partitions and (tenant, task) in cancelled:
                if turn.waiting and self._waits.must_hear(of, tenant, agent):
                    continue
                turn.waiting = False
                found.append(MailPlace(tenant=tenant, agent=agent, partition=turn.partition))
        return found

    def end(self, domain: str, partitions: Sequence[int], hosts: Iterable[HostRow]) -> list[MailPlace]:
        live = [host for host in hosts if host.is_live]
        open_turns = {
            (tenant, _part_of(header_from_json(turn.message.header_json)))
            for (_, tenant, _), turn in self._waits.turns.items()
        }
        told = []
        for row in self._open():
            if (
                row.domain == domain
                and row.partition in partitions
                and all(row.number in host.stopped for host in live)
                and (row.tenant, row.ref) not in open_turns
            ):
                row.ended = True
                self._tell(row)
                told.append(MailPlace(tenant=row.tenant, partition=row.partition, agent=row.leader))
        return told

    def _open(self) -> list[CancellationRow]:
        return [row for row in self.rows.values() if not row.ended]

    def _tell(self, row: CancellationRow) -> None:
        header = Header(
            id=new_id(), type=STOPPED, sender="external/cancellation", sent_at=self._now(), task=row.ref
        )
        self._post(
            Outgoing(
                domain=row.domain, tenant=row.tenant, agent=row.leader, partition=row.partition,
                header=header, header_json=header_to_json(header), payload="{}",
            )
        )  # fmt: skip


def _part_of(header: Header) -> str | None:
    """The task that can end the message's turn."""
    return None if header.undoes else header.task

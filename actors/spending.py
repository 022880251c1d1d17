"""What turns use of the limits of their tasks: counted where they commit, refused once it is too much."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from actors.call_record import CALL
from actors.ready import OWN
from actors.task_messages import TASK_KIND
from bus.address import partition_of
from bus.amount import encode_numbers
from bus.envelope import Header, Outgoing
from bus.errors import CallboardError
from bus.task_ref import split_task_ref
from storage.journal import JournalWrite, Kind
from storage.spent import Reached, Spent

if TYPE_CHECKING:
    from actors.scope import Scope

STEP = "step"
CHARGE = "charge"
MODEL = "model"
_KNOWN = 10_000  # tasks above a limit; an older one is learnt anew with the next commit of it


class Charge(msgspec.Struct, frozen=True):
    """What an entry of that kind says."""

    tokens: int
    cost: Decimal

    def to_json(self) -> str:
        return encode_numbers(self).decode()


_decode = msgspec.json.Decoder(Charge).decode


def spent(
    scope: Scope, tenant: str, header: Header, sends: Sequence[Outgoing], journal: JournalWrite | None
) -> Spent | None:
    """What a write of a turn uses; None where that is nothing, or its message part of no task.

    Messages of Callboard's own (reports, answers, the task itself) are not counted, nor those that undo something.
    """
    if header.task is None:
        return None
    hops = sum(
        send.header.task is not None and not (send.header.undoes or send.header.type.startswith(OWN))
        for send in sends
    )
    asks = steps = tokens = 0
    cost = Decimal(0)
    if journal is not None:
        asks = sum(promise.kind == Kind.ASK for promise in journal.promises) - journal.asks_done
        for entry in journal.entries:
            if entry.kind in (STEP, CALL, MODEL):
                steps += 1
            elif entry.kind == CHARGE:
                charge = _decode(entry.value)
                tokens += charge.tokens
                cost += charge.cost
    if not (hops or asks or steps or tokens or cost):
        return None
    root = header.root or header.task
    return Spent(
        root=root, partition=_partition(scope, tenant, root), hops=hops, asks=asks, steps=steps, tokens=tokens,
        cost=cost,
    )  # fmt: skip


def _partition(scope: Scope, tenant: str, root: str) -> int | None:
    """That of the agent that leads the task; None when its domain is not known here."""
    domain, task = split_task_ref(root)
    try:
        return partition_of(tenant, f"{TASK_KIND}/{task}", scope.directory.partitions(domain, TASK_KIND))
    except CallboardError:
        return None


def learn(scope: Scope, reached: Reached) -> None:
    """From here on nothing more of the task is begun on this host."""
    scope.exhausted[(reached.tenant, reached.task)] = reached
    while len(scope.exhausted) > _KNOWN:
        del scope.exhausted[next(iter(scope.exhausted))]

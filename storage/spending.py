"""What a commit adds to what tasks have used, and the limits that it has found reached."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from uuid import UUID

import msgspec

from bus.amount import encode_numbers
from bus.task_ref import split_task_ref
from storage.journal import Flush
from storage.queries import query
from storage.records import TurnRecord
from storage.spent import Reached, Spent


def charging(name: str, arguments: int) -> str:
    """The query of that name, with so many arguments, and one more for what was spent: `over` stands beside its
    `numbers`. Where nothing was spent, the query runs alone."""
    return (
        f"with done as materialized ({query(name)})"  # noqa: S608  (both are ours)
        f" select done.numbers, charge_tasks($2, ${arguments + 1}::jsonb) as over from done"
    )


def added_up(writes: Sequence[TurnRecord | Flush]) -> dict[tuple[str, str], Spent]:
    """What the writes use together, by tenant and root."""
    total: dict[tuple[str, str], Spent] = {}
    for write in writes:
        if write.spent is not None:
            key = write.tenant, write.spent.root
            total[key] = total[key] + write.spent if key in total else write.spent
    return total


def spent_argument(writes: Sequence[TurnRecord | Flush]) -> str | None:
    """The same as `charge_tasks` takes it, one row a task; None where nothing was used.

    An event may name as its task what is none, or write a task's id in its own way.
    """
    rows: dict[tuple[str, str, str], Spent] = {}
    for (tenant, root), spent in added_up(writes).items():
        domain, task = split_task_ref(root)
        id_ = _id_of(task)
        if id_ is not None:
            key = tenant, domain, id_
            rows[key] = rows[key] + spent if key in rows else spent
    if not rows:
        return None
    named = [
        {"domain": domain, "tenant": tenant, "task": task, **msgspec.structs.asdict(spent)}
        for (tenant, domain, task), spent in rows.items()
    ]
    return encode_numbers(named).decode()


@lru_cache(maxsize=4_096)
def _id_of(task: str) -> str | None:
    """A task's id as Postgres writes it; None for what is none: nothing is counted for it."""
    try:
        return str(UUID(task))
    except ValueError:
        return None


def read_reached(over: str | None) -> list[Reached]:
    """What `charge_tasks` has returned."""
    return msgspec.json.decode(over, type=list[Reached]) if over else []

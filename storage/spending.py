"""What a commit adds to what tasks have used, and the limits that it has found reached."""

from __future__ import annotations

from collections.abc import Sequence

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
    """The same as `charge_tasks` takes it; None where nothing was used."""
    rows = []
    for (tenant, root), spent in added_up(writes).items():
        domain, task = split_task_ref(root)
        rows.append({"domain": domain, "tenant": tenant, "task": task, **msgspec.structs.asdict(spent)})
    return encode_numbers(rows).decode() if rows else None


def read_reached(over: str | None) -> list[Reached]:
    """What `charge_tasks` has returned."""
    return msgspec.json.decode(over, type=list[Reached]) if over else []

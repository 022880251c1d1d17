"""Tasks and their logs."""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal

import msgspec

from bus.errors import UnknownTask
from bus.task_limits import WALL
from bus.task_ref import split_task_ref, task_ref
from storage.boundary import translated
from storage.domains import Connection, find_domain
from storage.id_part import CANDIDATES, id_part, several
from storage.inspect.rows import domain_names, fetch_all, in_index_order
from storage.queries import query

IDLE_S = 3.0  # a task that has just done something may be about to go on
_MOST_AT_WORK = 1_000  # messages, open turns and timers that are looked through
_MOST_BESIDE_STUCK = 20_000  # the same for a stuck task, whose `run` ends by it; few are looked at
COUNTED = ("hops", "asks", "steps", "tokens", "cost")


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task. `input`, `result` and `error` (JSON text) are set when one is looked at alone."""

    domain: str
    tenant: str
    id: str
    status: str
    goal: str
    priority: int
    policy: str | None
    assignee: str | None
    progress: float
    deadline: datetime | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    parent: str | None = None
    root: str | None = None
    input: str | None = None
    result: str | None = None
    error: str | None = None

    @property
    def ref(self) -> str:
        """What the task's messages carry."""
        return task_ref(self.id, self.domain)

    @property
    def workers(self) -> list[str]:
        """The agents that it waits for while it is open: the one that leads it, and its assignee."""
        return [f"{self.domain}/task/{self.id}"] + ([self.assignee] if self.assignee is not None else [])


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What was used and may be, by the names of limits (bus/task_limits.py); `asks` are those in flight, and `wall_s` is
    what has passed since the task at the top was assigned: told where it has that limit."""

    used: dict[str, Decimal]
    allowed: dict[str, Decimal]


class TaskEventView(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a task's log; `body` is JSON text."""

    number: int
    at: datetime
    kind: str
    body: str


async def list_tasks(
    db: Connection,
    *,
    tenant: str,
    domain: str | None = None,
    finished: bool = True,
    stuck: bool = False,
    limit: int = 50,
) -> list[TaskView]:
    """Tasks, newest first, without the `finished` ones or only the `stuck` ones; raises UnknownDomain."""
    if domain is not None:
        await find_domain(db, domain, removed=True)
    return await fetch_all(db, TaskView, "inspect_tasks", tenant, domain, finished, stuck, limit)


async def find_task(db: Connection, task: str, *, tenant: str) -> TaskView:
    """A task by its id or its reference `domain/id`; raises UnknownTask, also for what is neither."""
    domain, id_ = split_task_ref(task) if "/" in task else (None, task)
    try:
        number = uuid.UUID(id_)
    except ValueError:
        raise UnknownTask(f"{task[:60]!r} is not the id of a task.") from None
    names = [domain] if domain is not None else await domain_names(db, None)
    found = await fetch_all(db, TaskView, "inspect_task", names, tenant, number)
    if not found:
        raise UnknownTask(f"There is no task {number}.")
    return found[0]


async def match_task(db: Connection, given: str, *, tenant: str) -> TaskView:
    """A task by what a person says of it: its id or `domain/id`, or as much of one end of the id as tells it apart.

    Raises UnknownTask.
    """
    domain, _, text = given.rpartition("/")
    part = id_part(text)
    if part is None:
        raise UnknownTask(f"{given[:60]!r} is not the id of a task.")
    names = [domain] if domain else await domain_names(db, None)
    with translated():
        rows = await db.fetch(
            query("inspect_task_by_part"), names, tenant, *part[2:], *part[:2], CANDIDATES + 1
        )
    refs = [task_ref(row["id"], row["domain"]) for row in rows]
    if not refs:
        raise UnknownTask(f"There is no task {text}.")
    if len(refs) > 1:
        raise UnknownTask(several(text, refs), fix="Give more of it.")
    return await find_task(db, refs[0], tenant=tenant)


async def children_of(db: Connection, ref: str, *, tenant: str, limit: int = 1000) -> list[TaskView]:
    """The tasks that a task (`domain/id`) has started, oldest first."""
    return await fetch_all(db, TaskView, "inspect_children", tenant, ref, limit)


async def is_idle(db: Connection, task: TaskView) -> bool:
    """Whether a task is running, or stuck, as it was seen, and nothing of it is under way: no message, turn, wait, timer or
    child, nor anything shared that it may wait for. That somebody will send it something later is not known here. Of a
    stuck one, what can only go on with a person does not count: what is paused, or waits for an approval or an outcome.

    A look at an index for each, and at what waits in the whole deployment: above 1,000 of a sort (for a stuck one 20,000)
    it is not said.
    """
    if task.status not in ("running", "stuck"):
        return False
    most = _MOST_AT_WORK if task.status == "running" else _MOST_BESIDE_STUCK
    arguments = task.domain, task.tenant, task.ref, IDLE_S, most, task.status
    with translated():
        async with in_index_order(db) as snapshot:
            return await snapshot.fetchval(query("inspect_task_is_idle"), *arguments) is True


async def usage_of(db: Connection, task: TaskView) -> Usage:
    """What was used for a task; for a child that of the whole tree, whose limits are those of the task at the top."""
    domain, id_ = split_task_ref(task.root or task.ref)
    with translated():
        row = await db.fetchrow(query("inspect_usage"), domain, task.tenant, uuid.UUID(id_))
    if row is None:  # retention has dropped the task at the top
        return Usage(used={}, allowed={})
    allowed = msgspec.json.decode(row["limits"] or "{}", type=dict[str, Decimal])
    timed = (WALL,) if WALL in allowed and row[WALL] is not None else ()
    return Usage(used={name: Decimal(row[name]) for name in (*COUNTED, *timed)}, allowed=allowed)


async def list_task_events(
    db: Connection, domain: str, task: str, *, tenant: str, after: int = -1, limit: int = 1000
) -> list[TaskEventView]:
    """A task's log, oldest first, after a number."""
    return await fetch_all(
        db, TaskEventView, "inspect_task_events", domain, tenant, uuid.UUID(task), after, limit
    )

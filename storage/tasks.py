"""Tasks before their own agent has them: submitted by anybody, handed over by the domain's coordinator.

Reads for people and for clients that follow a task are in storage/inspect/.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from bus.address import DEFAULT_TENANT, require_word
from bus.envelope import new_id
from bus.errors import InvalidTask, Overloaded, PayloadTooLarge, UnknownDomain
from bus.limits import BACKLOG_MESSAGES
from bus.moment import LAST_MOMENT
from bus.registry import first_line
from bus.task_limits import NO_LIMITS, TaskLimits
from storage.boundary import translated
from storage.domains import Connection
from storage.queries import query

MAX_GOAL_BYTES = 32 * 1024
MAX_INPUT_BYTES = 8 * 1024 * 1024  # of JSON; half of what one message may carry
MAX_INPUT_DEPTH = 100  # JSON readers along the way stop at 200
MAX_REQUEST_KEY_BYTES = 256
POLICIES = ("direct", "least_loaded", "contract_net")
_AROUND_BYTES = 512  # of the message that hands a task over, around its goal and its input
_RETRY_AFTER_S = 5


class WaitingTask(msgspec.Struct, frozen=True, kw_only=True):
    """A submitted task, as a coordinator assigns it. `input` is JSON text, the deadline seconds since 1970."""

    tenant: str
    id: str
    goal: str
    input: str
    priority: int
    policy: str | None
    deadline: float | None
    root: str | None
    wall_s: float | None


async def submit_task(
    db: Connection,
    domain: str,
    *,
    goal: str,
    input: Any = None,
    priority: int = 5,
    deadline: float | None = None,
    policy: str | None = None,
    request_key: str | None = None,
    limits: TaskLimits = NO_LIMITS,
    tenant: str = DEFAULT_TENANT,
    task_id: str | None = None,
) -> str:
    """Accept a task and return its id; when this returns, the task is committed.

    `input` is any JSON value, `priority` 0 to 10 (higher first), the deadline seconds since 1970, UTC. A
    second submission with the same `request_key` or `task_id` is the same task, whatever became of it; that
    is how a caller tries again after StorageUnavailable. `policy` replaces the domain's own, and each of the `limits`
    that is set the one in its `tasks.limits`.

    Raises InvalidTask, UnknownDomain, PayloadTooLarge for what one message of the domain may not carry, or Overloaded
    while too many tasks or messages wait.
    """
    body = check_terms(goal, input, priority, deadline, policy)
    if request_key is not None:
        require_text("request key", request_key, MAX_REQUEST_KEY_BYTES)
    require_word(tenant, "tenant")
    number = _uuid(task_id or new_id())
    size = len(json.dumps(goal, ensure_ascii=False).encode()) + len(body.encode()) + _AROUND_BYTES
    event = json.dumps({"goal": goal[:1000], "priority": priority}, ensure_ascii=False)
    with translated():
        accepted = await db.fetchval(
            query("submit_task"),
            domain, tenant, number, goal, body, priority, policy, deadline, request_key, event, size,
            BACKLOG_MESSAGES, limits.to_json(),
        )  # fmt: skip
        if accepted is not None:
            return str(accepted)
        why = await db.fetchrow(query("why_not_submitted"), domain, tenant, number, request_key, deadline)
    assert why is not None
    if why["id"] is not None:
        if (why["goal"], why["input"]) != (goal, body):
            raise InvalidTask(
                f"The request key of this task was used before, for another one: {why['id']}.",
                fix="Give each request a key of its own.",
            )
        return str(why["id"])
    if not why["known"]:
        raise UnknownDomain(f"There is no domain {domain!r}.")
    if why["late"]:
        raise InvalidTask("The task's deadline has passed.", fix="Give a later one.")
    if why["payload_bytes"] is not None and size > why["payload_bytes"]:
        raise PayloadTooLarge(
            f"The task's goal and input make a message of {size} bytes; {why['payload_bytes']} is the limit of {domain}."
        )
    raise Overloaded(f"Too many tasks or messages wait in {domain}.", retry_after_s=_RETRY_AFTER_S)


# -- for the coordinator -----------------------------------------------------------------------------


async def has_waiting_tasks(db: Connection, domain: str) -> bool:
    with translated():
        return bool(await db.fetchval(query("has_waiting_tasks"), domain))


async def open_tasks(db: Connection, domain: str) -> int:
    """How many tasks are under way: handed over, not finished, and not stuck."""
    with translated():
        return int(await db.fetchval(query("open_tasks"), domain))


async def tasks_at_work(db: Connection, domain: str) -> int:
    """How many tasks are under way and have no child that is."""
    with translated():
        return int(await db.fetchval(query("tasks_at_work"), domain))


async def waiting_tasks(
    db: Connection, domain: str, limit: int, *, children: bool = False
) -> list[WaitingTask]:
    """The next tasks to assign (or `children`: of those that another task has started), by priority and then by age,
    locked until the transaction ends."""
    name = "waiting_children" if children else "waiting_tasks"
    with translated():
        return [WaitingTask(**dict(row)) for row in await db.fetch(query(name), domain, limit)]


async def hand_over_task(
    db: Connection, domain: str, task: WaitingTask, *, policy: str, assignee: str | None
) -> None:
    """Mark a task as assigned, in the transaction that tells its agent: from then on that agent writes it."""
    with translated():
        await db.execute(query("hand_over_task"), domain, task.tenant, task.id, policy, assignee)


async def open_tasks_of(db: Connection, domain: str, tenant: str, assignees: Sequence[str]) -> dict[str, int]:
    """How many unfinished tasks each of the assignees (addresses) has."""
    with translated():
        rows = await db.fetch(query("open_tasks_of"), domain, tenant, list(assignees))
    return dict.fromkeys(assignees, 0) | {row["assignee"]: row["open"] for row in rows}


# -- validation --------------------------------------------------------------------------------------


def check_terms(goal: str, input: Any, priority: int, deadline: float | None, policy: str | None) -> str:
    """The input as JSON text; raises InvalidTask for what can be no task in any domain."""
    require_text("goal", goal, MAX_GOAL_BYTES)
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= 10:
        raise InvalidTask(f"A priority of {priority!r} is not an integer from 0 to 10.")
    if deadline is not None and not (math.isfinite(deadline) and 0 < deadline <= LAST_MOMENT):
        raise InvalidTask(
            f"A deadline of {deadline} is no time.", fix="Give seconds since 1970, UTC, in the future."
        )
    if policy is not None and policy not in POLICIES:
        raise InvalidTask(f"There is no policy {policy!r}.", fix=f"Use one of {', '.join(POLICIES)}.")
    return _input_json(input)


def require_text(what: str, text: str, limit: int) -> None:
    """Raise InvalidTask unless it is text with something in it that Postgres can store."""
    if not text.strip() or "\0" in text:
        raise InvalidTask(f"The {what} of a task is empty or has a NUL character in it.")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidTask(f"The {what} of a task is not valid Unicode.") from None
    if size > limit:
        raise InvalidTask(f"The {what} of a task has {size} bytes; {limit} is the limit.")


def _input_json(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTask(
            f"The input of a task cannot be written as JSON: {first_line(error)}.", fix="Give JSON values."
        ) from None
    if size > MAX_INPUT_BYTES:
        raise InvalidTask(
            f"The input of a task has {size} bytes; {MAX_INPUT_BYTES} is the limit.",
            fix="Store it elsewhere and give a reference.",
        )
    _require_plain(value, MAX_INPUT_DEPTH)
    return text


def _require_plain(value: Any, depth: int) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidTask("The input of a task holds text with a NUL character.", fix="Encode it.")
    elif isinstance(value, (dict, list, tuple)):
        if depth == 0:
            raise InvalidTask(f"The input of a task is nested more than {MAX_INPUT_DEPTH} deep.")
        for item in value.values() if isinstance(value, dict) else value:
            _require_plain(item, depth - 1)
        if isinstance(value, dict):
            for key in value:
                _require_plain(key, depth)


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise InvalidTask(f"{text[:60]!r} is not a UUID.", fix="Leave the task's id out.") from None

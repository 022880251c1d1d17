"""`callboard tasks` and `task`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from callboard.cli.agents import carried_out
from callboard.cli.approving import Approve, Mode
from callboard.cli.asked import operator
from callboard.cli.connection import opened
from callboard.cli.decisions import promise_json
from callboard.cli.follow_task import follow_task
from callboard.cli.idle import is_seen_idle
from callboard.cli.options import PART, Json, not_empty
from callboard.cli.running import asynchronous
from callboard.cli.table import table
from callboard.cli.task_timeline import show_task_timeline
from callboard.cli.task_view import COLOURS, short, show_task
from callboard.cli.terminal import ago, console, emit, note, plain, short_id

if TYPE_CHECKING:
    from callboard.cli.connection import Opened
    from storage.inspect import TaskEventView, TaskView

_EVENTS = 1_000  # lines of a task's log that are shown, the newest ones

app = typer.Typer(
    invoke_without_command=True, help="List tasks, newest first; fail one.", add_completion=False
)

Identity = Annotated[str, typer.Argument(metavar="ID", help=f"The task's id, or domain/id. {PART}")]


@app.callback()
def tasks(
    context: typer.Context,
    domain: Annotated[str | None, typer.Option(help="Only the tasks of this domain.")] = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only those that have not ended.")] = False,
    only_stuck: Annotated[
        bool, typer.Option("--stuck", help="Only those that a dead letter keeps from going on.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to list.")] = 20,
    as_json: Json = False,
) -> int:
    if context.invoked_subcommand is not None:
        return 0
    return _list(domain, only_open, only_stuck, limit, as_json)


@asynchronous
async def _list(domain: str | None, only_open: bool, only_stuck: bool, limit: int, as_json: bool) -> None:
    from storage.inspect import list_tasks

    async with opened() as at:
        found = await list_tasks(
            at.db, tenant=at.tenant, domain=domain, finished=not only_open, stuck=only_stuck, limit=limit + 1
        )
    page, more = found[:limit], len(found) > limit
    if as_json:
        emit({"tasks": [_as_json(t) for t in page], "more": more})
        return
    if not page:
        console().print(plain("No open tasks." if only_open else "No tasks."))
        return
    console().print(
        table(
            ("task", "domain", "status", "done", "age", "goal"),
            [
                (
                    t.id, t.domain, plain(t.status, COLOURS.get(t.status, "cyan")), f"{t.progress:.0%}",
                    ago(t.created_at), _with_parent(t),
                )
                for t in page
            ],
            right=("done", "age"),
            whole=("task", "domain", "status"),
        )
    )  # fmt: skip
    if more:
        note(f"There are more: --limit {limit * 10}")


@app.command()
@asynchronous
async def fail(
    identity: Identity,
    reason: Annotated[
        str,
        typer.Option(help="Stands in the task's log, and is the error its client gets.", callback=not_empty),
    ],
    as_json: Json = False,
) -> None:
    """End a task as failed; what still works on it is not stopped, but no longer counts."""
    from coordinators.tasks.client import TaskClient
    from storage.inspect import find_task, match_task

    async with opened(bus=True) as at:
        wanted = await match_task(at.db, identity, tenant=at.tenant)
        found = await TaskClient(at.db, at.transport, tenant=at.tenant, by=operator()).fail(
            wanted.ref, reason
        )

        async def has_ended() -> bool:
            return (await find_task(at.db, found.ref, tenant=at.tenant)).finished_at is not None

        done = await carried_out(at, has_ended)
    if as_json:
        emit({"id": found.id, "domain": found.domain, "wanted": "failed", "done": done})
    elif done:
        console().print(plain(f"Task {found.id} has ended."))
    else:
        console().print(
            plain(f"Accepted: task {found.id} will be failed as soon as a host runs {found.domain}.")
        )


def task(
    identity: Identity,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Show the turns of all its agents as a tree with bars of time.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="With --timeline: turns to show.")] = 200,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Follow it to its end as `run` does, and start Callboard if need be."),
    ] = False,
    approve: Approve = Mode.ASK,
    as_json: Json = False,
) -> int:
    """Show one task with its log and its result. The exit code is 1 when it failed or was cancelled."""
    if follow:
        return follow_task(identity, approve, as_json)
    return _show(identity, timeline, limit, as_json)


@asynchronous
async def _show(identity: str, timeline: bool, limit: int, as_json: bool) -> int:
    from storage.decisions import OPEN, waiting_of_task
    from storage.inspect import (
        children_of,
        list_dead_letters_of_task,
        match_task,
        paused_of,
        task_timeline,
        usage_of,
    )
    from storage.inspect.ledger import count_acted

    async with opened() as at:
        found = await match_task(at.db, identity, tenant=at.tenant)
        if timeline:
            turns = await task_timeline(at.db, found.ref, tenant=at.tenant, limit=limit)
            emit(turns) if as_json else show_task_timeline(found, turns)
            return _exit_code(found)
        events, left_out = await _newest_events(at, found)
        letters = await list_dead_letters_of_task(at.db, found.ref, tenant=at.tenant)
        usage = await usage_of(at.db, found)
        children = await children_of(at.db, found.ref, tenant=at.tenant)
        paused = [] if found.finished_at else await paused_of(at.db, found.workers, tenant=at.tenant)
        asked = (
            [] if found.finished_at else await waiting_of_task(at.db, found.ref, tenant=at.tenant, kinds=OPEN)
        )
        idle = not letters and await is_seen_idle(at, found)
        is_cancelled = found.status == "cancelled"  # what it has done is all that is left of it
        acted = await count_acted(at.db, found.ref, tenant=at.tenant) if is_cancelled else 0
    if as_json:
        shown = _as_json(found)
        for name in ("input", "result", "error"):
            text = getattr(found, name)
            shown[name] = json.loads(text) if text is not None else None
        shown["events"] = [
            {"number": e.number, "at": e.at, "kind": e.kind, "body": json.loads(e.body)} for e in events
        ]
        shown["events_left_out"] = left_out
        shown["dead_letters"] = [
            {
                "id": x.id, "address": x.address, "message": x.message, "type": x.type, "reason": x.reason,
                "error": x.error, "was": x.was,
            }
            for x in letters
        ]  # fmt: skip
        shown["paused"], shown["idle"] = paused, idle
        shown["asked"] = [promise_json(promise) for promise in asked]
        shown["used"], shown["limits"] = usage.used, usage.allowed
        if is_cancelled:
            shown["acted"] = acted
        shown["children"] = [_as_json(child) for child in children]
        emit(shown)
    else:
        show_task(found, events, left_out, letters, paused, asked, children, usage, idle, acted)
    return _exit_code(found)


async def _newest_events(at: Opened, found: TaskView) -> tuple[list[TaskEventView], int]:
    """The end of the task's log, and how many lines are before that."""
    from storage.inspect import list_task_events

    events: list[TaskEventView] = []
    count, after = 0, -1
    while page := await list_task_events(
        at.db, found.domain, found.id, tenant=at.tenant, after=after, limit=_EVENTS
    ):
        count, after = count + len(page), page[-1].number
        events = (events + page)[-_EVENTS:]
    return events, count - len(events)


def _exit_code(found: TaskView) -> int:
    return 1 if found.status in ("failed", "cancelled") else 0


def _with_parent(found: TaskView) -> str:
    """The goal; of a child behind the end of its parent's id."""
    goal = short(found.goal)
    return goal if found.parent is None else f"{short_id(found.parent)} ▸ {goal}"


def _as_json(found: TaskView) -> dict[str, Any]:
    return {
        name: getattr(found, name)
        for name in found.__struct_fields__
        if name not in ("input", "result", "error")
    }

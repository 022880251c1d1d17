"""`callboard tasks` and `task`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from callboard.cli.connection import opened
from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.terminal import ago, clean, console, emit, note, plain, table

if TYPE_CHECKING:
    from storage.inspect import TaskEventView, TaskView

COLOURS = {"completed": "green", "failed": "red", "cancelled": "yellow", "expired": "red"}


@asynchronous
async def tasks(
    domain: Annotated[str | None, typer.Option(help="Only the tasks of this domain.")] = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only those that have not ended.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to list.")] = 20,
    as_json: Json = False,
) -> None:
    """List tasks, newest first."""
    from storage.inspect import list_tasks

    async with opened() as at:
        found = await list_tasks(
            at.db, tenant=at.tenant, domain=domain, finished=not only_open, limit=limit + 1
        )
    page = found[:limit]
    if as_json:
        emit([_as_json(t) for t in page])
        return
    if not page:
        console().print(plain("No tasks."))
        return
    console().print(
        table(
            ("task", "domain", "status", "done", "priority", "age", "goal"),
            [
                (
                    t.id, t.domain, plain(t.status, COLOURS.get(t.status, "cyan")), f"{t.progress:.0%}",
                    t.priority, ago(t.created_at), _short(t.goal),
                )
                for t in page
            ],
            right=("done", "priority", "age"),
        )
    )  # fmt: skip
    if len(found) > limit:
        note(f"There are more: --limit {limit * 10}")


@asynchronous
async def task(
    identity: Annotated[str, typer.Argument(metavar="ID")],
    as_json: Json = False,
) -> int:
    """Show one task with its log and its result. The exit code is 1 when it failed."""
    from storage.inspect import find_task, list_task_events

    async with opened() as at:
        found = await find_task(at.db, identity, tenant=at.tenant)
        events = await list_task_events(at.db, found.domain, found.id, tenant=at.tenant)
    if as_json:
        shown = _as_json(found)
        for name in ("input", "result", "error"):
            text = getattr(found, name)
            shown[name] = json.loads(text) if text is not None else None
        shown["events"] = [
            {"number": e.number, "at": e.at, "kind": e.kind, "body": json.loads(e.body)} for e in events
        ]
        emit(shown)
    else:
        _show(found, events)
    return 1 if found.status == "failed" else 0


def _show(found: TaskView, events: list[TaskEventView]) -> None:
    out = console()
    title = plain(found.goal, "bold")
    out.print(title)
    line = plain(found.status, COLOURS.get(found.status, "cyan"))
    line.append(f"  {found.progress:.0%} done, priority {found.priority}, {found.domain}")
    line.append(f"  {clean(found.assignee or 'not assigned')}", "dim")
    out.print(line)
    when = f"submitted {ago(found.created_at)} ago"
    if found.finished_at is not None:
        when += f", took {(found.finished_at - found.created_at).total_seconds():.1f} s"
    elif found.deadline is not None:
        when += f", deadline {found.deadline:%Y-%m-%d %H:%M:%S} UTC"
    out.print(plain(when, "dim"))
    out.print()
    for event in events:
        out.print(event_line(found, event))
    if found.error is not None:
        out.print()
        out.print(plain(f"failed: {failure_of(found.error)}", "bold red"))
    if found.result is not None:
        out.print()
        show_result(out, json.loads(found.result))


def event_line(task: TaskView, event: TaskEventView) -> Any:
    """One line of a task's log; the task's own domain and id need not be said again."""
    line = plain(event.at.strftime("%H:%M:%S "), "dim")
    line.append(clean(event.kind), COLOURS.get(event.kind, "cyan"))
    gist = _gist(json.loads(event.body)).replace(f"{task.domain}/", "").replace(task.id, "…")
    line.append(f"  {clean(gist)}")
    return line


def show_result(out: Any, result: Any) -> None:
    """The result for a person: its `markdown` rendered, or else JSON."""
    from rich.markdown import Markdown

    text = result.get("markdown") if isinstance(result, dict) else None
    if isinstance(text, str) and out.is_terminal:
        out.print(Markdown(clean(text, lines=True), hyperlinks=False))
    elif isinstance(text, str):
        out.print(clean(text, lines=True), markup=False, soft_wrap=True)
    else:
        pretty = json.dumps(result, indent=2, ensure_ascii=False)
        out.print(clean(pretty, lines=True), markup=False, soft_wrap=True)


def failure_of(error: str) -> str:
    """What a task's stored error says."""
    found = json.loads(error)
    if isinstance(found, dict):
        return str(found.get("message") or found.get("error") or json.dumps(found, ensure_ascii=False))
    return str(found)


def _gist(body: Any) -> str:
    if isinstance(body, dict):
        for name in ("message", "text", "note"):
            if isinstance(body.get(name), str):
                return str(body[name])
        return "  ".join(f"{name} {_word(value)}" for name, value in body.items())
    return _word(body)


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _short(text)


def _short(text: str, limit: int = 100) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _as_json(found: TaskView) -> dict[str, Any]:
    return {
        name: getattr(found, name)
        for name in found.__struct_fields__
        if name not in ("input", "result", "error")
    }

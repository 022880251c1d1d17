"""A task on the terminal: its head, its log, its result, and what keeps it from going on."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any

from callboard.cli.asked import show_asked
from callboard.cli.terminal import ago, clean, console, count, plain

if TYPE_CHECKING:
    from storage.decisions import Waiting
    from storage.inspect import DeadLetterView, PausedWork, TaskEventView, TaskView, Usage

COLOURS = {
    "completed": "green",
    "failed": "red",
    "stuck": "yellow",
    "paused": "yellow",
    "ending": "yellow",
    "cancelling": "yellow",
    "cancelled": "red",
}

_ADDRESS = re.compile(
    r"(?<!\S)[a-z][a-z0-9_-]*/[^\s'\"]+"
)  # that stands alone; what others have said stays as it is
_CHILDREN = 20
_LETTERS = 5  # dead letters that are named; the list has all


def show_task(
    found: TaskView,
    events: list[TaskEventView],
    left_out: int,
    letters: list[DeadLetterView],
    paused: list[PausedWork],
    asked: list[Waiting],
    children: list[TaskView],
    usage: Usage,
    idle: bool,
    acted: int,
) -> None:
    """With how many of its calls have `acted`, where that is all that is left of it."""
    out = console()
    failure = None if found.error is None else failure_of(found.error)  # said once, at the end
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
    if found.parent is not None:
        out.print(plain(f"started by task {found.parent}", "dim"))
    if usage_line := _usage(usage):
        out.print(plain(usage_line, "dim"))
    out.print()
    if left_out:
        out.print(plain(f"… {left_out:,} earlier", "dim"))
    for event in events:
        out.print(event_line(found, event, but=failure))
    for child in children[:_CHILDREN]:
        out.print(child_line(child))
    if len(children) > _CHILDREN:
        out.print(plain(f"and {len(children) - _CHILDREN:,} more children (--json)", "dim"))
    for each in paused:
        out.print(plain(paused_line(each), "yellow"))
    if idle:
        out.print(plain(" ".join(idle_lines(found)), "yellow"))
    show_asked(out, asked)
    if letters:
        out.print()
        for text in trouble_lines(found, letters):
            out.print(plain(text, "yellow" if found.finished_at is None else "dim"))
    if failure is not None:
        out.print()
        out.print(plain(f"{found.status}: {failure}", "bold red"))
    if acted:
        text = f"{count(acted, 'call')} {'has' if acted == 1 else 'have'} acted: `callboard ledger --task {found.id}`"
        out.print(plain(text), soft_wrap=True)
    if found.result is not None:
        out.print()
        show_result(out, json.loads(found.result))


def event_line(task: TaskView, event: TaskEventView, *, but: str | None = None) -> Any:
    """One line of a task's log, without words that are said elsewhere (`but`); the task's own domain and id need not be said
    again."""
    line = plain(event.at.strftime("%H:%M:%S "), "dim")
    line.append(clean(event.kind), COLOURS.get(event.kind, "cyan"))
    gist = _gist(json.loads(event.body))
    if gist != but:
        line.append(f"  {clean(_ADDRESS.sub(lambda found: _shorter(task, found[0]), gist))}")
    return line


def _shorter(task: TaskView, address: str) -> str:
    return address.removeprefix(f"{task.domain}/").replace(task.id, "…")


def _usage(usage: Usage) -> str:
    """What was used, of what may be; with its children, or for the task at the top."""
    from bus.amount import figure

    found = []
    for name in (*usage.used, *(name for name in usage.allowed if name not in usage.used)):
        used, allowed = usage.used.get(name), usage.allowed.get(name)
        if used or allowed is not None:
            word = f"{name} {figure(used)}" if used is not None else name
            found.append(word if allowed is None else f"{word} of {figure(allowed)}")
    return "used: " + ", ".join(found) if found else ""


def child_line(child: TaskView) -> Any:
    """A task that this one has started, with the name by which it is looked at."""
    line = plain("child  ", "dim")
    line.append(clean(child.status), COLOURS.get(child.status, "cyan"))
    line.append(f"  {child.ref}  {clean(short(child.goal))}")
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
    return short(text)


def short(text: str, limit: int = 100) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def paused_line(paused: PausedWork) -> str:
    """What a task waits for, and the command that ends the wait, or that shows what stands in the way."""
    address = shlex.quote(paused.address)
    if paused.unfit:
        return f"{paused.address} is paused: the handler does not fit its record; see `callboard agent {address}`"
    return f"{paused.address} is paused; `callboard resume {address}`"


def idle_lines(task: TaskView) -> list[str]:
    """That nothing of a task goes on, as it is seen; who will send something for it later is not known."""
    return [
        f"{task.assignee} has handled the task",
        "and nothing of it is under way; nobody has called ctx.complete or ctx.fail.",
        f"`callboard cancel {task.id}` ends it.",
    ]


def trouble_lines(task: TaskView, letters: list[DeadLetterView]) -> list[str]:
    """The dead letters of a task, and while it waits for one the commands that mend it. An error that has ended the task is said
    with its end."""
    end = "" if task.error is None else failure_of(task.error)
    found = [
        f"dead letter {x.id}{was(x)} for {x.address}: {x.type}" + ("" if x.error in end else f": {x.error}")
        for x in letters[:_LETTERS]
    ]
    if len(letters) > _LETTERS:
        found.append(f"and {len(letters) - _LETTERS} more: `callboard dead-letters`")
    found += code_lines(letters)
    if task.finished_at is not None or not letters or task.status in ("assigned", "running"):
        return found  # a task that goes on has nothing to be mended: who asked was told
    first = next((letter for letter in letters if not letter.asked), letters[0])
    mends = [
        (f"callboard dead-letters retry {first.id}", "once what it failed of is mended"),
        (f"callboard dead-letters drop {first.id}", "to go on without it"),
        (f"callboard tasks fail {task.id} --reason TEXT", "to end the task"),
    ]
    if first.agent.startswith("events/"):  # no agent could be given it
        del mends[0]
    return found + [f"  {command}    {what}" for command, what in mends]


def code_lines(letters: list[DeadLetterView]) -> list[str]:
    """The command that shows the author's lines that led to the first dead letter which has any."""
    first = next((letter for letter in letters if letter.frames), None)
    return (
        [] if first is None else [f"  callboard dead-letters show {first.id}    the code that it failed in"]
    )


def was(letter: DeadLetterView) -> str:
    """That a dead letter was one before, and has failed again."""
    return "" if letter.was is None else f" (retried, before it was {letter.was})"

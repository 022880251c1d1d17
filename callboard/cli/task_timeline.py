"""A task's turns on the terminal, as a tree with bars of time."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from callboard.cli.bars import QUEUE, WORK, Scale, clock, facts, made_of, outcome, took
from callboard.cli.terminal import clean, console, count, note, plain
from callboard.cli.waits import named, promise_text

if TYPE_CHECKING:
    from rich.text import Text

    from storage.inspect import Branch, TaskTimeline, TaskView, Turn

_ALIKE = (
    4  # turns of one kind of agent for one type of message, beside each other: more are drawn as one line
)
_CALLS = 12  # of one turn
_UNHANDLED = 10
_LONGEST_KEY = 18  # characters of an agent's key
_DEEPEST = 12  # levels that are drawn further and further to the right
_STYLES = {"dead_letter": "red", "paused": "yellow", "open": "yellow"}


def show_task_timeline(task: TaskView, timeline: TaskTimeline) -> None:
    from storage.inspect import tree_of

    out = console()
    title = plain(task.goal, "bold")
    title.append(f"  {task.status}  ", "cyan")
    title.append(task.ref, "dim")
    out.print(title)
    if not timeline.turns:
        out.print(plain("No agent has worked on it yet.", "yellow"))
        return
    now = time.time()
    turns = timeline.turns
    first = min(min(turn.began, turn.header.sent_at) for turn in turns)
    last = max(now if turn.ended is None else turn.ended for turn in turns)
    width = min(out.width, 160)
    bar = 20 if width < 100 else width // 3
    scale = Scale(first, last, bar)
    out.print(
        plain(
            f"{clock(first)}, {took(last - first)} · {WORK} at work  {made_of('ask')} waits  {QUEUE} its message waits",
            "dim",
        )
    )
    drawing = Drawing(scale, width - bar - 11, now, task.ref)
    for line in drawing.lines(tree_of(turns)):
        out.print(line, no_wrap=True, overflow="ellipsis", crop=False)
    _footnotes(out, timeline)


def _footnotes(out: Any, timeline: TaskTimeline) -> None:
    for message in timeline.unhandled[:_UNHANDLED]:
        text = f"not handled yet: {message.type} to {message.to}, from {message.sent_by}"
        out.print(plain(text, "yellow"), no_wrap=True, overflow="ellipsis")
    if len(timeline.unhandled) > _UNHANDLED:
        out.print(plain(f"and {len(timeline.unhandled) - _UNHANDLED:,} more messages (--json)", "yellow"))
    if timeline.left_out:
        more = f"{timeline.left_out:,}{'+' if timeline.total >= 100_000 else ''}"
        note(f"{more} later turns are left out: --limit {min(timeline.total, 10_000)}")


class Drawing:
    """Draws branches into `label` columns of words and a bar; `now` is where what is open ends."""

    def __init__(self, scale: Scale, label: int, now: float, task: str) -> None:
        self._scale = scale
        self._label = label
        self._now = now
        self._ref = task
        self._domain = task.partition("/")[0]

    def lines(self, roots: list[Branch]) -> Iterator[Text]:
        """Depth first; without recursion, for a causal chain may be longer than Python's stack."""
        left = self._side_by_side(roots, "", top=True)[::-1]
        while left:
            group, indent, tee = left.pop()
            if len(group) > 1:
                yield self._several(group, indent + tee)
                continue
            branch = group[0]
            yield self._turn(branch.turn, indent + tee)
            deeper = indent if len(indent) > 2 * _DEEPEST else indent + {"├ ": "│ ", "└ ": "  ", "": ""}[tee]
            yield from self._inside(branch.turn, deeper + ("│ " if branch.children else "  "))
            left += self._side_by_side(branch.children, deeper)[::-1]

    def _side_by_side(
        self, branches: list[Branch], indent: str, *, top: bool = False
    ) -> list[tuple[list[Branch], str, str]]:
        """What is drawn one below the other: a branch, or several that are alike, each with what leads to it."""
        drawn: list[list[Branch]] = []
        for _, alike in groupby(branches, key=_likeness):
            group = list(alike)
            drawn += [[branch] for branch in group] if len(group) <= _ALIKE else [group[:1], group[1:]]
        last = len(drawn) - 1
        return [(group, indent, "" if top else "└ " if n == last else "├ ") for n, group in enumerate(drawn)]

    def _turn(self, turn: Turn, lead: str) -> Text:
        ended = self._now if turn.ended is None else turn.ended
        pieces = [(turn.header.sent_at, turn.began, QUEUE), (turn.began, ended, WORK)]
        pieces += [
            (call.began, call.ended, made_of(call.kind))
            for call in turn.calls
            if call.began is not None and call.ended is not None and made_of(call.kind) != WORK
        ]
        pieces += [
            (promise.created_at.timestamp(), self._now, made_of(promise.kind)) for promise in turn.pending
        ]
        if turn.header.sent_at >= turn.began:
            pieces = pieces[1:]
        who = self._short(turn.address)
        what = clean(named(turn.header))
        if turn.decision != "handled":
            what += f" ({clean(turn.decision.replace('_', ' '))})"
        return self._line(lead, who, what, pieces, ended - turn.began, _STYLES.get(turn.decision, ""))

    def _inside(self, turn: Turn, indent: str) -> Iterator[Text]:
        for call in turn.calls[:_CALLS]:
            name = clean(f"{call.kind} {call.name}" if call.name != call.kind else call.kind)
            name = name.replace(f" {self._domain}/", " ")
            bad = not call.ok or call.status not in (None, "resolved")
            if bad:
                name += f"  {outcome(call)}"
            pieces = []
            if call.began is not None and call.ended is not None:
                pieces = [(call.began, call.ended, made_of(call.kind))]
            length = pieces[0][1] - pieces[0][0] if pieces else None
            yield self._line(indent, "", f"· {name}", pieces, length, "red" if bad else "dim")
        left_out = turn.more_calls + len(turn.calls[_CALLS:])
        if left_out:
            yield plain(
                f"{indent}· {count(left_out, 'more call')}: callboard agent {shlex.quote(turn.address)} --timeline",
                "dim",
            )
        for promise in turn.pending[:_CALLS]:
            yield plain(f"{indent}· waits for {promise_text(promise)}", "yellow")
        for decision in turn.notes:
            yield plain(f"{indent}· why: {facts(decision)}", "cyan")
        if turn.failures:
            text = f"failed {turn.failures}×" + (f": {turn.last_error}" if turn.last_error else " before")
            yield plain(f"{indent}· {text}", "red")

    def _several(self, group: list[Branch], lead: str) -> Text:
        turns = [turn for branch in group for turn in _all(branch)]
        pieces = [(turn.began, self._now if turn.ended is None else turn.ended, WORK) for turn in turns]
        kind = _kind(group[0].turn).replace(f"{self._domain}/", "")
        below = len(turns) - len(group)
        who = f"… {len(group):,} more {clean(kind)}" + (f" and {below:,} below" if below else "")
        busy = sum(ended - began for began, ended, _ in pieces)
        return self._line(lead, who, clean(group[0].turn.header.type), pieces, busy, "dim")

    def _line(
        self,
        lead: str,
        who: str,
        what: str,
        pieces: list[tuple[float, float, str]],
        seconds: float | None,
        style: str,
    ) -> Text:
        line = plain(lead, "dim")
        room = max(self._label - len(lead), 8)
        words = f"{who}  {what}" if who else what
        words = words if len(words) <= room else words[: room - 1] + "…"
        line.append(words[: len(who)], style or "bold" if who else style)
        line.append(f"{words[len(who) :]:{max(room - len(who), 0)}}", style)
        line.append(" ▕", "dim").append(self._scale.bar(*pieces), style or "green").append("▏", "dim")
        line.append(f"{took(seconds):>7}")
        return line

    def _short(self, address: str) -> str:
        """Without the task's own domain; the agents of tasks by the end of their ids, but for the task's own."""
        domain, kind, key = clean(address).split("/", 2)
        if kind == "task":
            return "task" if f"{domain}/{key}" == self._ref else f"task …{key[-6:]}"
        short = key if len(key) <= _LONGEST_KEY else key[: _LONGEST_KEY // 2] + "…"
        return f"{kind}/{short}" if domain == self._domain else f"{domain}/{kind}/{short}"


def _all(branch: Branch) -> Iterator[Turn]:
    waiting = [branch]  # a causal chain may be longer than Python's stack
    while waiting:
        found = waiting.pop()
        yield found.turn
        waiting += found.children


def _kind(turn: Turn) -> str:
    return "/".join(turn.address.split("/", 2)[:2])


def _likeness(branch: Branch) -> tuple[str, str, str]:
    return _kind(branch.turn), branch.turn.header.type, branch.turn.decision

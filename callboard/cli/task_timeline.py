"""A task's turns on the terminal, as a tree with bars of time."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from callboard.cli.bars import QUEUE, WORK, Scale, clock, facts, kind_and_name, made_of, outcome, took
from callboard.cli.terminal import clean, console, count, cut, note, plain, short_id
from callboard.cli.waits import named, waits_for

if TYPE_CHECKING:
    from rich.text import Text

    from storage.inspect import Branch, TaskTimeline, TaskView, Turn

_ALIKE = (
    4  # turns of one kind of agent for one type of message, beside each other: more are drawn as one line
)
_CALLS = 12  # of one turn
_UNHANDLED = 10
_LONGEST_KEY = 18  # characters of an agent's key
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
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
    cut_off = f"the first {timeline.shown:,} of {_total(timeline)} turns · " if timeline.left_out else ""
    out.print(
        plain(
            f"{cut_off}{clock(first)}, {took(last - first)} · {WORK} at work  {made_of('ask')} waits  {QUEUE} its message waits",
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
        limit = min(timeline.total, 10_000)
        note(
            f"Of {_total(timeline)} turns the first {timeline.shown:,} are shown; more of them: --limit {limit}"
        )


def _total(timeline: TaskTimeline) -> str:
    return f"{timeline.total:,}{'' if timeline.is_total_known else '+'}"


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
            name = f"· {kind_and_name(call.kind, call.name)}"
            name = cut(name.replace(f" {self._domain}/", " "), self._room(indent))
            bad = not call.ok or call.status not in (None, "resolved")
            if said := outcome(call).replace(f" by {self._domain}/", " by "):
                name += f"  {said}"
            pieces = []
            if call.began is not None and call.ended is not None:
                pieces = [(call.began, call.ended, made_of(call.kind))]
            length = pieces[0][1] - pieces[0][0] if pieces else None
            yield self._line(indent, "", name, pieces, length, "red" if bad else "dim")
        left_out = turn.more_calls + len(turn.calls[_CALLS:])
        if left_out:
            yield plain(
                f"{indent}· {count(left_out, 'more call')}: callboard agent {shlex.quote(turn.address)} --timeline",
                "dim",
            )
        for promise in turn.pending[:_CALLS]:
            since = promise.created_at.timestamp()
            text = clean(waits_for(promise.kind, promise.target or promise.name, promise.due_at))
            if promise.target is None and promise.kind != "sleep":
                text += f" {short_id(promise.id)}"
            pieces = [(since, self._now, made_of(promise.kind))]
            yield self._line(indent, "", f"· waits for {text}", pieces, self._now - since, "yellow")
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
        who += ", together"  # several at a time may have worked for longer than the task has lasted
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
        room = self._room(lead)
        words = f"{who}  {what}" if who else what
        words = words if len(words) <= room else words[: room - 1] + "…"
        line.append(words[: len(who)], style or "bold" if who else style)
        line.append(f"{words[len(who) :]:{max(room - len(who), 0)}}", style)
        line.append(" ▕", "dim").append(self._scale.bar(*pieces), style or "green").append("▏", "dim")
        line.append(f"{took(seconds):>7}")
        return line

    def _room(self, lead: str) -> int:
        """What is left for the words."""
        return max(self._label - len(lead), 8)

    def _short(self, address: str) -> str:
        """Without the task's own domain; what has an id for its key by the end of that, but for the task's own agent."""
        domain, kind, key = clean(address).split("/", 2)
        if kind == "task":
            return "task" if f"{domain}/{key}" == self._ref else f"task {short_id(key)}"
        short = short_id(key) if _ID.fullmatch(key) else cut(key, _LONGEST_KEY)
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

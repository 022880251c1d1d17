"""An agent's turns on the terminal, in the order of their versions: each with its calls as bars of time."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from callboard.cli.bars import Scale, clock, facts, kind_and_name, made_of, outcome, took
from callboard.cli.terminal import clean, console, count, cut, note, plain
from callboard.cli.waits import named, promise_text

if TYPE_CHECKING:
    from rich.text import Text

    from storage.inspect import Call, Timeline, Turn

_CALLS = 40  # of one turn; JSON has two hundred
_SENDS = 5
_INDENT = 8
_QUEUED_S = 0.05  # so long in the mailbox is worth a word
_STYLES = {"handled": "green", "open": "yellow", "paused": "yellow", "dead_letter": "red"}
_MARKS = {"dead_letter": "✗", "paused": "‖", "open": "…", "destroyed": "✗"}


def show_timeline(timeline: Timeline) -> None:
    out = console()
    if timeline.dropped is not None and timeline.dropped_at is not None and timeline.older is None:
        out.print(plain(dropped_text(timeline.dropped, timeline.dropped_at), "dim"))
    elif not timeline.turns:
        out.print(plain(f"{timeline.address} has had no turn yet.", "yellow"))
        return
    latest = 0.0
    for turn in timeline.turns:
        for line in _lines(turn, out.width, latest):
            out.print(line, no_wrap=True, overflow="ellipsis", crop=False)
        latest = max(latest, turn.began)
    if timeline.older is not None:
        note(f"There are older turns: --before {timeline.older}, or more of them: --last N")


def timeline_json(timeline: Timeline) -> dict[str, Any]:
    return {name: getattr(timeline, name) for name in timeline.__struct_fields__}


def dropped_text(version: int, at: datetime) -> str:
    """What retention has dropped of a history."""
    versions = f"versions 1 to {version:,} were" if version > 1 else "version 1 was"
    return f"{versions} dropped by retention on {at:%Y-%m-%d}"


def _lines(turn: Turn, width: int, latest: float) -> list[Text]:
    now = time.time()
    lines = [_head(turn, now, latest)]
    lines += [_says("from", text) for text in _causes(turn)]
    lines += _calls(turn, width, now)
    lines += [_says("why", facts(decision), "cyan") for decision in turn.notes]
    lines += [_says("sent", f"{clean(sent.type)} to {clean(sent.to)}") for sent in turn.sends[:_SENDS]]
    if len(turn.sends) > _SENDS:
        lines.append(_says("", f"and {len(turn.sends) - _SENDS:,} more (--json)", "dim"))
    for promise in turn.pending[:_SENDS]:
        lines.append(_says("waits", promise_text(promise), "yellow"))
    if len(turn.pending) > _SENDS:
        lines.append(_says("", f"and for {len(turn.pending) - _SENDS:,} more (--json)", "dim"))
    if turn.failures:
        text = f"{turn.failures}× before this" if turn.ended is not None else f"{turn.failures}×"
        lines.append(_says("failed", f"{text}: {turn.last_error}" if turn.last_error else text, "red"))
    return lines


def _head(turn: Turn, now: float, latest: float) -> Text:
    """With the time at which it began, or of its end where one that began later (`latest`) stands above it."""
    ended = turn.ended or now
    is_late = turn.began < latest
    line = plain(f"{f'{turn.version:,}' if turn.version is not None else 'open':>6}  ", "bold")
    line.append(f"{clock(ended if is_late else turn.began)}  ", "dim")
    style = _STYLES.get(turn.decision, "cyan")
    line.append(f"{_MARKS.get(turn.decision, '✓')} {clean(turn.decision)}", style)
    line.append(f"  {clean(named(turn.header))}", "bold")
    line.append(f"  {took(ended - turn.began)}")
    if is_late:
        line.append(f" since {clock(turn.began)}")
    queued = turn.began - turn.header.sent_at
    if queued >= _QUEUED_S:
        line.append(f" after {took(queued)} in the mailbox", "dim")
    return line


def _causes(turn: Turn) -> list[str]:
    sender = clean(turn.header.sender)
    if turn.cause is None:
        return [sender]
    c = turn.cause
    return [f"{sender}, version {c.version:,}: it handled {clean(c.type)} from {clean(c.sender)}"]


def _calls(turn: Turn, width: int, now: float) -> list[Text]:
    if not turn.calls:
        return []
    name_width = min(max((width - _INDENT) // 3, 20), 44)
    scale = Scale(turn.began, turn.ended or now, 16 if width < 100 else 32)
    shown = turn.calls
    left_out = turn.more_calls
    if len(shown) > _CALLS:
        left_out += len(shown) - _CALLS
        shown = shown[: _CALLS // 2] + shown[-_CALLS // 2 :]
    lines = []
    for place, call in enumerate(shown):
        if left_out and place == _CALLS // 2 and len(turn.calls) > _CALLS:
            lines.append(_says("", f"{count(left_out, 'call')} left out (--json has the first 200)", "dim"))
        lines.append(_call_line(call, scale, name_width, turn))
    if left_out and len(turn.calls) <= _CALLS:
        lines.append(_says("", f"{count(left_out, 'call')} left out", "dim"))
    return lines


def _call_line(call: Call, scale: Scale, name_width: int, turn: Turn) -> Text:
    from actors.turn_edit import EDITABLE

    name = kind_and_name(call.kind, call.name).replace(f" {turn.domain}/", " ")
    if turn.version is None and call.kind in EDITABLE:  # `callboard turn edit` is told the key
        name = f"{clean(call.key)}  {name}"
    line = plain(f"{'':{_INDENT}}")
    line.append(f"{cut(name, name_width):{name_width}} ")
    if call.began is None or call.ended is None:
        line.append("▕" + " " * scale.width + "▏" + " " * 8)
    else:
        bar = scale.bar((call.began, call.ended, made_of(call.kind)))
        line.append("▕", "dim").append(bar, "green" if call.ok else "red").append("▏", "dim")
        line.append(f"{took(call.ended - call.began):>7} ")
    line.append(outcome(call), "" if call.ok and call.status in (None, "resolved") else "red")
    return line


def _says(word: str, text: str, style: str = "") -> Text:
    line = plain(f"{'':{_INDENT}}{word:<7}", "dim")
    line.append(clean(text), style)
    return line

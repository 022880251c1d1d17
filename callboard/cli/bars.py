"""Bars of time, and the words beside them: what a timeline on the terminal is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from callboard.cli.terminal import clean

if TYPE_CHECKING:
    from storage.inspect import Call

WORK, WAIT, QUEUE = "█", "━", "·"  # told apart without colour: it works, it waits, its message waits
_WAITS = ("ask", "sleep", "promise", "approval", "outcome")


@dataclass(frozen=True)
class Scale:
    """A stretch of time on so many columns. Times are seconds since 1970, UTC."""

    first: float
    last: float
    width: int

    def column(self, at: float) -> int:
        length = max(self.last - self.first, 1e-6)
        return min(max(round((at - self.first) / length * self.width), 0), self.width)

    def bar(self, *pieces: tuple[float, float, str]) -> str:
        """Pieces (from, to, what it is made of), each of one column at the least; later ones cover earlier ones."""
        cells = [" "] * self.width
        for began, ended, made_of in pieces:
            begin = min(self.column(began), self.width - 1)
            for place in range(begin, max(self.column(ended), begin + 1)):
                cells[place] = made_of
        return "".join(cells)


def made_of(kind: str) -> str:
    return WAIT if kind in _WAITS else WORK


def took(seconds: float | None) -> str:
    """A length of time in at most seven characters: `1.2 ms`, `850 ms`, `3.2 s`, `12 min`, `3.1 d`."""
    if seconds is None:
        return ""
    seconds = max(seconds, 0.0)
    for limit, unit, one in ((1, "ms", 0.001), (120, "s", 1.0), (7200, "min", 60.0), (172_800, "h", 3600.0)):
        if seconds < limit:
            return _figure(seconds / one, unit)
    return _figure(seconds / 86_400, "d")


def _figure(amount: float, unit: str) -> str:
    return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:.0f} {unit}"


def clock(at: float) -> str:
    """A time of the day to the millisecond, with the day unless that is today."""
    moment = datetime.fromtimestamp(at, UTC)
    time = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}"
    return time if moment.date() == datetime.now(UTC).date() else f"{moment:%Y-%m-%d} {time}"


def kind_and_name(kind: str, name: str) -> str:
    """A call in words: what has no name of its own is named by its kind."""
    return clean(kind if kind == name else f"{kind} {name}")


def outcome(call: Call) -> str:
    """What a call gave, or why it failed."""
    if call.status in ("approved", "denied"):
        by = f" by {clean(call.by)}" if call.by is not None else ""
        return f"{'→' if call.status == 'approved' else '✗'} {call.status}{by}{_comment(call.value)}"
    if call.status not in (None, "resolved"):
        text = _error(call.value)
        return f"✗ {call.status}{f': {text}' if text else ''}"
    if not call.ok:
        return f"✗ {_error(call.value) or 'failed'}"
    if call.kind == "outcome" and (said := _said_of_call(call.value)) is not None:
        return f"→ {said}, says {clean(call.by or 'somebody')}{_comment(call.value)}"
    text = _value(call.value)
    if call.by is not None and call.kind != "sleep":
        return f"→ {text}  by {clean(call.by)}" if text else f"→ by {clean(call.by)}"
    return f"→ {text}" if text else ""


def _said_of_call(text: str | None) -> str | None:
    """What a person has said of a call of which nobody knew; None where that is not whole."""
    try:
        said = json.loads(text or "null")
    except ValueError:  # it was cut
        return None
    if not isinstance(said, dict) or "happened" not in said:
        return None
    if said["happened"]:
        return "has acted"
    return "has not acted, and is made again" if said.get("again", True) else "has not acted, and is not to"


def _value(text: str | None) -> str:
    """A result in one line; of an answer what was answered."""
    if text is None or text == "null":
        return ""
    try:
        value = json.loads(text)
    except ValueError:  # it was cut
        return clean(text)
    if isinstance(value, dict) and "payload" in value and set(value) <= {"payload", "type"}:
        value = value["payload"]
    return clean(json.dumps(value, ensure_ascii=False))


def _comment(text: str | None) -> str:
    """What was said beside a decision."""
    try:
        value = json.loads(text or "null")
    except ValueError:
        return f": {clean(text or '')}"
    said = value.get("comment") if isinstance(value, dict) else None
    return f": {clean(said)}" if isinstance(said, str) and said else ""


def _error(text: str | None) -> str:
    try:
        value = json.loads(text or "null")
    except ValueError:
        return clean(text)
    if isinstance(value, dict) and "message" in value:
        return clean(f"{value.get('type', '')}: {value['message']}".removeprefix(": "))
    return "" if value is None else clean(json.dumps(value, ensure_ascii=False))


def facts(note: dict[str, object]) -> str:
    """A decision of `ctx.explain` in one line: its name, and the facts behind it."""
    named = (
        f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in note.items()
        if name != "decision"
    )
    return clean("  ".join((str(note.get("decision", "")), *named)))

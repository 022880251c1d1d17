"""What goes to the terminal: text that cannot play tricks with it, and JSON for scripts.

Standard output is the answer; everything else is on standard error.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# C0 and C1 controls could move the cursor or rename the window; the bidirectional and invisible ones
# could make text look like other text.
_TRICKS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_NARROWEST = 60
_JSON_LINES, _WIDEST = 100, 1_000  # of a document that is shown to somebody, and of each of its lines
_ID_END = 6  # characters: what an id begins with is the time


def clean(text: object, *, lines: bool = False) -> str:
    """Text of somebody else's making with its control characters spelled out; on one line unless `lines`."""
    shown = _TRICKS.sub(_spell, str(text))
    return shown if lines else shown.replace("\n", "\\n").replace("\t", " ")


def _spell(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def is_terminal() -> bool:
    return sys.stdout.isatty()


def console(*, stderr: bool = False) -> Console:
    """A console that colours on a terminal only, and wraps nothing when its output is piped."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    made = Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=False)
    if made.is_terminal:
        return made if made.width >= _NARROWEST else _with_width(made, _NARROWEST)
    return _with_width(made, 200)


def _with_width(made: Console, width: int) -> Console:
    made.width = width
    return made


def note(text: str) -> None:
    """A line for the person at the terminal, on standard error."""
    sys.stderr.write(clean(text) + "\n")
    sys.stderr.flush()


def emit(value: Any) -> None:
    """One JSON document on standard output."""
    text = json.dumps(value, indent=2, ensure_ascii=not _is_unicode(), default=_plain)
    text = re.sub(r'"\\u0000(-?[0-9.]+)"', r"\1", text)
    sys.stdout.write(clean_json(text) + "\n")
    sys.stdout.flush()


def bounded_json(value: Any) -> tuple[str, str]:
    """JSON on lines of its own, as much of it as somebody reads, and a line that says what is missing; "" where it is whole."""
    whole = clean_json(json.dumps(value, indent=2, ensure_ascii=False))
    lines = whole.split("\n")
    shown = [line if len(line) <= _WIDEST else f"{line[: _WIDEST - 1]}…" for line in lines[:_JSON_LINES]]
    missing = []
    if len(lines) > len(shown):
        missing.append(f"{count(len(lines) - len(shown), 'more line')}")
    if shown != lines[:_JSON_LINES]:
        missing.append("long lines are cut")
    said = (
        f"… {', '.join(missing)}; {size(len(whole.encode()))} in all, which --json has whole"
        if missing
        else ""
    )
    return "\n".join(shown), said


def _is_unicode() -> bool:
    return (sys.stdout.encoding or "utf-8").lower().startswith("utf")


def clean_json(text: str) -> str:
    """JSON text, on lines of its own, that stays the same JSON: inside it these stand in strings only."""
    return _TRICKS.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _plain(value: Any) -> Any:
    import msgspec

    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Decimal):  # all its digits, which a double may not carry; `emit` takes the mark away
        return f"\0{value.normalize():f}"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    raise TypeError(f"{type(value).__qualname__} is not for JSON")


def plain(value: object, style: str = "") -> Text:
    """A cell or line without markup."""
    from rich.text import Text

    return Text("" if value is None else clean(value), style=style)


def cut(text: str, width: int) -> str:
    """Text of so many characters at most, without its middle: names that are alike differ at one of their ends."""
    if len(text) <= width:
        return text
    end = width // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def short_id(id_: str) -> str:
    """The end of an id, which tells it apart from others of its time; commands take it for the id."""
    return f"…{id_[-_ID_END:]}"


# -- figures -----------------------------------------------------------------------------------------


def ago(moment: datetime | None) -> str:
    """How long ago, in the largest fitting unit: `3 min`."""
    return "" if moment is None else span((datetime.now(UTC) - moment).total_seconds())


def span(seconds: float) -> str:
    """A length of time in one unit that fits it."""
    size = abs(seconds)
    for limit, unit, one in ((1, "ms", 0.001), (90, "s", 1), (5400, "min", 60), (172_800, "h", 3600)):
        if size < limit:
            return f"{seconds / one:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def size(count: int) -> str:
    """Bytes in a unit that fits them."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("unreachable")


def count(number: int, thing: str) -> str:
    """`1 host`, `2 hosts`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def spans(numbers: Iterable[int]) -> str:
    """Numbers as ranges: `0-31, 40`."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)

"""Text that a client chose, made safe to show in Markdown and in a terminal."""

from __future__ import annotations

import unicodedata

# Control and format characters (colours, cursor moves, right-to-left overrides), separators, surrogates.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
MAX_SHOWN = 64
_SPACE = "\N{SYMBOL FOR SPACE}"


def visible(text: str) -> str:
    """Return `text` with every character that does not show itself written as an escape, on one line.

    Spaces at either end, which pages and terminals drop, become U+2420.
    """
    shown = "".join(_escaped(char) if _hides(char) else char for char in text)
    left = len(shown) - len(shown.lstrip(" "))
    right = len(shown) - len(shown.rstrip(" ")) if left < len(shown) else 0
    return _SPACE * left + shown[left : len(shown) - right] + _SPACE * right


def code(text: str, *, limit: int = MAX_SHOWN) -> str:
    """Return a Markdown code span that shows `text` and cannot be left by it, also inside a table."""
    if text == "":
        return "(empty)"
    shown = visible(text)
    if len(shown) > limit:
        shown = shown[: limit - 1] + "…"
    longest = max((len(run) for run in "".join(c if c == "`" else " " for c in shown).split()), default=0)
    fence = "`" * (longest + 1)
    pad = " " if "`" in shown else ""
    return f"{fence}{pad}{shown}{pad}{fence}".replace("|", r"\|")


def _hides(char: str) -> bool:
    return unicodedata.category(char) in _HIDDEN or (char.isspace() and char != " ")


def _escaped(char: str) -> str:
    point = ord(char)
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"

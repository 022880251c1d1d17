"""Which name was meant by one that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def closest(given: str, known: Iterable[str]) -> str | None:
    """The known name that is most like the given one; None where none is like it."""
    close = get_close_matches(given, list(known), n=1)
    return close[0] if close else None


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`Did you mean NAME?`, or nothing where no name is like it."""
    found = closest(given, known)
    return "" if found is None else f"Did you mean {found}?"

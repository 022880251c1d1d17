"""Ids as people give them: whole, or as much of one end as tells them apart."""

from __future__ import annotations

import re
from typing import NamedTuple
from uuid import UUID

CANDIDATES = 5  # of those meant, that are named
_LEFT_OUT = ("…", "...")


class IdPart(NamedTuple):
    """Between `first` and `last` are the ids that begin with the `digits`; where it `is_end`, only their end is meant."""

    digits: str
    is_end: bool
    first: UUID
    last: UUID

    @property
    def is_whole(self) -> bool:
        return len(self.digits) == 32


def id_part(text: str) -> IdPart | None:
    """The digits of an id, from one of its ends: `01a2014d`, `a04afa`, or `…a04afa` as lists shorten it. None for what is
    none, or has fewer than four digits."""
    text = text.rpartition("#")[2].strip().lower()
    is_end = text.startswith(_LEFT_OUT)
    digits = text.lstrip("….").replace("-", "")
    if not re.fullmatch(r"[0-9a-f]{4,32}", digits):
        return None
    return IdPart(digits, is_end, UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f")))


def several(given: str, found: list[str]) -> str:
    """That an end of an id is not enough, with the ids (`found` may have one more than are named)."""
    more = " and others" if len(found) > CANDIDATES else ""
    return f"Several ids begin or end with {given}: {', '.join(found[:CANDIDATES])}{more}."

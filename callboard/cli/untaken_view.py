"""Events that nobody takes, as `status` and `events` show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from callboard.cli.terminal import ago, count, plain

if TYPE_CHECKING:
    from callboard.untaken import Untaken


def untaken_lines(untaken: Untaken, most: int) -> list[Any]:
    """A line for each of the first subjects, and one for how many there are besides."""
    lines = [
        plain(
            f"{each.subject}: {count(each.count, 'event')} that nobody takes"
            f"{'' if each.oldest_at is None else f', the oldest {ago(each.oldest_at)} old'}. {each.mend}",
            "yellow",
        )
        for each in untaken.subjects[:most]
    ]
    more = max(0, len(untaken.subjects) - most) + untaken.more
    if more:
        lines.append(plain(f"{count(more, 'subject')} more with events that nobody takes.", "yellow"))
    return lines

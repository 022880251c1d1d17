"""Calls of tools that nobody waits for any more: what is to be said of those of which nobody knows what they did."""

from __future__ import annotations

from actors.inquiry import INTENT, call_of
from actors.journal import Journal
from storage.ledger import CallStatus, CallVerdict

_WHY = "given up: what has called it went on, or ended, without knowing what it did"


def give_up_calls(journal: Journal, *prefixes: str) -> None:
    """Of the calls at the places that begin so, those that may have acted, and whose outcome is neither on record nor about
    to be, stay unknown."""
    in_flight = set(journal.in_flight.values())
    found = []
    for entry in journal.entries:
        if entry.kind != INTENT or not entry.key.startswith(prefixes):
            continue
        place, _, attempt = entry.key.rpartition("!")
        if place in in_flight:
            continue
        if place not in journal.entries and f"{place}~{attempt}" not in journal.entries:
            found.append(CallVerdict(id=call_of(entry), key=place, status=CallStatus.UNKNOWN, error=_WHY))
    journal.judge(found)

"""What an operator changes of an open turn's record."""

from __future__ import annotations

from collections.abc import Sequence

from actors.call_record import CALL
from actors.entries import STEP, VOID
from actors.inquiry import INTENT, call_of
from actors.spending import MODEL
from storage.journal import JournalEntry
from storage.ledger import CallStatus, CallVerdict

EDITABLE = (STEP, CALL, MODEL)
"""The kinds of entries whose results may be changed."""


def edited(entries: Sequence[JournalEntry], key: str, value: str | None) -> tuple[JournalEntry, ...]:
    """The entries to be added so that the step or call at `key` has this result (JSON text), or, with None, was not made.

    None is for steps alone: a call of a tool that is forgotten would be made again. Empty when there is nothing at the key
    that could be edited.
    """
    found = current(entries).get(key)
    if found is None or found.kind not in EDITABLE or (value is None and found.kind == CALL):
        return ()
    number = entries[-1].number + 1
    void = JournalEntry(
        number=number, key=f"#{VOID}:{number}", kind=VOID, name=key, ok=True, value="null", took_ms=0.0
    )
    if value is None:
        return (void,)
    return void, JournalEntry(
        number=number + 1, key=key, kind=found.kind, name=found.name, ok=True, value=value, took_ms=0.0
    )


def said_of_call(entries: Sequence[JournalEntry], key: str, by: str) -> tuple[CallVerdict, ...]:
    """What the ledger says once a person has given the call at `key` a result: of one that may have acted, that it has."""
    intents = [e for e in entries if e.kind == INTENT and e.key.rpartition("!")[0] == key]
    return tuple(
        CallVerdict(id=call_of(entry), key=key, status=CallStatus.SUCCEEDED, said_by=by)
        for entry in intents[-1:]
    )


def current(entries: Sequence[JournalEntry]) -> dict[str, JournalEntry]:
    """The entries that hold, by their keys: a later one may have taken back an earlier one."""
    held: dict[str, JournalEntry] = {}
    for entry in entries:
        if entry.kind == VOID:
            held.pop(entry.name, None)
        else:
            held[entry.key] = entry
    return held

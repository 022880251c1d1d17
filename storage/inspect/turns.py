"""Turns that have a journal and have not ended: what each waits for."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import msgspec

from bus.address import Address
from bus.envelope import Header, header_from_json
from storage.boundary import translated
from storage.domains import Connection
from storage.inspect.history import LAST_VERSION, list_history
from storage.inspect.rows import fetch_all
from storage.journal import CLOCK_SLACK_S, JournalEntry
from storage.queries import query

_NOTES_LOOKED_AT = 200  # turns that have ended since
_PAUSES_LOOKED_AT = 50  # a paused agent has no turns but those of control messages


class PromiseView(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a turn waits for, or may. `target` is whom an ask waits for."""

    id: str
    key: str
    kind: str
    name: str
    target: str | None
    status: str
    due_at: datetime | None
    created_at: datetime
    settled_by: str | None
    settled_at: datetime | None

    @property
    def is_pending(self) -> bool:
        return self.status == "pending"


class OpenTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that has not ended. `code` is the digest of the domain's code that it began with, `code_now` of the one
    that is registered; `put_away` tells that it holds no memory; `recorded` counts the calls that its journal holds."""

    turn: str
    seq: int
    header: Header
    code: str
    code_now: str
    began_at: float
    put_away: bool
    failures: int
    trials: int
    retry_at: datetime | None
    last_error: str | None
    recorded: int
    promises: list[PromiseView]

    @property
    def pending(self) -> list[PromiseView]:
        return [promise for promise in self.promises if promise.is_pending]


async def find_open_turn(
    db: Connection, address: Address, *, tenant: str, promises: int = 1_000
) -> OpenTurn | None:
    """The turn of an agent that is open, with so many of its promises at most, the oldest first."""
    place = (address.domain, tenant, address.agent)
    with translated():
        row = await db.fetchrow(query("inspect_open_turn"), *place)
    if row is None:
        return None
    facts: dict[str, Any] = {**row, "header": header_from_json(row["header"])}
    made = await fetch_all(db, PromiseView, "inspect_promises", *place, row["turn"], promises)
    return OpenTurn(**facts, promises=made)


async def read_open_journal(db: Connection, address: Address, *, tenant: str) -> list[JournalEntry] | None:
    """What the agent's open turn has recorded, in order; None when it has no open turn."""
    place = (address.domain, tenant, address.agent)
    with translated():
        turn = await db.fetchrow(query("load_turn"), *place)
    if turn is None:
        return None
    since = turn["began_at"] - CLOCK_SLACK_S
    return await fetch_all(db, JournalEntry, "load_journal", *place, turn["turn"], since)


async def notes_of(db: Connection, address: Address, message: str, *, tenant: str) -> list[dict[str, Any]]:
    """What the agent's owner has noted as it handled a message lately; empty when it has not."""
    for transition in await list_history(
        db, address, tenant=tenant, below=LAST_VERSION, limit=_NOTES_LOOKED_AT
    ):
        body = json.loads(transition.body)
        header = body["message"]["header"]
        if (
            isinstance(header, dict) and header.get("id") == message
        ):  # one that cannot be read stands there as it was
            return list(body["notes"])
    return []


async def why_paused(db: Connection, address: Address, *, tenant: str) -> dict[str, Any] | None:
    """What the history says of an agent's last pause: `reason`, and for a NonDeterministicHandler what it
    `called` and what was `recorded` at its `place`, of an approval also what `differs`."""
    for transition in await list_history(
        db, address, tenant=tenant, below=LAST_VERSION, limit=_PAUSES_LOOKED_AT
    ):
        body = json.loads(transition.body)
        if body["decision"] == "paused":
            notes = [note for note in body["notes"] if note.get("decision") == "pause"]
            facts = {name: value for name, value in notes[-1].items() if name != "decision"} if notes else {}
            return {"version": transition.version, "at": transition.at, **facts}
    return None

"""Turns that wait, as a host writes them, and what a store has of them."""

from __future__ import annotations

import json
from typing import Any

from bus.envelope import Envelope, Outgoing, new_id
from storage.journal import Does, Flush, JournalEntry, JournalWrite, Kind, PromiseWrite, StoredJournal
from storage.records import Fence, Share
from tests.contract.rig import DOMAIN, Rig, letter

Message = tuple[int, str]  # its number and id
AGENT = "order/1"


def entry(number: int, **more: Any) -> JournalEntry:
    values: dict[str, Any] = {
        "key": f"#{number}", "kind": "step", "name": "add", "ok": True, "value": "1", "took_ms": 2.5,
    }  # fmt: skip
    return JournalEntry(number=number, **{**values, **more})


def promise(kind: Kind = Kind.ASK, **more: Any) -> PromiseWrite:
    return PromiseWrite(**{"id": new_id(), "key": "#9", "kind": kind, "name": "n", **more})


def flush(message: Message, does: Does, *, sends: tuple[Outgoing, ...] = (), **more: Any) -> Flush:
    seq, id_ = message
    journal = JournalWrite(**{"seq": seq, "turn": id_, "does": does, "began_at": 12.25, **more})
    return Flush(tenant="default", partition=0, agent=AGENT, journal=journal, sends=sends)


def reply(promise_id: str, value: str = "1") -> Outgoing:
    payload = json.dumps({"promise": promise_id, "status": "resolved", "value": json.loads(value)})
    return letter(AGENT, payload, control=True, settles=promise_id)


async def accepted(rig: Rig, **more: Any) -> Message:
    message = letter(AGENT, '{"n":1}', **more)
    seq = await rig.accept(message)
    assert seq is not None
    return seq, message.header.id


async def opened(rig: Rig, fence: Fence, **more: Any) -> Message:
    """A message whose turn is open."""
    message = await accepted(rig)
    await rig.store.commit(fence, [flush(message, Does.OPEN, **more)], [])
    return message


async def stored(rig: Rig) -> StoredJournal:
    found = await rig.store.load_journal(DOMAIN, "default", AGENT)
    assert found is not None
    return found


async def page(rig: Rig) -> list[Envelope]:
    share = Share(messages=10, size=10_000)
    found, _, _ = await rig.store.load_partition(
        DOMAIN, 0, after=("", ""), agents=10, each=share, page_bytes=10_000
    )
    return found


async def turn_of(rig: Rig) -> str | None:
    ([state], _) = await rig.store.load_states(DOMAIN, [("default", AGENT)])
    return state.turn

"""Asks as edges, in every store: who waits for whom, and the refusal of the newest of a cycle."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bus.envelope import Outgoing, new_id
from storage.edges import FIRST_PLACE, Gate, PromisePlace, WaitEdge
from storage.journal import Does, Flush, JournalWrite, Kind, PromiseWrite
from storage.records import Fence, Share
from tests.contract.rig import DOMAIN, Rig, letter, turn


def agent(name: str) -> tuple[str, str, str]:
    return DOMAIN, "default", name


class Asker:
    """An agent whose turn asks others."""

    def __init__(self, rig: Rig, fence: Fence, name: str) -> None:
        self.rig = rig
        self.fence = fence
        self.name = name
        self.turn = ""
        self.seq = 0
        self.recorded = 0

    async def opens(self, message: Outgoing | None = None, seq: int | None = None) -> Asker:
        message = message or letter(self.name)
        self.seq = seq or await self.rig.accept(message) or 0
        self.turn = message.header.id
        self.recorded = 0
        await self._flush(Does.OPEN)
        return self

    async def asks(self, other: str, **more: Any) -> tuple[PromiseWrite, Outgoing, int]:
        """The promise, the message and the message's number."""
        message = letter(other)
        made = PromiseWrite(
            id=new_id(), key=new_id(), kind=Kind.ASK, name="n", target=f"{DOMAIN}/{other}",
            message=message.header.id, **more,
        )  # fmt: skip
        numbers = await self._flush(Does.GO, promises=(made,), sends=(message,))
        assert numbers[0] is not None
        return made, message, numbers[0]

    async def answers(self, asker: str, promise: str) -> None:
        """Nobody outside may settle an ask."""
        payload = json.dumps({"promise": promise, "status": "resolved", "value": 1})
        await self._flush(Does.GO, sends=(letter(asker, payload, control=True, settles=promise),))

    async def gives_up(self, made: PromiseWrite, given_up: bool = True) -> None:
        await self._flush(Does.GO, given_up=((made.id, given_up),))

    def part(self, does: Does, **more: Any) -> JournalWrite:
        return JournalWrite(
            seq=self.seq, turn=self.turn, does=does, began_at=1.0, recorded=self.recorded, **more
        )

    async def _flush(self, does: Does, sends: tuple[Outgoing, ...] = (), **more: Any) -> list[int | None]:
        journal = self.part(does, **more)
        self.recorded += journal.adds
        write = Flush(tenant="default", partition=0, agent=self.name, journal=journal, sends=sends)
        return await self.rig.store.commit(self.fence, [write], [])


async def edges(rig: Rig, *names: str, limit: int = 100) -> list[WaitEdge]:
    return sorted(await rig.store.wait_edges([agent(name) for name in names], limit), key=lambda e: e.age)


async def two_that_wait(rig: Rig) -> tuple[Fence, Asker, Asker, list[WaitEdge]]:
    fence = await rig.host(0)
    a, b = await Asker(rig, fence, "a/1").opens(), await Asker(rig, fence, "b/1").opens()
    await a.asks("b/1")
    await b.asks("a/1")
    return fence, a, b, await edges(rig, "a/1", "b/1")


async def test_the_asks_of_open_turns_are_edges(rig: Rig) -> None:
    fence = await rig.host(0)
    a = await Asker(rig, fence, "a/1").opens()
    gates = (Gate("#1", 1, 2, 0), Gate("#1.0/#1", 2, 3, 1))
    first, _, _ = await a.asks("b/1", gates=gates)
    second, _, _ = await a.asks("c/x/y")
    found = await edges(rig, "a/1", "b/1")
    assert [(e.id, e.asker, e.asked, e.gates) for e in found] == [
        (first.id, agent("a/1"), agent("b/1"), gates),
        (second.id, agent("a/1"), agent("c/x/y"), ()),
    ]
    assert len(await edges(rig, "a/1", limit=1)) == 1
    await a.gives_up(first)
    assert [e.id for e in await edges(rig, "a/1")] == [second.id]
    [stored] = [p for p in (await journal_of(rig, "a/1")).promises if p.id == first.id]
    assert stored.given_up
    await a.gives_up(first, False)
    assert len(await edges(rig, "a/1")) == 2


async def journal_of(rig: Rig, name: str) -> Any:
    return await rig.store.load_journal(DOMAIN, "default", name)


async def test_the_newest_is_refused_once_its_asker_is_woken_and_its_message_withdrawn(rig: Rig) -> None:
    _, _, _, found = await two_that_wait(rig)
    older, newest = found
    refusal = await rig.store.refuse_ask(newest, found, ["b", "a", "b"])
    assert sorted(refusal.mail) == [(DOMAIN, 0, "default", "a/1"), (DOMAIN, 0, "default", "b/1")]
    assert refusal.gone == frozenset()
    [wake] = await passing(rig, "b/1")
    body = json.loads(wake.payload)
    assert (wake.header.type, wake.header.sender) == ("callboard.wake.v1", "external/cycle")
    assert (body["promise"], body["status"], body["value"]) == (newest.id, "cycle", ["b", "a", "b"])
    [withdrawal] = await passing(rig, "a/1")
    assert withdrawal.header.type == "callboard.withdraw.v1"
    message = json.loads(withdrawal.payload)["id"]
    assert await rig.store.find_mail(DOMAIN, 0, "default", "a/1", message) is not None
    again = await rig.store.refuse_ask(newest, found, ["b", "a", "b"])
    assert again.mail == ()
    assert again.gone == {newest.id}
    assert await edges(rig, "a/1", "b/1") == [older]


async def passing(rig: Rig, name: str) -> list[Any]:
    found, _ = await rig.store.load_agent(
        DOMAIN, 0, "default", name, Share(messages=10, size=10_000), control_only=True
    )
    return found


@pytest.mark.parametrize("how", ["answered", "ended", "given up", "handled"])
async def test_nothing_is_refused_when_one_of_the_asks_waits_no_more(rig: Rig, how: str) -> None:
    fence, a, b, found = await two_that_wait(rig)
    older, newest = found
    [made] = (await journal_of(rig, "a/1")).promises
    if how == "answered":
        await b.answers("a/1", made.id)
    elif how == "ended":
        await rig.store.commit(fence, [turn(None, agent="a/1", journal=a.part(Does.END))], [])
    elif how == "given up":
        given_up = PromiseWrite(id=made.id, key="", kind=Kind.ASK, name="")
        await a.gives_up(given_up)
    else:
        ends = b.part(Does.END)
        asked = (await rig.mail("b/1"))[0].seq
        await rig.store.commit(
            fence, [turn(None, agent="b/1", journal=ends), turn(asked, 2, agent="b/1")], []
        )
        b = await Asker(rig, fence, "b/1").opens()
        await b.asks("a/1")
        [newest] = await edges(rig, "b/1")
    refusal = await rig.store.refuse_ask(newest, [older, newest], ["x"])
    assert refusal.mail == ()
    if how == "ended":  # then nobody waits for the one, and nobody is waited for by the other
        assert older.id in refusal.gone
    else:
        assert refusal.gone == {older.id}
    assert (await rig.promises())[newest.id] == "pending"


async def test_an_ask_that_its_askers_turn_handles_waits_for_that_turn(rig: Rig) -> None:
    fence = await rig.host(0)
    a = await Asker(rig, fence, "a/1").opens()
    _, message, seq = await a.asks("b/1")
    b = await Asker(rig, fence, "b/1").opens(message, seq)
    await b.asks("a/1")
    found = await edges(rig, "a/1", "b/1")
    assert len((await rig.store.refuse_ask(found[1], found, ["x"])).mail) == 2


async def chained(rig: Rig, partition: int, page: int) -> list[tuple[str, str]]:
    """Of all pages together."""
    found: list[tuple[str, str]] = []
    place: PromisePlace | None = FIRST_PLACE
    while place is not None:
        read = await rig.store.chained_asks(DOMAIN, [partition], place, page)
        assert read.last is None or read.last > place
        found += read.agents
        place = read.last
    return sorted(found)


@pytest.mark.parametrize("page", [1, 2, 3, 100])
async def test_asks_that_lead_further_are_found_by_who_takes_over(rig: Rig, page: int) -> None:
    _, a, _, _ = await two_that_wait(rig)
    await a.asks("nobody/1")
    assert await chained(rig, 0, page) == [("default", "a/1"), ("default", "b/1")]
    assert await chained(rig, 1, page) == []


async def test_a_message_is_found_by_its_id(rig: Rig) -> None:
    message = letter("a/1")
    seq = await rig.accept(message)
    assert await rig.store.find_mail(DOMAIN, 0, "default", "a/1", message.header.id) == seq
    assert await rig.store.find_mail(DOMAIN, 0, "default", "a/1", new_id()) is None

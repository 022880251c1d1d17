"""Flushes of many turns in one commit, in every store: each is written as it is, whatever the others have in common, and as
it would be by itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from bus.errors import Fenced, StaleTurn
from storage.journal import Does, Flush, JournalEntry, JournalWrite, Kind, PromiseWrite, StoredJournal
from storage.records import Fence, Mark, Write
from tests.contract.rig import DOMAIN, Rig, letter, turn

Entries = tuple[JournalEntry, ...]


class Place(NamedTuple):
    """An agent, and the message that its turn handles."""

    tenant: str
    partition: int
    agent: str
    seq: int
    turn: str

    def journal(self, does: Does, **more: Any) -> JournalWrite:
        return JournalWrite(seq=self.seq, turn=self.turn, does=does, began_at=float(self.seq), **more)

    def flush(self, does: Does, **more: Any) -> Flush:
        journal = self.journal(does, **more)
        return Flush(tenant=self.tenant, partition=self.partition, agent=self.agent, journal=journal)


def entry(number: int, **more: Any) -> JournalEntry:
    values = {"key": f"#{number}", "kind": "step", "name": "add", "ok": True, "value": "1", "took_ms": 2.5}
    return JournalEntry(number=number, **{**values, **more})


ALIKE: list[tuple[Entries, Entries]] = [((entry(1),), (entry(2),))] * 4
BARE: list[tuple[Entries, Entries]] = [((), ())] * 4
UNLIKE: list[tuple[Entries, Entries]] = [
    ((entry(1), entry(2, kind="call", name="charge", ok=False, value='{"a":1}', took_ms=0.5)), (entry(3),)),
    ((entry(1, key="paid", value="null", blob="d1"),), (entry(2, value='"x"'), entry(3, took_ms=0.25))),
    ((), (entry(1, key="ü"),)),
    ((entry(1, name="sum"),), ()),
]
LAST_ALONE: list[tuple[Entries, Entries]] = [((), ())] * 3 + [((entry(1),), (entry(2, ok=False, blob="d2"),))]

GROUPS = pytest.mark.parametrize(
    "group", [ALIKE, BARE, UNLIKE, LAST_ALONE], ids=["alike", "bare", "unlike", "last"]
)
ONE_TENANT = [("default", 0, f"order/{n}") for n in range(4)]
TWO_TENANTS = [
    ("default", 0, "order/1"),
    ("default", 1, "order/2"),
    ("other", 0, "order/1"),
    ("other", 1, "x/1"),
]
PLACES = pytest.mark.parametrize("places", [ONE_TENANT, TWO_TENANTS], ids=["one tenant", "two tenants"])


async def given(rig: Rig, tenant: str, partition: int, agent: str) -> Place:
    """A message for an agent, whose turn has not opened."""
    message = letter(agent, partition=partition, tenant=tenant)
    seq = await rig.accept(message)
    assert seq is not None
    return Place(tenant, partition, agent, seq, message.header.id)


async def opened(rig: Rig, fence: Fence, *place: Any) -> Place:
    at = await given(rig, *place)
    await rig.store.commit(fence, [at.flush(Does.OPEN)], [])
    return at


async def stored(rig: Rig, at: Place) -> StoredJournal | None:
    return await rig.store.load_journal(DOMAIN, at.tenant, at.agent)


@GROUPS
@PLACES
async def test_each_turn_of_a_group_has_recorded_what_it_has(
    rig: Rig, group: list[tuple[Entries, Entries]], places: list[tuple[str, int, str]]
) -> None:
    fence = await rig.host(0, 1)
    turns = [await given(rig, *place) for place in places]
    opens = [at.flush(Does.OPEN, entries=first) for at, (first, _) in zip(turns, group, strict=True)]
    await rig.store.commit(fence, opens, [])
    goes = [
        at.flush(Does.GO, entries=more, recorded=len(first))
        for at, (first, more) in zip(turns, group, strict=True)
    ]
    await rig.store.commit(fence, goes, [])
    for at, (first, more) in zip(turns, group, strict=True):
        found = await stored(rig, at)
        assert found is not None
        assert (found.seq, found.turn, found.began_at) == (at.seq, at.turn, float(at.seq))
        assert (found.entries, found.recorded, found.waiting) == (
            (*first, *more),
            len(first + more),
            False,
        )


@GROUPS
@PLACES
async def test_turns_open_go_on_are_put_away_and_end_in_one_group(
    rig: Rig, group: list[tuple[Entries, Entries]], places: list[tuple[str, int, str]]
) -> None:
    fence = await rig.host(0, 1)
    goes, parks, ends = [await opened(rig, fence, *place) for place in places[1:]]
    opens = await given(rig, *places[0])
    wake = await rig.accept(letter(goes.agent, partition=goes.partition, tenant=goes.tenant, control=True))
    assert wake is not None
    (first, _), (to_go, _), (to_park, _), (at_the_end, _) = group
    asked = PromiseWrite(id=goes.turn, key="#9", kind=Kind.ASK, name="n")
    writes: list[Write] = [
        opens.flush(Does.OPEN, entries=first),
        goes.flush(Does.GO, entries=to_go, consumed=(wake,), promises=(asked,)),
        parks.flush(Does.PARK, entries=to_park),
        turn(
            None, agent=ends.agent, partition=ends.partition, tenant=ends.tenant,
            journal=ends.journal(Does.END, entries=at_the_end),
        ),
    ]  # fmt: skip
    await rig.store.commit(fence, writes, [])
    found = [await stored(rig, at) for at in (opens, goes, parks, ends)]
    assert [f and (f.entries, f.recorded, f.waiting) for f in found] == [
        (first, len(first), False),
        (to_go, len(to_go) + 1, False),
        (to_park, len(to_park) + 1, True),
        None,
    ]
    assert await rig.mail(goes.agent, goes.partition, goes.tenant) == []


@pytest.mark.parametrize("does", [Does.GO, Does.RESUME, Does.PARK, Does.END])
async def test_of_another_opening_of_the_same_message_nothing_is_written(rig: Rig, does: Does) -> None:
    """The first was given up, and its message tried again: what still runs of it knows of no entries either."""
    fence = await rig.host(0)
    at = await opened(rig, fence, "default", 0, "order/1")
    other = await given(rig, "default", 0, "order/2")
    late = at._replace(turn=other.turn)
    write: Write = turn(None, journal=late.journal(does)) if does is Does.END else late.flush(does)
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [write], [])
    found = await stored(rig, at)
    assert found is not None
    assert not found.waiting


async def test_one_flush_that_is_refused_takes_the_group_along(rig: Rig) -> None:
    fence = await rig.host(0)
    turns = [await opened(rig, fence, "default", 0, f"order/{n}") for n in range(3)]
    goes = [at.flush(Does.GO, entries=(entry(1),)) for at in turns]
    await rig.store.commit(fence, goes[1:2], [])
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, goes, [])
    assert [f and len(f.entries) for f in [await stored(rig, at) for at in turns]] == [0, 1, 0]


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize(
    "last",
    [
        entry(3),
        entry(3, kind="call", name="charge", ok=False, value='{"a":1}', took_ms=0.5),
        entry(3, key="ü/~1", value="null", blob="d1"),
    ],
    ids=["step", "failed call", "blob"],
)
async def test_one_recorded_call_is_written_alone_as_in_a_group(
    rig: Rig, last: JournalEntry, others: int
) -> None:
    fence = await rig.host(0, 1)
    at, *beside = [await opened(rig, fence, "other", 1, f"order/{n}") for n in range(1 + others)]
    await rig.store.commit(fence, [at.flush(Does.GO, entries=(entry(1), entry(2)))], [])
    goes = at.flush(Does.GO, entries=(last,), recorded=2)
    await rig.store.commit(fence, [goes, *(o.flush(Does.GO, entries=(entry(1),)) for o in beside)], [])
    found = await stored(rig, at)
    assert found is not None
    assert (found.entries, found.recorded, found.waiting) == ((entry(1), entry(2), last), 3, False)
    assert await rig.store.settle(fence, goes)


@pytest.mark.parametrize("others", [0, 1])
async def test_one_recorded_call_leaves_alone_what_else_is_known_of_its_turn(rig: Rig, others: int) -> None:
    fence = await rig.host(0)
    at, *beside = [await opened(rig, fence, "default", 0, f"order/{n}") for n in range(1 + others)]
    failed = Mark(
        tenant="default", partition=0, agent=at.agent, seq=at.seq, failed=1, tried=1, delay_s=60.0, error="no", open=True,
    )  # fmt: skip
    await rig.store.commit(fence, [], [failed])
    group = [one.flush(Does.GO, entries=(entry(1),)) for one in (at, *beside)]
    await rig.store.commit(fence, group, [])
    found = await stored(rig, at)
    assert found is not None
    assert (found.failures, found.trials, found.retry_at is None) == (1, 1, False)


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("taken", [False, True])
async def test_one_recorded_call_is_refused_alone_as_in_a_group(rig: Rig, others: int, taken: bool) -> None:
    """When its host does not own the partition any more, or the turn has gone on without it."""
    fence = await rig.host(0)
    at, *beside = [await opened(rig, fence, "default", 0, f"order/{n}") for n in range(1 + others)]
    if taken:
        await rig.take_back(fence, 0)
    late = at.flush(Does.GO, entries=(entry(2),), recorded=0 if taken else 1)
    with pytest.raises(Fenced if taken else StaleTurn):
        await rig.store.commit(fence, [late, *(o.flush(Does.GO, entries=(entry(1),)) for o in beside)], [])
    assert [f and f.entries for f in [await stored(rig, one) for one in (at, *beside)]] == [()] * (1 + others)

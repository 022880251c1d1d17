"""What tasks use, in every store: added up over hosts, and a limit that is reached is told once."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from bus.envelope import new_id
from bus.errors import StaleTurn, StorageUnavailable
from storage.journal import Does, Flush, JournalEntry, JournalWrite
from storage.records import Fence, Share, TurnRecord
from storage.spent import Reached, Spent
from tests.contract.rig import DOMAIN, Rig, letter, turn


@dataclass
class Spender:
    """One agent that commits turns of a task."""

    rig: Rig
    fence: Fence
    root: str
    agent: str = "order/1"
    partition: int = 0
    version: int = 0
    prev: bytes = bytes(32)
    seen: list[Reached] = field(default_factory=list)

    async def spend(self, **amounts: Any) -> list[Reached]:
        """The limits that the commit has found reached."""
        seq = await self.rig.accept(letter(self.agent, partition=self.partition))
        record = turn(
            seq, self.version + 1, agent=self.agent, partition=self.partition, prev=self.prev, spent=self.of(**amounts)
        )  # fmt: skip
        seen: list[Reached] = []
        self.rig.store.on_limit = seen.append
        await self.rig.store.commit(self.fence, [record], [])
        self.version, self.prev = record.version, record.hash
        return seen

    def of(self, **amounts: Any) -> Spent:
        return Spent(root=self.root, partition=3, **amounts)


@pytest.fixture
async def spender(rig: Rig) -> Spender:
    """Of a task without limits."""
    return Spender(rig, await rig.host(0), await limited(rig))


async def limited(rig: Rig, **limits: int | Decimal) -> str:
    task = new_id()
    await rig.add_task(task)
    await rig.limit(task, {name: Decimal(limit) for name, limit in limits.items()})
    return f"{DOMAIN}/{task}"


async def letters(rig: Rig, root: str) -> list[tuple[str, str | None, dict[str, float]]]:
    """What the task's agent is told."""
    share = Share(messages=10, size=10_000)
    agent = f"task/{root.partition('/')[2]}"
    found, _ = await rig.store.load_agent(DOMAIN, 3, "default", agent, share)
    return [(e.header.type, e.header.task, json.loads(e.payload)) for e in found]


async def test_what_is_used_adds_up_over_commits_and_hosts(rig: Rig, spender: Spender) -> None:
    beside = Spender(rig, await rig.host(1), spender.root, agent="order/2", partition=1)
    other = Spender(rig, spender.fence, await limited(rig), agent="order/3")
    await spender.spend(hops=2, steps=1, tokens=10, cost=Decimal("0.5"))
    await beside.spend(hops=1, asks=1, cost=Decimal("0.25"))
    await spender.spend(asks=-1, tokens=5)
    await other.spend(steps=7)
    assert await rig.used(spender.root) == (3, 0, 1, 15, Decimal("0.75"))
    assert await rig.used(other.root) == (0, 0, 7, 0, 0)
    assert await rig.used(await limited(rig)) == (0, 0, 0, 0, 0)


async def test_what_names_no_task_is_committed_and_nothing_is_counted_for_it(rig: Rig) -> None:
    spender = Spender(rig, await rig.host(0), f"{DOMAIN}/ticket 4711")
    await spender.spend(hops=1)
    assert len(await rig.history("order/1")) == 1


async def test_a_task_is_one_however_its_id_is_written(rig: Rig, spender: Spender) -> None:
    loud = Spender(rig, spender.fence, spender.root.upper().replace(DOMAIN.upper(), DOMAIN), agent="order/2")
    records = [
        turn(await rig.accept(letter(s.agent)), agent=s.agent, spent=s.of(hops=1)) for s in (spender, loud)
    ]
    await rig.store.commit(spender.fence, records, [])
    assert len(await rig.history("order/2")) == 1


async def test_the_writes_of_one_commit_are_added_up(rig: Rig, spender: Spender) -> None:
    writes = []
    for n in range(3):
        message = letter(f"a/{n}")
        seq = await rig.accept(message)
        assert seq is not None
        journal = JournalWrite(seq=seq, turn=message.header.id, does=Does.OPEN, began_at=1.0)
        writes.append(
            Flush(tenant="default", partition=0, agent=f"a/{n}", journal=journal, spent=spender.of(steps=n))
        )
    await rig.store.commit(spender.fence, writes, [])
    assert (await rig.used(spender.root))[2] == 3
    seq = await rig.accept(letter("a/9"))
    both: list[TurnRecord | Flush] = [
        turn(seq, agent="a/9", spent=spender.of(steps=1)),
        *(_goes_on(write) for write in writes[:1]),
    ]
    await rig.store.commit(spender.fence, both, [])
    assert (await rig.used(spender.root))[2] == 5
    step = JournalEntry(number=1, key="#1", kind="step", name="add", ok=True, value="1", took_ms=0.5)
    await rig.store.commit(spender.fence, [_goes_on(writes[1], step)], [])
    assert (await rig.used(spender.root))[2] == 6


def _goes_on(write: Flush, *entries: JournalEntry) -> Flush:
    journal = JournalWrite(seq=write.journal.seq, turn=write.journal.turn, does=Does.GO, entries=entries)
    return Flush(
        tenant="default", partition=0, agent=write.agent, journal=journal,
        spent=Spent(root=write.spent.root, partition=3, steps=1) if write.spent else None,
    )  # fmt: skip


async def test_a_commit_that_is_refused_or_lost_uses_nothing_and_one_whose_answer_is_lost_uses_it_once(
    rig: Rig, spender: Spender
) -> None:
    await spender.spend(steps=1)
    seq = await rig.accept(letter("order/1"))
    record = turn(seq, 2, agent="order/1", prev=spender.prev, spent=spender.of(steps=10))
    with pytest.raises(StaleTurn):
        await rig.store.commit(spender.fence, [turn(seq, 9, spent=spender.of(steps=10))], [])
    rig.lose_the_request()
    with pytest.raises(StorageUnavailable):
        await rig.store.commit(spender.fence, [record], [])
    assert not await rig.store.settle(spender.fence, record)
    assert (await rig.used(spender.root))[2] == 1
    rig.lose_the_answer()
    with pytest.raises(StorageUnavailable):
        await rig.store.commit(spender.fence, [record], [])
    assert await rig.store.settle(spender.fence, record)
    assert (await rig.used(spender.root))[2] == 11


async def test_a_limit_that_is_gone_above_is_told_once_and_reported_by_every_commit_after(rig: Rig) -> None:
    root = await limited(rig, steps=2, cost=Decimal(1))
    spender = Spender(rig, await rig.host(0), root)
    beside = Spender(rig, await rig.host(1), root, agent="order/2", partition=1)
    assert await spender.spend(steps=2, cost=Decimal(1)) == []
    assert await letters(rig, root) == []
    reached = Reached(tenant="default", task=root, limit="steps", used=Decimal(3), allowed=Decimal(2), told=3)
    assert await beside.spend(steps=1) == [reached]
    assert await spender.spend(cost=Decimal(5)) == [msgspec.structs.replace(reached, told=None)]
    body = {"limit": "steps", "used": 3, "allowed": 2}
    assert await letters(rig, root) == [("callboard.limit_reached.v1", root, body)]


@pytest.mark.parametrize("name", ["hops", "asks", "steps", "tokens", "cost"])
async def test_each_limit_is_looked_at_and_the_others_are_not_there(rig: Rig, name: str) -> None:
    root = await limited(rig, **{name: 5})
    spender = Spender(rig, await rig.host(0), root)
    others = dict.fromkeys({"hops", "asks", "steps", "tokens", "cost"} - {name}, 100)
    assert await spender.spend(**others, **{name: 5}) == []
    [reached] = await spender.spend(**{name: 1})
    assert (reached.limit, reached.used, reached.allowed) == (name, Decimal(6), Decimal(5))


async def test_small_amounts_add_up_to_the_last_digit(rig: Rig) -> None:
    root = await limited(rig, cost=Decimal("0.3"))
    spender = Spender(rig, await rig.host(0), root)
    for _ in range(3):
        assert await spender.spend(cost=Decimal("0.1")) == []  # as doubles they are above 0.3
    assert (await rig.used(root))[4] == Decimal("0.3")
    [reached] = await spender.spend(cost=Decimal("0.000000000001"))
    assert reached.used == Decimal("0.300000000001")
    assert reached.words == "The task has used 0.300000000001 cost; its limit is 0.3."
    body = {"limit": "cost", "used": 0.300000000001, "allowed": 0.3}
    assert await letters(rig, root) == [("callboard.limit_reached.v1", root, body)]


async def test_a_task_that_nobody_knows_is_counted_and_has_no_limit(rig: Rig) -> None:
    spender = Spender(rig, await rig.host(0), f"{DOMAIN}/{new_id()}")
    assert await spender.spend(steps=1_000) == []
    assert (await rig.used(spender.root))[2] == 1_000

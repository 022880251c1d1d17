"""The fence: who does not own every partition of a batch writes nothing of it, and learns what it owns."""

from __future__ import annotations

import pytest

from bus.errors import Fenced
from storage.records import Fence
from tests.contract.mail import given, mark
from tests.contract.rig import DOMAIN, Rig, letter, turn


async def test_an_ended_epoch_writes_nothing(rig: Rig) -> None:
    fence = await rig.host(0)
    first, seq = await given(rig, "order/2", "order/1")
    timer = letter("x/1", due=await rig.now() - 1)
    await rig.store.commit(fence, [turn(first, agent="order/2", sends=(timer,))], [])
    await rig.end(fence)
    with pytest.raises(Fenced):
        await rig.store.commit(fence, [turn(seq)], [])
    with pytest.raises(Fenced):
        await rig.store.commit(fence, [], [mark(seq, failed=1)])
    with pytest.raises(Fenced):
        await rig.store.fire_timers(fence, [0], 10)
    assert [m.failures for m in await rig.mail("order/1")] == [0]
    assert await rig.history("order/1") == []


async def test_a_batch_that_touches_one_partition_of_another_host_writes_nothing(rig: Rig) -> None:
    mine, other = await rig.host(0), await rig.host(1)
    [a], [b] = await given(rig), await given(rig, "order/2", partition=1)
    with pytest.raises(Fenced):
        await rig.store.commit(mine, [turn(a), turn(b, agent="order/2", partition=1)], [])
    assert len(await rig.mail("order/1")) == len(await rig.mail("order/2", 1)) == 1
    await rig.store.commit(other, [turn(b, agent="order/2", partition=1)], [])


async def test_an_epoch_that_never_was_writes_nothing(rig: Rig) -> None:
    [seq] = await given(rig)
    with pytest.raises(Fenced):
        await rig.store.commit(Fence(domain=DOMAIN, epoch=10_000), [turn(seq)], [])
    with pytest.raises(Fenced):
        await rig.store.read_ownership(Fence(domain=DOMAIN, epoch=10_000))


async def test_a_released_partition_is_fenced_at_once(rig: Rig) -> None:
    fence = await rig.host(0, 1)
    [seq] = await given(rig)
    await rig.store.release(fence, [0])
    with pytest.raises(Fenced):
        await rig.store.commit(fence, [turn(seq)], [])
    ownership = await rig.store.read_ownership(fence)
    assert (ownership.owned, ownership.wanted, ownership.ended) == (frozenset({1}), frozenset({0, 1}), False)
    await rig.end(fence)
    ownership = await rig.store.read_ownership(fence)
    assert (ownership.owned, ownership.ended, ownership.ended_why) == (frozenset(), True, "ended by a test")


async def test_a_host_reads_what_it_owns_and_clears_what_it_has_tried(rig: Rig) -> None:
    fence = await rig.host(0, 2)
    await rig.store.ready(fence)
    await rig.store.clear_suspects(fence, [0])
    ownership = await rig.store.read_ownership(fence)
    assert (ownership.owned, ownership.suspect, ownership.draining) == (frozenset({0, 2}), frozenset(), False)


async def test_a_partition_that_is_given_back_before_its_trial_is_suspect_at_its_next_owner(rig: Rig) -> None:
    giver = await rig.host(0, 1, 2, suspect=(0, 1))
    await rig.store.release(giver, [1, 2])
    assert await rig.suspects() == {1}
    ownership = await rig.store.read_ownership(giver)
    assert (ownership.owned, ownership.suspect) == (frozenset({0}), frozenset({0}))
    await rig.store.clear_suspects(giver, [0])
    await rig.store.release(giver, [0])
    assert await rig.suspects() == {1}


async def test_a_host_whose_epoch_has_ended_makes_nothing_suspect(rig: Rig) -> None:
    giver = await rig.host(0, suspect=(0,))
    await rig.end(giver)
    await rig.store.release(giver, [0])
    assert await rig.suspects() == set()


async def test_a_host_reads_how_often_each_partition_was_taken_from_it(rig: Rig) -> None:
    fence = await rig.host(0, 1, 2, 3)
    assert (await rig.store.read_ownership(fence)).taken == ()
    for _ in range(3):
        await rig.take_back(fence, 2)
    await rig.take_back(fence, 0, 1)
    ownership = await rig.store.read_ownership(fence)
    assert (ownership.owned, ownership.taken) == (frozenset({3}), (1, 1, 3))

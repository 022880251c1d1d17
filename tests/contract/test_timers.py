"""Timers: they become messages once, in the order of their times, and only by the owner."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from bus.errors import Fenced
from storage.records import MailPlace
from tests.contract.mail import given, mail_of
from tests.contract.rig import Rig, letter, turn

NEXT_TRANSACTION = "select pg_snapshot_xmax(pg_current_snapshot())"


async def test_due_timers_become_messages_once_in_the_order_of_their_times(rig: Rig) -> None:
    fence = await rig.host(0)
    [seq] = await given(rig)
    now = await rig.now()
    sends = (
        letter("x/1", "3", due=now - 1), letter("x/1", "1", due=now - 3), letter("x/1", "9", due=now + 900),
        letter("x/1", "2", due=now - 2),
    )  # fmt: skip
    assert await rig.store.commit(fence, [turn(seq, sends=sends)], []) == []
    assert (await rig.mail("x/1"), await rig.timers()) == ([], 4)
    where = MailPlace(tenant="default", partition=0, agent="x/1")
    for limit, payloads in ((2, ["1", "2"]), (10, ["1", "2", "3"])):
        assert set(await rig.store.fire_timers(fence, [0], limit)) == {where}
        assert [envelope.payload for envelope in await mail_of(rig, "x/1")] == payloads
    assert (await rig.store.fire_timers(fence, [0], 10), await rig.timers()) == ([], 1)


async def test_a_timer_fires_once_however_many_look(rig: Rig) -> None:
    fence = await rig.host(0)
    [seq] = await given(rig)
    due = await rig.now() - 1
    sends = tuple(letter("x/1", str(n), due=due) for n in range(20))
    await rig.store.commit(fence, [turn(seq, sends=sends)], [])
    await asyncio.gather(*(rig.store.fire_timers(fence, [0], 20) for _ in range(4)))
    payloads = [envelope.payload for envelope in await mail_of(rig, "x/1", messages=50)]
    assert sorted(payloads, key=int) == [str(n) for n in range(20)]


async def test_only_the_owner_of_a_partition_fires_its_timers(rig: Rig) -> None:
    mine, other = await rig.host(0), await rig.host(1)
    [seq] = await given(rig)
    due = await rig.now() - 1
    await rig.store.commit(mine, [turn(seq, sends=(letter("x/1", due=due, partition=1),))], [])
    assert await rig.store.fire_timers(mine, [0], 10) == []
    with pytest.raises(Fenced):
        await rig.store.fire_timers(mine, [0, 1], 10)
    assert len(await rig.store.fire_timers(other, [1], 10)) == 1


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)  # memory has no disk
async def test_to_look_for_what_is_due_writes_nothing(rig: Rig, database_url: str) -> None:
    """Every host looks ten times a second; a commit that waits for the disk each time would hold the turns up."""
    fence = await rig.host(0)
    connection = await asyncpg.connect(database_url)
    try:
        for _ in range(5):  # the server's own upkeep may write meanwhile
            before = await connection.fetchval(NEXT_TRANSACTION)
            assert await rig.store.fire_timers(fence, [0], 10) == []
            assert await rig.store.settle_due(fence, [0], 10) == []
            if await connection.fetchval(NEXT_TRANSACTION) == before:
                return
        pytest.fail("to look for timers and promises takes a transaction id")
    finally:
        await connection.close()

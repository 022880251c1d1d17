"""Promises that several write at once: their owner, who settles them, and other hosts that settle and let go others."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from storage.journal import Does
from storage.records import Write
from tests.contract.open_turns import AGENT, flush, opened, promise, reply
from tests.contract.rig import letter, postgres_rig, turn

_IS_BLOCKED = """
select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')
"""


async def test_a_reply_settles_a_promise_that_its_owner_writes_at_the_same_time(database: str) -> None:
    """Which row is the promise's, a statement that had to wait for that does not see: the reply was taken for a late
    one, and an ask without a timeout waited for ever."""
    async with postgres_rig(database) as rig:
        fence = await rig.host(0)
        ask = promise(target="shop/oracle/1")
        message = await opened(rig, fence, promises=(ask,))
        answered = await rig.accept(letter("oracle/1"))
        owner = await asyncpg.connect(database)
        try:
            async with owner.transaction():
                await owner.execute("update promises set given_up = true where id = $1::uuid", ask.id)
                turns = [turn(answered, agent="oracle/1", sends=(reply(ask.id),))]
                replying = asyncio.create_task(rig.store.commit(fence, turns, []))
                async with asyncio.timeout(10):
                    while not await owner.fetchval(_IS_BLOCKED):  # noqa: ASYNC110  (a state of Postgres)
                        await asyncio.sleep(0.01)
            [wake] = await replying
        finally:
            await owner.close()
        assert wake is not None
        assert [m.seq for m in await rig.mail(AGENT)] == [wake]
        await rig.store.commit(
            fence, [flush(message, Does.GO, recorded=1, consumed=(wake,), done=(ask.id,))], []
        )
        assert await rig.promises() == {}


@pytest.mark.parametrize(
    ("does", "settles"),
    [
        ({"done": ("high",)}, True),
        ({"done": ("high", "low")}, False),
        ({"given_up": (("high", True),)}, True),
        ({"given_up": (("high", True), ("low", True))}, False),
        ({"given_up": (("high", True),), "done": ("low",)}, False),
    ],
    ids=["done and settled", "done", "given up and settled", "given up", "given up and done"],
)
async def test_a_commit_locks_its_promises_in_one_order(
    database: str, does: dict[str, Any], settles: bool
) -> None:
    """As long as it has to wait for one, it holds none that comes after it: two hosts would wait for each other, until
    Postgres ends one of them a second later."""
    low, high = (promise(key=f"#{n}") for n in (1, 2))
    ids = {"low": low.id, "high": high.id}
    async with postgres_rig(database) as rig:
        fence = await rig.host(0)
        message = await opened(rig, fence, promises=(low, high))
        answered = await rig.accept(letter("oracle/1"))
        journal: dict[str, Any] = {
            "done": tuple(ids[name] for name in does.get("done", ())),
            "given_up": tuple((ids[name], value) for name, value in does.get("given_up", ())),
        }
        writes: list[Write] = [flush(message, Does.GO, recorded=2, **journal)]
        if settles:
            writes.append(turn(answered, agent="oracle/1", sends=(reply(low.id),)))
        other = await asyncpg.connect(database)
        try:
            async with other.transaction():
                await other.execute("select from promises where id = $1::uuid for update", low.id)
                committing = asyncio.create_task(rig.store.commit(fence, writes, []))
                async with asyncio.timeout(10):
                    while not await other.fetchval(_IS_BLOCKED):  # noqa: ASYNC110  (a state of Postgres)
                        await asyncio.sleep(0.01)
                await other.execute("select from promises where id = $1::uuid for update nowait", high.id)
            await committing
        finally:
            await other.close()

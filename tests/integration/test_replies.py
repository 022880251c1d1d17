"""A reply that comes while its asker writes the promise that it settles."""

from __future__ import annotations

import asyncio

import asyncpg

from storage.journal import Does
from tests.contract.rig import letter, postgres_rig, turn
from tests.contract.test_turns import AGENT, flush, opened, promise, reply

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

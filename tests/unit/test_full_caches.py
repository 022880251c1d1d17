"""Caches that are full, of messages that wait or of agents: there is room for others."""

from __future__ import annotations

from actors.domain import LimitSpec
from actors.retry import RetryPolicy
from callboard import Agent, Context, handler
from callboard.testing import TestKit
from tests.unit.agents import Keeper, Note


class Waiter(Agent):
    """Its messages wait for their next try for a long time."""

    kind = "waiter"
    retry = RetryPolicy(first_delay_s=3_600, max_delay_s=3_600)

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        raise ValueError("not now")


async def test_a_cache_full_of_messages_that_wait_leaves_room_for_others() -> None:
    limits = LimitSpec(cached_messages=1_000, cached_messages_per_agent=8)
    async with TestKit([Waiter, Keeper], partitions=1, limits=limits) as kit:
        for index in range(8 * 130):
            await kit.send(f"test/waiter/{index % 130}", Note(text="wait"))
        for index in range(40):
            await kit.send(f"test/keeper/{index % 20}", Note(text=str(index // 20)))
        await kit.quiet()
        assert all(kit.state(f"test/keeper/{index}").notes == ["0", "1"] for index in range(20))
        assert len(kit.mailbox("test/waiter/0")) == 8


async def test_idle_agents_leave_when_there_are_more_than_the_limit() -> None:
    async with TestKit([Keeper], limits=LimitSpec(activations=100)) as kit:
        for index in range(150):
            await kit.send(f"test/keeper/{index}", Note(text="x"))
        await kit.advance(seconds=2)
        [running] = kit._running
        assert len(running.host.mailboxes) == 100
        await kit.send("test/keeper/0", Note(text="y"))
        await kit.quiet()
        assert kit.state("test/keeper/0").notes == ["x", "y"]

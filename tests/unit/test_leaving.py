"""Partitions that are asked back: each leaves once nothing runs in it."""

from __future__ import annotations

import asyncio

import pytest

from actors import holdings
from callboard import Context
from tests.unit.waiter import Run, Waiter, program, until, waiters


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_partition_does_not_wait_for_what_runs_in_another_one(
    monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    monkeypatch.setattr(holdings, "DRAIN_S", 60.0)
    runs, may_end = asyncio.Event(), asyncio.Event()

    async def run(self: Waiter, ctx: Context) -> None:
        runs.set()
        await may_end.wait()
        self.state.log.append("done")

    async with waiters(hosts=2) as kit:
        await kit.send("test/waiter/w", Run(program=program(run)))
        await runs.wait()
        giver, taker = (running.host for running in kit._running)
        if not giver.workers.running:
            giver, taker = taker, giver
        [busy] = [activation.partition for activation in giver.workers.running]
        row = kit.store.hosts[("test", giver.fence.epoch)]
        given = frozenset(row.owned)
        assert len(given) > 1
        for wanted in (frozenset(), None) if at_once else (given - {busy}, frozenset()):
            if wanted is not None:
                kit.store.set_wanted(giver.fence, wanted)
                await giver.holdings.refresh()
        async with asyncio.timeout(10):
            await until(lambda: row.owned == {busy})
            may_end.set()
            await until(lambda: row.owned == frozenset())
        kit.store.grant(taker.fence, given)
        await taker.holdings.refresh()
        await kit.quiet()
        assert kit.state("test/waiter/w").log == ["done"]

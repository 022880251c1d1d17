"""Turns share the event loop with what comes in, however many workers are busy and however long a turn takes."""

from __future__ import annotations

import asyncio
import time

import pytest

from actors import slice as slices
from actors.slice import Slice


def busy(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


async def test_sixty_four_workers_with_long_turns_hold_the_loop_up_for_one_slice_and_one_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 0.002)
    shared, turns = Slice(), 0

    async def work() -> None:
        nonlocal turns
        while True:
            busy(0.001)
            turns += 1
            while shared.is_over:
                await shared.next()

    workers = [asyncio.create_task(work()) for _ in range(64)]
    await asyncio.sleep(0)  # every worker begins with one turn
    rounds = []
    for _ in range(20):
        before = turns
        await asyncio.sleep(0)
        rounds.append(turns - before)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert max(rounds) <= 3
    assert sum(rounds) >= 5  # on a busy machine a slice may pass while the process does not run


async def test_a_worker_that_comes_after_a_rest_waits_for_one_round_only() -> None:
    shared = Slice()
    assert shared.is_over
    await shared.next()
    assert not shared.is_over

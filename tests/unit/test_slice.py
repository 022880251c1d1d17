"""Turns share the event loop with what comes in, however many workers are busy and however long a turn takes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from actors import slice as slices
from actors.activation import Activation
from actors.agent import agent_type
from actors.ready import ReadyQueue
from actors.slice import Slice
from bus.envelope import Envelope, Header, header_to_json, new_id
from tests.unit.agents import Keeper

WORKERS = 64

Handle = Callable[[Activation], Awaitable[None]]


def busy(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def agent(number: int) -> Activation:
    """One with a message."""
    activation = Activation("default", f"keeper/{number}", 0, agent_type(Keeper))
    header = Header(id=new_id(), type="tests.note.v1", sender="external/test", sent_at=0.0)
    activation.insert(
        Envelope(
            seq=number, tenant="default", agent=activation.agent, header=header,
            header_json=header_to_json(header), payload="{}",
        )
    )  # fmt: skip
    return activation


@asynccontextmanager
async def workers(ready: ReadyQueue, handle: Handle) -> AsyncIterator[Counter[int]]:
    """Many that work as a host's do; how many turns each has had."""
    shared, turns = Slice(), Counter[int]()

    async def work(number: int) -> None:
        while True:
            if shared.is_over:
                shared.ask()
                activation = await ready.take_later()
            else:
                activation = ready.take_now() or await ready.take()
            turns[number] += 1
            await handle(activation)

    tasks = [asyncio.create_task(work(number)) for number in range(WORKERS)]
    await asyncio.sleep(0)
    try:
        yield turns
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def had(turns: Counter[int], count: int) -> None:
    """Let the loop go round until they have had so many."""
    for _ in range(1_000):
        if turns.total() >= count:
            return
        await asyncio.sleep(0)
    pytest.fail(f"{turns.total()} of {count} turns")


async def test_sixty_four_workers_with_long_turns_hold_the_loop_up_for_one_slice_and_one_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 0.002)
    ready = ReadyQueue()

    async def handle(activation: Activation) -> None:
        busy(0.001)
        ready.add(activation)

    async with workers(ready, handle) as turns:
        for number in range(100):
            ready.add(agent(number))
        rounds = []
        for _ in range(20):
            before = turns.total()
            await asyncio.sleep(0)
            rounds.append(turns.total() - before)
    assert max(rounds) <= 3
    assert sum(rounds) >= 5  # on a busy machine a slice may pass while the process does not run


async def test_where_no_turn_waits_one_worker_has_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        slices, "SLICE_S", 60.0
    )  # on a busy machine one passes while the process does not run
    ready = ReadyQueue()

    async def handle(activation: Activation) -> None:
        return

    async with workers(ready, handle) as turns:
        for number in range(100):
            ready.add(agent(number))
        await had(turns, 100)
        assert len(turns) == 1


async def test_where_every_turn_waits_all_workers_have_one() -> None:
    ready, wait = ReadyQueue(), asyncio.Event()

    async def handle(activation: Activation) -> None:
        await wait.wait()

    async with workers(ready, handle) as turns:
        for number in range(100):
            ready.add(agent(number))
        await had(turns, WORKERS)
        assert set(turns.values()) == {1}
        assert len(ready) == 100 - WORKERS
        wait.set()
        await had(turns, 100)


async def test_a_worker_that_comes_after_a_rest_waits_for_one_round_only() -> None:
    shared = Slice()
    assert shared.is_over
    shared.ask()
    await asyncio.sleep(0)
    assert not shared.is_over

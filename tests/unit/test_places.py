"""How many turns a host runs at the same time, and which of them take a place."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from pydantic import BaseModel

from actors.domain import LimitSpec
from bus.errors import StorageUnavailable
from callboard import Agent, Context, handler, message
from callboard.testing import TestKit
from storage.journal import Flush
from storage.records import Fence, Mark, TurnRecord

AGENTS = 6


@message("places.work.v1")
class Work(BaseModel):
    """A turn of so many steps, some of them at once."""

    steps: int = 3
    at_once: int = 1


class Stepper(Agent):
    kind = "stepper"
    may_go_on = asyncio.Event()
    at_work: list[str] = []  # noqa: RUF012  (shared on purpose)

    class State(BaseModel):
        steps: int = 0

    state: State

    @handler
    async def on_work(self, work: Work, ctx: Context) -> None:
        for number in range(work.steps):
            await ctx.gather(
                *(ctx.step(self.step, ctx.address.key, key=f"{number}-{n}") for n in range(work.at_once))
            )
        self.state.steps += work.steps * work.at_once

    async def step(self, key: str) -> str:
        Stepper.at_work.append(key)
        await Stepper.may_go_on.wait()
        return key


@pytest.fixture(autouse=True)
def clean() -> None:
    Stepper.may_go_on = asyncio.Event()
    Stepper.at_work = []


class HeldCommits:
    """Commits that wait until `open` is set; how many writes each group had."""

    def __init__(self, kit: TestKit) -> None:
        self.open = asyncio.Event()
        self.groups: list[int] = []
        self._commit = kit.store.commit
        kit.store.commit = self.commit  # type: ignore[method-assign]

    async def commit(
        self, fence: Fence, writes: Sequence[TurnRecord | Flush], marks: Sequence[Mark]
    ) -> list[int | None]:
        await self.open.wait()
        self.groups.append(len(writes))
        return await self._commit(fence, writes, marks)


async def rounds() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_turns_whose_functions_run_take_a_place_each() -> None:
    async with TestKit([Stepper], limits=LimitSpec(concurrent_turns=2)) as kit:
        for agent in range(AGENTS):
            await kit.send(f"test/stepper/{agent}", Work())
        await rounds()
        assert len(Stepper.at_work) == 2
        Stepper.may_go_on.set()
        await kit.quiet()
        assert [kit.state(f"test/stepper/{agent}").steps for agent in range(AGENTS)] == [3] * AGENTS


async def test_turns_that_wait_for_their_commit_take_none_and_go_together() -> None:
    async with TestKit([Stepper], limits=LimitSpec(concurrent_turns=2)) as kit:
        held = HeldCommits(kit)
        Stepper.may_go_on.set()
        for agent in range(AGENTS):
            await kit.send(f"test/stepper/{agent}", Work())
        await rounds()
        assert sorted(set(Stepper.at_work)) == [str(agent) for agent in range(AGENTS)]
        held.open.set()
        await kit.quiet()
        assert max(held.groups) > 2
        assert [kit.state(f"test/stepper/{agent}").steps for agent in range(AGENTS)] == [3] * AGENTS
        [host] = kit._hosts.running
        assert host.host.workers._flushing == 0


async def test_a_turn_of_which_a_branch_still_runs_keeps_its_place_while_another_is_flushed() -> None:
    class Mixed(Stepper):
        kind = "mixed"

        async def step(self, key: str) -> str:
            Stepper.at_work.append(key)
            if len(Stepper.at_work) > 1:
                await Stepper.may_go_on.wait()
            return key

    async with TestKit([Mixed], limits=LimitSpec(concurrent_turns=1)) as kit:
        held = HeldCommits(kit)
        for agent in range(AGENTS):
            await kit.send(f"test/mixed/{agent}", Work(steps=1, at_once=2))
        await rounds()
        assert len(set(Stepper.at_work)) == 1
        Stepper.may_go_on.set()
        held.open.set()
        await kit.quiet()
        assert [kit.state(f"test/mixed/{agent}").steps for agent in range(AGENTS)] == [2] * AGENTS


async def test_places_come_back_when_commits_fail() -> None:
    async with TestKit([Stepper], limits=LimitSpec(concurrent_turns=2)) as kit:
        held = HeldCommits(kit)
        Stepper.may_go_on.set()
        for agent in range(AGENTS):
            await kit.send(f"test/stepper/{agent}", Work())
        await rounds()
        [host] = kit._hosts.running
        assert host.host.workers._flushing == AGENTS
        commit = held._commit
        failed: list[bool] = []

        async def fails_once(
            fence: Fence, writes: Sequence[TurnRecord | Flush], marks: Sequence[Mark]
        ) -> list[int | None]:
            if not failed:
                failed.append(True)
                raise StorageUnavailable("The connection failed.")
            return await commit(fence, writes, marks)

        held._commit = fails_once
        held.open.set()
        async with asyncio.timeout(10):
            await kit.quiet()
        assert host.host.workers._flushing == 0
        assert [kit.state(f"test/stepper/{agent}").steps for agent in range(AGENTS)] == [3] * AGENTS

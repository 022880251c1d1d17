"""After a host's death the heads of its mailboxes are tried one by one, each attempt committed first (G7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from actors import holdings, trials
from bus.address import partition_of
from callboard import Agent, Context, handler, message
from callboard.testing import TestKit
from storage.memory import MemoryStore
from tests.unit.agents import Keeper, Note


@message("trials.job.v1")
class Job(BaseModel):
    """Takes a few passes of the event loop, or as long as the test says."""

    holds: bool = False


class Tried(Agent):
    kind = "tried"
    store: MemoryStore
    at_work: int = 0
    most_at_work: int = 0
    heads_at_work: int = 0
    overlapped: bool = False  # a first attempt and any other turn
    begun: list[str] = []  # noqa: RUF012  (shared on purpose)
    untried: list[str] = []  # noqa: RUF012
    release: asyncio.Event

    class State(BaseModel):
        done: int = 0

    state: State

    @handler
    async def on_job(self, job: Job, ctx: Context) -> None:
        agent = ctx.address.agent
        Tried.begun.append(agent)
        Tried.at_work += 1
        Tried.most_at_work = max(Tried.at_work, Tried.most_at_work)
        is_head = Tried.begun.count(agent) == 1
        Tried.heads_at_work += is_head
        Tried.overlapped |= Tried.at_work > 1 and Tried.heads_at_work > 0
        if is_head and trials_of(Tried.store).get(agent, 0) == 0:
            Tried.untried.append(agent)
        try:
            for _ in range(5):
                await asyncio.sleep(0)
            if job.holds:
                await Tried.release.wait()
        finally:
            Tried.at_work -= 1
            Tried.heads_at_work -= is_head
        self.state.done += 1


def trials_of(store: MemoryStore) -> dict[str, int]:
    return {box[3]: max(row.trials for row in rows.values()) for box, rows in store.mail.boxes.items()}


@message("trials.question.v1")
class Question(BaseModel):
    pass


class Answering(Agent):
    kind = "answering"

    @handler
    async def on_question(self, question: Question, ctx: Context) -> int:
        return 1


class Asking(Agent):
    """Holds its host once its question has been answered."""

    kind = "asking"

    @handler
    async def on_job(self, job: Job, ctx: Context) -> None:
        await ctx.ask("test/answering/a", Question())
        Tried.begun.append(ctx.address.agent)
        await Tried.release.wait()


@pytest.fixture(autouse=True)
def fresh() -> None:
    Tried.at_work = Tried.most_at_work = Tried.heads_at_work = 0
    Tried.overlapped = False
    Tried.begun, Tried.untried = [], []
    Tried.release = asyncio.Event()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is: nothing is let beside another for having taken long."""
    for module, name in ((trials, "SOLO_S"), (trials, "STANDSTILL_S"), (holdings, "QUIET_S")):
        monkeypatch.setattr(module, name, 3_600.0)


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  (of many things, none signals)
        await asyncio.sleep(0)


async def dead_with(kit: TestKit, jobs: int, *, holds: bool = False) -> None:
    """A host that dies before it has handled any of these."""
    Tried.store = kit.store
    for host in range(len(kit._running)):
        await kit.crash(host)
    for number in range(jobs):
        await kit.send(f"test/tried/{number:03}", Job(holds=holds))


async def test_each_first_attempt_runs_alone_and_is_on_record_before_it_runs(patient: None) -> None:
    async with TestKit([Tried, Keeper]) as kit:
        agents = trials.CHUNK + 30
        await dead_with(kit, agents)
        await dead_with(kit, agents)  # a second message each: beside no first attempt
        await kit.recover()
        assert len(Tried.begun) == 2 * agents
        assert not Tried.overlapped
        assert Tried.untried == []


async def test_two_takeovers_at_once_try_their_messages_in_turns(patient: None) -> None:
    async with TestKit([Tried, Keeper], hosts=2) as kit:
        await dead_with(kit, 40)
        everything = kit._running[0].partitions | kit._running[1].partitions
        for running in kit._running:
            kit.store.end_host(running.host.fence, "it crashed")
        kit._running[0] = kit._start(kit._running[0].partitions, suspect=everything)
        taker = kit._running[0].host
        await until(lambda: Tried.begun)  # it has begun with the first half...
        kit.store.grant(taker.fence, kit._running[1].partitions, kit._running[1].partitions)
        await taker.holdings.refresh()  # ...and gets the second before that is done
        await until(lambda: len(Tried.begun) == 40 and taker.is_at_rest)
        assert not Tried.overlapped


async def test_slow_first_attempts_share_the_time_in_which_their_neighbours_stand_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trials, "STANDSTILL_S", 0.05)
    async with TestKit([Tried, Keeper]) as kit:
        await dead_with(kit, 10, holds=True)
        recovery = asyncio.create_task(kit.recover())
        await until(lambda: len(Tried.begun) == 10)
        await kit.send("test/keeper/k", Note(text="next"))
        await until(lambda: kit.state("test/keeper/k").notes == ["next"])
        assert Tried.untried == []
        Tried.release.set()
        await recovery
        assert all(kit.state(f"test/tried/{n:03}").done == 1 for n in range(10))


async def test_a_death_in_a_first_attempt_leaves_few_to_be_tried_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trials, "CHUNK", 2)
    async with TestKit([Tried, Keeper]) as kit:
        await dead_with(kit, 10, holds=True)
        recovery = asyncio.create_task(kit.recover())
        await until(lambda: Tried.begun)
        assert len([count for count in trials_of(kit.store).values() if count]) == 2
        await kit.crash()
        Tried.release.set()
        await kit.recover()
        await recovery
        assert all(kit.state(f"test/tried/{n:03}").done == 1 for n in range(10))
        assert kit.dead_letters() == []


class Resting(Agent):
    """Its turn waits, and holds nothing meanwhile."""

    kind = "resting"

    @handler
    async def on_job(self, job: Job, ctx: Context) -> None:
        Tried.begun.append(ctx.address.agent)
        await ctx.sleep(1_000)


async def test_messages_that_wait_do_not_hold_up_those_that_are_tried_again_after_them(patient: None) -> None:
    async with TestKit([Resting]) as kit:
        await kit.crash()
        for number in range(5):
            await kit.send(f"test/resting/{number}", Job())
        for times in (5, 10, 10):  # those that are tried again are put away once they wait
            await kit.recover()  # which waits until nothing is left to do: the clock stands still
            assert begun_so_often(times)
            await kit.crash()
        await kit.recover()


def begun_so_often(times: int) -> bool:
    return len(Tried.begun) == times


@message("trials.deed.v1")
class Deed(BaseModel):
    kills: bool = False


class Deadly(Agent):
    kind = "deadly"
    killed: asyncio.Event

    class State(BaseModel):
        done: int = 0

    state: State

    @handler
    async def on_deed(self, deed: Deed, ctx: Context) -> None:
        if deed.kills:
            Deadly.killed.set()
            await asyncio.Event().wait()
        self.state.done += 1


class Tardy(Deadly):
    """The last of its partition."""

    kind = "tardy"


@pytest.mark.parametrize("killer", ["deadly/d", "tardy/d"])
async def test_turns_that_have_just_come_to_wait_are_not_blamed_for_what_kills_after_them(
    patient: None, killer: str
) -> None:
    Deadly.killed = asyncio.Event()
    async with TestKit([Resting, Deadly, Tardy], partitions=1) as kit:
        await kit.crash()
        for number in range(8):
            await kit.send(f"test/resting/{number}", Job())
        await kit.send(f"test/{killer}", Deed(kills=True))
        everything = kit._running[0].partitions
        for _ in range(9):
            kit.store.end_host(kit._running[0].host.fence, "it crashed")
            kit._running[0] = kit._start(everything, suspect=everything)
            await until(lambda: Deadly.killed.is_set() or kit.dead_letters())
            if kit.dead_letters():
                break
            await kit.crash()
            Deadly.killed.clear()
        await kit.quiet()
        assert [letter.address for letter in kit.dead_letters()] == [f"test/{killer}"]
        await kit.advance(seconds=1_001)
        assert all(kit.history(f"test/resting/{n}")[-1].decision == "handled" for n in range(8))
        assert len(kit.dead_letters()) == 1


async def test_what_was_under_way_comes_first_also_where_a_wake_up_waits_for_it(patient: None) -> None:
    async with TestKit([Tried, Asking, Answering]) as kit:
        last = next(f"asking/{n}" for n in range(99) if partition_of("default", f"asking/{n}", 8) == 7)
        await kit.send(f"test/{last}", Job())
        for deaths in range(1, 3):
            await until(partial(begun_so_often, deaths))
            await kit.crash()
            kit.store.end_host(kit._running[0].host.fence, "it crashed")
            if deaths == 2:
                await dead_with(kit, 10)
            everything = kit._running[0].partitions
            kit._running[0] = kit._start(everything, suspect=everything)
        await until(lambda: len(Tried.begun) > 2)
        assert Tried.begun == [last] * 3
        assert sum(trials_of(kit.store).values()) == 0
        Tried.release.set()
        await kit.quiet()
        assert len(Tried.begun) == 13


async def test_what_kills_as_soon_as_the_one_before_it_has_ended_is_found_and_that_one_not_blamed() -> None:
    Deadly.killed = asyncio.Event()
    async with TestKit([Deadly]) as kit:
        commit = kit.store.commit

        async def as_a_disk(*arguments: Any) -> Any:
            for _ in range(100):
                await asyncio.sleep(0)
            return await commit(*arguments)

        kit.store.commit = as_a_disk  # type: ignore[method-assign,assignment]
        await kit.crash()
        for kills in (False, False, True, False):
            await kit.send("test/deadly/d", Deed(kills=kills))
        everything = kit._running[0].partitions
        for _ in range(9):
            kit.store.end_host(kit._running[0].host.fence, "it crashed")
            kit._running[0] = kit._start(everything, suspect=everything)
            await until(lambda: Deadly.killed.is_set() or kit.dead_letters())
            if kit.dead_letters():
                break
            await kit.crash()
            Deadly.killed.clear()
        [letter] = kit.dead_letters()
        assert letter.message == Deed(kills=True)
        await kit.quiet()
        assert kit.state("test/deadly/d").done == 3


async def test_no_more_slow_turns_run_beside_each_other_than_the_host_allows_and_one_chunk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trials, "STANDSTILL_S", 0.02)
    monkeypatch.setattr(trials, "CHUNK", 4)
    async with TestKit([Tried, Keeper]) as kit:
        await dead_with(kit, 40, holds=True)
        for running in kit._running:
            kit.store.end_host(running.host.fence, "it crashed")
        kit._running[0] = kit._start(kit._running[0].partitions, suspect=kit._running[0].partitions)
        kit._running[0].host.trials._most_beside = 6
        await until(lambda: Tried.at_work == 8)
        for _ in range(200):
            await asyncio.sleep(0.0005)  # nothing signals that nothing more begins
        assert Tried.at_work == 8
        Tried.release.set()
        await kit.quiet()
        assert Tried.most_at_work == 8
        assert len(Tried.begun) == 40


async def test_a_trial_that_ends_because_its_partition_leaves_is_no_death(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module, name in ((trials, "SOLO_S"), (holdings, "DRAIN_S")):  # what runs is not waited for
        monkeypatch.setattr(module, name, 0.0)
    async with TestKit([Tried, Keeper], hosts=2) as kit:
        first, second = (running.partitions for running in kit._running)
        partition = partition_of("default", "tried/000", len(first | second))
        await dead_with(kit, 1, holds=True)
        for running, partitions in zip(kit._running, (first, second), strict=True):
            kit.store.end_host(running.host.fence, "it crashed")
            kit._running[kit._running.index(running)] = kit._start(partitions, suspect=partitions)
        for moves in range(1, 12):
            await until(partial(begun_so_often, moves))
            assert max(trials_of(kit.store).values()) == 1
            owner, taker = sorted(
                (running.host for running in kit._running), key=lambda host: not host.holdings.owns(partition)
            )
            await moved(kit, owner, taker)
        Tried.release.set()
        await kit.quiet()
        assert kit.dead_letters() == []


async def moved(kit: TestKit, owner: Any, taker: Any) -> None:
    """All of the owner's partitions."""
    leaving = owner.holdings.all_partitions()
    kit.store.set_wanted(owner.fence, frozenset())
    await owner.holdings.refresh()
    await until(lambda: not kit.store.hosts[("test", owner.fence.epoch)].owned)
    kit.store.grant(taker.fence, leaving)
    await taker.holdings.refresh()

"""Asks that wait for each other: the newest is refused at once, and nothing else is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from actors import cycles
from bus.errors import AskCycle, AskFailed
from callboard import Agent, Context, handler, message
from callboard.testing import TestKit


@message("cycles.work.v1")
class Work(BaseModel):
    """What an agent does: nested lists of agents to ask; `first` of them are waited for."""

    name: str = ""
    ask: list[str] = []
    first: int | None = None
    wait_s: float = 0.0
    beside_s: float | None = None
    then: Work | None = None
    later: bool = False
    ref: str = ""
    catch: bool = True


class Peer(Agent):
    kind = "peer"

    class State(BaseModel):
        log: list[str] = []
        refs: list[str] = []

    state: State

    @handler
    async def on_work(self, work: Work, ctx: Context) -> str:
        if work.name == "resolve":
            ctx.resolve(work.ref or self.state.refs[0], "resolved")
            return ""
        if work.later:
            self.state.refs.append(ctx.reply_later())
            return ""
        try:
            await self._do(work, ctx)
        except AskCycle as error:
            if not work.catch:
                raise
            self.state.log.append(" ".join(address.rpartition("/")[2] for address in error.cycle))
        self.state.log.append(work.name)
        return work.name

    async def _do(self, work: Work, ctx: Context) -> None:
        if work.wait_s:
            await ctx.sleep(work.wait_s)
        asks: list[Any] = [ctx.ask(f"test/peer/{key}", work.then or Work(name="asked")) for key in work.ask]
        if work.beside_s is not None:
            asks.append(ctx.sleep(work.beside_s))
        if len(asks) == 1:
            await asks[0]
        elif asks:
            await ctx.gather(*asks, first=work.first)


def at(key: str) -> str:
    return f"test/peer/{key}"


async def begin(kit: TestKit, **asks: Work) -> None:
    for key, work in asks.items():
        await kit.send(at(key), work)
    await kit.quiet()


def logs(kit: TestKit, keys: Sequence[str]) -> list[list[str]]:
    return [kit.state(at(key)).log for key in keys]


def leftovers(kit: TestKit) -> tuple[int, int, int]:
    waits = kit.store.waits
    return len(waits.turns), len(waits.promises.rows), sum(len(box) for box in kit.store.mail.boxes.values())


async def test_an_agent_that_asks_itself_is_refused_and_its_message_is_withdrawn() -> None:
    async with TestKit([Peer]) as kit:
        await begin(kit, a=Work(name="self", ask=["a"]))
        assert logs(kit, "a") == [["a a", "self"]]
        assert leftovers(kit) == (0, 0, 0)
        assert [step.decision for step in kit.history(at("a"))] == ["handled", "withdrawn"]


@pytest.mark.parametrize("hosts", [1, 2])
async def test_two_agents_that_began_independently(hosts: int) -> None:
    async with TestKit([Peer], hosts=hosts) as kit:
        await begin(kit, a=Work(name="of a", ask=["b"], wait_s=5), b=Work(name="of b", ask=["a"], wait_s=6))
        await kit.advance(seconds=10)
        assert logs(kit, "ab") == [["of a"], ["b a b", "of b", "asked"]]
        assert leftovers(kit) == (0, 0, 0)


async def test_one_that_is_asked_back_by_whom_it_has_asked() -> None:
    async with TestKit([Peer]) as kit:
        await begin(kit, a=Work(name="of a", ask=["b"], then=Work(name="back", ask=["a"])))
        assert logs(kit, "ab") == [["of a"], ["b a b", "back"]]
        assert leftovers(kit) == (0, 0, 0)


async def test_a_chain_of_any_length_is_closed_by_its_last_ask() -> None:
    keys = "abcdefghij"
    async with TestKit([Peer], hosts=2) as kit:
        works = {
            key: Work(name=key, ask=[keys[(place + 1) % len(keys)]], wait_s=1 + place)
            for place, key in enumerate(keys)
        }
        await begin(kit, **works)
        await kit.advance(seconds=30)
        assert logs(kit, "j") == [["j a b c d e f g h i j", "j", "asked"]]
        assert logs(kit, keys[1:-1]) == [[key, "asked"] for key in keys[1:-1]]
        assert leftovers(kit) == (0, 0, 0)


async def test_a_diamond_is_no_cycle() -> None:
    async with TestKit([Peer]) as kit:
        top = Work(name="a", ask=["b", "c"], then=Work(name="middle", ask=["d"]))
        await begin(kit, a=top)
        assert logs(kit, "abcd") == [["a"], ["middle"], ["middle"], ["asked", "asked"]]


async def test_a_cycle_through_a_branch_of_a_gather_is_refused() -> None:
    async with TestKit([Peer]) as kit:
        await begin(kit, a=Work(name="a", ask=["b", "c"], wait_s=2), c=Work(name="c", ask=["a"], wait_s=1))
        await kit.advance(seconds=10)
        assert logs(kit, "ac") == [["a c a", "a", "asked"], ["c"]]
        assert leftovers(kit) == (0, 0, 0)


@pytest.mark.parametrize("beside", ["another", "the clock"])
async def test_a_gather_that_can_do_without_the_answer_waits_for_nobody(beside: str) -> None:
    async with TestKit([Peer]) as kit:
        more = {"ask": ["b", "d"]} if beside == "another" else {"ask": ["b"], "beside_s": 9.0}
        await kit.send(at("d"), Work(name="busy", wait_s=9))
        works = {"a": Work(name="a", first=1, **more), "b": Work(name="b", ask=["a"])}
        await begin(kit, **works)
        assert logs(kit, "ab") == [[], []]
        await kit.advance(seconds=10)
        assert logs(kit, "ab") == [["a", "asked"], ["b", "asked"]]
        assert leftovers(kit) == (0, 0, 0)


async def test_a_gather_of_which_too_many_branches_are_held_is_refused() -> None:
    async with TestKit([Peer]) as kit:
        await begin(
            kit,
            a=Work(name="a", ask=["b", "c"], first=1),
            b=Work(name="b", ask=["a"], wait_s=1),
            c=Work(name="c", ask=["a"], wait_s=2),
        )
        await kit.advance(seconds=1.5)
        assert logs(kit, "abc") == [[], [], []]
        await kit.advance(seconds=1)
        assert logs(kit, "abc") == [["a", "asked"], ["b", "asked"], ["c a c", "c", "asked"]]
        assert leftovers(kit) == (0, 0, 0)


async def test_a_branch_that_was_given_up_holds_nobody() -> None:
    async with TestKit([Peer]) as kit:
        await kit.send(at("c"), Work(name="busy", wait_s=20))
        await begin(
            kit, b=Work(name="b", ask=["a"], wait_s=3), a=Work(name="a", ask=["b", "d"], first=1, wait_s=1)
        )
        await kit.advance(seconds=2)
        assert logs(kit, "ad") == [["a"], ["asked"]]
        await kit.advance(seconds=10)
        assert logs(kit, "b") == [["b", "asked"]]


async def test_an_answer_that_was_put_off_waits_for_no_turn() -> None:
    async with TestKit([Peer]) as kit:
        await begin(kit, a=Work(name="a", ask=["b"], then=Work(later=True)))
        await kit.send(at("b"), Work(name="b", ask=["a"]))
        await kit.advance(seconds=5)
        assert logs(kit, "ab") == [[], []]
        await kit.send(at("c"), Work(name="resolve", ref=kit.state(at("b")).refs[0]))
        await kit.quiet()
        assert logs(kit, "ab") == [["a", "asked"], ["b"]]


async def test_what_is_queued_behind_an_unrelated_turn_waits_for_that_one_only() -> None:
    async with TestKit([Peer]) as kit:
        await kit.send(at("b"), Work(name="unrelated", wait_s=5))
        await kit.send(at("b"), Work(name="b", ask=["a"]))
        await begin(kit, a=Work(name="a", ask=["b"]))
        assert logs(kit, "ab") == [[], []]
        await kit.advance(seconds=6)
        assert logs(kit, "ab") == [["a"], ["unrelated", "b a b", "b", "asked"]]


async def test_other_tenants_do_not_count() -> None:
    async with TestKit([Peer], tenant="acme") as kit:
        await begin(kit, a=Work(name="a", ask=["b"], wait_s=1))
        kit._post._tenant = "other"
        await begin(kit, b=Work(name="b", ask=["a"], wait_s=1))
        await kit.advance(seconds=5)
        assert logs(kit, "a") == [["a"]]
        assert kit.store.sent
        assert "cycle" not in {row.status for row in kit.store.waits.promises.rows.values()}


async def test_an_ask_cycle_that_nobody_catches_gives_the_message_up_at_once() -> None:
    async with TestKit([Peer]) as kit:
        await begin(
            kit, a=Work(name="a", ask=["b"], wait_s=1), b=Work(name="b", ask=["a"], wait_s=2, catch=False)
        )
        await kit.advance(seconds=2)
        [letter] = kit.dead_letters()
        assert (letter.failures, "AskCycle" in letter.error) == (1, True)
        assert logs(kit, "ab") == [["a"], ["asked"]]


@pytest.mark.parametrize("page", [1, 10_000])
async def test_a_look_that_died_with_its_host_is_made_up_for_by_the_next_owner(
    page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cycles, "PROMISES_A_PAGE", page)
    async with TestKit([Peer]) as kit:
        looking = kit._running[0].host.cycles
        looking.committed = lambda *_: None  # type: ignore[method-assign]  # it dies before it looks
        await begin(kit, a=Work(name="a", ask=["b"], wait_s=1), b=Work(name="b", ask=["a"], wait_s=2))
        await kit.advance(seconds=5)
        assert logs(kit, "ab") == [[], []]
        await kit.crash()
        await kit.recover()
        assert logs(kit, "ab") == [["a"], ["b a b", "b", "asked"]]
        assert leftovers(kit) == (0, 0, 0)


async def test_a_refusal_is_recorded_and_stays_whatever_becomes_of_the_cycle() -> None:
    class Twice(Peer):
        kind = "twice"

        @handler
        async def on_work(self, work: Work, ctx: Context) -> str:
            try:
                await ctx.ask("test/twice/a", work)
            except AskFailed as error:
                self.state.log.append(f"{error.reason} {len(error.cycle)}")
            await ctx.sleep(60)
            return ""

    async with TestKit([Twice]) as kit:
        await kit.send("test/twice/a", Work())
        await kit.advance(seconds=5)
        await kit.crash()
        await kit.recover()
        await kit.advance(seconds=60)
        assert kit.state("test/twice/a").log == ["cycle 2"]
        assert leftovers(kit) == (0, 0, 0)


@pytest.mark.parametrize(
    "seed", [*range(10), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(10, 40))]
)
async def test_whatever_agents_ask_each_other_all_of_it_ends(seed: int) -> None:
    rng = random.Random(seed)
    keys = "abcdef"
    async with TestKit([Peer], hosts=2) as kit:
        for n in range(rng.randint(2, 12)):
            await kit.send(at(rng.choice(keys)), _random_work(rng, keys, 3, f"w{n}"))
        await kit.advance(seconds=400)
        assert kit.dead_letters() == []
        assert leftovers(kit) == (0, 0, 0)


def _random_work(rng: random.Random, keys: str, depth: int, name: str) -> Work:
    asked = rng.sample(keys, rng.choice((0, 1, 1, 1, 2, 3))) if depth else []
    return Work(
        name=name, ask=list(asked), wait_s=rng.choice((0, 0, 1, 2.5)),
        first=rng.choice((None, None, 1)) if len(asked) > 1 else None,
        then=_random_work(rng, keys, depth - 1, f"{name}'") if depth else None,
    )  # fmt: skip


@pytest.mark.parametrize("together", [4, 1_000])
async def test_a_cycle_is_found_among_more_asks_than_are_seen_at_once(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cycles, "MOST_TOGETHER", together)
    monkeypatch.setattr(cycles, "MOST_EDGES", 6)
    others = [f"other{n}" for n in range(20)]
    async with TestKit([Peer]) as kit:
        for key in others:
            await kit.send(at(f"{key}-asked"), Work(wait_s=100))
            await kit.send(at(key), Work(name=key, ask=[f"{key}-asked"], wait_s=5))
        await begin(kit, a=Work(name="of a", ask=["b"], wait_s=5), b=Work(name="of b", ask=["a"], wait_s=5))
        await kit.advance(seconds=10)
        assert sorted(len(log) for log in logs(kit, "ab")) != [0, 0]
        await kit.advance(seconds=200)
        assert leftovers(kit) == (0, 0, 0)

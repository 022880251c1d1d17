"""Hosts that die, freeze or lose partitions: each message takes effect once, and poison does not spread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from actors import inbound
from bus import subjects
from bus.address import parse_address, partition_of
from bus.errors import CallboardError, StorageUnavailable
from bus.wire import Parcel
from callboard import Agent, Context, handler, message
from callboard.testing import TestKit
from storage.records import Attempt, Fence
from tests.unit.agents import Forward, Keeper, Note


@message("recovery.work.v1")
class Work(BaseModel):
    """Waits in its handler until the test says what happens next."""

    name: str


class Worker(Agent):
    kind = "worker"
    begun: dict[str, int] = {}  # noqa: RUF012  (shared on purpose)
    hold: asyncio.Event

    class State(BaseModel):
        done: list[str] = []

    state: State

    @handler
    async def on_work(self, work: Work, ctx: Context) -> None:
        Worker.begun[work.name] = Worker.begun.get(work.name, 0) + 1
        self.state.done.append(work.name)
        ctx.send("test/keeper/sink", Note(text=work.name))
        if work.name.startswith("step"):
            await ctx.step(str, work.name)
        if work.name.startswith(("hold", "step")):
            await Worker.hold.wait()


@pytest.fixture(autouse=True)
def fresh() -> None:
    Worker.begun.clear()
    Worker.hold = asyncio.Event()


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop run until the condition holds; the test's time limit ends a hopeless wait."""
    while not condition():  # noqa: ASYNC110  (of many things, none signals)
        await asyncio.sleep(0)


def begun_so_often(name: str, times: int) -> bool:
    return Worker.begun.get(name, 0) == times


AT, SINK = "test/worker/w", "test/keeper/sink"


async def test_a_turn_cut_off_by_a_crash_runs_again_and_takes_effect_once() -> None:
    async with TestKit([Worker, Keeper]) as kit:
        await kit.send(AT, Work(name="hold"))
        await kit.send(AT, Work(name="next"))
        await until(lambda: Worker.begun.get("hold"))
        await kit.crash()
        assert kit.state(AT).done == []
        Worker.hold.set()
        await kit.recover()
        assert kit.state(AT).done == ["hold", "next"]
        assert kit.state(SINK).notes == ["hold", "next"]
        assert Worker.begun == {"hold": 2, "next": 1}


@pytest.mark.parametrize("point", ["commit.before", "commit.after"])
@pytest.mark.parametrize("hosts", [1, 2])
async def test_a_crash_on_either_side_of_a_commit_neither_loses_nor_doubles(point: str, hosts: int) -> None:
    async with TestKit([Keeper], hosts=hosts) as kit:
        fatal = asyncio.Event()

        def passing(reached: str) -> None:
            if reached == point:
                kit.store.passing = lambda point: None
                fatal.set()
                raise asyncio.CancelledError  # the process is gone: nobody learns of the outcome

        for number in range(10):
            await kit.send("test/keeper/from", Forward(to="test/keeper/to", text=str(number)))
        kit.store.passing = passing
        await fatal.wait()
        for host in range(hosts):
            await kit.crash(host)
        await kit.recover()
        assert kit.state("test/keeper/to").notes == [str(number) for number in range(10)]
        assert len(kit.history("test/keeper/from")) == 10


@pytest.mark.parametrize("point", ["commit.before", "commit.after"])
async def test_an_answer_that_is_lost_is_settled_by_looking(point: str) -> None:
    async with TestKit([Keeper], hosts=2) as kit:
        lost = 0

        def passing(reached: str) -> None:
            nonlocal lost
            if reached == point and lost < 2:
                lost += 1
                raise StorageUnavailable("The connection was lost.")

        kit.store.passing = passing
        for number in range(10):
            await kit.send("test/keeper/from", Forward(to=f"test/keeper/to-{number % 2}", text=str(number)))
        await kit.quiet()
        assert lost == 2
        assert kit.state("test/keeper/to-0").notes == ["0", "2", "4", "6", "8"]
        assert kit.state("test/keeper/to-1").notes == ["1", "3", "5", "7", "9"]


async def test_a_host_whose_epoch_was_ended_commits_nothing_and_stops() -> None:
    async with TestKit([Worker, Keeper]) as kit:
        await kit.send(AT, Work(name="hold"))
        await until(lambda: Worker.begun.get("hold"))
        zombie = kit._running[0]
        kit.store.end_host(zombie.host.fence, "taken over")
        successor = kit.store.register_host("test")
        kit.store.grant(successor, range(8))
        Worker.hold.set()
        assert "no longer owns" in await zombie.task or "taken over" in (zombie.host.ended_why or "")
        assert kit.state(AT).done == []
        assert [m.message for m in kit.mailbox(AT)] == [Work(name="hold")]


async def test_quiet_says_when_a_host_has_ended_by_itself() -> None:
    async with TestKit([Keeper]) as kit:
        kit.store.end_host(kit._running[0].host.fence, "taken over")
        await kit.send("test/keeper/k", Note(text="x"))
        await kit._running[0].task
        with pytest.raises(CallboardError, match="has ended by itself"):
            await kit.quiet()


# -- poison ------------------------------------------------------------------------------------------


async def test_a_message_that_kills_its_host_again_and_again_becomes_a_dead_letter() -> None:
    async with TestKit([Worker, Keeper]) as kit:
        await kit.send(AT, Work(name="hold"))
        await kit.send(AT, Work(name="next"))
        for deaths in range(1, 6):
            await until(partial(begun_so_often, "hold", deaths))
            await kit.crash()
            kit.store.end_host(kit._running[0].host.fence, "it crashed")
            everything = kit._running[0].partitions
            kit._running[0] = kit._start(everything, suspect=everything)
        await kit.quiet()
        [letter] = kit.dead_letters()
        assert (letter.reason, letter.message) == ("crash_loop", Work(name="hold"))
        assert kit.state(AT).done == ["next"]


async def test_a_neighbour_that_was_interrupted_too_is_tried_and_not_blamed() -> None:
    async with TestKit([Worker, Keeper]) as kit:
        for name in ("a", "b", "c"):
            await kit.send(f"test/worker/{name}", Work(name=f"hold-{name}"))
        await until(lambda: len(Worker.begun) == 3)
        await kit.crash()
        Worker.hold.set()
        await kit.recover()
        for name in ("a", "b", "c"):
            assert kit.state(f"test/worker/{name}").done == [f"hold-{name}"]
        assert sorted(kit.state(SINK).notes) == ["hold-a", "hold-b", "hold-c"]
        assert kit.dead_letters() == []
        [host] = kit.store.hosts.values() if len(kit.store.hosts) == 1 else [kit.store.hosts[("test", 2)]]
        assert host.suspect == frozenset()


# -- partitions on the move --------------------------------------------------------------------------


def split_of(kit: TestKit) -> tuple[frozenset[int], frozenset[int]]:
    return kit._running[0].partitions, kit._running[1].partitions


async def hand_over(kit: TestKit, giver: int, taker: int, partitions: frozenset[int]) -> None:
    """What a coordinator does: ask for partitions back, and grant them once they are released."""
    fence = kit._running[giver].host.fence
    row = kit.store.hosts[("test", fence.epoch)]
    kit.store.set_wanted(fence, row.wanted - partitions)
    kit.transport.publish(subjects.placement("test"), b"changed")
    await until(lambda: not row.owned & partitions)
    kit.store.grant(kit._running[taker].host.fence, partitions)
    kit.transport.publish(subjects.placement("test"), b"changed")
    taken = kit._running[taker].host.holdings
    await until(lambda: partitions <= set(taken.open_partitions()))


@pytest.mark.parametrize("lossy", [False, True])
async def test_partitions_handed_back_and_forth_under_load_keep_order_and_lose_nothing(lossy: bool) -> None:
    async with TestKit([Keeper], hosts=2) as kit:
        first = kit._running[0].partitions
        kit.transport.lose = lambda subject: lossy and subject.startswith("callboard.agents")
        for round_ in range(4):
            for number in range(round_ * 10, round_ * 10 + 10):
                for sender in ("a", "b", "c"):
                    await kit.send(
                        f"test/keeper/from-{sender}", Forward(to="test/keeper/to", text=f"{sender}{number}")
                    )
            await hand_over(kit, round_ % 2, 1 - round_ % 2, first)
        kit.transport.lose = lambda subject: False
        for _ in range(2 * 8):
            await kit.advance(seconds=0.2)
        notes = kit.state("test/keeper/to").notes
        for sender in ("a", "b", "c"):
            assert [note for note in notes if note[0] == sender] == [f"{sender}{n}" for n in range(40)]


async def held(times: int) -> None:
    """Wait until the work that is held up was begun so many times."""
    await until(lambda: Worker.begun.get("hold") == times)


async def test_a_head_that_is_tried_alone_and_takes_long_does_not_hold_up_its_neighbours() -> None:
    async with TestKit([Worker, Keeper], partitions=1) as kit:
        await kit.send(AT, Work(name="hold"))
        recoveries = []
        for tries in (1, 2, 3):
            await held(tries)
            if tries < 3:
                await kit.crash()
                recoveries.append(asyncio.create_task(kit.recover()))
        assert [row.trials for row in kit.store.mail.boxes[("test", "default", 0, "worker/w")].values()] == [
            2
        ]
        await kit.send("test/keeper/k", Note(text="next"))
        await until(lambda: kit.state("test/keeper/k").notes == ["next"])
        Worker.hold.set()
        await asyncio.gather(*recoveries)
        assert (kit.state(AT).done, Worker.begun["hold"]) == (["hold"], 3)
        assert kit._running[0].host.trials.is_at_rest(lambda activation: False)


async def test_a_turn_that_outlasts_the_hand_over_runs_again_at_the_new_owner() -> None:
    async with TestKit([Worker, Keeper], hosts=2) as kit:
        partition = kit._partition(parse_address(AT))
        giver = 0 if partition in kit._running[0].partitions else 1
        await kit.send(AT, Work(name="hold"))
        await until(lambda: Worker.begun.get("hold"))
        fence = kit._running[giver].host.fence
        row = kit.store.hosts[("test", fence.epoch)]
        released = asyncio.Event()
        await kit.transport.subscribe(
            subjects.placement("test"),
            lambda data: released.set() if data == b"released" else None,
            lambda: None,
        )
        kit.store.set_wanted(fence, row.wanted - {partition})
        kit.transport.publish(subjects.placement("test"), b"changed")
        await released.wait()
        assert partition not in row.owned
        kit.store.grant(kit._running[1 - giver].host.fence, {partition})
        kit.transport.publish(subjects.placement("test"), b"changed")
        await until(lambda: Worker.begun["hold"] == 2)
        Worker.hold.set()
        await kit.quiet()
        assert (kit.state(AT).done, kit.state(SINK).notes) == (["hold"], ["hold"])


async def test_a_partition_that_was_away_and_is_back_before_its_host_looks_is_taken_up_anew() -> None:
    async with TestKit([Worker, Keeper], hosts=2) as kit:
        partition = kit._partition(parse_address(AT))
        first = 0 if partition in kit._running[0].partitions else 1
        blocked, other = kit._running[first].host, kit._running[1 - first].host
        async with blocked.holdings._look:  # as long as something holds its event loop
            await kit.store.take_back(blocked.fence, [partition])
            kit.transport.lose = lambda subject: subject.startswith("callboard.agents")
            await kit.send(AT, Work(name="hold"))
            kit.store.grant(other.fence, {partition})
            await other.holdings.refresh()
            await until(lambda: Worker.begun.get("hold"))
            await kit.crash(1 - first)
            kit.store.end_host(other.fence, "it crashed")
            everything = {partition} | kit._running[1 - first].partitions
            kit.store.grant(blocked.fence, everything, everything)
        await until(lambda: Worker.begun["hold"] == 2)
        assert [
            row.trials for row in kit.store.mail.boxes[("test", "default", partition, "worker/w")].values()
        ] == [1]
        Worker.hold.set()
        await until(lambda: kit.state(AT).done == ["hold"])
        await until(lambda: not kit.store.hosts[("test", blocked.fence.epoch)].suspect)


async def test_what_is_committed_for_a_partition_on_its_way_out_travels_on() -> None:
    async with TestKit([Keeper], hosts=2) as kit:
        giver = kit._running[0].host
        leaving = min(kit._running[0].partitions)
        asked, answer, release = asyncio.Event(), asyncio.Event(), kit.store.release

        async def slowly(fence: Fence, partitions: Sequence[int], attempts: Sequence[Attempt] = ()) -> None:
            await release(fence, partitions, attempts)
            asked.set()
            await answer.wait()

        kit.store.release = slowly  # type: ignore[method-assign]
        parcel = Parcel(giver.fence.epoch, leaving, 1, [])
        assert giver.holdings.take(parcel)
        kit.store.set_wanted(giver.fence, kit._running[0].partitions - {leaving})
        await giver.holdings.refresh()
        await asked.wait()
        assert not giver.holdings.take(parcel)
        answer.set()
        await until(lambda: not giver.holdings.owns(leaving))


async def test_partitions_that_leave_while_they_open_do_not_keep_the_others_from_opening() -> None:
    async with TestKit([Keeper], hosts=2) as kit:
        first, second = split_of(kit)
        leaver, taker = kit._running[0].host, kit._running[1].host
        kit.store.set_wanted(leaver.fence, frozenset())
        await leaver.holdings.refresh()
        await until(lambda: not kit.store.hosts[("test", leaver.fence.epoch)].owned)
        reading = asyncio.Event()
        load_partition = kit.store.load_partition

        async def slowly(*arguments: object, **more: object) -> object:
            reading.set()
            for _ in range(5):
                await asyncio.sleep(0)
            return await load_partition(*arguments, **more)  # type: ignore[arg-type]

        kit.store.load_partition = slowly  # type: ignore[method-assign,assignment]
        kit.store.grant(taker.fence, first)
        await taker.holdings.refresh()
        await reading.wait()
        lost = min(first)
        row = kit.store.hosts[("test", taker.fence.epoch)]
        row.owned -= {lost}
        row.wanted -= {lost}
        await taker.holdings.refresh()
        await until(lambda: set(taker.holdings.open_partitions()) == (first | second) - {lost})


async def test_a_partition_that_cannot_be_read_for_a_bug_as_it_is_opened_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither does it end the host, which another would only follow into the same."""
    monkeypatch.setattr(inbound, "_RETRY_LATER_S", 0.0)
    async with TestKit([Keeper], partitions=16) as kit:
        names = [f"keeper/{number}" for number in range(60)]
        broken = partition_of("default", names[0], 16)
        kit_load, is_mended = kit.store.load_partition, False

        async def load_partition(domain: str, partition: int, **more: Any) -> Any:
            if partition == broken and not is_mended:
                raise ValueError("a bug")
            return await kit_load(domain, partition, **more)

        monkeypatch.setattr(kit.store, "load_partition", load_partition)
        await kit.crash()
        for name in names:
            await kit.send(f"test/{name}", Note(text="x"))
        recovering = asyncio.create_task(kit.recover())
        others = [name for name in names if partition_of("default", name, 16) != broken]
        await until(lambda: all(kit.state(f"test/{name}").notes == ["x"] for name in others))
        assert kit.state(f"test/{names[0]}").notes == []
        assert not kit._running[0].host.has_ended
        is_mended = True
        await recovering
        await until(lambda: kit.state(f"test/{names[0]}").notes == ["x"])


async def test_a_stopped_domain_goes_on_where_it_was_on_another_number_of_hosts() -> None:
    async with TestKit([Keeper]) as old:
        await old.send("test/keeper/a", Forward(to="test/keeper/b", text="x", delay_s=60))
        await old.send("test/keeper/b", Note(text="before"))
        await old.quiet()
        await old.crash()
        await old.send("test/keeper/b", Note(text="meanwhile"))
        async with TestKit([Keeper], hosts=3, start=old.clock.now()) as new:
            new.store.timers = old.store.timers
            new.store.agents.states.update(old.store.agents.states)
            new.store.agents.transitions.update(old.store.agents.transitions)
            new.store.mail.boxes.update(old.store.mail.boxes)
            new.store.mail.last_seq = old.store.mail.last_seq
            for host in range(3):
                await new.crash(host)
            await new.recover()
            await new.advance(seconds=60)
            assert new.state("test/keeper/b").notes == ["before", "meanwhile", "x"]
            assert len(new.history("test/keeper/b")) == 3


async def test_states_and_open_turns_that_fill_many_pages_are_all_read() -> None:
    async with TestKit([Keeper, Worker], partitions=1) as kit:
        load_states, load_turns = kit.store.load_states, kit.store.load_turns
        pages: list[int] = []

        async def few_states(domain: str, agents: Sequence[tuple[str, str]]) -> Any:
            found, looked = await load_states(domain, agents, page_bytes=1)
            pages.append(looked)
            return found, looked

        async def one_turn(domain: str, partition: int, *, after: tuple[str, str]) -> Any:
            return await load_turns(domain, partition, after=after, turns=1)

        kit.store.load_states, kit.store.load_turns = few_states, one_turn  # type: ignore[method-assign,assignment]
        for name in ("a", "b", "c", "d"):
            await kit.send(f"test/keeper/{name}", Note(text="before"))
            await kit.send(f"test/worker/{name}", Work(name=f"step {name}"))
        await until(lambda: len(kit.store.waits.turns) == 4)
        await until(lambda: all(kit.state(f"test/keeper/{name}").notes for name in "abcd"))
        Worker.begun.clear()
        await kit.crash()
        for name in ("a", "b", "c", "d"):
            await kit.send(f"test/keeper/{name}", Note(text="after"))
        pages.clear()
        Worker.hold.set()
        await kit.recover()
        for name in ("a", "b", "c", "d"):
            assert kit.state(f"test/keeper/{name}").notes == ["before", "after"]
            assert kit.state(f"test/worker/{name}").done == [f"step {name}"]
        assert len(pages) >= 4
        assert set(Worker.begun) == {f"step {name}" for name in ("a", "b", "c", "d")}


async def test_a_host_that_has_ended_reads_no_mailbox_again() -> None:
    """Whatever still reaches it over the bus: the reads would be tried for ever, of a Postgres that it has left."""
    async with TestKit([Keeper]) as kit:
        await kit.send("test/keeper/k", Note(text="1"))
        await kit.quiet()
        mailboxes = kit._running[0].host.mailboxes
        mailboxes.close()
        mailboxes.read_agent(
            "default", "keeper/k", partition_of("default", "keeper/k", kit._hosts._partitions)
        )
        assert not mailboxes._refills._tasks

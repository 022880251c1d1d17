"""Hosts that die, freeze or are stopped: each message takes effect once, and poison does not spread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from bus.address import partition_of
from bus.errors import CallboardError, StorageUnavailable
from callboard.testing import TestKit
from tests.unit.agents import Forward, Keeper, Note
from tests.unit.held_work import AT, SINK, Work, Worker, begun_so_often
from tests.unit.waiter import until

pytestmark = pytest.mark.usefixtures("no_work")


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

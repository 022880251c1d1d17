"""Asks: an answer arrives once, however late, and one that cannot come is an error."""

from __future__ import annotations

import pytest

from actors.domain import LimitSpec
from bus.errors import AskFailed, UnknownKind
from callboard import Context
from tests.unit.agents import Note
from tests.unit.waiter import AT, Question, Run, Waiter, leftovers, program, put_away, waiters


@pytest.mark.parametrize("text", ["who", "explicit"])
async def test_an_ask_is_answered(text: str) -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        reply = await ctx.ask("test/oracle/o", Question(text=text))
        self.state.log.append(reply.text)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert kit.state(AT).log == ["re who" if text == "who" else "by hand"]
        assert len(Waiter.starts) == 1
        assert leftovers(kit) == (0, 0, 0)


async def test_an_answer_that_comes_after_the_asker_was_put_away_and_crashed_finds_it() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        reply = await ctx.ask("test/oracle/o", Question(text="later"))
        self.state.log.append(reply.text)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.send(AT, Note(text="waits"))
        await put_away(kit)
        await kit.crash()
        await kit.recover()
        assert len(Waiter.starts) == 1  # a restart costs nothing for what is not due
        assert kit.state(AT).log == []
        await kit.send("test/oracle/o", Note(text="at last"))
        await kit.quiet()
        assert kit.state(AT).log == ["at last", "note waits"]
        assert leftovers(kit) == (0, 0, 0)


async def test_an_ask_whose_message_is_given_up_fails_at_once() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        try:
            await ctx.ask("test/oracle/o", Question(text="fail"))
        except AskFailed as error:
            self.state.log.append(error.message)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        [line] = kit.state(AT).log
        assert "ValueError: no idea" in line


async def test_an_ask_times_out_by_database_time_and_a_late_answer_changes_nothing() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        try:
            await ctx.ask("test/oracle/o", Question(text="later"), timeout=30)
        except AskFailed as error:
            self.state.log.append(error.reason)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(seconds=29)
        assert kit.state(AT).log == []
        await kit.advance(seconds=2)
        assert kit.state(AT).log == ["timeout"]
        await kit.send("test/oracle/o", Note(text="too late"))
        await kit.quiet()
        assert kit.state(AT).log == ["timeout"]
        assert leftovers(kit) == (0, 0, 0)


async def test_many_asks_are_gathered_in_order_and_the_first_of_several_wins_for_good() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        replies = await ctx.gather(*(ctx.ask("test/oracle/o", Question(text=f"{n}")) for n in range(5)))
        self.state.log += [reply.text for reply in replies]
        first = await ctx.gather(
            ctx.ask("test/oracle/p", Question(text="later")),
            ctx.ask("test/oracle/q", Question(text="quick")),
            first=1,
        )
        self.state.log += [reply.text for reply in first]
        await ctx.sleep(60)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.send("test/oracle/p", Note(text="slow"))
        await kit.advance(seconds=61)
        assert kit.state(AT).log == [f"re {n}" for n in range(5)] + ["re quick"]
        assert len(Waiter.starts) > 1
        assert leftovers(kit) == (0, 0, 0)


async def test_an_ask_that_is_refused_leaves_nothing_behind() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        try:
            await ctx.ask("test/nobody/x", Question(text="?"), timeout=30)
        except UnknownKind:
            self.state.log.append("refused")
        ctx.send("test/keeper/k", Note(text="once"))
        await ctx.sleep(60)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=61)
        assert kit.state(AT).log == ["refused"]
        assert kit.state("test/keeper/k").notes == ["once"]
        assert leftovers(kit) == (0, 0, 0)


async def test_an_answer_above_the_claim_check_arrives_whole() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        reply = await ctx.ask("test/oracle/o", Question(text="x" * 5_000))
        self.state.log.append(str(len(reply.text)))
        await ctx.sleep(60)

    async with waiters(limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=61)
        assert kit.state(AT).log == [str(5_000 + len("re "))]

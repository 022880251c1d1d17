"""A key that changes while a turn waits: nothing acts a second time under the new one."""

from __future__ import annotations

from typing import Any

import pytest

from actors.retry import RetryPolicy
from bus.errors import AskFailed, InvalidMessage
from callboard import Agent, Context, handler, tool
from callboard.testing import TestKit
from tests.unit.agents import Note

AT = "test/till/t"


class Till(Agent):
    """Pays, asks, and waits; a test changes its keys meanwhile."""

    kind = "till"
    keys: dict[str, str | None] = {}  # noqa: RUF012  (shared on purpose)
    does: list[str] = []  # noqa: RUF012
    retry = RetryPolicy(attempts=2, first_delay_s=1.0, jitter=0.0)

    @handler
    async def on_note(self, note: Note, ctx: Context) -> Any:
        return await getattr(self, note.text)(ctx)

    async def pays(self, ctx: Context) -> None:
        await ctx.call(pay, "a", key=Till.keys.get("pay"))
        await ctx.sleep(60, key="pause")

    async def asks(self, ctx: Context) -> None:
        await ctx.ask("test/clerk/c", Note(text="x"), key=Till.keys.get("ask"))
        await ctx.sleep(60, key="pause")

    async def pays_beside(self, ctx: Context) -> None:
        await ctx.gather(self.pays(ctx), ctx.call(pay, "b"))
        await ctx.call(pay, "c")

    async def fails_over(self, ctx: Context) -> None:
        """The ask fails, the call after it does not, and the turn fails of the ask: that one is made anew."""
        try:
            await ctx.ask("test/clerk/c", Note(text="closed"))
        except AskFailed:
            await ctx.call(pay, "b")
            raise


class Clerk(Agent):
    kind = "clerk"

    @handler
    async def on_note(self, note: Note, ctx: Context) -> str:
        Till.does.append(f"answer {note.text}")
        if note.text == "closed":
            raise InvalidMessage("closed")
        return note.text


@tool(effect="at_most_once")
def pay(name: str) -> str:
    Till.does.append(f"pay {name}")
    return name


@pytest.fixture(autouse=True)
def fresh() -> None:
    Till.keys, Till.does = {}, []


@pytest.mark.parametrize(("program", "which", "did"), [("pays", "pay", "pay a"), ("asks", "ask", "answer x")])
@pytest.mark.parametrize(("before", "after"), [(None, "k"), ("k", None), ("k", "l")])
async def test_what_has_acted_does_not_act_again_under_another_key(
    program: str, which: str, did: str, before: str | None, after: str | None
) -> None:
    async with TestKit([Till, Clerk]) as kit:
        Till.keys = {which: before}
        await kit.send(AT, Note(text=program))
        await kit.quiet()
        assert Till.does == [did]
        await kit.crash()
        Till.keys = {which: after}
        await kit.recover()
        await kit.advance(hours=1)
        assert (Till.does, kit.lifecycle(AT)) == ([did], "paused")
        [note] = kit.history(AT)[-1].notes
        assert (note["place"], note["recorded"].endswith(f"at {before or '#1'}")) == (after or "#1", True)
        Till.keys = {which: before}
        await kit.resume(AT)
        await kit.advance(hours=1)
        assert (Till.does, kit.lifecycle(AT), kit.dead_letters()) == ([did], "running", [])


async def test_calls_of_other_branches_are_not_waited_for() -> None:
    async with TestKit([Till]) as kit:
        await kit.send(AT, Note(text="pays_beside"))
        await kit.quiet()
        await kit.crash()
        await kit.recover()
        await kit.advance(hours=1)
        assert sorted(Till.does) == ["pay a", "pay b", "pay c"]
        assert kit.dead_letters() == []


async def test_what_is_made_anew_has_others_after_it() -> None:
    async with TestKit([Till, Clerk]) as kit:
        await kit.send(AT, Note(text="fails_over"))
        await kit.quiet()
        assert Till.does == ["answer closed", "pay b"]
        await kit.advance(hours=1)
        assert Till.does == ["answer closed", "pay b", "answer closed"]
        assert [letter.reason for letter in kit.dead_letters(AT)] == ["failed"]

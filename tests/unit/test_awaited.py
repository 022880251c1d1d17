"""A call that a handler begins and does not await fails its turn: it has done nothing, and the handler believes it has."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from callboard import Context, tool
from tests.unit.agents import Note
from tests.unit.waiter import AT, Question, Run, Waiter, call, leftovers, program, waiters

Begin = Callable[[Context], Coroutine[Any, Any, Any]]


@tool(effect="pure")
async def noted(text: str) -> str:
    Waiter.calls.append(text)
    return text


FORGOTTEN: list[tuple[str, Begin]] = [
    ("step", lambda ctx: ctx.step(call, "a")),
    ("call", lambda ctx: ctx.call(noted, "a")),
    ("ask", lambda ctx: ctx.ask("test/oracle/o", Question(text="a"))),
    ("sleep", lambda ctx: ctx.sleep(1)),
    ("promise", lambda ctx: ctx.promise("p")),
    ("approval", lambda ctx: ctx.approval("do it")),
    ("gather", lambda ctx: ctx.gather(ctx.step(call, "a", key="a"), ctx.step(call, "b", key="b"))),
    ("chat", lambda ctx: ctx.model("m").chat("hello")),
    ("embed", lambda ctx: ctx.model("m").embed("hello")),
]


@pytest.mark.parametrize(("name", "begin"), FORGOTTEN, ids=[name for name, _ in FORGOTTEN])
@pytest.mark.parametrize("later", [False, True], ids=["alone", "after one that was awaited"])
async def test_it_fails_the_turn_and_leaves_nothing(name: str, begin: Begin, later: bool) -> None:
    async def forgetful(self: Waiter, ctx: Context) -> None:
        if later:
            await ctx.step(call, "before")
        begun = begin(ctx)
        ctx.send("test/keeper/k", Note(text="done"))
        self.state.log.append("done")
        del begun

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(forgetful)))
        await kit.quiet()
        [letter] = kit.dead_letters()
        assert (
            f"NotAwaited: The handler has called {name} and not awaited it, so nothing was done."
            in letter.error
        )
        assert f"Write `await` before each call of {name}." in letter.error
        assert Waiter.calls == (["before"] if later else [])
        assert kit.sent() == []
        assert leftovers(kit) == (0, 0, 0)


async def test_one_that_is_awaited_in_whatever_way_is_none() -> None:
    kept: list[int] = []

    async def diligent(self: Waiter, ctx: Context) -> None:
        first, third = ctx.step(call, "a", key="a"), ctx.sleep(0.5, key="t")
        second = ctx.step(call, "b", key="b")
        assert await second == "B"
        assert await first == "A"
        await third
        await ctx.gather(ctx.sleep(1, key="s"), ctx.step(call, "c", key="c"), first=1)
        for number in range(100):
            await ctx.step(call, str(number), key=str(number))
        kept.append(len(ctx._begun))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(diligent)))
        await kit.advance(seconds=2)
        assert kit.dead_letters() == []
        assert len(Waiter.calls) == 103
        assert kept[0] < 10

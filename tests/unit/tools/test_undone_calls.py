"""Calls of a turn that was undone: whoever has its message handled again has them made again."""

from __future__ import annotations

from typing import Any

import pytest

from actors.retry import NO_RETRY
from callboard import Agent, Context, handler, tool
from callboard.testing import TestKit
from storage.ledger import Effect
from tests.unit.agents import Note

AT = "test/shop/s"


class Shop(Agent):
    """Pays, and fails until its code is mended."""

    kind = "shop"
    mended = False
    undoes = True
    can_undo = True
    does: list[str] = []  # noqa: RUF012  (shared on purpose)
    keys: set[str] = set()  # noqa: RUF012
    effect: Effect = Effect.AT_MOST_ONCE

    @handler(retry=NO_RETRY)
    async def on_note(self, note: Note, ctx: Context) -> None:
        def undo(name: str) -> None:
            if not Shop.can_undo:
                raise ValueError("the bank is closed")
            Shop.does.append(f"undo {name}")

        await ctx.call(pay if Shop.effect is Effect.AT_MOST_ONCE else pay_by_key, note.text)
        if Shop.undoes:
            ctx.compensate(undo, note.text, retry=NO_RETRY)
        if not Shop.mended:
            raise ValueError("not mended yet")


@tool(effect="at_most_once")
def pay(name: str) -> str:
    Shop.does.append(f"pay {name}")
    return name


@tool(effect="idempotent")
def pay_by_key(name: str, idempotency_key: str) -> str:
    if idempotency_key not in Shop.keys:
        Shop.keys.add(idempotency_key)
        Shop.does.append(f"pay {name}")
    return name


@pytest.fixture(autouse=True)
def fresh() -> None:
    Shop.mended, Shop.undoes, Shop.can_undo, Shop.effect = False, True, True, Effect.AT_MOST_ONCE
    Shop.does, Shop.keys = [], set()


async def again(kit: TestKit) -> Any:
    [letter] = kit.dead_letters()
    await kit.retry_dead_letter(letter.id)
    await kit.quiet()


@pytest.mark.parametrize("effect", [Effect.AT_MOST_ONCE, Effect.IDEMPOTENT])
async def test_what_was_undone_is_done_again_and_undone_once_for_each_time(effect: Effect) -> None:
    Shop.effect = effect
    async with TestKit([Shop]) as kit:
        await kit.send(AT, Note(text="a"))
        await kit.quiet()
        await again(kit)
        assert Shop.does == ["pay a", "undo a", "pay a", "undo a"]
        Shop.mended = True
        await again(kit)
        assert Shop.does == ["pay a", "undo a"] * 2 + ["pay a"]
        assert kit.dead_letters() == []


async def test_what_a_turn_without_compensations_has_done_is_not_done_again() -> None:
    Shop.undoes = False
    async with TestKit([Shop]) as kit:
        await kit.send(AT, Note(text="a"))
        await kit.quiet()
        await again(kit)
        Shop.mended = True
        await again(kit)
        assert Shop.does == ["pay a"]


async def test_what_a_later_turn_has_taken_over_and_undone_is_done_again() -> None:
    Shop.undoes = False
    async with TestKit([Shop]) as kit:
        await kit.send(AT, Note(text="a"))
        await kit.quiet()
        Shop.undoes = True  # newer code
        await again(kit)
        assert Shop.does == ["pay a", "undo a"]
        Shop.mended = True
        await again(kit)
        assert Shop.does == ["pay a", "undo a", "pay a"]


async def test_what_could_not_be_undone_is_not_done_again() -> None:
    Shop.can_undo = False
    async with TestKit([Shop]) as kit:
        await kit.send(AT, Note(text="a"))
        await kit.quiet()
        assert [letter.reason for letter in kit.dead_letters()] == ["not_undone"]
        Shop.mended = True
        await again(kit)
        assert Shop.does == ["pay a"]

"""Calls beside each other end the same way whenever their turn runs again."""

from __future__ import annotations

from typing import Any

import pytest

from bus.errors import StepFailed
from callboard import Context
from tests.unit.waiter import AT, Run, Waiter, program, waiters


@pytest.mark.parametrize("waits_s", [0.0, 10.0])
async def test_an_error_that_has_ended_other_calls_stays_when_the_turn_fails_of_it_again(
    waits_s: float,
) -> None:
    def flaky() -> str:
        Waiter.calls.append("flaky")
        if len(Waiter.calls) == 1:
            raise ValueError("once")
        return "now it would work"

    async def ended(self: Waiter, ctx: Context) -> Any:
        try:
            await ctx.gather(ctx.step(flaky), ctx.sleep(1_000))
        except StepFailed:
            await ctx.sleep(waits_s)  # the choice is committed; the longer one has the turn leave memory
            raise

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(ended)))
        await kit.quiet()
        await kit.advance(seconds=2)
        await kit.advance(seconds=60)
        assert [step.decision for step in kit.history(AT)] == ["dead_letter"]
        assert Waiter.calls == ["flaky"]
        assert len(Waiter.starts) == (4 if waits_s else 3)

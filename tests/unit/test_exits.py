"""Functions of authors that exit, or panic: their call has failed, and the agents beside them notice nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from actors import inquiry
from actors.domain import LimitSpec
from actors.retry import RetryPolicy
from bus.errors import StepFailed
from callboard import Agent, Context, handler, tool
from callboard.testing import TestKit
from tests.unit.agents import Note
from tests.unit.tools.caller import AT, KINDS, Caller, run_once, statuses

AT_ONCE = RetryPolicy(first_delay_s=0.0)  # these tries wait in real time


class Panic(BaseException):
    """What a library written in Rust raises."""


def exits() -> None:
    sys.exit(3)


async def exits_async() -> None:
    sys.exit(3)


def panics() -> None:
    raise Panic("index out of bounds")


async def panics_async() -> None:
    raise Panic("index out of bounds")


any_end = pytest.mark.parametrize("ends", [exits, exits_async, panics, panics_async])


async def every_try(kit: TestKit, run: Callable[[Caller, Context], Any]) -> list[str]:
    """The words of the dead letters, after all tries; the host must be the one that it was."""
    host = kit._running[0].host
    await run_once(kit, run)
    await kit.advance(minutes=5)
    assert not host.has_ended
    return [letter.error for letter in kit.dead_letters()]


@any_end
async def test_a_tool_that_exits_leaves_its_outcome_unknown(ends: Callable[[], Any]) -> None:
    act = tool(on_unknown="fail")(ends)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(act)

    async with TestKit(KINDS) as kit:
        (error,) = await every_try(kit, run)
        assert error.startswith(f"EffectUnknown: Whether {ends.__name__} has acted is unknown.")
        assert statuses(kit) == [(ends.__name__, "unknown", 1)]


@any_end
async def test_a_function_that_is_to_find_out_and_exits_leaves_it_to_a_person(
    ends: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inquiry, "LOOKS", AT_ONCE)

    @tool(on_unknown=ends)
    async def act() -> None:
        raise ValueError("broke")

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(act)

    async with TestKit(KINDS) as kit, asyncio.timeout(30):
        assert await every_try(kit, run) == []
        (question,) = kit.approvals()
        assert "on_unknown has failed" in question.details["why"]


@any_end
async def test_a_step_that_exits_has_failed_alone_and_beside_others(ends: Callable[[], Any]) -> None:
    async def run(self: Caller, ctx: Context) -> None:
        with pytest.raises(StepFailed, match="failed: RuntimeError: "):
            await ctx.step(ends)
        with pytest.raises(StepFailed, match="failed: RuntimeError: "):
            await ctx.gather(ctx.step(ends), ctx.sleep(1))
        self.state.log.append("went on")

    async with TestKit(KINDS) as kit:
        assert await every_try(kit, run) == []
        assert kit.state(AT).log == ["went on"]


async def test_a_branch_that_exits_fails_its_turn() -> None:
    async def run(self: Caller, ctx: Context) -> None:
        await ctx.gather(exits_async(), ctx.sleep(1))

    async with TestKit(KINDS) as kit:
        assert await every_try(kit, run) == ["RuntimeError: SystemExit: 3"]


async def cut_off() -> None:
    """As something that it waits for is cancelled by others."""
    raise asyncio.CancelledError


@pytest.mark.parametrize("ends", [exits, exits_async, panics, panics_async, cut_off])
async def test_a_compensation_that_exits_has_failed_and_the_others_run(ends: Callable[[], Any]) -> None:
    undone: list[str] = []

    async def run(self: Caller, ctx: Context) -> None:
        ctx.compensate(undone.append, "first")
        ctx.compensate(ends, retry=AT_ONCE)
        raise ValueError("broke")

    async with TestKit(KINDS) as kit:
        (error,) = await every_try(kit, run)
        assert f"not undone: {ends.__name__} (RuntimeError: " in error
        assert undone == ["first"]


class Leaver(Agent):
    """Has a hook that exits or panics when its agent leaves memory."""

    kind = "leaver"
    ends: Callable[[], Any]

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None: ...

    async def on_passivated(self) -> None:
        Leaver.ends()


@pytest.mark.parametrize("ends", [exits, panics])
async def test_a_hook_that_exits_does_not_end_eviction(ends: Callable[[], Any]) -> None:
    Leaver.ends = staticmethod(ends)
    async with TestKit([Leaver], limits=LimitSpec(idle_s=10)) as kit:
        host = kit._running[0].host
        for key in "ab":
            await kit.send(f"test/leaver/{key}", Note(text=""))
            await kit.quiet()
            await kit.advance(seconds=12)
        await kit.advance(seconds=12)
        assert not host.has_ended
        assert len(host.mailboxes) == 0

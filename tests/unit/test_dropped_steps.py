"""A run of a turn whose agent starts again from committed state makes no further try of what it calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from actors import attempts, effects, inquiry
from actors.activation import Activation
from actors.host import Host
from actors.inquiry import Inquiry
from actors.retry import RetryPolicy
from actors.tool import Happened, Tool
from callboard import Context, tool
from callboard.testing import TestKit
from tests.unit.waiter import AT, Run, Waiter, leftovers, program, waiters

RETRY = RetryPolicy(attempts=3, first_delay_s=0.01)


def plain() -> int:
    Waiter.calls.append("try")
    if len(Waiter.calls) == 1:
        raise ValueError("once")
    return len(Waiter.calls)


async def own() -> int:
    return plain()


@tool(effect="pure", retry=RETRY)
async def pure() -> int:
    return plain()


@tool(effect="idempotent", retry=RETRY)
async def idempotent(idempotency_key: str) -> int:
    return plain()


def dropped(kit: TestKit) -> tuple[Host, Activation]:
    """The agent that is at work, which does not start again yet."""
    host = kit._running[0].host
    [activation] = host.mailboxes.roster.in_partitions(host.holdings._held)
    host.mailboxes.drop(activation)
    host.committer.drop_dead()
    return host, activation


@pytest.mark.parametrize(
    "called", [plain, own, pure, idempotent], ids=["thread", "async", "pure", "idempotent"]
)
async def test_one_that_is_dropped_in_the_pause_before_a_try_leaves_it_to_the_next_run(
    monkeypatch: pytest.MonkeyPatch, called: Callable[..., Any] | Tool
) -> None:
    pauses, may_go_on, left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.set()
        await may_go_on.wait()

    async def run(self: Waiter, ctx: Context) -> None:
        try:
            tried = ctx.call(called) if isinstance(called, Tool) else ctx.step(called, retry=RETRY)
            self.state.log.append(str(await tried))
        finally:
            left.set()

    for module in (attempts, effects):
        monkeypatch.setattr(module, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": pause}))
    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await asyncio.wait_for(pauses.wait(), 5)
        host, activation = dropped(kit)
        may_go_on.set()
        await asyncio.wait_for(left.wait(), 5)
        assert Waiter.calls == ["try"]
        host.settling.restart(activation)
        await kit.quiet()
        assert Waiter.calls == ["try", "try"]
        assert kit.state(AT).log == ["2"]
        assert leftovers(kit) == (0, 0, 0)


@pytest.mark.parametrize("dropped_before", [1, 2])
async def test_one_that_is_dropped_before_a_look_at_what_its_call_did_leaves_that_to_the_next_run(
    monkeypatch: pytest.MonkeyPatch, dropped_before: int
) -> None:
    pauses, may_go_on, left = asyncio.Event(), asyncio.Event(), asyncio.Event()
    still_acting = [True] * (dropped_before == 1)

    async def pause(seconds: float) -> None:
        pauses.set()
        await may_go_on.wait()

    async def can_act_no_more(self: Inquiry, intent: inquiry.Intent) -> bool:
        return not (still_acting and still_acting.pop())

    def look() -> Happened:
        Waiter.calls.append("look")
        if len(Waiter.calls) < dropped_before:
            raise ConnectionError("no route")
        return Happened(7)

    @tool(effect="at_most_once", on_unknown=look)
    async def cut() -> int:
        raise ConnectionError("cut")

    async def run(self: Waiter, ctx: Context) -> None:
        try:
            self.state.log.append(str(await ctx.call(cut)))
        finally:
            left.set()

    monkeypatch.setattr(inquiry, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": pause}))
    monkeypatch.setattr(Inquiry, "_can_act_no_more", can_act_no_more)
    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await asyncio.wait_for(pauses.wait(), 5)
        host, activation = dropped(kit)
        may_go_on.set()
        await asyncio.wait_for(left.wait(), 5)
        assert Waiter.calls == ["look"] * (dropped_before - 1)
        host.settling.restart(activation)
        await kit.quiet()
        assert Waiter.calls == ["look"] * dropped_before
        assert kit.state(AT).log == ["7"]
        assert leftovers(kit) == (0, 0, 0)

"""What comes after a handler that was told to end: its calls are waited for, and what it makes of that does not count."""

from __future__ import annotations

import asyncio
import time
from typing import Any, NoReturn

import pytest

from actors import turn, workers
from actors.domain import LimitSpec
from bus.errors import InvalidMessage
from callboard import Context, tool
from callboard.testing import TestKit
from tests.unit.waiter import AT, KINDS, Run, Waiter, open_turns, program, put_away, waiters


async def test_a_call_that_takes_longer_than_its_turn_may_is_waited_for_and_its_host_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "_OVERDUE_EVERY_S", 0.01)
    acted = asyncio.Event()

    @tool(effect="at_most_once", timeout=30)
    async def slow(name: str) -> str:
        await asyncio.sleep(0.3)  # many looks for what is overdue
        acted.set()
        return name

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.call(slow, "a")

    async with TestKit(KINDS, limits=LimitSpec(turn_s=0.05)) as kit:
        await kit.send(AT, Run(program=program(run)))
        async with asyncio.timeout(5):
            await acted.wait()
        assert not kit._running[0].host.has_ended


async def test_a_failure_before_the_handler_is_written_down_however_long_that_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "_OVERDUE_EVERY_S", 0.01)

    def unreadable(*arguments: Any) -> NoReturn:
        raise InvalidMessage("of another time")

    async def run(self: Waiter, ctx: Context) -> None:
        promise = await ctx.promise("payment")
        Waiter.calls.append(promise.ref)
        await promise

    slow = asyncio.Event()
    monkeypatch.setattr(workers, "monotonic", lambda: time.monotonic() + (3_600 if slow.is_set() else 0))
    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        monkeypatch.setattr(turn, "decode_payload", unreadable)
        commit = kit.store.commit

        async def takes_long(fence: Any, writes: Any, marks: Any) -> Any:
            if not slow.is_set():
                slow.set()
                await asyncio.sleep(0.3)  # many looks for what is overdue
            return await commit(fence, writes, marks)

        kit.store.commit = takes_long  # type: ignore[method-assign]
        await kit.resolve(Waiter.calls[0], "paid")
        await kit.quiet()
        assert slow.is_set()
        assert not kit._running[0].host.has_ended
        assert [letter.reason for letter in kit.dead_letters()] == ["invalid_message"]


async def test_a_handler_that_swallows_that_it_is_put_away_loses_no_wake_up() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        promise = await ctx.promise("payment")
        Waiter.calls.append(promise.ref)
        try:
            self.state.log.append(await promise)
        except asyncio.CancelledError:
            swallowed.set()
            await settled.wait()

    swallowed, settled = asyncio.Event(), asyncio.Event()
    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        host = kit._running[0].host
        activation = host.mailboxes.roster.find(("default", AT.removeprefix("test/")))
        assert activation is not None
        await host.waiting.put_away(activation)
        async with asyncio.timeout(5):
            await swallowed.wait()
        assert await kit.resolve(Waiter.calls[0], "paid")
        for _ in range(20):  # until the wake-up has reached the host
            await asyncio.sleep(0)
        settled.set()
        await kit.quiet()
        assert kit.state(AT).log == ["paid"]
        assert open_turns(kit) == 0

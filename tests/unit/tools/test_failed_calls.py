"""Calls that fail or take too long: what is known of them, and what may be tried again."""

from __future__ import annotations

import asyncio
import threading

import pytest

from actors import inquiry
from actors.retry import RetryPolicy
from bus.errors import EffectUnknown, NotDone, ToolFailed
from callboard import Context, NotHappened, tool
from callboard.testing import TestKit
from tests.unit.tools.caller import AT, KINDS, Caller, World, blocking, crashed_in_call, run_once, statuses


async def test_a_tool_that_says_it_has_not_acted_has_failed_and_may_be_tried_again(world: World) -> None:
    world.fails = [NotDone("the firewall refused"), NotDone("again")]
    block = blocking(world, retry=RetryPolicy(attempts=3, first_delay_s=0.0))

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append(f"{(await ctx.call(block, '192.0.2.1')).id}")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        assert (kit.state(AT).log, world.calls) == (["1"], ["192.0.2.1"])
        assert statuses(kit) == [("block_address", "succeeded", 3)]


async def test_a_failure_that_is_known_is_no_obstacle_to_the_next_try_of_the_turn(world: World) -> None:
    world.fails = [NotDone("closed")]
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append(f"{(await ctx.call(block, '192.0.2.1')).id}")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        assert world.calls == []
        await kit.advance(seconds=30)
        assert (kit.state(AT).log, world.calls) == (["1"], ["192.0.2.1"])


async def test_a_handler_may_go_on_from_a_failed_call(world: World) -> None:
    world.fails = [NotDone("closed.")]
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        with pytest.raises(ToolFailed, match=r"block_address failed: NotDone: closed\.$"):
            await ctx.call(block, "192.0.2.1")
        self.state.log.append("went on")
        await ctx.sleep(60)

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=2)
        assert kit.state(AT).log == ["went on"]
        assert kit.dead_letters() == []
        assert statuses(kit) == [("block_address", "failed", 1)]


@pytest.mark.parametrize("error", [ConnectionError("reset after the request"), ValueError("no JSON")])
async def test_any_other_error_leaves_the_outcome_unknown(world: World, error: Exception) -> None:
    world.fails = [error]
    block = blocking(world, on_unknown="fail")

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=5)
        assert world.calls == []
        assert statuses(kit) == [("block_address", "unknown", 1)]


async def test_a_timeout_leaves_the_outcome_unknown(world: World) -> None:
    world.gate = asyncio.Event()
    block = blocking(world, timeout=0.01, on_unknown="fail")

    async def run(self: Caller, ctx: Context) -> None:
        with pytest.raises(EffectUnknown):
            await ctx.call(block, "192.0.2.1")
        self.state.log.append("unknown")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        assert kit.state(AT).log == ["unknown"]


async def test_a_look_counts_only_from_when_nothing_can_act_any_more(world: World) -> None:
    known: list[bool] = []
    kits: list[TestKit] = []

    def look(address: str, minutes: int) -> None:
        known.append(kits[0].store.hosts[("test", 1)].gone)

    block = blocking(world, on_unknown=look)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    async with TestKit(KINDS) as kit:
        kits.append(kit)
        kit.processes_are_gone = False
        asyncio.get_running_loop().call_later(
            0.2, lambda: setattr(kit.store.hosts[("test", 1)], "gone", True)
        )
        await crashed_in_call(kit, world, run)
        assert known == [True]


async def test_a_thread_that_runs_past_its_timeout_may_still_act_so_nothing_is_called_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inquiry, "GONE_WITHIN_S", 0.0)
    may_end, calls = threading.Event(), []

    @tool(timeout=0.05, on_unknown=lambda address: NotHappened())
    def block(address: str) -> None:
        calls.append(address)
        may_end.wait(10)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    try:
        async with TestKit(KINDS) as kit:
            await run_once(kit, run)
            assert len(kit.approvals()) == 1
            assert calls == ["192.0.2.1"]
    finally:
        may_end.set()


@pytest.mark.parametrize("ends", [True, False])
async def test_a_person_is_asked_about_a_late_call_once_its_thread_has_ended_or_hears_that_it_has_not(
    monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    monkeypatch.setattr(inquiry, "_LOOK_EVERY_S", 0.01)
    if not ends:
        monkeypatch.setattr(inquiry, "GONE_WITHIN_S", 0.0)
    may_end, late, asked_before = threading.Event(), asyncio.Event(), []

    @tool(timeout=0.05)
    def block(address: str) -> None:
        may_end.wait(10)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    def at_its_timeout() -> None:
        asked_before.extend(kit.approvals())
        late.set()
        may_end.set()

    try:
        async with TestKit(KINDS) as kit:
            if ends:
                asyncio.get_running_loop().call_later(0.3, at_its_timeout)
            await run_once(kit, run)
            (asked,) = kit.approvals()
            why = "it has not returned within its timeout of 0.05 s"
            still = "; what was to make it may still do so"
            assert (asked.details["why"], asked_before) == (why if ends else why + still, [])
            assert late.is_set() is ends
    finally:
        may_end.set()


async def test_a_call_of_a_branch_that_is_given_up_is_not_cut_short(world: World) -> None:
    world.gate = gate = asyncio.Event()
    block = blocking(world)

    async def breaks() -> None:
        if not world.calls:
            await world.begun.wait()
            asyncio.get_running_loop().call_later(0.01, gate.set)
            raise ValueError("the other branch")

    async def run(self: Caller, ctx: Context) -> None:
        receipt, _ = await ctx.gather(ctx.call(block, "192.0.2.1"), ctx.step(breaks))
        self.state.log.append(f"{receipt.id}")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        assert statuses(kit) == [("block_address", "succeeded", 1)]
        await kit.advance(seconds=30)
        assert (kit.state(AT).log, world.calls) == (["1"], ["192.0.2.1"])


async def test_an_idempotent_call_of_a_branch_that_is_given_up_is_not_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    given_up, calls = asyncio.Event(), []

    @tool(effect="idempotent", retry=RetryPolicy(attempts=20, first_delay_s=0.0))
    async def act(idempotency_key: str) -> None:
        calls.append(idempotency_key)
        await given_up.wait()
        raise ConnectionError("reset")

    async def run(self: Caller, ctx: Context) -> None:
        async def wins() -> None:
            while not calls:  # noqa: ASYNC110  (of a list)
                await asyncio.sleep(0)

        await ctx.gather(ctx.call(act), wins(), first=1)
        given_up.set()

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        assert len(calls) == 1
        assert statuses(kit) == [("act", "unknown", 1)]
    assert "act failed, and its branch has been given up: ConnectionError: reset" in caplog.text


async def test_an_idempotent_call_that_fails_once_a_call_beside_it_has_is_made_again_with_its_turn() -> None:
    failed, calls = asyncio.Event(), []

    @tool(effect="idempotent", retry=RetryPolicy(attempts=2, first_delay_s=0.0))
    async def act(idempotency_key: str) -> None:
        calls.append(idempotency_key)
        await failed.wait()
        if len(calls) == 1:
            raise ConnectionError("reset")

    async def run(self: Caller, ctx: Context) -> None:
        async def fails() -> None:
            while not calls:  # noqa: ASYNC110  (of a list)
                await asyncio.sleep(0)
            if not failed.is_set():
                asyncio.get_running_loop().call_soon(failed.set)
                raise ValueError("once")

        await ctx.gather(ctx.call(act), fails())

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(seconds=1.5)
        assert (len(calls), len(set(calls))) == (2, 1)
        assert statuses(kit) == [("act", "succeeded", 2)]

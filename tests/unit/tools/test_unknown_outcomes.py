"""Calls whose process has died in them: nobody knows what they did until somebody has looked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors import inquiry
from actors.retry import RetryPolicy
from bus.errors import EffectUnknown, ToolFailed
from callboard import Context, Happened, NotHappened, tool
from callboard.testing import TestKit
from tests.unit.tools.caller import (
    AT,
    KINDS,
    Caller,
    Receipt,
    World,
    blocking,
    crashed_in_call,
    program,
    run_once,
    statuses,
)


async def test_an_unknown_call_is_not_made_again_and_fails_if_it_is_told_to(world: World) -> None:
    block = blocking(world, on_unknown="fail")

    async def run(self: Caller, ctx: Context) -> None:
        try:
            await ctx.call(block, "192.0.2.1")
        except EffectUnknown as error:
            self.state.log += [error.tool, error.fix]

    async with TestKit(KINDS) as kit:
        await crashed_in_call(kit, world, run)
        tool, fix = kit.state(AT).log
        assert tool == "block_address"
        assert "nobody is asked" in fix  # not sent to a list where there is nothing to be done
        assert (kit.approvals(), world.calls) == ([], [])
        assert statuses(kit) == [("block_address", "unknown", 1)]


async def test_an_effect_that_stays_unknown_stays_so_through_every_try_of_the_turn(world: World) -> None:
    block = blocking(world, on_unknown="fail")

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    async with TestKit(KINDS) as kit:
        await crashed_in_call(kit, world, run)
        await kit.advance(minutes=5)
        (letter,) = kit.dead_letters()
        assert letter.failures == 3
        assert "Whether block_address has acted is unknown" in letter.error
        assert letter.error.count("Look at the world outside") == 1
        await kit.retry_dead_letter(letter.id)
        await kit.advance(minutes=5)
        assert world.calls == []


@pytest.mark.parametrize(
    ("said", "log", "calls"),
    [
        ({"happened": True, "result": {"id": 7, "address": "x"}}, ["7"], []),
        ({"happened": False}, ["1"], ["192.0.2.1"]),
        ({"happened": False, "again": False}, ["failed"], []),
    ],
)
async def test_a_person_is_asked_what_an_unknown_call_has_done(
    world: World, said: dict[str, Any], log: list[str], calls: list[str]
) -> None:
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        try:
            receipt = await ctx.call(block, "192.0.2.1")
            self.state.log.append(f"{receipt.id}")
        except ToolFailed:
            self.state.log.append("failed")

    async with TestKit(KINDS) as kit:
        await crashed_in_call(kit, world, run)
        assert statuses(kit) == [("block_address", "unknown", 1)]
        (asked,) = kit.approvals()
        assert (asked.kind, asked.details["tool"]) == ("outcome", "block_address")
        assert asked.details["arguments"] == {"address": "192.0.2.1", "minutes": 60}
        await kit.crash()  # it waits for as long as it takes
        await kit.recover()
        await kit.advance(days=3)
        assert world.calls == []
        assert await kit.say(asked.id, **said)
        assert not await kit.say(asked.id, happened=True)
        assert (kit.state(AT).log, world.calls) == (log, calls)


@pytest.mark.parametrize("crashes", [False, True])
async def test_the_ledger_keeps_who_has_had_a_call_made_again(world: World, crashes: bool) -> None:
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    def said(kit: TestKit) -> list[tuple[str, int, str | None, str | None]]:
        return [(call.status, call.attempts, call.said_by, call.again_by) for call in kit.ledger()]

    async with TestKit(KINDS) as kit:
        await crashed_in_call(kit, world, run)
        (asked,) = kit.approvals()
        if crashes:  # whoever runs the turn after that does not ask again
            world.fails = [ConnectionError("it broke")]
        await kit.say(asked.id, happened=False)
        if crashes:
            assert said(kit) == [("unknown", 2, None, "tester")]
            await kit.crash()
            await kit.recover()
            (asked,) = kit.approvals()
            await kit.say(asked.id, happened=True, result={"id": 7, "address": "192.0.2.1"})
        assert said(kit) == [("succeeded", 2, "tester" if crashes else None, "tester")]


@pytest.mark.parametrize("crashes", [False, True])
async def test_a_person_who_says_what_a_call_cannot_have_returned_is_asked_again(
    world: World, crashes: bool
) -> None:
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        receipt = await ctx.call(block, "192.0.2.1")
        self.state.log.append(f"{receipt.id}")

    async with TestKit(KINDS) as kit:
        await crashed_in_call(kit, world, run)
        (first,) = kit.approvals()
        await kit.say(first.id, happened=True)  # as `ledger settle --happened` without a result
        (second,) = kit.approvals()
        assert "tester says that it has acted, and with a result that it cannot have" in second.details["why"]
        if crashes:
            await kit.crash()
            await kit.recover()
        await kit.say(second.id, happened=True, result={"id": 7, "address": "192.0.2.1"})
        await kit.quiet()
        assert (kit.state(AT).log, kit.dead_letters(), kit.approvals()) == (["7"], [], [])
        assert [status for _, status, _ in statuses(kit)] == ["succeeded"]
        assert world.calls == []


async def test_a_verify_function_finds_out_that_it_has_acted(world: World) -> None:
    async def look(address: str, minutes: int) -> Happened | NotHappened:
        return Happened(Receipt(id=9, address=address))

    block = blocking(world, on_unknown=look)

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append(f"{(await ctx.call(block, '192.0.2.1')).id}")

    async with TestKit(KINDS) as kit:
        await crashed_in_call(kit, world, run)
        assert kit.state(AT).log == ["9"]
        assert world.calls == []
        assert statuses(kit) == [("block_address", "succeeded", 1)]


async def test_a_call_that_has_not_acted_is_made_again_once_its_process_is_known_to_be_gone(
    world: World,
) -> None:
    block = blocking(world, on_unknown=lambda address, minutes: NotHappened())

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append(f"{(await ctx.call(block, '192.0.2.1')).id}")

    async with TestKit(KINDS) as kit:
        await crashed_in_call(kit, world, run)
        assert (kit.state(AT).log, world.calls) == (["1"], ["192.0.2.1"])
        assert statuses(kit) == [("block_address", "succeeded", 2)]


@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_call_that_fails_and_has_not_acted_is_made_as_often_as_its_retry_says(
    world: World, attempts: int
) -> None:
    world.fails = [ConnectionError("refused")] * 20
    retry = RetryPolicy(attempts=attempts, first_delay_s=0.0)
    block = blocking(world, retry=retry, on_unknown=lambda address, minutes: NotHappened())

    async def run(self: Caller, ctx: Context) -> None:
        with pytest.raises(ToolFailed, match="ConnectionError: refused"):
            await ctx.call(block, "192.0.2.1")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        assert len(world.fails) == 20 - attempts
        assert statuses(kit) == [("block_address", "failed", attempts)]


async def test_a_call_that_fails_and_has_not_acted_is_made_again_when_its_turn_is(world: World) -> None:
    world.fails = [TimeoutError()]
    block = blocking(world, on_unknown=lambda address, minutes: NotHappened())

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        assert world.calls == []
        await kit.advance(seconds=2)
        assert world.calls == ["192.0.2.1"]
        assert statuses(kit) == [("block_address", "succeeded", 2)]


async def test_while_the_old_process_may_only_be_frozen_a_person_decides(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inquiry, "GONE_WITHIN_S", 0.0)
    block = blocking(world, on_unknown=lambda address, minutes: NotHappened())

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append(f"{(await ctx.call(block, '192.0.2.1')).id}")

    async with TestKit(KINDS) as kit:
        kit.processes_are_gone = False
        await crashed_in_call(kit, world, run)
        assert world.calls == []
        (asked,) = kit.approvals()
        assert await kit.say(asked.id, happened=False)
        assert world.calls == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("answer", "looks", "why"),
    [
        (None, 1, "on_unknown cannot tell"),
        ("yes", 1, "on_unknown has returned no verdict but a str"),
        (
            ConnectionError("no route"),
            3,
            "on_unknown has failed 3 times, last with ConnectionError: no route",
        ),
    ],
)
async def test_a_verify_function_that_fails_or_cannot_tell_leaves_it_to_a_person_who_is_told_why(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: Any, looks: int, why: str
) -> None:
    monkeypatch.setattr(inquiry, "LOOKS", RetryPolicy(attempts=3, first_delay_s=0.0))
    looked: list[str] = []

    def look(address: str, minutes: int) -> Any:
        looked.append(address)
        if isinstance(answer, Exception):
            raise answer
        return answer

    block = blocking(world, on_unknown=look)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    async with TestKit(KINDS) as kit:
        await crashed_in_call(kit, world, run)
        (asked,) = kit.approvals()
        assert asked.details["why"] == f"its outcome was not recorded; {why}"
        await kit.crash()  # whoever runs the turn again does not look again
        await kit.recover()
        await kit.advance(hours=1)
        assert (len(looked), kit.dead_letters(), world.calls) == (looks, [], [])
        assert statuses(kit) == [("block_address", "unknown", 1)]


async def test_a_verify_function_that_fails_at_first_is_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inquiry, "LOOKS", RetryPolicy(attempts=3, first_delay_s=0.0))
    failing = [ConnectionError("no route"), TimeoutError()]

    def look(address: str, minutes: int) -> Happened:
        if failing:
            raise failing.pop()
        return Happened(Receipt(id=9, address=address))

    block = blocking(world, on_unknown=look)

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append(f"{(await ctx.call(block, '192.0.2.1')).id}")

    async with TestKit(KINDS) as kit:
        await crashed_in_call(kit, world, run)
        assert (kit.state(AT).log, kit.approvals()) == (["9"], [])


@pytest.mark.parametrize("crash_at", range(1, 6))
@pytest.mark.parametrize("point", ["commit.before", "commit.after"])
async def test_a_crash_on_either_side_of_a_commit_makes_no_call_twice(
    world: World, point: str, crash_at: int
) -> None:
    keys: list[str] = []

    @tool(effect="idempotent")
    async def charge(cents: int, idempotency_key: str) -> str:
        keys.append(idempotency_key)
        return "charged"

    def look(address: str, minutes: int) -> Happened | NotHappened:
        return Happened(Receipt(id=1, address=address)) if address in world.calls else NotHappened()

    block = blocking(world, on_unknown=look)

    async def run(self: Caller, ctx: Context) -> None:
        first = await ctx.call(block, "192.0.2.1")
        self.state.log.append(await ctx.call(charge, 5))
        second = await ctx.call(block, "192.0.2.2")
        self.state.log += [first.address, second.address]

    async with TestKit(KINDS) as kit:
        commits = 0
        fatal = asyncio.Event()

        def passing(reached: str) -> None:
            nonlocal commits
            commits += reached == point
            if commits == crash_at:
                kit.store.passing = lambda point: None
                fatal.set()
                raise asyncio.CancelledError  # the process is gone: nobody learns of the outcome

        kit.store.passing = passing
        await kit.send(AT, program(run))
        async with asyncio.timeout(5):
            await fatal.wait()
        await kit.crash()
        await kit.recover()
        assert kit.state(AT).log == ["charged", "192.0.2.1", "192.0.2.2"]
        assert world.calls == ["192.0.2.1", "192.0.2.2"]
        assert len(set(keys)) == 1
        assert {status for _, status, _ in statuses(kit)} == {"succeeded"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("no such file: \udcff", "OSError: no such file: \\udcff"),
        ("a NUL \0 in it", "OSError: a NUL \\0 in it"),
    ],
)
async def test_a_person_is_asked_also_where_the_error_has_words_that_postgres_refuses(
    words: str, why: str, world: World
) -> None:
    block = blocking(world)
    world.fails = [OSError(words)]

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        (asked,) = kit.approvals()
        assert asked.details["why"] == why
        assert statuses(kit) == [("block_address", "unknown", 1)]


@pytest.mark.parametrize("is_verified", [True, False])
async def test_a_call_is_not_made_by_a_run_that_was_dropped_while_its_intent_was_being_committed(
    world: World, is_verified: bool
) -> None:
    """The next run finds the intent, and that nothing of the call is under way."""
    looked = asyncio.Event()

    async def look(address: str, minutes: int) -> NotHappened:
        looked.set()
        return NotHappened()

    block = blocking(world, on_unknown=look) if is_verified else blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append(f"{(await ctx.call(block, '192.0.2.1')).id}")

    async with TestKit(KINDS) as kit:
        host, commit = kit._running[0].host, kit.store.commit
        has_committed, may_say_so = asyncio.Event(), asyncio.Event()

        async def slow(fence: Any, writes: Any, marks: Any) -> Any:
            numbers = await commit(fence, writes, marks)
            if not has_committed.is_set():
                has_committed.set()
                await may_say_so.wait()
            return numbers

        kit.store.commit = slow  # type: ignore[method-assign]
        await kit.send(AT, program(run))
        await has_committed.wait()
        [activation] = host.mailboxes.roster.in_partitions(host.holdings.all_partitions())
        host.mailboxes.drop(activation)  # as where its partition leaves, and comes back
        host.settling.restart(activation)
        if is_verified:
            await looked.wait()
        may_say_so.set()
        await kit.quiet()
        assert (kit.state(AT).log, world.calls) == ((["1"], ["192.0.2.1"]) if is_verified else ([], []))
        assert len(kit.approvals()) == (not is_verified)

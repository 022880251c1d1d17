"""Calls of tools: recorded before they act, made at most once, and what happens when nobody knows."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from actors import effects
from actors.domain import LimitSpec
from actors.retry import RetryPolicy
from bus.errors import (
    ApprovalDenied,
    EffectUnknown,
    InvalidPayload,
    InvalidTool,
    MissingSecret,
    NotDone,
    ResultLost,
    StorageUnavailable,
    ToolFailed,
)
from callboard import Agent, Context, Happened, NotHappened, Secret, handler, message, tool
from callboard.testing import TestKit
from storage.ledger import CallStatus


@message("tools.run.v1")
class Run(BaseModel):
    program: str


class Receipt(BaseModel):
    id: int
    address: str


class Caller(Agent):
    """Runs the program that the test has given it."""

    kind = "caller"
    retry = RetryPolicy(attempts=3, first_delay_s=1.0, jitter=0.0)
    programs: dict[str, Callable[[Caller, Context], Awaitable[Any]]] = {}  # noqa: RUF012  (shared on purpose)

    class State(BaseModel):
        log: list[str] = []

    state: State

    @handler
    async def on_run(self, run: Run, ctx: Context) -> None:
        await Caller.programs[run.program](self, ctx)


AT = "test/caller/a"
KINDS = [Caller]


def program(function: Callable[[Caller, Context], Awaitable[Any]]) -> Run:
    Caller.programs[function.__name__] = function
    return Run(program=function.__name__)


class World:
    """The outside: what has acted in it, by idempotency key."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.gate: asyncio.Event | None = None
        self.begun = asyncio.Event()
        self.fails: list[Exception] = []

    async def act(self, what: str) -> Receipt:
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fails:
            raise self.fails.pop(0)
        self.calls.append(what)
        return Receipt(id=len(self.calls), address=what)


@pytest.fixture
def world() -> World:
    return World()


def blocking(world: World, **options: Any) -> Any:
    @tool(effect="at_most_once", **options)
    async def block_address(address: str, minutes: int = 60) -> Receipt:
        """Block an address."""
        return await world.act(address)

    return block_address


async def run_once(kit: TestKit, function: Callable[[Caller, Context], Awaitable[Any]]) -> None:
    await kit.send(AT, program(function))
    await kit.quiet()


def statuses(kit: TestKit) -> list[tuple[str, str, int]]:
    return [(call.tool, call.status, call.attempts) for call in kit.ledger()]


# -- the ordinary case -----------------------------------------------------------------------------------


async def test_a_call_returns_what_the_signature_says_and_has_a_row_in_the_ledger(world: World) -> None:
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        receipt = await ctx.call(block, "192.0.2.1", minutes=5)
        assert receipt == Receipt(id=1, address="192.0.2.1")
        self.state.log.append(f"{receipt.id}")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        assert kit.state(AT).log == ["1"]
        (call,) = kit.ledger(AT)
        assert (call.tool, call.status, call.attempts, call.arguments) == (
            "block_address", CallStatus.SUCCEEDED, 1, '{"address":"192.0.2.1","minutes":5}',
        )  # fmt: skip
        (step,) = kit.history(AT)
        assert call.message == step.header.id
        assert '"kind":"intent"' in step.body
        assert '"kind":"call"' in step.body


async def test_the_intent_is_committed_before_the_call_begins(world: World) -> None:
    world.gate = asyncio.Event()
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run))
        await world.begun.wait()
        assert statuses(kit) == [("block_address", "started", 1)]
        world.gate.set()
        await kit.quiet()
        assert statuses(kit) == [("block_address", "succeeded", 1)]


async def test_a_turn_that_runs_again_makes_no_call_twice(world: World) -> None:
    block = blocking(world)
    failures = [ValueError("later"), ValueError("again")]

    async def run(self: Caller, ctx: Context) -> None:
        receipt = await ctx.call(block, "192.0.2.1")
        await ctx.sleep(60)
        if failures:
            raise failures.pop()
        self.state.log.append(receipt.address)

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=5)
        assert kit.state(AT).log == ["192.0.2.1"]
        assert world.calls == ["192.0.2.1"]


async def test_a_pure_call_is_a_step_with_a_row_in_the_ledger() -> None:
    made: list[int] = []

    @tool(effect="pure")
    def double(number: int) -> int:
        made.append(number)
        return 2 * number

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append(f"{await ctx.call(double, 21)}")
        await ctx.sleep(60)

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=2)
        assert (kit.state(AT).log, made) == (["42"], [21])
        assert statuses(kit) == [("double", "succeeded", 1)]


async def test_an_idempotent_call_is_made_again_under_the_same_key() -> None:
    keys: list[str] = []

    @tool(effect="idempotent", retry=RetryPolicy(attempts=2, first_delay_s=0.0))
    async def charge(cents: int, idempotency_key: str) -> str:
        keys.append(idempotency_key)
        if len(keys) < 4:
            raise ConnectionError("reset")
        return "charged"

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append(await ctx.call(charge, 100))

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(seconds=30)
        assert kit.state(AT).log == ["charged"]
        assert (len(keys), len(set(keys))) == (4, 1)
        assert keys[0] == kit.ledger()[0].id


# -- a crash between the intent and the outcome ------------------------------------------------------------


async def crashed_in_call(
    kit: TestKit, world: World, run: Callable[[Caller, Context], Awaitable[Any]]
) -> None:
    """Kill the host while the tool is called, and bring its agents back."""
    world.gate = asyncio.Event()
    await kit.send(AT, program(run))
    await world.begun.wait()
    await kit.crash()
    world.gate = None
    await kit.recover()


async def test_an_unknown_call_is_not_made_again_and_fails_if_it_is_told_to(world: World) -> None:
    block = blocking(world, on_unknown="fail")

    async def run(self: Caller, ctx: Context) -> None:
        try:
            await ctx.call(block, "192.0.2.1")
        except EffectUnknown as error:
            self.state.log.append(error.tool)

    async with TestKit(KINDS) as kit:
        await crashed_in_call(kit, world, run)
        assert kit.state(AT).log == ["block_address"]
        assert world.calls == []
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


async def test_while_the_old_process_may_only_be_frozen_a_person_decides(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "GONE_WITHIN_S", 0.0)
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


async def test_a_verify_function_that_fails_or_cannot_tell_leaves_it_to_a_person(world: World) -> None:
    answers: list[Any] = [None, "no verdict"]

    def look(address: str, minutes: int) -> Any:
        if not answers:
            raise ConnectionError("no route")
        return answers.pop()

    block = blocking(world, on_unknown=look)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    for _ in range(3):
        async with TestKit(KINDS) as kit:
            world.begun.clear()
            await crashed_in_call(kit, world, run)
            assert len(kit.approvals()) == 1
    assert world.calls == []


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


# -- failures and timeouts ---------------------------------------------------------------------------------


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
    world.fails = [NotDone("closed")]
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        with pytest.raises(ToolFailed, match="block_address failed: NotDone: closed"):
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
    monkeypatch.setattr(effects, "GONE_WITHIN_S", 0.0)
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


async def test_what_a_tool_returned_that_cannot_be_kept_does_not_make_it_act_again(world: World) -> None:
    made: list[str] = []

    @tool
    async def fetch(size: int) -> Any:
        made.append("x")
        return "x" * size if size else object()

    async def run(self: Caller, ctx: Context) -> None:
        for size in (20_000, 0):
            with pytest.raises(ResultLost, match="fetch has acted, and its result is lost"):
                await ctx.call(fetch, size)
        if ctx.failures < 2:
            raise ValueError("once more")
        self.state.log.append("done")

    async with TestKit(KINDS, limits=LimitSpec(claim_check_bytes=1_024, payload_bytes=10_000)) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=1)
        assert (kit.state(AT).log, len(made)) == (["done"], 2)


async def test_a_result_of_20_mib_does_not_make_its_tool_act_again(world: World) -> None:
    made: list[str] = []

    @tool
    async def fetch() -> str:
        made.append("x")
        return "x" * (20 * 1024 * 1024)

    async def run(self: Caller, ctx: Context) -> None:
        with pytest.raises(ResultLost, match="fetch has acted, and its result is lost"):
            await ctx.call(fetch)
        if ctx.failures < 1:
            raise ValueError("once more")
        self.state.log.append("done")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=1)
        assert (kit.state(AT).log, made) == (["done"], ["x"])


async def test_a_large_result_goes_into_a_blob_and_comes_back() -> None:
    made: list[int] = []

    @tool
    async def fetch(size: int) -> str:
        made.append(size)
        return "x" * size

    async def run(self: Caller, ctx: Context) -> None:
        text = await ctx.call(fetch, 20_000)
        await ctx.sleep(60)
        self.state.log.append(f"{len(text)}")

    async with TestKit(KINDS, limits=LimitSpec(claim_check_bytes=1_024)) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=2)
        assert (kit.state(AT).log, made) == (["20000"], [20_000])


# -- a message that was given up and is tried again --------------------------------------------------------


async def test_a_process_that_may_still_make_a_call_is_not_forgotten_when_the_message_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "GONE_WITHIN_S", 0.0)
    block = blocking(world, on_unknown=lambda address, minutes: NotHappened())

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append(f"{(await ctx.call(block, '192.0.2.1')).id}")

    async with TestKit(KINDS) as kit:
        kit.processes_are_gone = False
        await crashed_in_call(kit, world, run)
        for _ in range(2):  # each of these turns writes into the ledger that nobody knows what the call did
            assert len(kit.approvals()) == 1
            await kit.advance(minutes=1)
            await kit.skip_turn(AT)
            await kit.quiet()
            (letter,) = kit.dead_letters()
            await kit.retry_dead_letter(letter.id)
            await kit.quiet()
        assert len(kit.approvals()) == 1
        assert world.calls == []


async def test_a_lost_result_stays_lost_when_the_message_is_tried_again() -> None:
    made: list[str] = []
    broken = True

    @tool
    async def fetch(what: str) -> Any:
        made.append(what)
        return object()

    async def run(self: Caller, ctx: Context) -> None:
        try:
            self.state.log.append(f"got {await ctx.call(fetch, 'x')}")
        except ResultLost as lost:
            self.state.log.append(lost.message)
        if broken:
            raise ValueError("a bug")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=5)
        (letter,) = kit.dead_letters()
        broken = False
        await kit.retry_dead_letter(letter.id)
        await kit.advance(minutes=5)
        assert made == ["x"]
        (said,) = kit.state(AT).log
        assert said.startswith("fetch has acted, and its result is lost")


async def test_a_message_that_is_tried_again_gets_the_result_that_an_operator_has_given_the_call(
    world: World,
) -> None:
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        receipt = await ctx.call(block, "192.0.2.1")
        await ctx.sleep(3600)
        again = await ctx.call(block, "192.0.2.1")
        self.state.log += [f"{receipt.id}", f"{again.id}"]

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=1)
        await kit.edit_turn(AT, "#1", '{"id": 9, "address": "192.0.2.1"}')
        await kit.skip_turn(AT)
        await kit.quiet()
        (letter,) = kit.dead_letters()
        await kit.retry_dead_letter(letter.id)
        await kit.advance(hours=2)
        assert kit.state(AT).log == ["9", "2"]
        assert world.calls == ["192.0.2.1"] * 2


async def test_a_dead_letter_that_is_retried_repeats_no_effect(world: World) -> None:
    block = blocking(world)
    broken = True

    async def run(self: Caller, ctx: Context) -> None:
        if not broken:
            await ctx.step(str, "the mended code has one more step")
        receipt = await ctx.call(block, "192.0.2.1")
        if broken:
            raise ValueError("a bug")
        other = await ctx.call(block, "192.0.2.2")
        self.state.log += [receipt.address, other.address]

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=5)
        (letter,) = kit.dead_letters()
        broken = False
        await kit.retry_dead_letter(letter.id)
        await kit.advance(minutes=5)
        assert kit.state(AT).log == ["192.0.2.1", "192.0.2.2"]
        assert world.calls == ["192.0.2.1", "192.0.2.2"]


async def test_an_idempotent_call_that_has_failed_keeps_its_key_when_the_message_is_tried_again() -> None:
    acted: set[str] = set()
    broken = True

    @tool(effect="idempotent", retry=RetryPolicy(attempts=2, first_delay_s=0.0))
    async def pay(amount: int, idempotency_key: str) -> str:
        acted.add(idempotency_key)
        if broken:
            raise ConnectionError("the answer was lost")
        return "receipt"

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append(await ctx.call(pay, 7))

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=5)
        (letter,) = kit.dead_letters()
        broken = False
        await kit.retry_dead_letter(letter.id)
        await kit.advance(minutes=5)
        assert kit.state(AT).log == ["receipt"]
        assert len(acted) == 1
        assert statuses(kit) == [("pay", "succeeded", 1)]


async def test_two_equal_calls_of_one_turn_are_two_calls(world: World) -> None:
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")
        await ctx.call(block, "192.0.2.1")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        assert world.calls == ["192.0.2.1"] * 2
        assert len(kit.ledger()) == 2


@pytest.mark.parametrize("effect", ["at_most_once", "idempotent"])
@pytest.mark.parametrize("beside", [False, True])
async def test_a_large_result_waits_for_storage_and_the_call_is_not_made_again(
    world: World, effect: Any, beside: bool
) -> None:
    @tool(effect=effect)
    async def fetch(idempotency_key: str) -> str:
        """Fetch a lot."""
        await world.act("fetch")
        return "x" * 5_000

    async def large() -> str:
        await world.begun.wait()
        return "y" * 5_000

    async def calls(self: Caller, ctx: Context) -> None:
        branches = [ctx.call(fetch, key="call"), *([ctx.step(large, key="step")] if beside else [])]
        self.state.log.append(f"{len((await ctx.gather(*branches))[0])}")

    async with TestKit(KINDS, limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        put_blob, tries = kit.store.put_blob, 0

        async def away_at_first(*arguments: Any) -> None:
            nonlocal tries
            tries += 1
            if tries <= 3:
                raise StorageUnavailable("Away.")
            await put_blob(*arguments)

        kit.store.put_blob = away_at_first  # type: ignore[method-assign,assignment]
        await kit.send(AT, program(calls))
        async with asyncio.timeout(10):
            while not kit.state(AT).log:  # noqa: ASYNC110  (rows that another task writes)
                await asyncio.sleep(0.01)
        assert (kit.state(AT).log, world.calls) == (["5000"], ["fetch"])
        assert statuses(kit) == [("fetch", "succeeded", 1)]
        assert (kit.approvals(), len(kit.store.blobs)) == ([], 2 if beside else 1)


# -- approval ----------------------------------------------------------------------------------------------


async def test_a_call_waits_until_a_person_allows_it(world: World) -> None:
    block = blocking(world, requires_approval=True, approvers=("alice", "bob"))

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")
        (decision,) = ctx.decisions
        self.state.log.append(f"{decision.by}: {decision.comment}")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        (asked,) = kit.approvals()
        assert asked.details["action"] == "call block_address"
        assert asked.details["details"] == {"address": "192.0.2.1", "minutes": 60}
        await kit.crash()
        await kit.recover()
        await kit.advance(days=30)
        assert world.calls == []
        assert not await kit.approve(asked.id, by="mallory")
        assert await kit.approve(asked.id, by="alice", comment="it is hostile")
        assert not await kit.deny(asked.id, by="bob")
        assert kit.state(AT).log == ["alice: it is hostile"]
        assert world.calls == ["192.0.2.1"]
        assert kit.ledger()[0].approval == asked.id


async def test_a_call_that_is_refused_is_not_made(world: World) -> None:
    block = blocking(world, requires_approval=True)

    async def run(self: Caller, ctx: Context) -> None:
        try:
            await ctx.call(block, "192.0.2.1")
        except ApprovalDenied as error:
            self.state.log.append(f"{error.message} {error.decision.by}")
        await ctx.sleep(60)

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        (asked,) = kit.approvals()
        assert await kit.deny(asked.id, by="alice", comment="a customer")
        await kit.advance(minutes=2)
        assert kit.state(AT).log == ["block_address was refused by alice: a customer. alice"]
        assert (world.calls, statuses(kit)) == ([], [("block_address", "denied", 0)])


async def test_nobody_in_time_counts_as_refused(world: World) -> None:
    block = blocking(world, requires_approval=True, approval_timeout=3600)

    async def run(self: Caller, ctx: Context) -> None:
        with pytest.raises(ApprovalDenied, match="refused by nobody"):
            await ctx.call(block, "192.0.2.1")
        self.state.log.append("refused")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        (asked,) = kit.approvals()
        await kit.advance(hours=2)
        assert not await kit.approve(asked.id)
        assert (kit.state(AT).log, world.calls) == (["refused"], [])


async def test_whether_approval_is_needed_is_decided_once(world: World) -> None:
    strict = True
    block = blocking(world, requires_approval=lambda address, minutes: strict)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")
        await ctx.sleep(60)
        self.state.log.append("done")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        strict = False
        await kit.crash()
        await kit.recover()
        (asked,) = kit.approvals()
        assert await kit.approve(asked.id)
        strict = True
        await kit.advance(minutes=2)
        assert kit.state(AT).log == ["done"]
        strict = False
        await run_once(kit, run)
        strict = True
        await kit.advance(minutes=2)
        assert kit.state(AT).log == ["done", "done"]
        assert len(world.calls) == 2


async def test_changed_arguments_need_an_approval_of_their_own(world: World) -> None:
    block = blocking(world, requires_approval=True)
    address = "192.0.2.1"

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, address)

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        (asked,) = kit.approvals()
        address = "192.0.2.99"
        await kit.advance(minutes=1)  # the turn is put away, so its handler runs again
        assert await kit.approve(asked.id)
        await kit.advance(minutes=1)
        assert world.calls == []
        assert kit.lifecycle(AT) == "paused"


async def test_an_approval_says_who_when_and_why() -> None:
    async def run(self: Caller, ctx: Context) -> None:
        decision = await ctx.approval(
            "delete the index", {"index": "alerts"}, approvers=["alice"], timeout=600, on_timeout="approve"
        )
        self.state.log.append(f"{decision.approved} {decision.by} {decision.comment}")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        (asked,) = kit.approvals()
        assert (asked.details["details"], asked.due_at) == ({"index": "alerts"}, kit.clock.now() + 600)
        await kit.approve(asked.id, by="alice", comment="go")
        await run_once(kit, run)
        await kit.advance(hours=1)
        assert kit.state(AT).log == ["True alice go", "True None the time was up"]


# -- secrets -----------------------------------------------------------------------------------------------


async def test_a_secret_is_handed_to_the_tool_and_recorded_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []
    value = 'tok"en-4711'

    @tool(effect="pure", retry=RetryPolicy(attempts=2, first_delay_s=0.0))
    async def leak(what: str, token: Annotated[str, Secret("API_TOKEN")]) -> dict[str, str]:
        seen.append(token)
        if len(seen) == 1:
            raise ValueError(f"401 for {token}")
        return {"echo": f"{what} {token}"}

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append((await ctx.call(leak, "hello"))["echo"])

    assert list(leak.schema["parameters"]["properties"]) == ["what"]
    async with TestKit(KINDS, secrets={"API_TOKEN": value}) as kit:
        await run_once(kit, run)
        assert seen == [value, value]
        assert kit.state(AT).log == ["hello [API_TOKEN]"]
        everything = f"{kit.store.waits.journal} {kit.ledger()} {kit.history(AT)} {caplog.text}"
        assert "4711" not in everything
        assert "API_TOKEN" in everything


@pytest.mark.parametrize(
    "words",
    [
        "x" * 285 + " {0} is wrong",  # where an error's words are cut
        "{0}",
        "{0[:5]} and {0}",
        "{json}: nobody",
    ],
)
async def test_an_error_leaves_no_part_of_a_secret(words: str, caplog: pytest.LogCaptureFixture) -> None:
    key = 'first-4711\nsecond-4712-\xe9"'

    class Words(Exception):
        def __str__(self) -> str:
            return words.replace("{0[:5]}", key[:5]).replace("{json}", json.dumps(key)).replace("{0}", key)

    @tool(retry=RetryPolicy(attempts=2, first_delay_s=0.0))
    async def leak(
        key: Annotated[str, Secret("KEY")], start: Annotated[str, Secret("START")]
    ) -> dict[str, str]:
        raise NotDone(str(Words()))

    async def run(self: Caller, ctx: Context) -> None:
        with pytest.raises(ToolFailed) as failed:
            await ctx.call(leak)
        self.state.log.append(failed.value.message)

    async with TestKit(KINDS, secrets={"KEY": key, "START": key[:5]}) as kit:
        await run_once(kit, run)
        everything = (
            f"{kit.store.waits.journal} {kit.ledger()} {kit.history(AT)} {kit.state(AT)} {caplog.text}"
        )
        assert [part for part in ("first", "-4711", "4712") if part in everything] == []
        assert "NotDone" in everything


async def test_a_secret_that_looks_like_a_number_spoils_no_result(world: World) -> None:
    @tool
    async def block(address: str, pin: Annotated[str, Secret("PIN")]) -> dict[str, Any]:
        await world.act(address)
        return {"at": 1782471100.25, "pin": int(pin), "note": f"with {pin}", pin: [True, None, pin]}

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append(json.dumps(await ctx.call(block, "192.0.2.1")))

    async with TestKit(KINDS, secrets={"PIN": "4711"}) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=5)
        (said,) = kit.state(AT).log
        assert json.loads(said) == {
            "at": 1782471100.25, "pin": "[PIN]", "note": "with [PIN]", "[PIN]": [True, None, "[PIN]"],
        }  # fmt: skip
        assert world.calls == ["192.0.2.1"]


async def test_without_its_secret_nothing_is_begun(world: World) -> None:
    @tool
    async def block(address: str, token: Annotated[str, Secret("API_TOKEN")]) -> None:
        await world.act(address)

    async def run(self: Caller, ctx: Context) -> None:
        with pytest.raises(MissingSecret, match="There is no secret API_TOKEN"):
            await ctx.call(block, "192.0.2.1")
        self.state.log.append("missing")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        assert (kit.state(AT).log, kit.ledger(), world.calls) == (["missing"], [], [])


# -- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named", "says"),
    [
        ((), {}, "address: "),
        (("a", 1, 2), {}, "takes 2 arguments; 3 were given"),
        (("a",), {"address": "b"}, "was given address twice"),
        (("a",), {"minutes": "soon"}, "minutes: "),
        (("a",), {"colour": "red"}, "colour: "),
        (("a\0b",), {}, "cannot be recorded"),
    ],
)
async def test_arguments_that_do_not_fit_are_refused_before_anything_happens(
    world: World, arguments: tuple[Any, ...], named: dict[str, Any], says: str
) -> None:
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        with pytest.raises(InvalidPayload, match=says):
            await ctx.call(block, *arguments, **named)
        self.state.log.append("refused")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        assert (kit.state(AT).log, kit.ledger(), world.calls) == (["refused"], [], [])


def test_a_tool_that_is_declared_wrong_is_refused_at_once() -> None:
    async def keyless(cents: int) -> None: ...

    async def starred(*cents: int) -> None: ...

    async def odd(lock: threading.Lock) -> None: ...

    declare: Any = tool
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (keyless, {"effect": "idempotent"}, "takes no idempotency_key"),
        (keyless, {"effect": "sometimes"}, "has the effect 'sometimes'"),
        (keyless, {"timeout": 0}, "a timeout of 0 s"),
        (keyless, {"timeout": -1}, "a timeout of -1 s"),
        (
            keyless,
            {"requires_approval": True, "approval_timeout": 0},
            "an approval_timeout of 0 s|approval_timeout",
        ),
        (keyless, {"on_unknown": "retry"}, "has on_unknown='retry'"),
        (keyless, {"on_unknown": lambda address: None}, "takes other arguments"),
        (starred, {}, "has no schema"),
        (odd, {}, "has no schema"),
    ]
    for function, options, says in cases:
        with pytest.raises(InvalidTool, match=says):
            declare(**options)(function)
    with pytest.raises(InvalidTool, match="cannot be the name of a secret"):
        Secret("no/slash")


def test_the_schema_comes_from_the_signature_and_the_docstring(world: World) -> None:
    block = blocking(world)
    assert block.schema == {
        "name": "block_address",
        "description": "Block an address.",
        "parameters": {
            "type": "object",
            "properties": {
                "address": {"title": "Address", "type": "string"},
                "minutes": {"default": 60, "title": "Minutes", "type": "integer"},
            },
            "required": ["address"],
            "additionalProperties": False,
        },
    }

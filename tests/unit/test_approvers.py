"""Agents as approvers: who may decide, once, and what is on record of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from actors.domain import LimitSpec
from bus.errors import AlreadySettled
from callboard import ApprovalRequested, Context, tool
from callboard.testing import TestKit
from tests.unit.deciders import (
    AT,
    CHIEF,
    DEPUTY,
    DETAILS,
    Clerk,
    Run,
    approves,
    asks,
    asks_of,
    delete,
    program,
)

pytestmark = pytest.mark.usefixtures("no_decisions")


@pytest.mark.parametrize("approved", [True, False])
async def test_an_agent_that_is_named_is_asked_and_decides_with_its_message_on_record(approved: bool) -> None:
    async def decides(self: Clerk, request: ApprovalRequested, ctx: Context) -> None:
        self.state.log.append(f"{request.action} {request.details}")
        await ctx.decide(request.ref, approved, comment="I have looked", digest=request.digest[:8])

    async with TestKit([Clerk]) as kit:
        program(decides)
        await kit.send(AT, program(asks), deadline=kit.clock.now() + 1_000)
        await kit.quiet()
        [asked] = [o for o in kit.store.sent if o.header.type == "callboard.approval_requested.v1"]
        assert kit.state(AT).log == [f"{approved} by {CHIEF}: I have looked ({asked.header.id})"]
        assert kit.state(CHIEF).log == [f"delete {DETAILS}"]
        assert asked.header.deadline == kit.clock.now() + 600
        [promise] = kit.store.waits.promises.rows.values()
        assert (promise.status, promise.settled_by) == ("approved" if approved else "denied", CHIEF)
        [entry] = [e for entries in kit.store.waits.journal.values() for e in entries if e.kind == "decide"]
        assert (entry.ok, entry.name) == (True, f"{promise.status} {AT}#{promise.made.id}")


async def test_a_tool_waits_for_the_agent_that_is_to_approve_its_call() -> None:
    async def calls(self: Clerk, ctx: Context) -> None:
        await ctx.call(delete, "alerts")
        self.state.log.append(f"allowed by {ctx.decisions[0].by}")

    async with TestKit([Clerk]) as kit:
        Clerk.programs["decides"] = approves
        await kit.send(AT, program(calls))
        await kit.quiet()
        assert (kit.state(AT).log, Clerk.done) == ([f"allowed by {CHIEF}"], ["deleted alerts"])


async def test_of_several_that_decide_the_first_counts_and_the_others_are_told() -> None:
    async with TestKit([Clerk]) as kit:
        Clerk.programs["decides"] = approves
        Clerk.programs["asks"] = asks_of(CHIEF, DEPUTY)
        await kit.send(AT, Run(program="asks"))
        await kit.quiet()
        told = [kit.state(name).log[0].partition(" ")[0] for name in (CHIEF, DEPUTY)]
        assert sorted(told) == ["AlreadySettled", "decided"]
        assert len(kit.state(AT).log) == 1


async def test_two_that_decide_in_the_same_moment_are_told_who_was_first() -> None:
    both = asyncio.Barrier(2)

    async with TestKit([Clerk]) as kit:
        look = kit.store.promise_standing
        looks = 0

        async def together(*arguments: Any) -> Any:
            nonlocal looks
            found = await look(*arguments)
            looks += 1
            if looks <= 2:
                await both.wait()  # both have seen that it is open
            return found

        kit.store.promise_standing = together  # type: ignore[method-assign,assignment]
        Clerk.programs["decides"] = approves
        Clerk.programs["asks"] = asks_of(CHIEF, DEPUTY)
        await kit.send(AT, Run(program="asks"))
        await kit.quiet()
        told = [kit.state(name).log[0].partition(" ")[0] for name in (CHIEF, DEPUTY)]
        assert sorted(told) == ["AlreadySettled", "decided"]
        assert len(kit.state(AT).log) == 1


async def test_what_follows_when_the_time_is_up_is_one_of_three() -> None:
    async def mistypes(self: Clerk, ctx: Context) -> None:
        await ctx.approval("delete", timeout=60, on_timeout="aprove")  # type: ignore[arg-type]

    async with TestKit([Clerk]) as kit:
        await kit.send(AT, program(mistypes))
        await kit.quiet()
        (letter,) = kit.dead_letters()
        assert letter.error.startswith(
            "InvalidMessage: on_timeout='aprove' says nothing. One of: deny, approve, raise."
        )


@pytest.mark.parametrize("what", ["action", "details", "name", "arguments"])
async def test_one_turn_asks_people_for_only_so_much(what: str) -> None:
    large = "x" * 3_000

    @tool
    async def act(text: str) -> None:
        raise AssertionError("with arguments that nobody could be shown")

    calls: dict[str, Callable[[Context], Any]] = {
        "action": lambda ctx: ctx.approval(large),
        "details": lambda ctx: ctx.approval("delete", large),
        "name": lambda ctx: ctx.promise(large),
        "arguments": lambda ctx: ctx.call(act, large),
    }

    async def asks_much(self: Clerk, ctx: Context) -> None:
        await calls[what](ctx)

    async with TestKit([Clerk], limits=LimitSpec(turn_bytes=2_000)) as kit:
        await kit.send(AT, program(asks_much))
        await kit.quiet()
        (letter,) = kit.dead_letters()
        assert letter.error.startswith("PayloadTooLarge: ")
        assert kit.store.waits.promises.rows == {}


@pytest.mark.parametrize("was_first", [True, False])
async def test_a_crash_after_the_decision_decides_nothing_twice_and_tells_the_same_again(
    was_first: bool,
) -> None:
    decided: list[str] = []

    async def decides(self: Clerk, request: ApprovalRequested, ctx: Context) -> None:
        try:
            await ctx.decide(request.ref, True)
            decided.append("decided")
        except AlreadySettled as error:
            decided.append(f"{error.status} by {error.by}")
        if len(decided) < 3:
            ctx.send(AT, Run(program="nothing"))
            await ctx.sleep(10)
        self.state.log.append(decided[-1])

    async def nothing(self: Clerk, ctx: Context) -> None: ...

    async with TestKit([Clerk]) as kit:
        program(nothing)
        program(decides)
        Clerk.programs["asks"] = asks_of(CHIEF, "alice")
        if not was_first:
            settles = kit.store.waits.promises.settles

            def late(reply: Any) -> bool:
                if json.loads(reply.payload).get("status") == "approved":
                    kit.store.waits.promises.settle(
                        "test", "default", reply.settles, status="denied", value=None, by="external/alice"
                    )
                return settles(reply)

            kit.store.waits.promises.settles = late  # type: ignore[method-assign]
        await kit.send(AT, Run(program="asks"))
        await kit.quiet()
        await kit.crash()
        await kit.recover()
        await kit.advance(seconds=20)
        expected = "decided" if was_first else "denied by alice"
        assert set(decided) == {expected}
        assert len(decided) >= 2
        assert kit.state(CHIEF).log == [expected]

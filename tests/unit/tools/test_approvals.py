"""Calls that need a person: nothing acts before somebody has allowed exactly that."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from actors.approval import question
from bus.address import parse_address
from bus.errors import ApprovalDenied, StepFailed
from callboard import Context
from callboard.testing import TestKit
from tests.unit.tools.caller import AT, KINDS, Caller, World, blocking, run_once, statuses
from tests.unit.waiter import until


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
        with pytest.raises(ApprovalDenied, match=r"^block_address was refused: nobody decided in time\.$"):
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


@pytest.mark.parametrize("dies", [False, True])
async def test_what_is_to_be_approved_for_a_branch_that_is_given_up_waits_for_nobody(
    world: World, dies: bool
) -> None:
    block = blocking(world, requires_approval=True)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.gather(ctx.call(block, "192.0.2.1"), ctx.approval("another"), ctx.sleep(10), first=1)
        await ctx.sleep(3600)
        self.state.log.append("went on")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        questions = kit.approvals()
        assert len(questions) == 2
        await kit.advance(minutes=1)
        if dies:
            await kit.crash()
            await kit.recover()
        assert kit.approvals() == []
        assert [await kit.approve(question.id) for question in questions] == [False, False]
        await kit.advance(hours=2)
        assert (kit.state(AT).log, world.calls) == (["went on"], [])


@pytest.mark.parametrize("is_caught", [False, True])
async def test_an_approval_beside_a_call_that_fails_counts_where_the_turn_is_tried_again(
    world: World, is_caught: bool
) -> None:
    block = blocking(world, requires_approval=True)
    failures = ["once"]

    def breaks() -> None:
        if failures:
            raise ValueError(failures.pop())

    async def beside(ctx: Context) -> None:
        with contextlib.suppress(StepFailed):  # on record with whatever is committed next
            await ctx.step(int, "no number")
        await ctx.step(breaks)

    async def run(self: Caller, ctx: Context) -> None:
        try:
            await ctx.gather(ctx.call(block, "192.0.2.1"), beside(ctx))
        except StepFailed:
            if not is_caught:
                raise
        await ctx.sleep(3600)
        self.state.log.append("went on")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=1)
        questions = kit.approvals()
        assert len(questions) == (not is_caught)
        for question in questions:
            assert await kit.approve(question.id)
        await kit.advance(hours=2)
        assert kit.state(AT).log == ["went on"]
        assert world.calls == ([] if is_caught else ["192.0.2.1"])


async def test_a_decision_that_comes_while_a_gather_ends_counts_where_the_turn_is_tried_again(
    world: World,
) -> None:
    block = blocking(world, requires_approval=True)
    failures = ["once"]

    async def breaks(ctx: Context) -> None:
        await ctx.sleep(10)
        if failures:
            raise ValueError(failures.pop())

    async def run(self: Caller, ctx: Context) -> None:
        try:
            await ctx.gather(ctx.call(block, "192.0.2.1"), breaks(ctx))
        except ValueError:
            (question,) = kit.approvals()
            promises = kit.store.waits.promises
            assert promises.settle(
                "test", kit.tenant, question.id, status="approved", value="{}", by="external/alice"
            )
            kit._post.nudge(parse_address(AT))
            await until(lambda: len(ctx._journal().wakes_left) == 2)  # the sleep's, and the decision's
            raise
        self.state.log.append("went on")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=1)
        assert (kit.state(AT).log, world.calls) == (["went on"], ["192.0.2.1"])


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


LONG = "x" * 200


@pytest.mark.parametrize(
    ("before", "now", "differs"),
    [
        ({"minutes": 5}, {"minutes": 10}, "minutes (5, now 10)"),
        ({"minutes": 5, "why": LONG}, {"minutes": 5, "why": LONG + "y"}, "why (202 characters, now 203 characters)"),
        ({"zone": None}, {}, "zone (null, now none)"),
        ({"minutes": 1}, {"minutes": True}, "minutes (1, now true)"),
        (dict.fromkeys("abcdefg", 1), {}, "a (1, now none), b (1, now none), c (1, now none), d (1, now none), "
         "e (1, now none), 2 more"),
        ({"minutes": 5}, [5], ""),
    ],
)  # fmt: skip
def test_what_is_to_be_approved_is_told_apart_by_its_details(before: Any, now: Any, differs: str) -> None:
    assert question("open", now, ()).differs_from(question("open", before, ())) == differs


@pytest.mark.parametrize("until_it", ["waits", "is decided", "is made"])
async def test_an_approval_of_other_arguments_is_refused_with_those_that_differ(
    world: World, until_it: str
) -> None:
    given: dict[str, Any] = {"address": "192.0.2.1", "minutes": 5}
    block = blocking(world, requires_approval=True)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, **given)
        await ctx.sleep(60)

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        (asked,) = kit.approvals()
        if until_it == "is made":
            assert await kit.approve(asked.id)
            assert world.calls == ["192.0.2.1"]
        given["minutes"] = 10  # the code is changed
        await kit.crash()
        await kit.recover()
        if until_it == "is decided":
            assert await kit.approve(asked.id)
        await kit.advance(minutes=2)
        assert kit.lifecycle(AT) == "paused"
        (note,) = kit.history(AT)[-1].notes
        assert note["differs"] == "minutes (5, now 10)"
        assert "what differs is minutes (5, now 10). " in note["reason"]
        assert len(world.calls) == (until_it == "is made")
        given["minutes"] = 5
        await kit.resume(AT)
        if until_it == "waits":
            assert await kit.approve(asked.id)
        await kit.advance(minutes=2)
        assert world.calls == ["192.0.2.1"]


async def test_an_approval_of_another_action_is_refused_by_the_names_alone(world: World) -> None:
    action = "open the gate"

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.approval(action, {"gate": "north"})

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        action = "close the gate"
        await kit.crash()
        await kit.recover()
        (asked,) = kit.approvals()
        assert await kit.approve(asked.id)
        assert kit.lifecycle(AT) == "paused"
        assert "differs" not in kit.history(AT)[-1].notes[0]

"""Agents as approvers: who may decide, once, and what is on record of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel

from actors.approval import question
from actors.domain import LimitSpec
from actors.retry import RetryPolicy
from bus.envelope import new_id
from bus.errors import AlreadySettled, DecisionError, InvalidAddress, InvalidMessage, InvalidTool, UnknownKind
from callboard import Agent, ApprovalRequested, Context, handler, message, tool
from callboard.testing import TestKit


@message("approvers.run.v1")
class Run(BaseModel):
    program: str
    to: str = ""


class Clerk(Agent):
    """Runs the program that the test has given it, and one for what it is to approve."""

    kind = "clerk"
    retry = RetryPolicy(attempts=1)
    programs: dict[str, Callable[..., Awaitable[Any]]] = {}  # noqa: RUF012  (shared on purpose)
    done: list[str] = []  # noqa: RUF012

    class State(BaseModel):
        log: list[str] = []

    state: State

    @handler
    async def on_run(self, run: Run, ctx: Context) -> None:
        if run.to:
            ctx.send(run.to, Run(program=run.program))
        else:
            await Clerk.programs[run.program](self, ctx)

    @handler
    async def on_request(self, request: ApprovalRequested, ctx: Context) -> None:
        await Clerk.programs["decides"](self, request, ctx)


CHIEF, DEPUTY, AT = "test/clerk/chief", "test/clerk/deputy", "test/clerk/c"
DETAILS = {"index": "alerts"}


def program(function: Callable[..., Awaitable[Any]]) -> Run:
    Clerk.programs[function.__name__] = function
    return Run(program=function.__name__)


@tool(effect="at_most_once", requires_approval=True, approvers=["alice", CHIEF])
def delete(index: str) -> str:
    """Delete an index."""
    Clerk.done.append(f"deleted {index}")
    return index


@pytest.fixture(autouse=True)
def fresh() -> None:
    Clerk.programs.clear()
    Clerk.done = []


async def asks(self: Clerk, ctx: Context, approvers: tuple[str, ...] = (CHIEF,)) -> None:
    decision = await ctx.approval("delete", DETAILS, approvers=approvers, timeout=600)
    self.state.log.append(f"{decision.approved} by {decision.by}: {decision.comment} ({decision.message})")


def asks_of(*approvers: str) -> Callable[[Clerk, Context], Awaitable[None]]:
    async def asks_them(self: Clerk, ctx: Context) -> None:
        await asks(self, ctx, approvers)

    return asks_them


async def approves(self: Clerk, request: ApprovalRequested, ctx: Context) -> None:
    try:
        await ctx.decide(request.ref, True, comment="go")
        self.state.log.append(f"decided in {ctx.header.id}")
    except DecisionError as error:
        self.state.log.append(type(error).__name__)


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


async def test_nobody_decides_on_what_it_asks_for_itself() -> None:
    refs: list[str] = []
    refused: list[str] = []

    async def asks_and_is_asked(self: Clerk, ctx: Context) -> None:
        await ctx.approval("delete", DETAILS, approvers=[AT, "alice"])

    async def decides_itself(self: Clerk, ctx: Context) -> None:
        try:
            await ctx.decide(refs[0], True)
        except DecisionError as error:
            refused.append(type(error).__name__)

    async with TestKit([Clerk]) as kit:
        await kit.send(AT, program(asks_and_is_asked))
        await kit.quiet()
        [promise] = kit.store.waits.promises.rows.values()
        assert [o for o in kit.store.sent if o.header.type == "callboard.approval_requested.v1"] == []
        refs.append(f"{AT}#{promise.made.id}")
        await kit.send(DEPUTY, program(decides_itself))  # who was not named
        await kit.quiet()
        assert (refused, promise.status) == (["NotEntitled"], "pending")
        for name in (AT, f"external/{AT}"):
            assert (
                kit.store.waits.promises.settle(
                    "test", "default", promise.made.id, status="approved", value=None, by=name
                )
                is None
            )


async def test_nobody_decides_on_what_is_asked_on_its_behalf() -> None:
    async def decides(self: Clerk, request: ApprovalRequested, ctx: Context) -> None:
        raise AssertionError("it was not asked")

    refs: list[str] = []

    async def decides_all_the_same(self: Clerk, ctx: Context) -> None:
        try:
            await ctx.decide(refs[0], True)
        except DecisionError as error:
            self.state.log.append(type(error).__name__)

    async with TestKit([Clerk]) as kit:
        program(decides)
        Clerk.programs["asks"] = asks_of(CHIEF, "alice")
        await kit.send(CHIEF, Run(program="asks", to=AT))
        await kit.quiet()
        [promise] = kit.store.waits.promises.rows.values()
        refs.append(f"{AT}#{promise.made.id}")
        await kit.send(CHIEF, program(decides_all_the_same))
        await kit.quiet()
        assert (kit.state(CHIEF).log, promise.status) == (["NotEntitled"], "pending")
        assert await kit.approve(promise.made.id, by="alice", comment="fine")
        assert kit.state(AT).log == ["True by alice: fine (None)"]


@pytest.mark.parametrize(
    ("approvers", "error"),
    [
        ((AT,), InvalidMessage), (("Test/clerk/x",), InvalidAddress), (("test/nobody/x",), UnknownKind),
        (("test//x",), InvalidAddress),
    ],
)  # fmt: skip
async def test_approvers_that_cannot_decide_are_refused(
    approvers: tuple[str, ...], error: type[Exception]
) -> None:
    raised: list[Exception] = []

    async def asks_in_vain(self: Clerk, ctx: Context) -> None:
        with pytest.raises(error) as caught:
            await ctx.approval("delete", approvers=approvers)
        raised.append(caught.value)

    async with TestKit([Clerk]) as kit:
        await kit.send(AT, program(asks_in_vain))
        await kit.quiet()
        assert (len(raised), kit.dead_letters(), kit.store.waits.promises.rows) == (1, [], {})


@pytest.mark.parametrize(
    ("approvers", "said"),
    [
        ("alice", "`approvers` is the text 'alice'"),
        (7, "`approvers` is of the type int"),
        (iter(["alice"]), "`approvers` is of the type list_iterator"),
        (["alice", ""], "the approver '' is empty"),
        (["alice", "  "], "the approver '  ' is empty"),
        (["alice", None], "the approver None is no text"),
        (["bob\x1b[2J"], "the approver 'bob\\x1b[2J' has control characters"),
        (["bob\n"], "the approver 'bob\\n' has control characters"),
        (["b\0b"], "the approver 'b\\x00b' has control characters"),
        (["caf\udce9"], "the approver 'caf\\udce9' is not valid Unicode"),
    ],
)
def test_a_bad_approver_is_named_with_what_is_wrong_with_it(approvers: Any, said: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        question("delete", None, approvers)
    assert str(caught.value) == f"Nobody can be asked so: {said}. Give a list of names."

    def delete(what: str) -> None: ...

    with pytest.raises(InvalidTool) as refused:
        tool(requires_approval=True, approvers=approvers)(delete)
    assert str(refused.value) == f"The tool delete can ask nobody so: {said}. Give a list of names."


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


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda ref: {"ref": f"{AT}#{new_id()}"}, "UnknownPromise"),
        (lambda ref: {"ref": "nothing"}, "InvalidAddress"),
        (lambda ref: {"ref": ref, "digest": "0000"}, "InvalidMessage"),
        (lambda ref: {"ref": ref, "comment": "x" * 1_001}, "InvalidMessage"),
    ],
)
async def test_a_decision_that_cannot_count_changes_nothing(
    call: Callable[[str], dict[str, Any]], error: str
) -> None:
    async def decides(self: Clerk, request: ApprovalRequested, ctx: Context) -> None:
        try:
            await ctx.decide(approved=True, **call(request.ref))
        except Exception as refused:
            self.state.log.append(type(refused).__name__)

    async with TestKit([Clerk]) as kit:
        program(decides)
        await kit.send(AT, program(asks))
        await kit.quiet()
        [promise] = kit.store.waits.promises.rows.values()
        assert (kit.state(CHIEF).log, promise.status) == ([error], "pending")


async def test_a_promise_that_is_no_approval_cannot_be_approved() -> None:
    refs: list[str] = []

    async def promises(self: Clerk, ctx: Context) -> None:
        promise = await ctx.promise("paid")
        refs.append(promise.ref)
        await promise

    async def approves_it(self: Clerk, ctx: Context) -> None:
        with pytest.raises(InvalidMessage, match="of the kind promise"):
            await ctx.decide(refs[0], True)
        self.state.log.append("refused")

    async with TestKit([Clerk]) as kit:
        await kit.send(AT, program(promises))
        await kit.quiet()
        await kit.send(CHIEF, program(approves_it))
        await kit.quiet()
        assert kit.state(CHIEF).log == ["refused"]


async def test_a_decision_after_the_time_was_up_is_refused() -> None:
    refs: list[str] = []

    async def decides(self: Clerk, request: ApprovalRequested, ctx: Context) -> None:
        refs.append(request.ref)

    async def decides_late(self: Clerk, ctx: Context) -> None:
        with pytest.raises(AlreadySettled) as caught:
            await ctx.decide(refs[0], True)
        self.state.log.append(caught.value.status)

    async with TestKit([Clerk]) as kit:
        program(decides)
        await kit.send(AT, program(asks))
        await kit.advance(seconds=700)
        await kit.send(CHIEF, program(decides_late))
        await kit.quiet()
        assert kit.state(AT).log == ["False by None: the time was up (None)"]
        assert kit.state(CHIEF).log == ["expired"]


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

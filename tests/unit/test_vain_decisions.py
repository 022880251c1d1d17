"""Decisions that do not count, and approvers that cannot decide: they are refused, and change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from actors.approval import question
from bus.envelope import new_id
from bus.errors import AlreadySettled, DecisionError, InvalidAddress, InvalidMessage, InvalidTool, UnknownKind
from callboard import ApprovalRequested, Context, tool
from callboard.testing import TestKit
from tests.unit.deciders import AT, CHIEF, DEPUTY, DETAILS, Clerk, Run, asks, asks_of, program

pytestmark = pytest.mark.usefixtures("no_decisions")


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

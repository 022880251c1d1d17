"""What is no argument of a call is refused where it is given, in words, before anything is done or recorded."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from actors.agent import agent_type
from actors.retry import RetryPolicy
from bus.errors import CallboardError, InvalidMessage, InvalidTool
from callboard import Agent, Context, handler, tool
from tests.unit.waiter import AT, Run, Waiter, call, leftovers, program, waiters


@tool(requires_approval=True)
def plain_refund(payment: str) -> str:
    Waiter.calls.append(payment)
    return payment


@tool
async def refund(payment: str) -> str:
    Waiter.calls.append(payment)
    return payment


async def said(act: Callable[[Context], Any]) -> str:
    """What a call raises in a handler, which may go on from it."""

    async def acted(ctx: Context) -> None:
        call = act(ctx)
        if call is not None:
            await call

    async def run(self: Waiter, ctx: Context) -> None:
        with pytest.raises(InvalidMessage) as caught:
            await acted(ctx)
        self.state.log.append(str(caught.value))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert kit.dead_letters() == []
        assert Waiter.calls == []
        assert leftovers(kit) == (0, 0, 0)
        return str(kit.state(AT).log[0])


@pytest.mark.parametrize("given", [plain_refund, refund, partial(refund), partial(partial(plain_refund))])
@pytest.mark.parametrize("name", ["step", "compensate"])
async def test_a_tool_is_not_called_past_its_approval_and_its_ledger(name: str, given: Any) -> None:
    words = await said(lambda ctx: getattr(ctx, name)(given, "p1"))
    assert words.startswith(("plain_refund is a tool: ", "refund is a tool: "))
    assert words.endswith("Use ctx.call.") if name == "step" else "ctx.call" in words


async def coroutine() -> None: ...


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda ctx: ctx.step(5), "ctx.step takes a function, and not int."),
        (lambda ctx: ctx.step(None), "ctx.step takes a function, and not NoneType."),
        (lambda ctx: ctx.step(coroutine()), "ctx.step takes a function, and not coroutine."),
        (lambda ctx: ctx.compensate(5), "ctx.compensate takes a function, and not int."),
        (lambda ctx: ctx.step(call, "a", retry=3), "3 is no RetryPolicy."),
        (lambda ctx: ctx.step(call, "a", retry=None), "None is no RetryPolicy."),
        (lambda ctx: ctx.compensate(call, "a", retry=3), "3 is no RetryPolicy."),
        (lambda ctx: ctx.model("small", retry=3), "3 is no RetryPolicy."),
        (lambda ctx: ctx.gather(5), "ctx.gather takes calls, and not int."),
        (lambda ctx: ctx.gather([]), "ctx.gather takes calls, and not list."),
        (lambda ctx: ctx.gather(ctx.sleep(1), 5), "ctx.gather takes calls, and not int."),
        (lambda ctx: ctx.gather(ctx.sleep(1), first="1"), "The first '1' of 1 calls"),
        (lambda ctx: ctx.sleep("5"), "Nobody can sleep for '5' s."),
        (lambda ctx: ctx.sleep(timedelta(seconds=5)), "Nobody can sleep for datetime.timedelta(seconds=5) s."),
        (lambda ctx: ctx.promise("x", timeout="5"), "Nobody can wait for '5' s."),
    ],
)  # fmt: skip
async def test_what_cannot_be_called_waited_for_or_tried_is_refused(
    act: Callable[[Context], Any], words: str
) -> None:
    assert (await said(act)).startswith(words)


@pytest.mark.parametrize("attempts", [0, -1, 2.5, "3", None])
def test_a_policy_without_a_whole_number_of_tries_is_refused(attempts: Any) -> None:
    with pytest.raises(CallboardError, match="attempts"):
        RetryPolicy(attempts=attempts)


@pytest.mark.parametrize(
    "fields", [{"first_delay_s": "1"}, {"jitter": None}, {"retry_on": [ValueError]}, {"give_up_on": (5,)}]
)
def test_a_policy_of_no_numbers_or_errors_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(CallboardError):
        RetryPolicy(**fields)


def test_an_agent_or_a_handler_whose_retry_is_no_policy_is_refused_when_its_class_is_read() -> None:
    no_policy: Any = 0

    class Careless(Agent):
        kind = "careless"
        retry = 3  # type: ignore[assignment]

        @handler
        async def on_run(self, run: Run, ctx: Context) -> None: ...

    class Hasty(Agent):
        kind = "hasty"

        @handler(retry=no_policy)
        async def on_run(self, run: Run, ctx: Context) -> None: ...

    for cls, words in ((Careless, r"Careless\.on_run has retry=3"), (Hasty, r"Hasty\.on_run has retry=0")):
        with pytest.raises(CallboardError, match=words):
            agent_type(cls)


def test_a_tool_whose_retry_is_no_policy_is_refused() -> None:
    with pytest.raises(InvalidTool, match="retry=3"):
        tool(retry=3)(len)  # type: ignore[call-overload]

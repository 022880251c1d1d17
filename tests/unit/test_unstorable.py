"""What a handler may say and Postgres cannot hold, or nobody could read there again, is refused where it is said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bus.errors import InvalidMessage
from callboard import Context
from tests.unit.agents import Note
from tests.unit.waiter import AT, Run, Waiter, leftovers, program, waiters

NEVER = (float("inf"), 1e12, 1e300)  # Postgres knows years up to 294,276, Python up to 9,999
Asks = Callable[[Context], Awaitable[Any]]


async def _later(ctx: Context, **when: Any) -> None:
    ctx.send_later(AT, Note(text="never"), **when)


@pytest.mark.parametrize(
    "asks",
    [
        *(pytest.param(lambda ctx, s=s: ctx.approval("act", timeout=s), id=f"approval in {s}") for s in NEVER),
        *(pytest.param(lambda ctx, s=s: ctx.promise("it", timeout=s), id=f"promise in {s}") for s in NEVER),
        *(pytest.param(lambda ctx, s=s: ctx.sleep(s), id=f"sleep for {s}") for s in NEVER),
        *(pytest.param(lambda ctx, s=s: _later(ctx, delay_s=s), id=f"send in {s}") for s in NEVER),
        *(pytest.param(lambda ctx, s=s: _later(ctx, at=s), id=f"send at {s}") for s in (-1e15, float("nan"))),
        pytest.param(lambda ctx: ctx.step(str, key="k\ud800"), id="a key with half a character"),
        pytest.param(lambda ctx: ctx.approval("act", approvers=["a\0"]), id="an approver with a NUL"),
        pytest.param(lambda ctx: ctx.approval("act", approvers=["a\ud800"]), id="an approver with half a character"),
    ],
)  # fmt: skip
async def test_it_is_refused_and_the_turn_goes_on(asks: Asks) -> None:
    async def say(self: Waiter, ctx: Context) -> None:
        try:
            await asks(ctx)
        except InvalidMessage:
            self.state.log.append("refused")

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(say)))
        await kit.quiet()
        assert kit.state(AT).log == ["refused"]
        assert leftovers(kit) == (0, 0, 0)

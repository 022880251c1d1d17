"""Whoever asked is told of a failure also in words that are above the claim-check size."""

from __future__ import annotations

import pytest

from actors.domain import LimitSpec
from bus.errors import AskFailed, InvalidMessage
from callboard import Context
from tests.unit.waiter import AT, Run, Waiter, leftovers, program, waiters

LONG = "太" * 300  # as many characters as are kept, of three bytes each


async def test_an_ask_that_fails_with_many_words_is_answered() -> None:
    async def asked(self: Waiter, ctx: Context) -> None:
        raise InvalidMessage(LONG)

    async def run(self: Waiter, ctx: Context) -> None:
        with pytest.raises(AskFailed, match=LONG[:100]):
            await ctx.ask("test/waiter/other", Run(program=program(asked)))
        self.state.log.append("told")

    async with waiters(limits=LimitSpec(claim_check_bytes=1024)) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert kit.state(AT).log == ["told"]
        assert [letter.address for letter in kit.dead_letters()] == ["test/waiter/other"]
        assert leftovers(kit) == (0, 0, 0)

"""How tools are declared, and the arguments that they take."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from bus.errors import InvalidPayload, InvalidTool
from callboard import Context, Secret, tool
from callboard.testing import TestKit
from tests.unit.tools.caller import AT, KINDS, Caller, World, blocking, run_once


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
        (keyless, {"requires_approval": True, "approvers": "alice"}, "`approvers` is the text 'alice'"),
        (keyless, {"requires_approval": True, "approvers": [""]}, "the approver '' is empty"),
        (keyless, {"requires_approval": keyless}, "needs approval is async"),
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

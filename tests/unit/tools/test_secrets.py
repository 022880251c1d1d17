"""Secrets of tools: handed to the function and recorded nowhere."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pytest

from actors.retry import RetryPolicy
from actors.secret import GivenSecrets
from bus.errors import MissingSecret, NotDone, ToolFailed
from callboard import Context, Secret, tool
from callboard.testing import TestKit
from tests.unit.tools.caller import AT, KINDS, Caller, World, run_once


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


async def test_nobody_is_asked_about_a_call_whose_secret_is_missing(world: World) -> None:
    @tool(requires_approval=True)
    async def block(address: str, token: Annotated[str, Secret("API_TOKEN")]) -> None:
        await world.act(f"{address} with {token}")

    async def run(self: Caller, ctx: Context) -> None:
        with pytest.raises(MissingSecret, match="There is no secret API_TOKEN"):
            await ctx.call(block, "192.0.2.1", key="first")
        self.state.log.append("missing")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        assert (kit.state(AT).log, kit.approvals(), kit.ledger()) == (["missing"], [], [])


async def test_a_secret_that_changes_while_a_person_is_asked_is_read_anew(world: World) -> None:
    @tool(requires_approval=True)
    async def block(address: str, token: Annotated[str, Secret("API_TOKEN")]) -> str:
        await world.act(f"{address} with {token}")
        return f"with {token}"

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append(await ctx.call(block, "192.0.2.1"))

    async with TestKit(KINDS, secrets={"API_TOKEN": "old-4711"}) as kit:
        await run_once(kit, run)
        (asked,) = kit.approvals()
        kit._scope.secrets = GivenSecrets({})
        await kit.crash()
        await kit.recover()
        await kit.quiet()
        assert [asked] == kit.approvals()  # and the turn goes on to wait
        kit._scope.secrets = GivenSecrets({"API_TOKEN": "new-4712"})
        assert await kit.approve(asked.id)
        assert (world.calls, kit.state(AT).log) == (["192.0.2.1 with new-4712"], ["with [API_TOKEN]"])
        everything = (
            f"{kit.store.waits.journal} {kit.store.waits.promises.rows} {kit.ledger()} {kit.history(AT)}"
        )
        assert "4711" not in everything
        assert "4712" not in everything

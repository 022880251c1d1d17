"""Results of calls that are large or cannot be kept: the call is not made again for them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from actors.domain import LimitSpec
from bus.errors import ResultLost, StorageUnavailable
from callboard import Agent, Context, handler, message, tool
from callboard.testing import TestKit
from tests.unit.tools.caller import AT, KINDS, Caller, World, blocking, program, run_once, statuses


@message("tools.page.v1")
class Page(BaseModel):
    size: int


class Librarian(Agent):
    kind = "librarian"

    @handler
    async def on_page(self, page: Page, ctx: Context) -> str:
        return "x" * page.size


async def test_what_a_tool_returned_that_cannot_be_kept_does_not_make_it_act_again(world: World) -> None:
    made: list[str] = []

    @tool
    async def fetch(size: int) -> Any:
        made.append("x")
        return "x" * size if size else object()

    async def run(self: Caller, ctx: Context) -> None:
        for size in (20_000, 0):
            with pytest.raises(ResultLost, match="fetch has acted, and its result is lost") as caught:
                await ctx.call(fetch, size)
            assert str(caught.value).count("Let the tool return less") == 1
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


async def test_an_answer_whose_blob_cannot_be_read_yet_does_not_cut_off_a_call_beside_it(
    world: World,
) -> None:
    block, read = blocking(world), asyncio.Event()

    async def calls(self: Caller, ctx: Context) -> None:
        done, text = await ctx.gather(
            ctx.call(block, "192.0.2.1", key="call"),
            ctx.ask("test/librarian/main", Page(size=5_000), key="ask"),
        )
        self.state.log.append(f"{done.address} {len(text)}")

    async with TestKit([Caller, Librarian], limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        world.gate = asyncio.Event()
        get_blob, tries = kit.store.get_blob, 0

        async def away_at_first(*arguments: Any) -> bytes:
            nonlocal tries
            tries += 1
            if tries <= 2:
                raise StorageUnavailable("Away.")
            read.set()
            return await get_blob(*arguments)

        kit.store.get_blob = away_at_first  # type: ignore[method-assign,assignment]
        await kit.send(AT, program(calls))
        async with asyncio.timeout(10):
            await read.wait()
            world.gate.set()
            while not kit.state(AT).log:  # noqa: ASYNC110  (rows that another task writes)
                await asyncio.sleep(0.01)
        assert (kit.state(AT).log, world.calls) == (["192.0.2.1 5000"], ["192.0.2.1"])
        assert statuses(kit) == [("block_address", "succeeded", 1)]

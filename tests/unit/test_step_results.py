"""What a step returns: it comes back as it was, as far as it can be recorded, from whatever can be called."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from actors.domain import LimitSpec
from bus.errors import InvalidPayload, StepFailed
from callboard import Context, tool
from tests.unit.waiter import AT, Run, Waiter, call, program, put_away, waiters


class Place(BaseModel):
    city: str
    floor: int = 0


MIB = 1024 * 1024


async def test_results_come_back_as_the_annotation_says_and_as_json_without_one() -> None:
    def find(city: str) -> Place:
        return Place(city=city, floor=2)

    async def find_all(*cities: str) -> list[Place]:
        return [Place(city=city) for city in cities]

    def plain() -> Any:
        return {"place": Place(city="x")}

    seen: list[Any] = []

    async def run(self: Waiter, ctx: Context) -> None:
        seen.append(await ctx.step(find, "Riga"))
        seen.append(await ctx.step(find_all, "Bonn", "Oslo"))
        seen.append(await ctx.step(plain))
        await ctx.sleep(5)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=10)
        once = [
            Place(city="Riga", floor=2), [Place(city="Bonn"), Place(city="Oslo")],
            {"place": {"city": "x", "floor": 0}},
        ]  # fmt: skip
        assert seen == once * 2  # it was put away while it slept, and ran again


@pytest.mark.parametrize("value", [object(), float("nan"), {1: b"\xff"}, "a\0b"])
async def test_a_result_that_json_cannot_carry_is_a_failure_of_the_step(value: Any) -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        try:
            await ctx.step(lambda: value)
        except StepFailed as error:
            self.state.log.append(error.message)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert "InvalidPayload" in kit.state(AT).log[0]


async def test_a_large_result_goes_to_blob_storage_and_a_too_large_one_is_refused() -> None:
    sizes: list[int] = []

    async def run(self: Waiter, ctx: Context) -> None:
        sizes.append(len(await ctx.step(lambda: "x" * 5_000)))
        try:
            await ctx.step(lambda: "x" * 50_000)
        except StepFailed as error:
            self.state.log.append(error.message)
        await ctx.sleep(5)

    async with waiters(limits=LimitSpec(claim_check_bytes=2_000, payload_bytes=20_000)) as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=10)
        assert sizes == [5_000, 5_000]
        assert "PayloadTooLarge" in kit.state(AT).log[0]
        [recorded] = [e for entries in kit.store.waits.journal.values() for e in entries if e.blob]
        assert recorded.value == "null"


async def test_a_result_of_20_mib_is_refused_and_one_below_the_limit_comes_back() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        try:
            await ctx.step(lambda: "x" * (20 * MIB))
        except StepFailed as error:
            self.state.log.append(error.message)
        text = await ctx.step(lambda: "x" * (15 * MIB))
        await ctx.sleep(5)
        self.state.log.append(f"{len(text)}")

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(seconds=10)
        refused, came_back = kit.state(AT).log
        assert "PayloadTooLarge" in refused
        assert came_back == f"{15 * MIB}"


@pytest.mark.parametrize("by_tool", [False, True])
async def test_a_result_on_record_that_newer_code_cannot_read_waits_for_a_person(by_tool: bool) -> None:
    class Newer(Place):
        country: str

    def make(returned: type[Place]) -> Any:
        def find() -> Any:
            Waiter.calls.append("find")
            return Place(city="Riga")

        find.__annotations__["return"] = returned
        return tool(find) if by_tool else find

    find = make(Place)

    async def run(self: Waiter, ctx: Context) -> None:
        ctx.compensate(call, "undo")
        place = await (ctx.call(find) if by_tool else ctx.step(find))
        await ctx.sleep(60)
        self.state.log.append(place.city)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        find = make(Newer)
        await kit.advance(seconds=61)
        assert (kit.lifecycle(AT), kit.dead_letters()) == ("paused", [])
        assert "country: is missing" in kit.history(AT)[-1].notes[0]["reason"]
        find = make(Place)  # the code is mended
        await kit.resume(AT)
        await kit.quiet()
        assert (kit.state(AT).log, Waiter.calls) == (["Riga"], ["find"])


@pytest.mark.parametrize("by_tool", [False, True])
async def test_a_result_that_has_never_fitted_does_not_fit_again_when_its_turn_runs_again(
    by_tool: bool,
) -> None:
    def find() -> Place:
        Waiter.calls.append("find")
        return "Riga"  # type: ignore[return-value]

    async def run(self: Waiter, ctx: Context) -> None:
        with pytest.raises(InvalidPayload, match="does not fit what"):
            await (ctx.call(tool(find)) if by_tool else ctx.step(find))
        await ctx.sleep(60)
        self.state.log.append("without")

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=61)
        assert (kit.state(AT).log, Waiter.calls) == (["without"], ["find"])


class Remote:
    """As a method of a remote server: it has whatever attribute it is asked for."""

    def __getattr__(self, name: str) -> Remote:
        return Remote()

    def __call__(self, name: str) -> str:
        return name.upper()


class Fetcher:
    async def fetch(self, name: str) -> str:
        return name.upper()

    def __call__(self, name: str) -> str:
        return name.upper()


def through(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def called(*arguments: Any) -> Any:
        return await function(*arguments)

    return called


@pytest.mark.parametrize(
    "function",
    [
        Remote(), Fetcher(), Fetcher().fetch, functools.partial(Fetcher().fetch, "a"),
        functools.partial(Fetcher(), "a"), through(Fetcher().fetch), str.upper,
    ],
    ids=["remote", "object", "async_method", "async_partial", "partial", "decorated", "builtin"],
)  # fmt: skip
async def test_whatever_can_be_called_can_be_a_steps_function(function: Callable[..., Any]) -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        again = copy.copy(function)  # in another process it is another object
        given = () if isinstance(function, functools.partial) else ("a",)
        result = await ctx.step(again, *given)
        await ctx.sleep(60)
        self.state.log.append(result)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=61)
        assert kit.state(AT).log == ["A"]


class Counts(dict[str, int]):
    pass


def counts() -> Counts:
    return Counts(a=1)


def count(wrong: Any) -> int:
    return wrong  # type: ignore[no-any-return]


@pytest.mark.parametrize("function", [functools.partial(count, "x"), counts], ids=["partial", "no_schema"])
async def test_a_result_that_is_not_what_the_annotation_says_is_told_of_any_function(
    function: Callable[..., Any],
) -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        try:
            await ctx.step(function)
        except InvalidPayload:
            self.state.log.append("unfit")

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert kit.state(AT).log == ["unfit"]

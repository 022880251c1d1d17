"""The exact cache's bounds, and what becomes of calls that are shared."""

from __future__ import annotations

import asyncio

import pytest

from serve.gateway.cache import ExactCache
from serve.gateway.errors import ApiError
from serve.gateway.models_file import CacheSpec, TargetSpec
from serve.gateway.relay import Answer

TARGET = TargetSpec(upstream="u", model="m")


def answer(size: int = 10) -> Answer:
    return Answer(TARGET, {"text": "x" * size})


async def get(cache: ExactCache, key: str, made: Answer) -> tuple[Answer, str]:
    async def make() -> Answer:
        return made

    return await cache.get(key, make)


async def test_the_least_recently_used_goes_first() -> None:
    cache = ExactCache(CacheSpec(bytes=2000))
    for key in "abc":
        await get(cache, key, answer())
        assert await get(cache, "a", answer()) == (answer(), "hit")
    await get(cache, "d", answer())
    assert cache.bytes <= 2000
    assert [(await get(cache, key, answer()))[1] for key in "acdb"] == ["hit", "hit", "hit", "miss"]


async def test_what_is_larger_than_all_of_it_is_not_kept() -> None:
    cache = ExactCache(CacheSpec(bytes=2000))
    await get(cache, "a", answer())
    kept = cache.bytes
    assert [(await get(cache, "b", answer(5000)))[1] for _ in range(2)] == ["miss", "miss"]
    assert cache.bytes == kept


async def test_nothing_is_kept_longer_than_it_may() -> None:
    now = 0.0
    cache = ExactCache(CacheSpec(ttl_s=60), lambda: now)
    await get(cache, "a", answer())
    now = 59.0
    assert (await get(cache, "a", answer()))[1] == "hit"
    now = 60.0
    assert (await get(cache, "a", answer(20))) == (answer(20), "miss")
    assert (await get(cache, "a", answer()))[0] == answer(20)


async def test_who_shares_a_call_that_fails_is_told_so_and_the_next_one_asks_anew() -> None:
    cache = ExactCache(CacheSpec())
    go = asyncio.Event()

    async def fail() -> Answer:
        await go.wait()
        raise ApiError("no")

    waiting = [asyncio.create_task(cache.get("a", fail)) for _ in range(3)]
    await asyncio.sleep(0)
    go.set()
    assert [str(error) for error in await asyncio.gather(*waiting, return_exceptions=True)] == ["no"] * 3
    assert (await get(cache, "a", answer()))[1] == "miss"


async def test_the_last_who_leaves_ends_the_call_and_who_comes_then_begins_another() -> None:
    cache = ExactCache(CacheSpec())
    ended = asyncio.Event()

    async def endless() -> Answer:
        try:
            await asyncio.get_running_loop().create_future()
            raise AssertionError("nobody ends it")
        finally:
            ended.set()

    waiting = [asyncio.create_task(cache.get("a", endless)) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    assert not ended.is_set()
    waiting[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[1]
    assert ended.is_set()
    assert (await get(cache, "a", answer()))[1] == "miss"


async def test_a_call_that_takes_a_while_to_end_does_not_end_the_sharing_of_the_next_one() -> None:
    cache = ExactCache(CacheSpec())
    ending, end, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow_to_end() -> Answer:
        try:
            await asyncio.get_running_loop().create_future()
            raise AssertionError("nobody ends it")
        finally:
            ending.set()
            await end.wait()

    async def make() -> Answer:
        await go.wait()
        return answer()

    left = asyncio.create_task(cache.get("a", slow_to_end))
    await asyncio.sleep(0)
    left.cancel()
    await ending.wait()
    second = asyncio.create_task(cache.get("a", make))
    await asyncio.sleep(0)
    end.set()
    await asyncio.wait([left])
    third = asyncio.create_task(cache.get("a", make))
    await asyncio.sleep(0)
    go.set()
    assert [(await one)[1] for one in (second, third)] == ["miss", "shared"]

"""The exact cache's bounds, what becomes of calls that are shared, and what stands on the shelf behind it."""

from __future__ import annotations

import asyncio
from hashlib import sha256

import msgspec
import pytest

from serve.gateway.cache import ExactCache, Kept
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


class Shelf:
    """Implements serve.gateway.cache.Shelf."""

    def __init__(self, found: Kept | None = None, old: Kept | None = None) -> None:
        self.found, self.old = found, old
        self.kept: list[tuple[Answer, bytes, bytes | None]] = []
        self.looks = 0

    async def find(self, *, old: bool = False) -> Kept | None:
        self.looks += 1
        return self.old if old else self.found

    def keep(self, answer: Answer, body: bytes, made_for: bytes | None) -> None:
        self.kept.append((answer, body, made_for))


async def must_not() -> Answer:
    raise AssertionError("it is there already")


async def test_what_stands_on_the_shelf_is_not_made_and_not_looked_for_again() -> None:
    cache = ExactCache(CacheSpec())
    shelf = Shelf(Kept(answer(), None, 60))
    assert await cache.get("a", must_not, None, shelf) == (answer(), "hit")
    assert await cache.get("a", must_not, None, shelf) == (answer(), "hit")
    assert (shelf.looks, shelf.kept) == (1, [])


async def test_what_is_made_is_put_on_the_shelf_and_errors_are_not() -> None:
    cache = ExactCache(CacheSpec())
    shelf = Shelf()

    async def fail() -> Answer:
        raise ApiError("no")

    with pytest.raises(ApiError):
        await cache.get("a", fail, None, shelf)
    assert shelf.kept == []

    async def make() -> Answer:
        return answer()

    assert await cache.get("a", make, "my key", shelf) == (answer(), "miss")
    body = msgspec.json.encode(answer().body)
    assert shelf.kept == [(answer(), body, sha256(b"my key").digest())]


async def test_what_was_on_the_shelf_holds_no_longer_here_than_there() -> None:
    now = 0.0
    cache = ExactCache(CacheSpec(ttl_s=60), lambda: now)
    shelf = Shelf(Kept(answer(), None, 10))
    await cache.get("a", must_not, None, shelf)
    now = 9.0
    await cache.get("a", must_not, None, shelf)
    assert shelf.looks == 1
    now = 10.0
    await cache.get("a", must_not, None, shelf)
    assert shelf.looks == 2
    shelf.found = Kept(answer(), None, 1000)  # put there when it was to hold for longer
    await cache.get("b", must_not, None, shelf)
    now = 70.0
    shelf.found = None
    assert (await get(cache, "b", answer(20)))[1] == "miss"


async def test_whose_key_it_was_made_with_is_known_of_what_was_on_the_shelf() -> None:
    for by, how in (("mine", "again"), ("other", "hit"), (None, "hit")):
        cache = ExactCache(CacheSpec())
        shelf = Shelf(Kept(answer(), sha256(b"mine").digest(), 60))
        for _ in range(2):
            assert await cache.get("a", must_not, by, shelf) == (answer(), how)


async def test_all_who_wait_for_the_same_look_are_told_that_nothing_was_made() -> None:
    cache = ExactCache(CacheSpec())
    shelf = Shelf(Kept(answer(), None, 60))
    found = await asyncio.gather(*(cache.get("a", must_not, None, shelf) for _ in range(3)))
    assert [how for _, how in found] == ["hit"] * 3
    assert shelf.looks == 1


async def test_an_old_answer_is_taken_from_the_shelf_where_there_is_none_here() -> None:
    now = 0.0
    cache = ExactCache(CacheSpec(ttl_s=10, stale_s=10), lambda: now)
    shelf = Shelf(old=Kept(answer(20), None, -5))
    assert await cache.stale("a") is None
    assert await cache.stale("a", shelf) == answer(20)
    await get(cache, "a", answer())
    now = 19.0
    assert await cache.stale("a", shelf) == answer()
    now = 20.0
    assert await cache.stale("a", shelf) == answer(20)

"""Texts of many requests, encoded together; the model is played."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from serve.local.batcher import Batcher, Busy, Piece


class Model:
    """Answers with the text in capitals when `go` is set; fails where a text is `bad`."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.begun = asyncio.Event()
        self.batches: list[list[str]] = []
        self.now = 0.0
        self.takes_s = 0.0

    async def encode(self, batch: list[str], group: str) -> list[str]:
        self.batches.append(batch)
        self.begun.set()
        await self.go.wait()
        self.now += self.takes_s
        if "bad" in batch:
            raise ValueError("It is bad.")
        return [text.upper() for text in batch]

    def hold(self) -> None:
        self.go.clear()
        self.begun.clear()


@pytest.fixture
def model() -> Model:
    return Model()


@contextlib.asynccontextmanager
async def batcher(
    model: Model, *, limit: int = 10, waiting: int = 1000, depth: int = 1
) -> AsyncIterator[Batcher[str, str]]:
    made: Batcher[str, str] = Batcher(
        model.encode, limit=limit, waiting_limit=waiting, depth=depth, clock=lambda: model.now
    )
    yield made
    await made.close()


def pieces(*texts: str) -> list[Piece[str]]:
    """As many tokens as characters."""
    return [Piece(text, len(text)) for text in texts]


async def under_way(at: Batcher[str, str], *texts: str) -> asyncio.Task[list[str]]:
    """Asked, and in the queue or in work."""
    task = asyncio.create_task(at.submit(pieces(*texts)))
    await asyncio.sleep(0)
    return task


async def test_answers_are_in_the_order_of_the_texts(model: Model) -> None:
    async with batcher(model) as at:
        assert await at.submit(pieces("a", "cccc", "bb", "dddddddddddd")) == [
            "A",
            "CCCC",
            "BB",
            "DDDDDDDDDDDD",
        ]
        assert model.batches == [["dddddddddddd"], ["cccc", "bb"], ["a"]]
        assert at.waiting == 0


async def test_what_comes_while_a_batch_is_under_way_is_done_together_and_sorted(model: Model) -> None:
    model.hold()
    async with batcher(model) as at:
        first = await under_way(at, "x")
        await model.begun.wait()
        others = [await under_way(at, text) for text in ("a", "bbbb", "c", "dddd")]
        model.go.set()
        await asyncio.gather(first, *others)
        assert model.batches == [["x"], ["bbbb", "dddd"], ["a", "c"]]


async def test_a_large_request_does_not_keep_a_small_one_waiting(model: Model) -> None:
    model.hold()
    async with batcher(model, limit=2) as at:
        large = await under_way(at, *("aa" for _ in range(100)))
        await model.begun.wait()
        small = await under_way(at, "b")
        model.go.set()
        assert await small == ["B"]
        assert len(model.batches) < 15
        assert not large.done()
        assert len(await large) == 100


async def test_past_the_limit_it_is_refused_with_the_time_that_the_rest_takes(model: Model) -> None:
    model.takes_s = 0.5
    async with batcher(model, limit=4, waiting=20) as at:
        await at.submit(pieces("aaaa"))  # 8 tokens a second
        model.hold()
        held = [await under_way(at, "bbbb")]
        await model.begun.wait()
        held += [await under_way(at, "cccc") for _ in range(5)]
        with pytest.raises(Busy) as refused:
            await at.submit(pieces("d"))
        assert (refused.value.waiting, refused.value.retry_after_s) == (20, 2.5)
        model.go.set()
        await asyncio.gather(*held)
        assert await at.submit(pieces("d")) == ["D"]


async def test_one_larger_than_all_that_may_wait_is_done_when_it_is_alone(model: Model) -> None:
    async with batcher(model, limit=4, waiting=3) as at:
        assert len(await at.submit(pieces(*"abcdefgh"))) == 8


async def test_what_nobody_waits_for_is_not_done(model: Model) -> None:
    model.hold()
    async with batcher(model, limit=1) as at:
        first = await under_way(at, "x")
        await model.begun.wait()
        gone, stays = await under_way(at, *("g" for _ in range(20))), await under_way(at, "s")
        gone.cancel()
        model.go.set()
        assert await stays == ["S"]
        assert await first == ["X"]
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert ["g"] not in model.batches
        assert at.waiting == 0


async def test_nor_what_was_already_in_line_for_the_next_batch(model: Model) -> None:
    model.hold()
    async with batcher(model, limit=1) as at:
        first, gone = (asyncio.create_task(at.submit(pieces(text))) for text in ("x", "g"))
        await model.begun.wait()
        assert at.waiting == 0
        gone.cancel()
        model.go.set()
        assert await first == ["X"]
        assert await at.submit(pieces("s")) == ["S"]
        assert model.batches == [["x"], ["s"]]


async def test_a_text_that_fails_is_its_own_requests_matter(model: Model) -> None:
    model.hold()
    async with batcher(model) as at:
        held = await under_way(at, "x")
        await model.begun.wait()
        good, bad = await under_way(at, "a", "b"), await under_way(at, "bad", "c")
        model.go.set()
        assert await good == ["A", "B"]
        with pytest.raises(ValueError, match="It is bad"):
            await bad
        assert await held == ["X"]
        assert await at.submit(pieces("d")) == ["D"]
        assert at.waiting == 0


async def test_with_depth_the_next_batch_is_ready_before_the_first_is_done(model: Model) -> None:
    model.hold()
    async with batcher(model, limit=1, depth=2) as at:
        asked = await under_way(at, "a", "b", "c")
        for _ in range(10):  # rounds of the event loop
            await asyncio.sleep(0)
        assert len(model.batches) == 2
        model.go.set()
        assert await asked == ["A", "B", "C"]


async def test_it_tells_how_long_a_batch_hangs_and_its_end_ends_who_waits(model: Model) -> None:
    model.hold()
    async with batcher(model, limit=1) as at:
        assert at.stuck_s == 0
        asked, waiting = await under_way(at, "a"), await under_way(at, "b")
        await model.begun.wait()
        model.now = 7.0
        assert at.stuck_s == 7.0
    for one in (asked, waiting):
        with pytest.raises(asyncio.CancelledError):
            await one
    assert at.stuck_s == float("inf")

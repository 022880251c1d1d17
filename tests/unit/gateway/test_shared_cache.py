"""The cache in Postgres is in nobody's way: Postgres away, slow or full of other work is a miss."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bus.errors import SchemaMismatch, StorageUnavailable
from serve.gateway.breaker import FAILURES, REST_S
from serve.gateway.cache import cache_key
from serve.gateway.models_file import CacheSpec, ModelSpec, SharedCacheSpec, parse_models
from serve.gateway.relay import Answer
from serve.gateway.requests import read_chat
from serve.gateway.revision import revision_of
from serve.gateway.shared_cache import PostgresShelf, SharedCache
from storage.answers import AnswerBounds, AnswerKey, StoredAnswer

MODELS = """
upstreams:
  openai: {type: openai, api_key: OPENAI_API_KEY}
  here: {type: local}
models:
  small: {targets: [{upstream: openai, model: a}, {upstream: openai, model: b}]}
  own: {serves: embeddings, targets: [{upstream: here, model: FOLDER}]}
"""
FILE = parse_models(MODELS)
SMALL = FILE.models["small"]
ANSWER = Answer(SMALL.targets[1], {"said": "Hello"})
BODY = b'{"said":"Hello"}'
KEY = "ab" * 32


class Played:
    """Implements serve.gateway.shared_cache.Answers, over a dict."""

    def __init__(self) -> None:
        self.rows: dict[AnswerKey, StoredAnswer] = {}
        self.looks = self.openings = 0
        self.left = asyncio.Event()
        self.is_full = asyncio.Event()  # so many look as may
        self.batches: list[int] = []
        self.bounds: AnswerBounds | None = None
        self.fails: Exception | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.closed = False

    async def open(self) -> Played:
        self.openings += 1
        if isinstance(self.fails, StorageUnavailable):
            raise self.fails
        return self

    async def find(self, key: AnswerKey, *, old: bool = False) -> tuple[StoredAnswer, float] | None:
        self.looks += 1
        if self.looks == 64:
            self.is_full.set()
        try:
            await self._serve()
        except asyncio.CancelledError:
            self.left.set()
            raise
        found = self.rows.get(key)
        return None if found is None else (found, 60.0)

    async def keep(self, answers: Sequence[tuple[AnswerKey, StoredAnswer]], bounds: AnswerBounds) -> None:
        self.bounds = bounds
        await self._serve()
        self.batches.append(len(answers))
        self.rows.update(answers)

    async def close(self) -> None:
        self.closed = True

    async def _serve(self) -> None:
        await self.go_on.wait()
        if self.fails is not None:
            raise self.fails


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Rig:
    def __init__(self, spec: CacheSpec = CacheSpec(), within_s: float = 5.0) -> None:  # noqa: B008
        self.played = Played()
        self.clock = Clock()
        self.cache = SharedCache(
            spec, FILE.models, FILE.upstreams, self.played.open, within_s=within_s, clock=self.clock
        )

    def shelf(self, tenant: str = "t", key: str = KEY) -> PostgresShelf:
        found = self.cache.shelf(tenant, "small", SMALL, key)
        assert found is not None
        return found

    async def written(self) -> None:
        assert self.cache._writing is not None
        await asyncio.wait_for(asyncio.wait([self.cache._writing]), 5)


async def test_an_answer_comes_back_as_it_was_with_its_target() -> None:
    rig = Rig(CacheSpec(ttl_s=7, stale_s=8, shared=SharedCacheSpec(bytes=9000, answers=10)))
    rig.shelf().keep(ANSWER, BODY, b"whose")
    await rig.written()
    found = await rig.shelf().find()
    assert found is not None
    assert (found.answer, found.made_for, found.holds_s) == (ANSWER, b"whose", 60.0)
    assert rig.played.bounds == AnswerBounds(holds_s=7, stays_s=8, answers=10, bytes=9000)
    assert await rig.shelf("other").find() is None
    assert await rig.shelf(key="cd" * 32).find() is None
    await rig.cache.close()
    assert rig.played.closed


async def test_no_word_of_what_was_asked_is_in_a_key() -> None:
    body = b'{"model": "small", "temperature": 0, "messages": [{"role": "user", "content": "my secret"}]}'
    key = cache_key("acme", read_chat(body))
    assert key is not None
    rig = Rig()
    rig.shelf("acme", key).keep(ANSWER, BODY, None)
    await rig.written()
    [stored] = rig.played.rows
    assert stored.tenant == "acme"
    assert [len(stored.request), len(stored.revision)] == [32, 32]


async def test_a_postgres_that_is_slow_is_a_miss_in_time() -> None:
    rig = Rig(within_s=0.02)
    rig.played.go_on.clear()
    async with asyncio.timeout(2):
        assert await rig.shelf().find() is None
        await rig.played.left.wait()  # what was given up has been told so


async def test_the_limit_holds_for_connecting_too_which_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(within_s=0.02)
    may_connect = asyncio.Event()

    async def open_slowly() -> Played:
        await may_connect.wait()
        return await rig.played.open()

    rig.cache._open_answers = open_slowly
    async with asyncio.timeout(2):
        for _ in range(2):
            assert await rig.shelf().find() is None
    assert "Postgres does not answer within 20 ms." in caplog.text
    may_connect.set()
    rig.cache._within_s = 5.0
    assert await rig.shelf().find() is None
    assert (rig.played.openings, rig.played.looks) == (1, 1)


async def test_one_that_keeps_failing_is_left_alone_for_a_while_and_then_tried_again() -> None:
    rig = Rig()
    rig.played.fails = SchemaMismatch("no such table")
    for _ in range(FAILURES + 3):
        assert await rig.shelf().find() is None
    assert (rig.played.looks, rig.cache.state) == (FAILURES, "open")
    rig.shelf().keep(ANSWER, BODY, None)
    assert rig.cache._writing is None
    rig.played.fails = None
    rig.clock.now += REST_S
    assert await rig.shelf().find() is None
    assert rig.played.looks == FAILURES + 1


async def test_one_that_was_away_is_connected_to_when_it_is_back() -> None:
    rig = Rig()
    rig.played.fails = StorageUnavailable("away")
    assert await rig.shelf().find() is None
    rig.played.fails = None
    rig.shelf().keep(ANSWER, BODY, None)
    await rig.written()
    assert await rig.shelf().find() is not None
    assert rig.played.openings == 2


async def test_what_fails_is_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.played.fails = StorageUnavailable("The connection to Postgres failed.")
    for _ in range(3):
        await rig.shelf().find()
    rig.shelf().keep(ANSWER, BODY, None)
    await rig.written()
    [line] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith(
        "Answers of models are not looked up in Postgres: The connection to Postgres failed."
    )
    rig.clock.now += 60
    await rig.shelf().find()
    assert len(caplog.records) == 2


async def test_so_many_look_at_once_and_the_others_go_on() -> None:
    rig = Rig()
    rig.played.go_on.clear()
    looking = [asyncio.create_task(rig.shelf().find()) for _ in range(100)]
    await asyncio.wait_for(rig.played.is_full.wait(), 5)
    assert sum(task.done() for task in looking) == 36
    rig.played.go_on.set()
    assert await asyncio.gather(*looking) == [None] * 100
    assert rig.cache.state == "closed"


async def test_what_waits_to_be_written_is_bounded_and_written_in_batches(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig()
    rig.played.go_on.clear()
    large = b'"' + b"x" * 1_000_000 + b'"'
    for number in range(40):
        rig.shelf(key=f"{number:064x}").keep(ANSWER, large, None)
    assert rig.cache._waiting_bytes <= 16 * 1024 * 1024
    assert "come faster than Postgres keeps them" in caplog.text
    rig.played.go_on.set()
    await rig.written()
    assert rig.played.batches == [4, 4, 4, 4]
    assert rig.cache._waiting_bytes == 0
    for number in range(100):
        rig.shelf(key=f"{number + 100:064x}").keep(ANSWER, BODY, None)
    await rig.written()
    assert rig.played.batches[4:] == [64, 36]


async def test_what_is_larger_than_can_be_read_in_time_or_than_all_of_it_is_not_kept() -> None:
    rig = Rig()
    rig.shelf().keep(ANSWER, b"x" * 4 * 1024 * 1024, None)
    small = Rig(CacheSpec(shared=SharedCacheSpec(bytes=1000)))
    small.shelf().keep(ANSWER, b"x" * 600, None)
    assert (rig.cache._writing, small.cache._writing) == (None, None)


async def test_a_gateway_that_ends_writes_what_waits() -> None:
    rig = Rig()
    rig.shelf().keep(ANSWER, BODY, None)
    await rig.cache.close()
    assert (len(rig.played.rows), rig.played.closed) == (1, True)


async def test_a_tenant_that_postgres_cannot_hold_has_no_place() -> None:
    assert Rig().cache.shelf("a\0b", "small", SMALL, KEY) is None


@pytest.mark.parametrize("row", [{"target": 2}, {"body": b"{"}, {"body": b"[]"}])
async def test_a_row_that_somebody_has_edited_is_none(row: dict[str, Any]) -> None:
    rig = Rig()
    rig.shelf().keep(ANSWER, BODY, None)
    await rig.written()
    [key] = rig.played.rows
    rig.played.rows[key] = StoredAnswer(**{"target": 1, "made_for": None, "body": BODY, **row})
    assert await rig.shelf().find() is None


def test_a_model_that_is_another_now_has_another_revision(tmp_path: Path) -> None:
    def revision(name: str, old: str = "", new: str = "") -> bytes:
        file = parse_models(MODELS.replace("FOLDER", str(tmp_path)).replace(old or "\0", new))
        model: ModelSpec = file.models[name]
        return revision_of(model, file.upstreams)

    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}")
    small, own = revision("small"), revision("own")
    assert (small, own) == (revision("small"), revision("own"))
    assert revision("small", "model: b", "model: c") != small
    assert revision("small", "{type: openai,", "{type: openai, base_url: 'http://h/v1',") != small
    assert revision("own", "{type: local}", "{type: local, embedding: {dtype: float16}}") != own
    (tmp_path / "1_Pooling" / "config.json").write_text("{ }")
    assert revision("own") != own
    assert revision("small") == small

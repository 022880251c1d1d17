"""Answers in Postgres: several gateways share them, and a restart does not lose them; without it nobody waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import openai
import pytest

from serve.gateway.shared_cache import WITHIN_S
from storage.answers import ROW_BYTES, AnswerBounds, AnswerKey, PostgresAnswers, StoredAnswer
from storage.connect import connect
from storage.retention import retain
from tests.integration.cli import until
from tests.integration.gateway import Clock, Front, Stage
from tests.integration.upstreams import completion, embeddings, held, reply, status

ASK: Any = [{"role": "user", "content": "What is my secret?"}]
COST = "0.00045"  # of 1,000 tokens at 0.25 and 100 at 2 dollars a million
SAID = reply(completion("It is safe."))


@pytest.fixture
async def db(database: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await connect(database, application="callboard-test")
    yield connection
    await connection.close()


async def ask(front: Front, **fields: Any) -> tuple[str, str | None]:
    """From where an answer came, and what it has cost."""
    raw = await front.client.chat.completions.with_raw_response.create(
        **{"model": "small", "messages": ASK, "temperature": 0, **fields}
    )
    assert raw.parse().choices[0].message.content == "It is safe."
    return raw.headers["x-callboard-cache"], raw.headers.get("x-callboard-cost-usd")


async def stored(db: asyncpg.Connection[Any], answers: int) -> None:
    """Wait until so many are; they are written when their clients have them already."""

    async def are_there() -> bool:
        return bool(await db.fetchval("select count(*) = $1 from model_answers", answers))

    await until(are_there)


# -- gateways ------------------------------------------------------------------------------------------


async def test_what_one_gateway_was_answered_another_one_knows(
    stage: Stage, database: str, db: asyncpg.Connection[Any]
) -> None:
    async with stage.front(postgres_url=database) as one:
        one.openai.put_on(SAID)
        assert await ask(one) == ("miss", COST)
        await stored(db, 1)
        async with stage.front(postgres_url=database) as other:
            other.openai.put_on(status(500))
            assert await ask(other) == ("hit", "0")
            [account] = (await other.state())["accounts"]
            assert (account["requests"], account["cached"], account["cost_usd"]) == (1, 1, "0")
            await db.execute("truncate model_answers")
            assert await ask(other) == ("hit", "0")  # it stands in memory by now
            assert other.openai.asked == []
            assert (await other.state())["shared_cache"] == "closed"


async def test_a_gateway_that_ends_leaves_its_answers_to_the_next_one(stage: Stage, database: str) -> None:
    async with stage.front(postgres_url=database) as front:
        front.openai.put_on(reply(embeddings([0.1, -2.5e-17])))
        before = await front.client.embeddings.create(model="vectors", input="a", encoding_format="float")
    async with stage.front(postgres_url=database) as front:
        after = await front.client.embeddings.create(model="vectors", input="a", encoding_format="float")
        assert after.data[0].embedding == before.data[0].embedding == [0.1, -2.5e-17]
        assert front.openai.asked == []


async def test_no_word_of_what_was_asked_is_stored_and_nothing_that_may_have_another_answer(
    stage: Stage, database: str, db: asyncpg.Connection[Any]
) -> None:
    async with stage.front(postgres_url=database) as front:
        front.openai.put_on(SAID)
        await ask(front, temperature=0.7)
        await ask(front, n=2)
        front.openai.put_on(status(500))
        with pytest.raises(openai.APIStatusError):
            await ask(front, seed=7)
        front.openai.put_on(SAID)
        await ask(front, extra_headers={"Idempotency-Key": "key-of-a-client"})
    [row] = await db.fetch("select m::text as row, convert_from(body, 'UTF8') as body from model_answers m")
    assert "It is safe." in row["body"]
    for words in ("secret", "key-of-a-client", "small"):
        assert words.encode().hex() not in row["row"]
        assert words not in row["row"] + row["body"]


async def test_tenants_are_apart_also_where_a_key_is_that_of_another(
    stage: Stage, database: str, db: asyncpg.Connection[Any]
) -> None:
    acme = {"X-Callboard-Tenant": "acme"}
    async with stage.front(postgres_url=database) as front:
        front.openai.put_on(SAID)
        await ask(front, extra_headers=acme)
    assert await db.fetchval("select tenant from model_answers") == "acme"
    async with stage.front(postgres_url=database) as front:
        front.openai.put_on(SAID)
        assert (await ask(front))[0] == "miss"
        assert (await ask(front, extra_headers=acme))[0] == "hit"
    await db.execute("delete from model_answers where tenant = 'default'")
    await db.execute("update model_answers set tenant = 'umbrella'")
    async with stage.front(postgres_url=database) as front:
        front.openai.put_on(SAID)
        assert (await ask(front, extra_headers=acme))[0] == "miss"


async def test_an_answer_holds_by_the_databases_clock(
    stage: Stage, database: str, db: asyncpg.Connection[Any]
) -> None:
    more = "cache: {ttl_s: 1000, stale_s: 1000}"
    async with stage.front(postgres_url=database, more=more) as front:
        front.openai.put_on(SAID)
        await ask(front)
    row = "select extract(epoch from holds_until - stored_at), extract(epoch from kept_until - stored_at)"
    assert tuple(await db.fetchrow(f"{row} from model_answers") or ()) == (1000, 2000)
    await db.execute("update model_answers set holds_until = now() + interval '100 s'")
    clock = Clock()
    async with stage.front(postgres_url=database, more=more, clock=clock) as front:
        front.openai.put_on(SAID)
        assert (await ask(front))[0] == "hit"
        await db.execute("update model_answers set holds_until = now() - interval '1 s'")
        clock.now += 99
        assert (await ask(front))[0] == "hit"
        clock.now += 2  # in memory it has held no longer than there
        assert (await ask(front))[0] == "miss"
    async with stage.front(postgres_url=database, more=more) as front:
        assert (await ask(front))[0] == "hit"  # it was made anew, and stored


async def test_an_old_answer_is_given_when_no_upstream_answers(
    stage: Stage, database: str, db: asyncpg.Connection[Any]
) -> None:
    once = "answer_s: 5, retries: 0"
    async with stage.front(postgres_url=database, times=once) as front:
        front.openai.put_on(SAID)
        await ask(front)
    await db.execute("update model_answers set holds_until = now() - interval '1 s'")
    async with stage.front(postgres_url=database, times=once) as front:
        front.openai.put_on(status(500))
        raw = await front.client.chat.completions.with_raw_response.create(
            model="small", messages=ASK, temperature=0
        )
        assert (raw.headers["x-callboard-level"], raw.headers["x-callboard-cache"]) == ("cache", "stale")
        assert len(front.openai.asked) == 1
        await db.execute("update model_answers set kept_until = now() - interval '1 s'")
        with pytest.raises(openai.APIStatusError):
            await ask(front)


async def test_a_model_that_is_another_one_now_does_not_get_its_answers(stage: Stage, database: str) -> None:
    async with stage.front(postgres_url=database) as front:
        front.openai.put_on(SAID)
        await ask(front)
    async with stage.front(postgres_url=database, times="answer_s: 6") as front:
        front.openai.put_on(SAID)
        assert (await ask(front))[0] == "miss"
    async with stage.front(postgres_url=database, times="answer_s: 6") as front:
        assert (await ask(front))[0] == "hit"


async def test_who_comes_back_with_its_key_after_a_restart_has_what_was_made_for_it(
    stage: Stage, database: str
) -> None:
    mine, other = {"Idempotency-Key": "1"}, {"Idempotency-Key": "2"}
    async with stage.front(postgres_url=database) as front:
        front.openai.put_on(SAID)
        await ask(front, extra_headers=mine)
        await ask(front, extra_headers=mine, temperature=0.7)
    async with stage.front(postgres_url=database) as front:
        front.openai.put_on(SAID)
        assert await ask(front, extra_headers=mine) == ("again", COST)
        assert await ask(front, extra_headers=other) == ("hit", "0")
        assert await ask(front, extra_headers=mine, temperature=0.7) == ("again", COST)
        assert await ask(front, extra_headers=other, temperature=0.7) == ("miss", COST)


@pytest.mark.parametrize("more", ["cache: {shared: {bytes: 0}}", "cache: {bytes: 0}"])
async def test_it_is_off_where_models_yaml_says_so(
    stage: Stage, database: str, db: asyncpg.Connection[Any], more: str
) -> None:
    for _ in range(2):
        async with stage.front(postgres_url=database, more=more) as front:
            front.openai.put_on(SAID)
            assert (await ask(front))[0] == "miss"
            assert (await front.state())["shared_cache"] == "off"
    assert await db.fetchval("select count(*) from model_answers") == 0


# -- a Postgres that is of no use ----------------------------------------------------------------------


async def test_a_postgres_that_is_away_is_a_miss_and_a_line_without_its_password(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    url = "postgresql://callboard:its-password@/callboard?host=/nowhere&port=5432"
    async with stage.front(postgres_url=url) as front:
        front.openai.put_on(SAID)
        for seed in range(10):
            assert await ask(front, seed=seed) == ("miss", COST)
            assert await ask(front, seed=seed) == ("hit", "0")
        assert (await front.state())["shared_cache"] == "open"
    assert caplog.text.count("Answers of models are not looked up in Postgres") == 1
    assert "its-password" not in caplog.text


async def test_a_postgres_without_the_schema_is_a_miss_and_a_line(
    stage: Stage, empty_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage.front(postgres_url=empty_database) as front:
        front.openai.put_on(SAID)
        assert await ask(front) == ("miss", COST)
        assert await ask(front) == ("hit", "0")
    assert "The database's schema is not that of this release" in caplog.text


async def test_a_postgres_that_is_slow_keeps_nobody_waiting(
    stage: Stage, database: str, db: asyncpg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with stage.front(postgres_url=database, shared_within_s=WITHIN_S) as front:
        front.openai.put_on(SAID)
        async with db.transaction():
            await db.execute("lock table model_answers in access exclusive mode")
            began = time.monotonic()
            assert await ask(front) == ("miss", COST)
            assert time.monotonic() - began < 3.0  # the statement would wait for ten times as long
        assert "Postgres does not answer within 50 ms." in caplog.text
        await stored(db, 1)


async def test_who_leaves_while_it_is_looked_up_leaves_nothing_behind(
    stage: Stage, database: str, db: asyncpg.Connection[Any]
) -> None:
    async with stage.front(postgres_url=database) as front:
        front.openai.put_on(held(SAID))
        async with db.transaction():
            await db.execute("lock table model_answers in access exclusive mode")
            leaving = asyncio.create_task(ask(front))

            async def looks() -> bool:
                return bool(await db.fetchval("select exists (select from pg_locks where not granted)"))

            await until(looks)
            leaving.cancel()
            await asyncio.wait([leaving])

            async def has_ended() -> bool:
                return not await looks()

            await until(has_ended)
        assert front.openai.asked == []
        front.openai.put_on(SAID)
        assert await ask(front) == ("miss", COST)


# -- the table -----------------------------------------------------------------------------------------


@pytest.fixture
async def answers(database: str) -> AsyncIterator[PostgresAnswers]:
    answers = await PostgresAnswers.open(database)
    yield answers
    await answers.close()


def bounds(**changed: Any) -> AnswerBounds:
    return AnswerBounds(**{"holds_s": 60, "stays_s": 60, "answers": 1000, "bytes": 1_000_000, **changed})


def answer(number: int, size: int = 100) -> tuple[AnswerKey, StoredAnswer]:
    key = AnswerKey("t", number.to_bytes(32), bytes(32))
    return key, StoredAnswer(target=0, made_for=None, body=b"x" * size)


async def numbers(db: asyncpg.Connection[Any]) -> list[int]:
    """Which there are; what is counted of them is what there is."""
    rows = await db.fetch("select key, size from model_answers order by key")
    held = await db.fetchrow("select answers, bytes from model_answers_held")
    assert tuple(held or (0, 0)) == (len(rows), sum(row["size"] for row in rows))
    return [int.from_bytes(row["key"]) for row in rows]


async def test_past_its_number_the_oldest_go(answers: PostgresAnswers, db: asyncpg.Connection[Any]) -> None:
    for number in range(5):
        await answers.keep([answer(number)], bounds(answers=3))
    assert await numbers(db) == [2, 3, 4]
    await answers.keep([answer(2)], bounds(answers=3))  # which is new by that
    await answers.keep([answer(5), answer(6)], bounds(answers=3))
    assert await numbers(db) == [2, 5, 6]
    await answers.keep([answer(7)], bounds(answers=1))
    assert await numbers(db) == [7]


async def test_past_its_bytes_the_oldest_go(answers: PostgresAnswers, db: asyncpg.Connection[Any]) -> None:
    room = 3 * (ROW_BYTES + 100)
    for number in range(5):
        await answers.keep([answer(number)], bounds(bytes=room))
    assert await numbers(db) == [2, 3, 4]
    await answers.keep([answer(2, 101)], bounds(bytes=room))
    assert await numbers(db) == [2, 4]
    await answers.keep([answer(9, 2 * ROW_BYTES + 300)], bounds(bytes=room))
    assert await numbers(db) == [9]


async def test_many_who_write_at_once_keep_the_bound_and_the_count(
    answers: PostgresAnswers, db: asyncpg.Connection[Any]
) -> None:
    await asyncio.gather(
        *(
            answers.keep([answer(number) for number in range(first, first + 10)], bounds(answers=25))
            for first in (0, 5, 10, 15, 20, 25, 30)
        )
    )
    assert len(await numbers(db)) == 25


async def test_what_is_over_goes_a_few_at_a_time_when_something_comes(
    answers: PostgresAnswers, db: asyncpg.Connection[Any]
) -> None:
    await answers.keep([answer(number) for number in range(150)], bounds())
    await db.execute("update model_answers set kept_until = now() - interval '1 s'")
    await answers.keep([answer(1000)], bounds())
    assert len(await numbers(db)) == 150 - 102 + 1
    await answers.keep([answer(1001)], bounds())
    assert await numbers(db) == [1000, 1001]


async def test_what_is_over_goes_once_a_day_also_where_nothing_comes(
    answers: PostgresAnswers, db: asyncpg.Connection[Any], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.retention._BATCH", 4)
    await answers.keep([answer(number) for number in range(10)], bounds())
    await db.execute("update model_answers set kept_until = now() where key <> $1", (3).to_bytes(32))
    await retain(database, months=None)
    assert await numbers(db) == [3]


async def test_what_somebody_deletes_by_hand_is_room_again(
    answers: PostgresAnswers, db: asyncpg.Connection[Any]
) -> None:
    await answers.keep([answer(number) for number in range(3)], bounds(answers=3))
    await db.execute("set search_path = public")
    await db.execute("delete from callboard.model_answers where key = $1", (1).to_bytes(32))
    await answers.keep([answer(3)], bounds(answers=3))
    await db.execute("set search_path = callboard")
    assert await numbers(db) == [0, 2, 3]
    await db.execute("truncate model_answers")
    await answers.keep([answer(4), answer(5)], bounds(answers=3))
    assert await numbers(db) == [4, 5]


async def test_times_that_postgres_has_no_room_for_are_long_ones(answers: PostgresAnswers) -> None:
    await answers.keep([answer(1)], bounds(holds_s=1e300, stays_s=float("inf")))
    found = await answers.find(answer(1)[0])
    assert found is not None
    assert found[1] > 86_400 * 365

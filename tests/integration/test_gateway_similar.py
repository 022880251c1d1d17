"""Questions in other words, through the gateway: one upstream plays the embeddings, another one chats."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tests.integration.gateway import Front, Stage
from tests.integration.upstreams import embeddings, held, message, reply, status

MORE = """\
  alike:
    targets: [{upstream: claude, model: claude-haiku-4-5, drop: [temperature]}]
    similar: {by: vectors, threshold: 0.9, shadow: SHADOW, categories: {law: null}}
"""
EAST, NEAR, NORTH = [1.0, 0.0], [0.98, 0.199], [0.0, 1.0]


def front_of(stage: Stage, shadow: float = 0.0, times: str = "answer_s: 5, retries: 0") -> Any:
    return stage.front(more=MORE.replace("SHADOW", str(shadow)), times=times)


async def ask(
    front: Front, text: str, *, corpus: str = "v1", temperature: float = 0, category: str = "faq"
) -> tuple[str, Any]:
    messages: Any = [{"role": "user", "content": text}]
    answer = await front.client.chat.completions.with_raw_response.create(
        model="alike",
        messages=messages,
        temperature=temperature,
        extra_headers={"X-Callboard-Corpus": corpus, "X-Callboard-Category": category},
    )
    return str(answer.parse().choices[0].message.content), answer.headers


def says(text: str) -> Any:
    return reply(message({"type": "text", "text": text}))


async def state(front: Front) -> Any:
    [found] = [one["similar"] for one in (await front.state())["models"] if one["model"] == "alike"]
    return found


async def test_other_words_get_the_answer_that_is_there_and_cost_nothing(stage: Stage) -> None:
    async with front_of(stage) as front:
        front.openai.put_on(*(reply(embeddings(one)) for one in (EAST, NEAR, NORTH)))
        front.claude.put_on(says("Paris"), says("Madrid"))
        assert (await ask(front, "What is the capital of France?"))[0] == "Paris"
        said, headers = await ask(front, "tell me the capital of France")
        assert (said, headers["x-callboard-cache"]) == ("Paris", "similar")
        assert float(headers["x-callboard-similarity"]) == pytest.approx(0.98, abs=0.001)
        assert headers["x-callboard-cost-usd"] == "0"
        assert len(front.claude.asked) == 1
        # The very same again: what was found for it was not kept as its own answer, and its embedding was.
        assert (await ask(front, "tell me the capital of France"))[1]["x-callboard-cache"] == "similar"
        assert len(front.openai.asked) == 2
        said, headers = await ask(front, "of something else, then")
        assert (said, headers["x-callboard-cache"]) == ("Madrid", "miss")
        assert await state(front) == {"kept": 2, "given": 2, "vetoed": 0, "sampled": 0, "wrong": 0}
        [account] = [one for one in (await front.state())["accounts"] if one["model"] == "alike"]
        assert (account["requests"], account["cached"]) == (4, 2)


async def test_another_name_is_another_question(stage: Stage) -> None:
    async with front_of(stage) as front:
        front.openai.put_on(reply(embeddings(EAST)))
        front.claude.put_on(says("Paris"), says("Madrid"))
        await ask(front, "What is the capital of France?")
        said, headers = await ask(front, "What is the capital of Spain?")
        assert (said, headers["x-callboard-cache"]) == ("Madrid", "miss")
        assert (await state(front))["vetoed"] == 1


async def test_a_corpus_or_a_temperature_keeps_them_apart(stage: Stage) -> None:
    async with front_of(stage) as front:
        front.openai.put_on(reply(embeddings(EAST)))
        front.claude.put_on(says("one"), says("two"), says("three"))
        await ask(front, "how are logs kept", corpus="v1")
        assert (await ask(front, "how are the logs kept", corpus="v2"))[0] == "two"
        assert (await ask(front, "how are my logs kept", temperature=0.5))[0] == "three"
        said, headers = await ask(front, "how are our logs kept", corpus="v1")
        assert (said, headers["x-callboard-cache"]) == ("one", "similar")


async def test_who_wants_no_similar_answer_does_not_share_the_call_that_finds_one(stage: Stage) -> None:
    async with front_of(stage) as front:
        front.openai.put_on(reply(embeddings(EAST)), held(reply(embeddings(EAST))))
        front.claude.put_on(says("one"), says("two"))
        await ask(front, "how are logs kept")
        front.openai.arrived.clear()
        finding = asyncio.create_task(ask(front, "how are my logs kept"))
        await front.openai.arrived.wait()
        said, headers = await ask(front, "how are my logs kept", category="law")
        assert (said, headers["x-callboard-cache"]) == ("two", "miss")
        front.openai.go_on.set()
        await finding


async def test_a_sample_measures_how_often_it_is_wrong(stage: Stage) -> None:
    async with front_of(stage, shadow=1.0) as front:
        # Of the three questions, then of the two answers that differ in their letters.
        asked = (EAST, NEAR, NEAR)
        front.openai.put_on(*(reply(embeddings(one)) for one in asked), reply(embeddings(EAST, NORTH)))
        front.claude.put_on(says("blue"), says(" blue\n"), says("green"))
        await ask(front, "which colour is it")
        said, headers = await ask(front, "which colour is that")
        assert (said, headers["x-callboard-cache"]) == (" blue\n", "miss")
        assert await state(front) == {"kept": 2, "given": 0, "vetoed": 0, "sampled": 1, "wrong": 0}
        assert (await ask(front, "that is which colour"))[0] == "green"
        assert (await state(front))["wrong"] == 1


async def test_without_its_embedding_a_question_is_asked(stage: Stage) -> None:
    async with front_of(stage) as front:
        front.openai.put_on(status(500))
        front.claude.put_on(says("one"), says("two"))
        assert (await ask(front, "how are you"))[0] == "one"
        assert (await ask(front, "how are you now"))[0] == "two"
        assert (await state(front))["kept"] == 0


@pytest.mark.parametrize("written", ["AACAPw==", [None]])
async def test_an_embedding_that_is_no_vector_is_none(stage: Stage, written: Any) -> None:
    async with front_of(stage) as front:
        front.openai.put_on(reply(embeddings(written)))
        front.claude.put_on(says("one"))
        assert (await ask(front, "how are you"))[0] == "one"
        assert (await state(front))["kept"] == 0


async def test_with_fewer_embeddings_than_answers_these_are_taken_for_others(stage: Stage) -> None:
    async with front_of(stage, shadow=1.0) as front:
        front.openai.put_on(*(reply(embeddings(one)) for one in (EAST, NEAR, EAST)))
        front.claude.put_on(says("blue"), says("green"))
        await ask(front, "which colour is it")
        assert (await ask(front, "which colour is that"))[0] == "green"
        assert (await state(front))["wrong"] == 1


async def test_with_its_upstream_away_a_sampled_question_gets_what_there_is(stage: Stage) -> None:
    async with front_of(stage, shadow=1.0) as front:
        front.openai.put_on(reply(embeddings(EAST)))
        front.claude.put_on(says("here"), status(500))
        await ask(front, "where are the logs")
        said, headers = await ask(front, "where are all logs")
        assert (said, headers["x-callboard-cache"]) == ("here", "similar")
        front.openai.put_on(reply(embeddings(NORTH)))
        with pytest.raises(openai.APIStatusError):
            await ask(front, "who are you")

"""With its upstreams away a model is served by what is left, level by level, and comes back by itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from actors.model_gateway import GatewayAddress
from callboard.gateway_levels import levels
from serve.gateway.breaker import FAILURES, REST_S
from tests.integration.gateway import LOCAL_KEY, Clock, Front, Stage
from tests.integration.upstreams import chunks, completion, message, openai_stream, reply, status

ASK: Any = [{"role": "user", "content": "Is this an ATTACK?"}]
SAID = message({"type": "text", "text": "Claude"})
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {"name": "v", "schema": {"type": "object", "required": ["hostile"]}},
}
RULES = """\
  ruled:
    targets: [{upstream: openai, model: gpt-5-mini}]
    rules:
      - {match: "(?i)attack", answer: {hostile: true}}
      - {answer: "Ask a person."}
cache: {ttl_s: 100, stale_s: 1000}
"""


async def ask(front: Front, model: str, text: str | None = None, **more: Any) -> tuple[Any, Any]:
    """The body, and the headers."""
    messages: Any = ASK if text is None else [{"role": "user", "content": text}]
    answer = await front.client.chat.completions.with_raw_response.create(
        model=model, messages=messages, **more
    )
    return answer.parse(), answer.headers


async def level(front: Front, model: str) -> str:
    port = int(front.url.rpartition(":")[2])
    found = await asyncio.to_thread(levels, GatewayAddress(port=port, key=LOCAL_KEY))
    assert found is not None
    assert {one["model"]: one["level"] for one in (await front.state())["models"]} == found
    return found[model]


async def fail(front: Front, model: str) -> None:
    """Until its upstream is left alone."""
    front.openai.put_on(status(500))
    for _ in range(FAILURES):
        with pytest.raises(openai.APIStatusError):
            await ask(front, model)


async def test_a_fallback_model_answers_until_the_first_one_is_back(stage: Stage) -> None:
    clock = Clock()
    async with stage.front(clock=clock, times="answer_s: 5, retries: 0") as front:
        assert await level(front, "either") == "normal"
        await fail(front, "small")
        assert await level(front, "either") == "fallback"
        front.claude.put_on(reply(SAID))
        said, headers = await ask(front, "either")
        assert (said.choices[0].message.content, headers["x-callboard-level"]) == ("Claude", "fallback")
        clock.now += REST_S + 1
        front.openai.put_on(reply(completion()))
        said, headers = await ask(front, "either")
        assert (said.choices[0].message.content, headers["x-callboard-level"]) == ("Hello", "normal")
        assert await level(front, "either") == "normal"


async def test_what_was_answered_before_is_given_again_however_old_when_nobody_answers(stage: Stage) -> None:
    clock = Clock()
    async with stage.front(clock=clock, times="answer_s: 5, retries: 0", more=RULES) as front:
        front.openai.put_on(reply(completion("42")))
        await ask(front, "small", temperature=0)
        clock.now += 200  # past its time
        await fail(front, "small")
        said, headers = await ask(front, "small", temperature=0)
        assert said.choices[0].message.content == "42"
        assert (headers["x-callboard-level"], headers["x-callboard-cache"]) == ("cache", "stale")
        assert headers["x-callboard-cost-usd"] == "0"
        assert await level(front, "small") == "cache"
        with pytest.raises(
            openai.APIStatusError
        ):  # of a chat that may have another answer each time none is kept
            await ask(front, "small")
        clock.now += 1000
        front.openai.put_on(status(500))
        with pytest.raises(openai.APIStatusError):
            await ask(front, "small", temperature=0)
        assert await level(front, "small") == "none"
        clock.now += REST_S + 1
        assert await level(front, "small") == "normal"  # it is asked again


async def test_rules_answer_when_nothing_else_does_in_the_form_that_was_asked_for(stage: Stage) -> None:
    async with stage.front(times="answer_s: 5, retries: 0", more=RULES) as front:
        front.openai.put_on(status(500))
        said, headers = await ask(front, "ruled")
        assert json.loads(said.choices[0].message.content) == {"hostile": True}
        assert (said.model, said.usage.total_tokens) == ("rules", 0)
        assert (headers["x-callboard-level"], headers["x-callboard-cost-usd"]) == ("rules", "0")
        assert (await ask(front, "ruled", "Hello"))[0].choices[0].message.content == "Ask a person."
        assert await level(front, "ruled") == "rules"
        said, _ = await ask(front, "ruled", response_format=SCHEMA)
        assert json.loads(said.choices[0].message.content) == {"hostile": True}
        with pytest.raises(openai.APIStatusError):  # no rule has that form
            await ask(front, "ruled", "Hello", response_format=SCHEMA)
        stream = await front.client.chat.completions.create(model="ruled", messages=ASK, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert json.loads("".join(pieces)) == {"hostile": True}
        assert len(front.openai.asked) == FAILURES  # then it was left alone


async def test_a_rule_is_not_kept_and_the_model_answers_again(stage: Stage) -> None:
    async with stage.front(times="answer_s: 5, retries: 0", more=RULES) as front:
        front.openai.put_on(status(500), reply(completion("I am back.")))
        headers = {"Idempotency-Key": "k"}
        assert (await ask(front, "ruled", temperature=0, extra_headers=headers))[0].model == "rules"
        said, heads = await ask(front, "ruled", temperature=0, extra_headers=headers)
        assert (said.choices[0].message.content, heads["x-callboard-level"]) == ("I am back.", "normal")
        assert await level(front, "ruled") == "normal"


async def test_what_is_the_clients_matter_or_passes_is_not_covered_up(stage: Stage) -> None:
    async with stage.front(times="answer_s: 5, retries: 0", more=RULES) as front:
        front.openai.put_on(status(400, error="bad request"), status(429, **{"retry-after": "60"}))
        with pytest.raises(openai.BadRequestError):
            await ask(front, "ruled")
        with pytest.raises(openai.RateLimitError):
            await ask(front, "ruled")


async def test_an_upstream_without_a_key_is_away_before_anybody_has_asked_it(stage: Stage) -> None:
    async with stage.front(more="cache: {bytes: 0}") as front:
        levels = {one["model"]: one["level"] for one in (await front.state())["models"]}
    assert (levels["unset"], levels["unset-or-claude"]) == ("none", "fallback")
    assert {level for model, level in levels.items() if "unset" not in model} == {"normal"}


async def test_rules_answer_where_no_key_is_set(stage: Stage) -> None:
    more = RULES.replace("upstream: openai", "upstream: keyless")
    async with stage.front(more=more) as front:
        assert (await ask(front, "ruled"))[0].model == "rules"
        assert await level(front, "ruled") == "rules"


async def test_a_stream_that_was_begun_is_not_gone_on_with_by_a_rule(stage: Stage) -> None:
    async with stage.front(times="answer_s: 5, retries: 0", more=RULES) as front:
        front.openai.put_on(openai_stream(chunks({"content": "Hel"}, reason=None), done=False))
        stream = await front.client.chat.completions.create(model="ruled", messages=ASK, stream=True)
        with pytest.raises(openai.APIError):
            [chunk async for chunk in stream]


async def test_a_gateway_that_is_away_has_no_levels() -> None:
    assert await asyncio.to_thread(levels, GatewayAddress(port=9, key=LOCAL_KEY)) is None

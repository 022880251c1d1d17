"""The official Anthropic SDK in front of the gateway, and upstreams of both kinds behind it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest

from tests.integration.gateway import LOCAL_KEY, Front, Stage
from tests.integration.upstreams import (
    KEY,
    Part,
    anthropic_stream,
    chunks,
    completion,
    events,
    message,
    openai_stream,
    reply,
    silence,
    status,
)

ASK: Any = [{"role": "user", "content": "Hello"}]
TEXT = {"type": "text", "text": "Hello"}
SCHEMA = {"type": "object", "properties": {"ip": {"type": "string"}}}
TOOL: Any = {"name": "look_up", "description": "d", "input_schema": SCHEMA}
USE = {"type": "tool_use", "id": "call_1", "name": "look_up", "input": {"ip": "192.0.2.1"}}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "look_up", "arguments": '{"ip":"192.0.2.1"}'},
}
PNG = {"type": "base64", "media_type": "image/png", "data": "QUJD"}


def client(front: Front, **how: Any) -> anthropic.AsyncAnthropic:
    given = {"api_key": LOCAL_KEY, "max_retries": 0, "timeout": 20, **how}
    return anthropic.AsyncAnthropic(base_url=front.url, http_client=front.http, **given)


async def ask(front: Front, model: str = "small", **fields: Any) -> Any:
    return await client(front).messages.create(
        **{"model": model, "max_tokens": 100, "messages": ASK, **fields}
    )


async def refused(front: Front, model: str = "small", **fields: Any) -> anthropic.APIStatusError:
    with pytest.raises(anthropic.APIStatusError) as caught:
        await ask(front, model, **fields)
    return caught.value


async def hear(stream: AsyncIterator[Any], heard: list[str]) -> None:
    async for event in stream:
        heard.append(event.type)  # noqa: PERF401  (what was heard stays, whatever comes then)


def on(front: Front, model: str, *parts: Part) -> None:
    (front.openai if model == "small" else front.claude).put_on(*parts)


def plain(given: Any) -> Any:
    return json.loads(given.to_json(exclude_unset=False, exclude_none=True))


# -- answers -------------------------------------------------------------------------------------------


async def test_a_message_from_an_upstream_of_openais(front: Front) -> None:
    front.openai.put_on(reply(completion("Hello")))
    answer = await ask(
        front,
        system="Be brief.",
        stop_sequences=["END"],
        metadata={"user_id": "u1"},
        extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 4},
    )
    assert plain(answer)["content"] == [TEXT]
    assert (answer.stop_reason, answer.model) == ("end_turn", "gpt-5-mini-2025-08-07")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (1000, 100)
    [asked] = front.openai.asked
    assert (asked.path, asked.headers["authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert asked.body == {
        "model": "gpt-5-mini",
        "messages": [{"role": "system", "content": "Be brief."}, *ASK],
        "max_completion_tokens": 100,
        "stop": ["END"],
        "user": "u1",
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
    }


async def test_a_message_from_anthropic_itself(front: Front) -> None:
    said = {**message(TEXT, stop="stop_sequence"), "stop_sequence": "END"}
    front.claude.put_on(reply(said))
    answer = await ask(
        front, "claude", system=[{"type": "text", "text": "Be brief."}], stop_sequences=["END"]
    )
    assert plain(answer) == said  # the tokens of its cache, and which text has ended it, included
    assert front.claude.asked[0].body == {
        "model": "claude-haiku-4-5",
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [{"role": "user", "content": [TEXT]}],
        "max_tokens": 100,
        "stop_sequences": ["END"],
        "stream": False,
    }


@pytest.mark.parametrize("model", ["small", "claude"])
async def test_a_tool_is_called_and_its_result_told(front: Front, model: str) -> None:
    called = completion(None, tool_calls=[CALL]) if model == "small" else message(USE, stop="tool_use")
    done = completion("Somebody.") if model == "small" else message({"type": "text", "text": "Somebody."})
    on(front, model, reply(called), reply(done))
    first = await ask(
        front, model, tools=[TOOL], tool_choice={"type": "any", "disable_parallel_tool_use": True}
    )
    assert first.stop_reason == "tool_use"
    [use] = first.content
    assert plain(use) == USE
    result = {
        "type": "tool_result",
        "tool_use_id": use.id,
        "content": [TEXT, {"type": "image", "source": PNG}],
    }
    turns = [*ASK, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    then = await ask(front, model, messages=turns, tools=[TOOL])
    assert then.content[0].text == "Somebody."
    begun, told = (front.openai if model == "small" else front.claude).asked
    if model == "small":
        tool = {"name": "look_up", "description": "d", "parameters": SCHEMA}
        assert begun.body["tools"] == [{"type": "function", "function": tool}]
        assert (begun.body["tool_choice"], begun.body["parallel_tool_calls"]) == ("required", False)
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
        assert told.body["messages"][1:] == [
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": [TEXT, picture]},
        ]
    else:
        assert begun.body["tools"] == [TOOL]
        assert begun.body["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
        assert told.body["messages"][1:] == [
            {"role": "assistant", "content": [USE]},
            {"role": "user", "content": [result]},
        ]


@pytest.mark.parametrize("model", ["small", "claude"])
async def test_pictures(front: Front, model: str) -> None:
    on(front, model, reply(completion() if model == "small" else message(TEXT)))
    images = [
        {"type": "image", "source": PNG},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
    ]
    await ask(front, model, messages=[{"role": "user", "content": [*images, TEXT]}])
    if model == "claude":
        assert front.claude.asked[0].body["messages"][0]["content"] == [*images, TEXT]
    else:
        parts = front.openai.asked[0].body["messages"][0]["content"]
        urls = [part["image_url"]["url"] for part in parts[:2]]
        assert urls == ["data:image/png;base64,QUJD", "https://example.org/a.png"]


@pytest.mark.parametrize("model", ["small", "claude"])
async def test_a_stream_with_text_and_calls_of_tools(front: Front, model: str) -> None:
    pieces = ['{"ip":', '"192.0.2.1"}']
    if model == "small":
        begun = {**CALL, "index": 0, "function": {"name": "look_up", "arguments": ""}}
        calls = [begun, *({"index": 0, "function": {"arguments": piece}} for piece in pieces)]
        deltas: list[Any] = [{"content": "Hel"}, {"content": "lo"}, *({"tool_calls": [one]} for one in calls)]
        front.openai.put_on(openai_stream(chunks(*deltas, reason="tool_calls")))
    else:
        said = [{"type": "text_delta", "text": part} for part in ("Hel", "lo")]
        given = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        blocks: list[Any] = [({"type": "text", "text": ""}, said), ({**USE, "input": {}}, given)]
        front.claude.put_on(anthropic_stream(events(*blocks, stop="tool_use")))
    async with client(front).messages.stream(
        model=model, max_tokens=100, messages=ASK, tools=[TOOL]
    ) as stream:
        texts = [text async for text in stream.text_stream]
        final = await stream.get_final_message()
    assert texts == ["Hel", "lo"]
    assert plain(final)["content"] == [TEXT, USE]
    assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("tool_use", 1000, 100)
    assert final.usage.cache_read_input_tokens == (0 if model == "small" else 200)
    body = json.dumps({"model": model, "max_tokens": 1, "messages": ASK, "stream": True}).encode()
    raw = await front.post("/v1/messages", body)
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.text.startswith("event: message_start\ndata: {")
    assert raw.text.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\n')


async def test_the_sdk_reads_an_answer_by_a_schema(front: Front) -> None:
    front.openai.put_on(reply(completion('{"ip": "192.0.2.1"}')))
    wanted: Any = {"format": {"type": "json_schema", "schema": SCHEMA}, "effort": "low"}
    answer = await ask(front, output_config=wanted)
    assert json.loads(answer.content[0].text) == {"ip": "192.0.2.1"}
    body = front.openai.asked[0].body
    assert (body["reasoning_effort"], body["response_format"]["json_schema"]["schema"]) == ("low", SCHEMA)


# -- the same path as a chat's -------------------------------------------------------------------------


async def test_the_answer_to_an_equal_chat_is_the_same_one(front: Front) -> None:
    front.openai.put_on(reply(completion()))
    chat: Any = {"model": "small", "messages": ASK, "max_tokens": 100, "temperature": 0}
    await front.client.chat.completions.create(**chat)
    raw = await client(front).messages.with_raw_response.create(
        model="small", max_tokens=100, messages=ASK, extra_body={"temperature": 0}
    )
    assert (raw.headers["x-callboard-cache"], raw.headers["x-callboard-cost-usd"]) == ("hit", "0")
    assert (await raw.parse()).stop_reason == "end_turn"
    assert len(front.openai.asked) == 1


async def test_who_pays_is_what_the_headers_say(front: Front) -> None:
    front.openai.put_on(reply(completion()), openai_stream(chunks({"content": "Hello"})))
    payer = {"X-Callboard-Tenant": "acme", "X-Callboard-Task": "t1", "X-Callboard-Agent": "a/b/c"}
    await ask(front, extra_headers=payer)
    await hear(await ask(front, extra_headers=payer, stream=True), [])
    [account] = (await front.state())["accounts"]
    assert (account["tenant"], account["task"], account["agent"]) == ("acme", "t1", "a/b/c")
    assert (account["requests"], account["input_tokens"], account["output_tokens"]) == (2, 2000, 200)
    assert account["cost_usd"] == "0.00090"


async def test_the_next_target_answers_and_the_rules_where_none_does(stage: Stage) -> None:
    more = '  ruled: {targets: [{upstream: openai, model: m}], rules: [{answer: "No model."}]}'
    async with stage.front(times="retries: 0", more=more) as front:
        front.openai.put_on(status(500))
        front.claude.put_on(reply(message(TEXT)))
        assert (await ask(front, "either")).model == "claude-haiku-4-5"
        answer = await ask(front, "ruled")
        assert (answer.model, answer.content[0].text, answer.usage.input_tokens) == ("rules", "No model.", 0)
        async with client(front).messages.stream(model="ruled", max_tokens=9, messages=ASK) as stream:
            assert await stream.get_final_text() == "No model."


# -- errors --------------------------------------------------------------------------------------------


async def test_either_header_carries_the_key(front: Front) -> None:
    front.openai.put_on(reply(completion()))
    await client(front, api_key=None, auth_token=LOCAL_KEY).messages.create(
        model="small", max_tokens=1, messages=ASK
    )
    body = json.dumps({"model": "small", "max_tokens": 1, "messages": ASK}).encode()
    for given, code in ((LOCAL_KEY, 200), ("another", 401), ("", 401)):
        headers = {"x-api-key": given, "content-type": "application/json"}
        raw = await front.http.post(f"{front.url}/v1/messages", content=body, headers=headers)
        assert raw.status_code == code
    both = await front.post(
        "/v1/messages", body, **{"x-api-key": LOCAL_KEY, "authorization": "Bearer another"}
    )
    assert both.status_code == 200
    with pytest.raises(anthropic.AuthenticationError) as caught:
        await client(front, api_key="another").messages.create(model="small", max_tokens=1, messages=ASK)
    assert caught.value.type == "authentication_error"
    assert caught.value.api_message is not None
    assert caught.value.api_message.startswith("The key is wrong.")


async def test_what_is_asked_wrong(front: Front) -> None:
    missing = await refused(front, "large")
    assert isinstance(missing, anthropic.NotFoundError)
    assert (missing.type, missing.error_code) == ("not_found_error", "model_not_found")
    assert "There is no model 'large' here" in (missing.api_message or "")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"max_tokens": 0}, "max_tokens: must be at least 1"),
        ({"thinking": {"type": "adaptive"}}, "thinking: has no place in a chat"),
        ({"model": "vectors"}, "The model 'vectors' serves embeddings, not chat"),
    ]
    for fields, words in cases:
        error = await refused(front, **{"model": "small", **fields})
        assert isinstance(error, anthropic.BadRequestError)
        assert error.type == "invalid_request_error"
        assert words in (error.api_message or "")
    assert front.openai.asked == []
    cold = await refused(front, "claude", extra_body={"temperature": 0})  # by the upstream behind it
    assert isinstance(cold, anthropic.BadRequestError)
    assert (cold.api_message or "").startswith("temperature: Anthropic's API has no sampling parameters")


async def test_what_else_anthropics_api_has_is_refused(front: Front) -> None:
    for call in (
        client(front).messages.count_tokens(model="small", messages=ASK),
        client(front).messages.batches.create(requests=[]),
        client(front).messages.batches.retrieve("b"),
    ):
        with pytest.raises(anthropic.BadRequestError, match="the gateway has /v1/messages only") as caught:
            await call
        assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("model", ["small", "claude"])
async def test_an_upstreams_limit_is_told_with_its_retry_after(front: Front, model: str) -> None:
    on(front, model, status(429, error="too much", retry_after="3600"))
    for stream in (False, True):
        error = await refused(front, model, stream=stream)
        assert isinstance(error, anthropic.RateLimitError)
        assert (error.type, error.response.headers["retry-after"]) == ("rate_limit_error", "3600")


async def test_the_limit_of_a_tenant_is_told_with_its_retry_after(stage: Stage) -> None:
    async with stage.front(more="limits: {tenant: {requests_per_minute: 1}}") as front:
        front.openai.put_on(reply(completion()))
        await ask(front, extra_headers={"X-Callboard-Tenant": "acme"})
        error = await refused(front, extra_headers={"X-Callboard-Tenant": "acme"})
        assert (error.status_code, error.type) == (429, "rate_limit_error")
        assert 0 < int(error.response.headers["retry-after"]) <= 60
        await ask(front, extra_headers={"X-Callboard-Tenant": "another"})


async def test_an_upstream_that_fails_and_then_is_left_alone(stage: Stage) -> None:
    async with stage.front(times="retries: 0, answer_s: 0.2") as front:
        front.openai.put_on(silence, status(529, error="overloaded"))
        slow = await refused(front)
        assert (slow.status_code, slow.type) == (504, "timeout_error")
        for _ in range(4):
            failed = await refused(front)
            assert (failed.status_code, failed.type) == (502, "api_error")
            assert failed.response.headers["x-should-retry"] == "false"
        resting = await refused(front)
        assert (resting.status_code, resting.type) == (503, "overloaded_error")
        assert resting.error_code == "upstream_resting"
        assert int(resting.response.headers["retry-after"]) > 0


@pytest.mark.parametrize("model", ["small", "claude"])
async def test_a_stream_that_is_cut_ends_with_an_error(front: Front, model: str) -> None:
    if model == "small":
        front.openai.put_on(openai_stream(chunks({"content": "Hel"}, reason=None), cut=True))
    else:
        front.claude.put_on(anthropic_stream(events((TEXT, []))[:-2], cut=True))
    heard: list[str] = []
    stream = await ask(front, model, stream=True)
    with pytest.raises(anthropic.APIStatusError, match="has failed") as caught:
        await hear(stream, heard)
    assert (caught.value.type, caught.value.error_code) == ("api_error", "upstream_unreachable")
    assert heard[:3] == ["message_start", "content_block_start", "content_block_delta"]
    assert "message_stop" not in heard
    [error] = (await front.state())["errors"]
    assert error["code"] == "upstream_unreachable"


async def test_an_answer_that_is_no_message_is_an_error_of_the_upstream(front: Front) -> None:
    wrong = {**CALL, "function": {"name": "look_up", "arguments": '{"ip": '}}
    front.openai.put_on(
        reply(completion(None, tool_calls=[wrong])), openai_stream(chunks({"content": ["x"]}))
    )
    error = await refused(front)
    assert (error.status_code, error.type, error.error_code) == (502, "api_error", "upstream_malformed")
    stream = await ask(front, stream=True)
    with pytest.raises(anthropic.APIStatusError) as caught:
        await hear(stream, [])
    assert caught.value.error_code == "upstream_malformed"
    assert (await front.state())["upstreams"]["openai"] == "closed"

"""The gateway in front of OpenAI: the official SDK on one side, a server that speaks its wire format on the other."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from serve.gateway.environment import forget_sdk_settings
from tests.integration import upstreams
from tests.integration.gateway import LOCAL_KEY, Front, Stage
from tests.integration.upstreams import KEY, chunks, completion, embeddings, openai_stream, reply

ASK: Any = [{"role": "user", "content": "Say hello."}]
CALL: Any = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "look_up", "arguments": '{"ip": "192.0.2.1"}'},
}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {"type": "object", "properties": {"ip": {"type": "string"}}},
    },
}


async def test_a_chat_passes_as_it_is_but_for_the_models_name_and_the_key(front: Front) -> None:
    front.openai.put_on(reply(completion("Hello", service_tier="default")))
    answer = await front.client.chat.completions.create(
        model="small", messages=ASK, temperature=0.5, seed=7, extra_body={"min_p": 0.1}
    )
    assert answer.choices[0].message.content == "Hello"
    assert (answer.model, answer.service_tier) == ("gpt-5-mini-2025-08-07", "default")
    [asked] = front.openai.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.body == {
        "model": "gpt-5-mini", "messages": ASK, "temperature": 0.5, "seed": 7, "min_p": 0.1
    }  # fmt: skip


async def test_the_limit_of_tokens_has_the_name_that_its_server_knows(stage: Stage) -> None:
    house = f'  house: {{type: openai_compatible, base_url: "{stage.openai_url}/v1", api_key: UPSTREAM}}'
    more = "  compatible: {targets: [{upstream: house, model: m}]}"
    async with stage.front(upstreams=f"upstreams:\n{house}", more=more) as front:
        front.openai.put_on(
            reply(completion()), reply(completion()), openai_stream(chunks({"content": "Hi"}))
        )
        given: Any = {"messages": ASK, "max_tokens": 9}
        await front.client.chat.completions.create(model="compatible", **given)
        await front.client.chat.completions.create(model="small", **given)
        _ = [
            one
            async for one in await front.client.chat.completions.create(model="small", stream=True, **given)
        ]
        limits = [{k: v for k, v in one.body.items() if "_tokens" in k} for one in front.openai.asked]
        assert limits == [{"max_tokens": 9}, {"max_completion_tokens": 9}, {"max_completion_tokens": 9}]


async def test_nothing_of_the_environment_is_sent(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "OPENAI_ORG_ID": "org-of-another",
        "OPENAI_CUSTOM_HEADERS": "X-Other: secret-of-another",
        "ANTHROPIC_CUSTOM_HEADERS": "X-Other: secret-of-another",
        "ANTHROPIC_AUTH_TOKEN": "token-of-another",
        "HTTP_PROXY": "http://127.0.0.1:1",  # nobody listens there
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    forget_sdk_settings()
    async with stage.front() as front:
        front.openai.put_on(reply(completion()))
        front.claude.put_on(reply(upstreams.message({"type": "text", "text": "Hello"})))
        for model in ("small", "claude"):
            await front.client.chat.completions.create(model=model, messages=ASK)
        [first], [second] = front.openai.asked, front.claude.asked
        assert "of-another" not in str(first) + str(second)


async def test_a_stream_comes_in_pieces_and_ends_with_done(front: Front) -> None:
    front.openai.put_on(openai_stream(chunks({"content": "Hel"}, {"content": "lo"})))
    stream = await front.client.chat.completions.create(model="small", messages=ASK, stream=True)
    received = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in received) == "Hello"
    assert received[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in received)  # nobody has asked for it
    assert front.openai.asked[0].body["stream_options"] == {"include_usage": True}  # but the gateway
    body = json.dumps({"model": "small", "messages": ASK, "stream": True}).encode()
    raw = await front.post("/v1/chat/completions", body)
    assert raw.headers["content-type"].startswith("text/event-stream")
    frames = raw.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    assert "usage" not in raw.text


async def test_the_usage_of_a_stream_comes_where_it_was_asked_for(front: Front) -> None:
    front.openai.put_on(openai_stream(chunks({"content": "Hello"})))
    stream = await front.client.chat.completions.create(
        model="small", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    last = [chunk async for chunk in stream][-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 1100


async def test_tools_and_a_schema_pass_both_ways(front: Front) -> None:
    schema: Any = {"name": "verdict", "schema": {"type": "object", "properties": {}}, "strict": True}
    front.openai.put_on(reply(completion(None, tool_calls=[CALL])))
    answer = await front.client.chat.completions.create(
        model="small",
        messages=ASK,
        tools=[TOOL],
        tool_choice="auto",
        response_format={"type": "json_schema", "json_schema": schema},
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.to_dict()["tool_calls"] == [CALL]
    body = front.openai.asked[0].body
    assert (body["tools"], body["tool_choice"]) == ([TOOL], "auto")
    assert body["response_format"] == {"type": "json_schema", "json_schema": schema}


async def test_a_tool_call_in_a_stream_passes_piece_by_piece(front: Front) -> None:
    begun = {**CALL, "index": 0, "function": {"name": "look_up", "arguments": ""}}
    more = [{"index": 0, "function": {"arguments": part}} for part in ('{"ip": ', '"192.0.2.1"}')]
    deltas = [{"tool_calls": [one]} for one in (begun, *more)]
    front.openai.put_on(openai_stream(chunks(*deltas, reason="tool_calls")))
    async with front.client.chat.completions.stream(
        model="small",
        messages=ASK,
        tools=[TOOL],
    ) as stream:
        final = await stream.get_final_completion()
    [call] = final.choices[0].message.tool_calls or []
    assert (call.id, call.function.arguments) == ("call_1", '{"ip": "192.0.2.1"}')


async def test_wrong_arguments_of_a_model_are_handed_on_as_they_are(front: Front) -> None:
    wrong = {**CALL, "function": {"name": "look_up", "arguments": '{"ip": '}}
    front.openai.put_on(reply(completion(None, tool_calls=[wrong])))
    answer = await front.client.chat.completions.create(model="small", messages=ASK)
    assert answer.choices[0].message.to_dict()["tool_calls"] == [wrong]


async def test_embeddings_in_both_formats(front: Front) -> None:
    front.openai.put_on(reply(embeddings([0.5, -0.25])))
    plain = await front.client.embeddings.create(model="vectors", input=["a"], encoding_format="float")
    assert plain.data[0].embedding == [0.5, -0.25]
    front.openai.put_on(reply(embeddings("AAAAPwAAgL4=")))
    packed = await front.client.embeddings.create(model="vectors", input=["b"], dimensions=2)
    assert packed.data[0].embedding == [0.5, -0.25]  # the SDK asks for base64 by itself
    asked = [one.body for one in front.openai.asked]
    assert asked == [
        {"model": "text-embedding-3-small", "input": ["a"], "encoding_format": "float"},
        {"model": "text-embedding-3-small", "input": ["b"], "encoding_format": "base64", "dimensions": 2},
    ]


async def test_models_are_listed_and_shown(front: Front) -> None:
    names = [model.id async for model in front.client.models.list()]
    assert names == ["small", "claude", "either", "unset", "unset-or-claude", "vectors"]
    assert (await front.client.models.retrieve("small")).owned_by == "openai"
    with pytest.raises(openai.NotFoundError, match="There is no model 'large' here; there are"):
        await front.client.models.retrieve("large")


async def test_without_any_model_it_says_what_to_configure(stage: Stage) -> None:
    async with stage.front(without_models=True) as front:
        assert [model async for model in front.client.models.list()] == []
        with pytest.raises(openai.NotFoundError) as caught:
            await front.client.chat.completions.create(model="gpt-5-mini", messages=ASK)
        assert caught.value.body is not None
        assert (
            "No model for chats is configured here. Add one to /home/models.yaml, with the upstream that answers for it, "
            "and run `callboard up` again."
        ) in caught.value.message
        with pytest.raises(
            openai.NotFoundError, match=r"No model for embeddings is configured here\. Add one to"
        ):
            await front.client.embeddings.create(model="m", input="a")
        with pytest.raises(
            openai.NotFoundError, match="There is no model 'm' here, since none is configured"
        ):
            await front.client.models.retrieve("m")


async def test_without_the_key_nothing_is_told(front: Front) -> None:
    for key in (LOCAL_KEY + "x", LOCAL_KEY[:-1], LOCAL_KEY.upper(), "кл"):
        header = [(b"authorization", f"Bearer {key}".encode())]
        assert (await front.http.get(f"{front.url}/v1/models", headers=header)).status_code == 401
    with pytest.raises(openai.AuthenticationError, match="The key is wrong") as caught:
        await front.client_with("cb-wrong").models.list()
    assert caught.value.code == "invalid_api_key"
    for none in ("", f"Basic {LOCAL_KEY}"):
        refused = await front.http.get(f"{front.url}/v1/models", headers={"authorization": none})
        assert refused.status_code == 401
        assert "There is no key" in refused.json()["error"]["message"]
        assert refused.headers["www-authenticate"] == "Bearer"
    body = json.dumps({"model": "small", "messages": ASK}).encode()
    refused = await front.post("/v1/chat/completions", body, authorization="Bearer cb-wrong")
    assert refused.status_code == 401
    assert front.openai.asked == []


async def test_a_key_that_is_missing_is_named_with_the_place_to_put_it(front: Front) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await front.client.chat.completions.create(model="unset", messages=ASK)
    assert (caught.value.status_code, caught.value.code) == (503, "upstream_not_configured")
    assert "The upstream keyless has no key: There is no secret NOBODY_HAS_IT." in caught.value.message
    assert caught.value.response.headers["x-should-retry"] == "false"


async def test_a_refused_key_is_our_fault_and_shows_nothing_of_it(front: Front) -> None:
    front.openai.put_on(upstreams.status(401, error=f"Incorrect API key provided: {KEY}"))
    with pytest.raises(openai.APIStatusError) as caught:
        await front.client.chat.completions.create(model="small", messages=ASK)
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_refused_key")
    assert KEY not in caught.value.message
    front.openai.put_on(upstreams.status(400, error=f"The key {KEY} may not use that."))
    with pytest.raises(openai.BadRequestError, match=r"The key \[API_KEY\] may not use that\."):
        await front.client.chat.completions.create(model="small", messages=ASK)

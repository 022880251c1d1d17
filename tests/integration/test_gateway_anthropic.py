"""OpenAI's requests answered by Anthropic: what its server is asked, and what the client is told."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from anthropic.types import Message
from anthropic.types.raw_message_stream_event import RawMessageStreamEvent
from pydantic import TypeAdapter

from tests.integration import upstreams
from tests.integration.gateway import Front, Stage
from tests.integration.upstreams import KEY, anthropic_stream, events, message, reply

ASK: Any = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"ip": {"type": "string"}}}
TEXT = {"type": "text", "text": "Hello"}
TOOL_USE = {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"ip": "192.0.2.1"}}


async def ask(front: Front, **fields: Any) -> Any:
    return await front.client.chat.completions.create(**{"model": "claude", "messages": ASK, **fields})


def test_the_played_server_says_what_the_sdk_calls_anthropics() -> None:
    Message.model_validate(message(TEXT, TOOL_USE))
    adapter: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
    delta = {"type": "input_json_delta", "partial_json": "{}"}
    for event in events((TEXT, [{"type": "text_delta", "text": "x"}]), (TOOL_USE, [delta])):
        if event["type"] != "ping":
            adapter.validate_python(event)


async def test_a_plain_chat(front: Front) -> None:
    front.claude.put_on(reply(message(TEXT)))
    answer = await ask(front, stop=["END"], user="u1", temperature=1)
    assert answer.choices[0].message.content == "Hello"
    assert (answer.choices[0].finish_reason, answer.model) == ("stop", "claude-haiku-4-5")
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (1210, 100, 1310)
    assert usage.prompt_tokens_details.cached_tokens == 200
    [asked] = front.claude.asked
    assert (asked.path, asked.headers["authorization"]) == ("/v1/messages", f"Bearer {KEY}")
    assert asked.headers["anthropic-version"]
    assert asked.body == {
        "model": "claude-haiku-4-5",
        "messages": [{"role": "user", "content": [TEXT]}],
        "max_tokens": 777,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u1"},
        "stream": False,
    }


async def test_a_conversation_with_tools_pictures_and_system_texts(front: Front) -> None:
    front.claude.put_on(reply(message(TEXT)))
    call = {"id": "toolu_1", "type": "function", "function": {"name": "look_up", "arguments": '{"ip": "a"}'}}
    again = {"id": "toolu_2", "type": "function", "function": {"name": "look_up", "arguments": ""}}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    await ask(
        front,
        max_completion_tokens=50,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": [{"type": "text", "text": "Who?"}, picture]},
            {"role": "assistant", "content": "Let me see.", "tool_calls": [call, again]},
            {"role": "tool", "tool_call_id": "toolu_1", "content": "somebody"},
            {"role": "tool", "tool_call_id": "toolu_2", "content": [{"type": "text", "text": "nobody"}]},
            {"role": "user", "content": "And now?"},
        ],
        tools=[
            {"type": "function", "function": {"name": "look_up", "description": "d", "parameters": SCHEMA}},
            {"type": "function", "function": {"name": "wait", "strict": True}},
        ],
        tool_choice="required",
        parallel_tool_calls=False,
    )
    body = front.claude.asked[0].body
    assert body["max_tokens"] == 50
    assert [part["text"] for part in body["system"]] == ["Be brief.", "Be kind."]
    source = {"type": "base64", "media_type": "image/png", "data": "QUJD"}
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Who?"}, {"type": "image", "source": source}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"ip": "a"}},
                {"type": "tool_use", "id": "toolu_2", "name": "look_up", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "somebody"},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "content": [{"type": "text", "text": "nobody"}],
                },
                {"type": "text", "text": "And now?"},
            ],
        },
    ]
    assert body["tools"] == [
        {"name": "look_up", "description": "d", "input_schema": SCHEMA},
        {"name": "wait", "input_schema": {"type": "object", "properties": {}}, "strict": True},
    ]
    assert body["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}


async def test_a_tool_by_name_and_a_schema_for_the_answer(front: Front) -> None:
    front.claude.put_on(reply(message(TEXT)))
    await ask(
        front,
        tools=[{"type": "function", "function": {"name": "look_up"}}],
        tool_choice={"type": "function", "function": {"name": "look_up"}},
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
        reasoning_effort="low",
    )
    body = front.claude.asked[0].body
    assert body["tool_choice"] == {"type": "tool", "name": "look_up"}
    assert body["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}}


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("max_tokens", "length"),
        ("refusal", "content_filter"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
    ],
)
async def test_why_an_answer_ends(front: Front, stop: str, reason: str) -> None:
    front.claude.put_on(reply(message(TEXT, stop=stop)))
    assert (await ask(front)).choices[0].finish_reason == reason


async def test_calls_of_tools_in_an_answer(front: Front) -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    front.claude.put_on(reply(message(thought, TOOL_USE, stop="tool_use")))
    [choice] = (await ask(front)).choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls
    assert (call.id, call.function.name) == ("toolu_1", "look_up")
    assert json.loads(call.function.arguments) == {"ip": "192.0.2.1"}


async def test_a_stream_with_text_and_calls_of_tools(front: Front) -> None:
    empty = {"type": "text", "text": ""}
    pieces = [{"type": "input_json_delta", "partial_json": part} for part in ("", '{"ip": "19', '2.0.2.1"}')]
    second = {**TOOL_USE, "id": "toolu_2", "name": "wait", "input": {}}
    front.claude.put_on(
        anthropic_stream(
            events(
                ({"type": "thinking", "thinking": "", "signature": ""}, []),
                (empty, [{"type": "text_delta", "text": "Hel"}, {"type": "text_delta", "text": "lo"}]),
                ({**TOOL_USE, "input": {}}, pieces),
                (second, [{"type": "input_json_delta", "partial_json": ""}]),
                stop="tool_use",
            )
        )
    )
    async with front.client.chat.completions.stream(
        model="claude",
        messages=ASK,
        stream_options={"include_usage": True},
    ) as stream:
        final = await stream.get_final_completion()
    [choice] = final.choices
    assert (choice.message.content, choice.finish_reason) == ("Hello", "tool_calls")
    calls = [(c.id, c.function.name, c.function.arguments) for c in choice.message.tool_calls or []]
    assert calls == [("toolu_1", "look_up", '{"ip": "192.0.2.1"}'), ("toolu_2", "wait", "{}")]
    assert final.usage is not None
    assert (final.usage.prompt_tokens, final.usage.completion_tokens) == (1210, 100)
    assert front.claude.asked[0].body["stream"] is True


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"seed": 1}, "seed"),
    ({"n": 2}, "n"),
    ({"temperature": 0}, "temperature"),
    ({"top_p": 0.9}, "top_p"),
    ({"extra_body": {"top_k": 5}}, "top_k"),
    ({"logprobs": True}, "logprobs"),
    ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"reasoning_effort": "minimal"}, "reasoning_effort"),
    ({"extra_body": {"min_p": 0.1}}, "min_p"),
    (
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
        "messages[0].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://x"}}]}]},
        "messages[0].content[0].image_url.url",
    ),
    (
        {
            "messages": [
                *ASK,
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{"}}
                    ],
                },
            ]
        },
        "messages[1].tool_calls[0].function.arguments",
    ),
    ({"messages": [{"role": "system", "content": "Be brief."}]}, "messages"),
]


async def test_what_anthropic_does_not_have_is_refused_and_not_left_out(front: Front) -> None:
    for fields, param in REFUSED:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(front, **fields)
        assert caught.value.param == param
    harmless = {"frequency_penalty": 0, "logprobs": False, "store": False, "service_tier": "auto"}
    front.claude.put_on(reply(message(TEXT)))
    await ask(front, **harmless)
    assert len(front.claude.asked) == 1


async def test_what_models_yaml_drops_is_left_out(stage: Stage) -> None:
    more = "  tame: {targets: [{upstream: claude, model: c, drop: [temperature, seed]}]}"
    async with stage.front(more=more) as front:
        front.claude.put_on(reply(message(TEXT)))
        await ask(front, model="tame", temperature=0, seed=1)
        [asked] = front.claude.asked
        assert set(asked.body) == {"model", "messages", "max_tokens", "stream"}


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [("overloaded_error", 502, "upstream_failed"), ("rate_limit_error", 429, "rate_limit_error")],
)
async def test_an_error_told_within_a_stream_is_the_one_it_would_have_been(
    front: Front, kind: str, status: int, code: str
) -> None:
    told = {"type": "error", "error": {"type": kind, "message": "no"}}
    front.claude.put_on(anthropic_stream([told]))
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(front, stream=True)
    assert (caught.value.status_code, caught.value.code) == (status, code)


@pytest.mark.parametrize(
    "part",
    [upstreams.text("{"), upstreams.text("[]"), upstreams.reply({}), upstreams.reply({"content": "x"})],
    ids=["cut", "list", "empty", "other"],
)
async def test_an_answer_that_is_no_message_is_malformed(front: Front, part: upstreams.Part) -> None:
    front.claude.put_on(part)
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(front)
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_malformed")

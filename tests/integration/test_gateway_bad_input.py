"""What a client gets wrong: a body in OpenAI's form with the right status, and a gateway that goes on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.gateway import Front, Stage
from tests.integration.upstreams import completion, reply

CHAT, EMBED = "/v1/chat/completions", "/v1/embeddings"
ASK = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
async def front() -> AsyncIterator[Front]:
    async with Stage.set() as stage, stage.front(more="limits: {body_bytes: 100000}") as front:
        front.openai.put_on(reply(completion()))
        yield front


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "small", "messages": ASK, **fields}).encode()


def embed(given: Any, **fields: Any) -> bytes:
    return json.dumps({"model": "vectors", "input": given, **fields}).encode()


def function(**fields: Any) -> list[Any]:
    return [{"type": "function", "function": {"name": "f", **fields}}]


CASES = [
    (CHAT, b"", 400, None, "invalid_json"),
    (CHAT, b'{"model": ', 400, None, "invalid_json"),
    (CHAT, b"[]", 400, None, "invalid_json"),
    (
        CHAT,
        b'{"model": "small", "messages": [{"role": "user", "content": "\xff"}]}',
        400,
        None,
        "invalid_utf8",
    ),
    (CHAT, b'{"model": "small", "user": "\\ud800"}', 400, None, "invalid_json"),
    (CHAT, b"[" * 50_000, 400, None, "invalid_json"),
    (CHAT, chat(user="x" * 100_000), 413, None, "request_too_large"),
    (CHAT, b'{"messages": []}', 400, "model", None),
    (CHAT, chat(model="large"), 404, "model", "model_not_found"),
    (CHAT, chat(model="vectors"), 400, "model", "model_not_supported"),
    (CHAT, chat(messages=[]), 400, "messages", None),
    (CHAT, chat(messages="Hello"), 400, "messages", None),
    (CHAT, chat(messages=[{"content": "Hello"}]), 400, "messages[0]", None),
    (CHAT, chat(messages=[{"role": "robot", "content": "Hello"}]), 400, "messages[0]", None),
    (CHAT, chat(messages=[{"role": "user", "content": 7}]), 400, "messages[0].content", None),
    (
        CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "text"}]}]),
        400,
        "messages[0].content[0]",
        None,
    ),
    (CHAT, chat(temperature="1"), 400, "temperature", None),
    (CHAT, chat(temperature=2.5), 400, "temperature", None),
    (CHAT, chat(n=0), 400, "n", None),
    (CHAT, chat(stream="yes"), 400, "stream", None),
    (CHAT, chat(stream_options={"include_usage": True}), 400, None, None),
    (CHAT, chat(tools=[]), 400, "tools", None),
    (CHAT, chat(tools=function(parameters={"type": "objekt"})), 400, "tools[0].function.parameters", None),
    (CHAT, chat(tools=function(name="f f")), 400, "tools[0].function.name", None),
    (CHAT, chat(response_format={"type": "json_schema"}), 400, "response_format", None),
    (
        CHAT,
        chat(
            response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": {"required": 1}}}
        ),
        400,
        "response_format.json_schema.schema",
        None,
    ),
    (EMBED, embed(""), 400, "input", None),
    (EMBED, embed([]), 400, "input", None),
    (EMBED, embed(["a", ""]), 400, "input", None),
    (EMBED, embed(["a"] * 10_000), 400, "input", None),
    (EMBED, embed(["a", 1]), 400, "input[1]", None),
    (EMBED, embed("a", encoding_format="int8"), 400, "encoding_format", None),
    (EMBED, embed("a", dimensions=0), 400, "dimensions", None),
    (EMBED, embed("a", model="small"), 400, "model", "model_not_supported"),
    ("/v1/completions", b"{}", 404, None, "unknown_url"),
    ("/embeddings", b"{}", 404, None, "unknown_url"),
    ("/v1/models", b"{}", 405, None, "method_not_allowed"),
]


async def test_each_is_refused_by_name_and_the_gateway_goes_on(front: Front) -> None:
    for path, content, status, param, code in CASES:
        answer = await front.post(path, content)
        case = (path, content[:80], answer.text)
        assert answer.status_code == status, case
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, case
        assert (error["param"], error["code"]) == (param, code), case
        assert error["type"] == "invalid_request_error", case
        assert error["message"].endswith("."), case
        assert len(error["message"]) < 500, case
        assert ("The base URL ends in /v1." in error["message"]) is (path == "/embeddings"), case
    assert front.openai.asked == []
    assert (await front.post(CHAT, chat())).status_code == 200


async def test_a_body_that_never_says_its_length_ends_at_the_limit(front: Front) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * 50_000

    headers = {"authorization": front.client.auth_headers["Authorization"]}
    answer = await front.http.post(front.url + CHAT, content=endless(), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


async def test_a_name_in_a_header_that_is_none_is_refused(front: Front) -> None:
    for name in ("x" * 300, ""):
        answer = await front.post(CHAT, chat(), **{"x-callboard-task": name})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "task")

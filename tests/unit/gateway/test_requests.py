"""What clients send, read in a time that goes by its size and not by how much of it is wrong."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
import pytest

from serve.gateway.app import reading
from serve.gateway.errors import ApiError
from serve.gateway.requests import ChatRequest, read_chat, read_embeddings, read_rerank

MANY = 200_000
ASK = [{"role": "user", "content": "Hello"}]


def refused(read: Any, **body: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(msgspec.json.encode({"model": "m", **body}))
    return caught.value


@pytest.mark.parametrize(
    ("read", "body", "param"),
    [
        (read_embeddings, {"input": [None] * MANY}, "input[0]"),
        (read_embeddings, {"input": [[None] * MANY]}, "input[0][0]"),
        (read_chat, {"messages": [0] * MANY}, "messages[0]"),
        (read_chat, {"messages": [{"role": "user", "content": [0] * MANY}]}, "messages[0].content[0]"),
        (read_chat, {"messages": ASK, "stop": [0] * MANY}, "stop[0]"),
        (read_chat, {"messages": ASK, "tools": [0] * MANY}, "tools[0]"),
        (read_rerank, {"query": "q", "documents": [0] * MANY}, "documents[0]"),
    ],
)
def test_a_request_that_is_wrong_in_many_places_is_left_at_the_first(
    read: Any, body: dict[str, Any], param: str
) -> None:
    began = time.process_time()
    assert refused(read, **body).param == param
    assert time.process_time() - began < 0.5  # seconds, where each place is told


@pytest.mark.parametrize("named", [5, ["https://json-schema.org/draft/2020-12/schema"]])
def test_a_schema_that_names_its_kind_with_no_text_is_refused(named: Any) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"$schema": named}}}
    error = refused(read_chat, messages=ASK, response_format=schema)
    assert (error.status, error.param) == (400, "response_format.json_schema.schema")


async def test_a_large_request_is_read_beside_the_others_and_a_small_one_at_once() -> None:
    threads = []

    def read(content: bytes) -> ChatRequest:
        threads.append(threading.current_thread())
        return read_chat(content)

    for text in ("a", "a" * 100_000):
        body = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": text}]})
        assert (await reading(read, body)).messages[0].content == text
    assert [one is threading.main_thread() for one in threads] == [True, False]

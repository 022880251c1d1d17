"""What was asked, in tokens, for when nobody says them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serve.gateway.heard import estimated_input
from serve.gateway.requests import read_chat, read_embeddings, read_rerank


@pytest.mark.parametrize(
    ("given", "tokens"),
    [("x" * 9, 3), (["x" * 4, "yy"], 2), ([5, 6, 7], 3), ([[5, 6], [7]], 3)],
    ids=["text", "texts", "tokens", "tokens of several"],
)
def test_texts_count_by_their_letters_and_tokens_by_themselves(given: Any, tokens: int) -> None:
    request = read_embeddings(json.dumps({"model": "m", "input": given}).encode())
    assert estimated_input(request).input == tokens


def test_a_query_counts_with_each_document() -> None:
    asked = {"model": "m", "query": "x" * 4, "documents": ["y" * 4, {"text": "z" * 8}]}
    assert estimated_input(read_rerank(json.dumps(asked).encode())).input == 5


def test_a_chat_counts_all_that_was_said_and_no_pictures() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:" + "x" * 400}}
    messages = [
        {"role": "system", "content": "x" * 4},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [picture, {"type": "text", "text": "y" * 4}]},
    ]
    asked = read_chat(json.dumps({"model": "m", "messages": messages}).encode())
    assert (estimated_input(asked).input, estimated_input(asked).output) == (2, 0)

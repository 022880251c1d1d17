"""Answers that are written down in models.yaml, for when no model can be reached."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from uuid import uuid4

import msgspec

from serve.gateway.json_schema import UnusableSchema, misfit
from serve.gateway.models_file import RuleSpec
from serve.gateway.requests import ChatRequest
from serve.gateway.upstream import Json

MODEL = "rules"  # what an answer says that has made it
_READ = 10_000  # characters of a message: a pattern may take long on more
_NONE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def answer_of(rules: Iterable[RuleSpec], request: ChatRequest) -> str | None:
    """Of the first rule that matches what the user has said last, and that is in the form that was asked for.

    May take a while, by the client's schema.
    """
    said = _last_words(request)
    for rule in rules:
        if rule.pattern is None or rule.pattern.search(said):
            answer = (
                rule.answer if isinstance(rule.answer, str) else msgspec.json.encode(rule.answer).decode()
            )
            if _fits(answer, request):
                return answer
    return None


def completion(answer: str) -> Json:
    message = {"role": "assistant", "content": answer, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {**_head("chat.completion"), "choices": [choice], "usage": _NONE}


async def chunks(answer: str) -> AsyncIterator[Json]:
    head = _head("chat.completion.chunk")
    for delta, finish in (({"role": "assistant", "content": answer}, None), ({}, "stop")):
        yield {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}
    yield {**head, "choices": [], "usage": _NONE}


def _last_words(request: ChatRequest) -> str:
    content = next((one.content for one in reversed(request.messages) if one.role == "user"), "")
    text = content if isinstance(content, str) else "".join(part.text or "" for part in content or ())
    return text[-_READ:]


def _fits(answer: str, request: ChatRequest) -> bool:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return True
    try:
        value = msgspec.json.decode(answer)
        schema = {"type": "object"} if wanted.json_schema is None else wanted.json_schema.schema_
        return misfit(value, schema) is None
    except (msgspec.DecodeError, UnusableSchema):
        return False


def _head(kind: str) -> Json:
    return {"id": f"chatcmpl-{uuid4().hex}", "object": kind, "created": int(time.time()), "model": MODEL}

"""Chats of models that run here, in OpenAI's form."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from uuid import uuid4

import msgspec

from serve.gateway.errors import ApiError, unsupported
from serve.gateway.requests import ChatRequest, Message, NamedTool, Part
from serve.gateway.upstream import Json
from serve.generation.generator import Generated, GenerateRequest

_KNOWN = frozenset(ChatRequest.model_fields)
# What changes nothing, and is sent by clients that say everything.
_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logprobs": (False, None),
    "logit_bias": ({}, None),
    "store": (False, None),
}
MAX_STOPS = 16


def to_generate(request: ChatRequest) -> GenerateRequest:
    """Raises ApiError for what a model that runs here cannot do: nothing is left out in silence."""
    for name, value in request.body.items():
        if name not in _KNOWN and value not in _HARMLESS.get(name, ()):
            raise unsupported(name, "is not known to models that run here")
    if (request.n or 1) > 1:
        raise unsupported("n", "a model that runs here gives one answer to a request")
    tools = _tools(request)
    schema = _schema(request)
    if tools and schema is not None:
        raise unsupported(
            "response_format", "together with tools it cannot be kept by a model that runs here"
        )
    return GenerateRequest(
        messages=tuple(_message(one, place) for place, one in enumerate(request.messages)),
        tools=tools,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed,
        stop=_stops(request),
        schema=schema,
        piecemeal=bool(request.stream),
    )


async def completion(model: str, pieces: AsyncGenerator[Generated]) -> Json:
    text, last = "", Generated()
    async for piece in pieces:
        text, last = text + piece.text, piece
    calls = _calls(last)
    message: Json = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
    if calls:
        message["tool_calls"] = calls
    return {
        **_head(model, "chat.completion"),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": last.finish}],
        "usage": _usage(last),
    }


async def chunks(model: str, pieces: AsyncGenerator[Generated]) -> AsyncGenerator[Json]:
    """The first one has the role; the last one the usage, and no choices."""
    head = _head(model, "chat.completion.chunk")

    def chunk(delta: Json, finish: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**head, "choices": [choice]}

    begun = False
    async for piece in pieces:
        if not begun:
            begun = True
            yield chunk({"role": "assistant", "content": ""})
        if piece.text:
            yield chunk({"content": piece.text})
        if piece.tool_calls:
            calls = [{"index": at, **call} for at, call in enumerate(_calls(piece))]
            yield chunk({"tool_calls": calls})
        if piece.finish is not None:
            yield chunk({}, piece.finish)
            yield {**head, "choices": [], "usage": _usage(piece)}


def _tools(request: ChatRequest) -> tuple[Json, ...]:
    choice = request.tool_choice
    if choice == "required" or isinstance(choice, NamedTool):
        raise unsupported(
            "tool_choice", "a model that runs here cannot be made to call a tool; auto and none are known"
        )
    if request.parallel_tool_calls is False:
        raise unsupported("parallel_tool_calls", "a model that runs here cannot be kept to one call")
    if choice == "none" or request.tools is None:
        return ()
    if any(tool.function.strict for tool in request.tools):
        raise unsupported("tools", "`strict` arguments cannot be kept by a model that runs here")
    return tuple(request.body["tools"])


def _schema(request: ChatRequest) -> Json | None:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return None
    return {"type": "object"} if wanted.json_schema is None else wanted.json_schema.schema_


def _stops(request: ChatRequest) -> tuple[str, ...]:
    stop = request.stop
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MAX_STOPS or not all(stops):
        raise ApiError(f"stop: must be at most {MAX_STOPS} texts, none empty.", param="stop")
    return stops


def _message(message: Message, place: int) -> Json:
    """As templates of chats have it: the content a text, the arguments of calls an object."""
    found: Json = {
        "role": "system" if message.role == "developer" else message.role,
        "content": _text(message.content, place),
    }
    if message.role == "tool":
        found["tool_call_id"] = message.tool_call_id
    if message.role == "assistant" and message.tool_calls:
        found["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": _object(call.function.arguments, place),
                },
            }
            for call in message.tool_calls
        ]
    return found


def _text(content: str | list[Part] | None, place: int) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type != "text":
            raise unsupported(
                f"messages[{place}].content", f"a model that runs here reads text, not {part.type}"
            )
    return "".join(part.text or "" for part in content)


def _object(arguments: str, place: int) -> Json:
    try:
        return msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError):
        raise ApiError(
            f"messages[{place}].tool_calls: arguments must be a JSON object.",
            param=f"messages[{place}].tool_calls",
        ) from None


def _calls(piece: Generated) -> list[Json]:
    return [
        {
            "id": f"call_{uuid4().hex}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in piece.tool_calls
    ]


def _head(model: str, kind: str) -> Json:
    return {"id": f"chatcmpl-{uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _usage(piece: Generated) -> Json:
    return {
        "prompt_tokens": piece.prompt_tokens,
        "completion_tokens": piece.tokens,
        "total_tokens": piece.prompt_tokens + piece.tokens,
    }

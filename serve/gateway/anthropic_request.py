"""An OpenAI chat request as Anthropic's Messages API wants it.

What that API does not have is refused by name: left out in silence, the answer would not be what was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from serve.gateway.errors import ApiError, unsupported
from serve.gateway.models_file import TargetSpec
from serve.gateway.requests import (
    AssistantMessage,
    ChatRequest,
    NamedTool,
    Part,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)

Json = dict[str, Any]
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
# Parameters with the one value that means what Anthropic does anyway.
_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logprobs": (None, False),
    "logit_bias": (None, {}),
    "store": (None, False),
    "service_tier": (None, "auto"),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "top_logprobs": (None,),
    "verbosity": (None, "medium"),
}


def to_anthropic(target: TargetSpec, request: ChatRequest) -> Json:
    """The arguments of `messages.create`. Raises ApiError."""
    _refuse_what_is_missing_there(request)
    system, messages = _conversation(request)
    call: Json = {
        "model": target.model,
        "messages": messages,
        "max_tokens": request.max_completion_tokens or request.max_tokens or target.max_tokens,
    }
    if system:
        call["system"] = system
    if request.stop is not None:
        call["stop_sequences"] = [request.stop] if isinstance(request.stop, str) else request.stop
    if request.user is not None:
        call["metadata"] = {"user_id": request.user}
    return call | _tools(request) | _output(request)


def _refuse_what_is_missing_there(request: ChatRequest) -> None:
    if request.n not in (None, 1):
        raise unsupported("n", "Anthropic gives one choice")
    if request.seed is not None:
        raise unsupported("seed", "Anthropic has none")
    for name, value in (("temperature", request.temperature), ("top_p", request.top_p)):
        if value not in (None, 1):
            raise unsupported(name, "Anthropic's API has no sampling parameters since its version 2026-10-21")
    for name, value in request.extra.items():
        if name == "reasoning_effort":
            continue
        if name not in _HARMLESS or value not in _HARMLESS[name]:
            raise unsupported(name, "Anthropic's API has no such parameter")


def _conversation(request: ChatRequest) -> tuple[list[Json], list[Json]]:
    """System texts and turns; of what Anthropic takes for one turn, messages in a row are put together."""
    system: list[Json] = []
    turns: list[Json] = []
    for number, message in enumerate(request.messages):
        place = f"messages[{number}]"
        if isinstance(message, SystemMessage):
            system += _blocks(message.content, place)
            continue
        role, blocks = _turn(message, place)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    if not turns:
        raise ApiError("messages: Anthropic wants one of a user.", param="messages")
    return system, turns


def _turn(message: UserMessage | AssistantMessage | ToolMessage, place: str) -> tuple[str, list[Json]]:
    if isinstance(message, ToolMessage):
        content = message.content if isinstance(message.content, str) else _blocks(message.content, place)
        result = {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": content}
        return "user", [result]
    blocks = _blocks(message.content, place) if message.content else []
    if isinstance(message, UserMessage):
        return "user", blocks
    calls = message.tool_calls or []
    return "assistant", blocks + [_tool_use(call, f"{place}.tool_calls[{n}]") for n, call in enumerate(calls)]


def _tool_use(call: ToolCall, place: str) -> Json:
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        param = f"{place}.function.arguments"
        raise ApiError(f"{param}: must be a JSON object.", param=param)
    return {"type": "tool_use", "id": call.id, "name": call.function.name, "input": arguments}


def _blocks(content: str | list[Part], place: str) -> list[Json]:
    if isinstance(content, str):  # Anthropic refuses empty texts
        return [{"type": "text", "text": content}] if content else []
    return [
        _block(part, f"{place}.content[{number}]")
        for number, part in enumerate(content)
        if part.type != "text" or part.text
    ]


def _block(part: Part, place: str) -> Json:
    if part.type == "text":
        return {"type": "text", "text": part.text}
    if part.type == "image_url":
        url = part.extra.get("image_url")
        url = url.get("url") if isinstance(url, dict) else None
        if not isinstance(url, str):
            raise ApiError(f"{place}.image_url.url: is missing.", param=f"{place}.image_url.url")
        return {"type": "image", "source": _source(url, place)}
    raise unsupported(f"{place}.type", f"parts of type {part.type} cannot be translated for Anthropic")


def _source(url: str, place: str) -> Json:
    if url.startswith(("https://", "http://")):
        return {"type": "url", "url": url}
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        param = f"{place}.image_url.url"
        raise ApiError(f"{param}: must be a URL, or data:image/...;base64,...", param=param)
    media = head.removeprefix("data:").removesuffix(";base64")
    return {"type": "base64", "media_type": media, "data": data}


def _tools(request: ChatRequest) -> Json:
    if request.tools is None:
        return {}
    tools = []
    for tool in request.tools:
        function = tool.function
        made: Json = {
            "name": function.name,
            "input_schema": function.parameters or {"type": "object", "properties": {}},
        }
        if function.description is not None:
            made["description"] = function.description
        if function.strict:
            made["strict"] = True
        tools.append(made)
    choice: Json
    if isinstance(request.tool_choice, NamedTool):
        choice = {"type": "tool", "name": request.tool_choice.function.name}
    else:
        choice = {"type": "any" if request.tool_choice == "required" else request.tool_choice or "auto"}
    if request.parallel_tool_calls is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    return {"tools": tools, "tool_choice": choice}


def _output(request: ChatRequest) -> Json:
    config: Json = {}
    wanted = request.response_format
    if wanted is not None and wanted.type == "json_object":
        raise unsupported("response_format", "Anthropic wants a schema; use json_schema")
    if wanted is not None and wanted.json_schema is not None:
        config["format"] = {"type": "json_schema", "schema": wanted.json_schema.schema_}
    effort = request.extra.get("reasoning_effort")
    if effort is not None:
        if effort not in _EFFORTS:
            raise unsupported("reasoning_effort", f"Anthropic has {', '.join(_EFFORTS)}")
        config["effort"] = effort
    return {"output_config": config} if config else {}

"""A request of Anthropic's Messages API as the gateway's own chat request, from which on there is no difference.

What a chat has no place for is refused by its place in the request: left out in silence, the answer would not be what was
asked for. `cache_control` is left out: it changes what an answer costs, and no answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from bus.complaints import in_plain_words
from serve.gateway.messages_body import (
    AssistantTurn,
    ImageBlock,
    MessagesRequest,
    MessagesTool,
    NamedToolChoice,
    OutputFormat,
    SystemTurn,
    TextBlock,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
    UrlSource,
    UserTurn,
)
from serve.gateway.requests import ChatRequest, chat_request, read_json, validated
from serve.gateway.upstream import Json

# What the model is told of a tool_result with `is_error`: a chat has no such field.
FAILED = "The tool has failed:"


def read_messages(content: bytes) -> ChatRequest:
    """Raises ApiError with the place of the first thing that is wrong, or cannot be translated."""
    return chat_request(_chat(validated(MessagesRequest, read_json(content), _in_words)))


def _in_words(complaint: Mapping[str, Any]) -> str:
    kind, told = complaint["type"], complaint.get("ctx", {})
    if kind == "extra_forbidden":
        return "has no place in a chat, into which the gateway translates"
    if kind == "union_tag_invalid" and told["tag"].endswith((" block", " source")):
        return f"a {told['tag']} has no place here, in a chat; {told['expected_tags']} may have one"
    if kind == "union_tag_not_found":
        return "must be a mapping with its type or role"
    return in_plain_words(complaint)


def _chat(asked: MessagesRequest) -> Json:
    messages = _system(asked.system)
    for message in asked.messages:
        messages += _messages(message)
    given = {
        "stop": asked.stop_sequences or None,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,  # some compatible servers know it; the others refuse it
        "user": asked.metadata.user_id,
        "reasoning_effort": asked.output_config.effort,
        "response_format": _response_format(asked.output_config.format),
        "tools": [_tool(tool) for tool in asked.tools or ()] or None,
    }
    return {
        "model": asked.model,
        "messages": messages,
        "max_tokens": asked.max_tokens,
        **{name: value for name, value in given.items() if value is not None},
        **_tool_choice(asked.tool_choice),
        **({"stream": True, "stream_options": {"include_usage": True}} if asked.stream else {}),
    }


def _messages(message: UserTurn | AssistantTurn | SystemTurn) -> list[Json]:
    if isinstance(message, SystemTurn):
        return _system(message.content)
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    said = _content(block for block in message.content if isinstance(block, TextBlock | ImageBlock))
    if isinstance(message, AssistantTurn):
        calls = [_call(block) for block in message.content if isinstance(block, ToolUseBlock)]
        return [{"role": "assistant", "content": said or None, **({"tool_calls": calls} if calls else {})}]
    results = [_result(block) for block in message.content if isinstance(block, ToolResultBlock)]
    return results + ([{"role": "user", "content": said}] if said else [])


def _system(content: str | list[TextBlock]) -> list[Json]:
    said = content if isinstance(content, str) else _content(content)
    return [{"role": "system", "content": said}] if said else []


def _content(blocks: Iterable[TextBlock | ImageBlock]) -> str | list[Json]:
    """One text is told as a text: not every compatible server takes a list everywhere."""
    parts = [_part(block) for block in blocks]
    return parts[0]["text"] if [part["type"] for part in parts] == ["text"] else parts


def _part(block: TextBlock | ImageBlock) -> Json:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    source = block.source
    url = source.url if isinstance(source, UrlSource) else f"data:{source.media_type};base64,{source.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _call(block: ToolUseBlock) -> Json:
    arguments = msgspec.json.encode(block.input).decode()
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _result(block: ToolResultBlock) -> Json:
    told = block.content if isinstance(block.content, str) else _content(block.content)
    if block.is_error:
        told = f"{FAILED} {told}" if isinstance(told, str) else [{"type": "text", "text": FAILED}, *told]
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": told}


def _tool(tool: MessagesTool) -> Json:
    given = {"description": tool.description, "strict": tool.strict}
    function = {name: value for name, value in given.items() if value is not None}
    return {
        "type": "function",
        "function": {"name": tool.name, "parameters": tool.input_schema, **function},
    }


def _tool_choice(choice: ToolChoice | NamedToolChoice | None) -> Json:
    if choice is None:
        return {}
    named = (
        {"type": "function", "function": {"name": choice.name}}
        if isinstance(choice, NamedToolChoice)
        else None
    )
    one = {"parallel_tool_calls": False} if choice.disable_parallel_tool_use else {}
    return {"tool_choice": named or ("required" if choice.type == "any" else choice.type), **one}


def _response_format(wanted: OutputFormat | None) -> Json | None:
    """Strict: Anthropic's API promises that the answer fits."""
    if wanted is None:
        return None
    schema = {"name": "answer", "schema": wanted.schema_, "strict": True}
    return {"type": "json_schema", "json_schema": schema}

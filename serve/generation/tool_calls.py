"""Calls of tools as Hermes and Qwen write them: JSON between <tool_call> and </tool_call>."""

from __future__ import annotations

import msgspec

from serve.generation.generator import ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class NoToolCall(ValueError):
    """The model has begun a call and not written one."""


class _Call(msgspec.Struct):
    name: str
    arguments: dict[str, object] = {}


def split(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """What is said before the first call, and the calls. Raises NoToolCall."""
    said, *calls = text.split(OPEN)
    return said.rstrip() if calls else said, tuple(_read(call) for call in calls)


def sayable(text: str) -> int:
    """How many characters at the beginning are no part of a call, nor of the space before it."""
    at = text.find(OPEN)
    if at < 0:
        at = len(text)
        for length in range(1, len(OPEN)):
            if text.endswith(OPEN[:length]):
                at = len(text) - length
    return len(text[:at].rstrip())


def _read(written: str) -> ToolCall:
    try:
        call = msgspec.json.decode(written.partition(CLOSE)[0], type=_Call)
    except (msgspec.DecodeError, UnicodeError):
        raise NoToolCall(written[:200]) from None
    return ToolCall(name=call.name, arguments=msgspec.json.encode(call.arguments).decode())

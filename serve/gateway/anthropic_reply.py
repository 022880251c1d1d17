"""Anthropic's answers as OpenAI's: a whole message, or the events of a stream one by one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from anthropic.types import Message, RawMessageStreamEvent

from serve.gateway.anthropic_words import FINISH_REASONS

Json = dict[str, Any]
_GOING_ON: Mapping[str, str | None] = {"finish_reason": None}


def completion(message: Message) -> Json:
    """A `chat.completion`. Thinking has no place in it."""
    text = "".join(block.text for block in message.content if block.type == "text")
    calls = [
        {
            "id": block.id,
            "type": "function",
            "function": {"name": block.name, "arguments": json.dumps(block.input)},
        }
        for block in message.content
        if block.type == "tool_use"
    ]
    answer: Json = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
    if calls:
        answer["tool_calls"] = calls
    choice = {
        "index": 0,
        "message": answer,
        "logprobs": None,
        **_ending(message.stop_reason, message.stop_sequence),
    }
    return {
        "id": message.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": message.model,
        "choices": [choice],
        "usage": _usage(message.usage.model_dump()),
    }


class Chunks:
    """Turns the events of one stream into `chat.completion.chunk`s; `ended` once Anthropic has said so."""

    def __init__(self) -> None:
        self.ended = False
        self._head: Json = {"object": "chat.completion.chunk", "created": int(time.time())}
        self._usage: Json = {}
        self._calls: dict[int, int] = {}  # a block's index: the index of its tool call
        self._without_arguments: set[int] = set()

    def of(self, event: RawMessageStreamEvent) -> Iterator[Json]:
        if event.type == "message_start":
            self._head |= {"id": event.message.id, "model": event.message.model}
            self._note(event.message.usage.model_dump())
            yield self._chunk({"role": "assistant", "content": ""})
        elif event.type == "content_block_start":
            block = event.content_block
            if block.type == "tool_use":
                self._calls[event.index] = len(self._calls)
                self._without_arguments.add(event.index)
                function = {"name": block.name, "arguments": ""}
                yield self._call(event.index, {"id": block.id, "type": "function", "function": function})
            elif block.type == "text" and block.text:
                yield self._chunk({"content": block.text})
        elif event.type == "content_block_delta":
            if event.delta.type == "text_delta":
                yield self._chunk({"content": event.delta.text})
            elif event.delta.type == "input_json_delta" and event.delta.partial_json:
                yield self._arguments(event.index, event.delta.partial_json)
        elif event.type == "content_block_stop":
            if event.index in self._without_arguments:  # no text is no JSON
                yield self._arguments(event.index, "{}")
        elif event.type == "message_delta":
            self._note(event.usage.model_dump())
            yield self._chunk({}, _ending(event.delta.stop_reason, event.delta.stop_sequence))
        elif event.type == "message_stop":
            self.ended = True
            yield {**self._head, "choices": [], "usage": _usage(self._usage)}

    def _note(self, usage: Json) -> None:
        self._usage |= {name: value for name, value in usage.items() if value is not None}

    def _arguments(self, block: int, text: str) -> Json:
        self._without_arguments.discard(block)
        return self._call(block, {"function": {"arguments": text}})

    def _call(self, block: int, call: Json) -> Json:
        return self._chunk({"tool_calls": [{"index": self._calls.get(block, 0), **call}]})

    def _chunk(self, delta: Json, ending: Mapping[str, str | None] = _GOING_ON) -> Json:
        return {**self._head, "choices": [{"index": 0, "delta": delta, "logprobs": None, **ending}]}


def _ending(reason: str | None, sequence: str | None) -> dict[str, str | None]:
    """Which text has ended it stands in `stop_reason`, as vLLM has it: OpenAI has no place for that."""
    finish: dict[str, str | None] = {"finish_reason": FINISH_REASONS.get(reason or "", "stop")}
    return finish if sequence is None else {**finish, "stop_reason": sequence}


def _usage(usage: Json) -> Json:
    """Anthropic counts what it has read from or written to its cache beside the input, OpenAI within it."""
    read = usage.get("cache_read_input_tokens") or 0
    written = usage.get("cache_creation_input_tokens") or 0
    prompt = (usage.get("input_tokens") or 0) + read + written
    output = usage.get("output_tokens") or 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
    }

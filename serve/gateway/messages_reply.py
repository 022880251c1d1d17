"""The gateway's answers as Anthropic's: a whole message, or the events of a stream one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import msgspec

from serve.gateway.accounts import Usage, usage_of
from serve.gateway.anthropic_words import STOP_REASONS, kind_of
from serve.gateway.dialect import frame
from serve.gateway.errors import ApiError
from serve.gateway.upstream import Json

_GOING_ON: Json = {"stop_reason": None, "stop_sequence": None}
_NOT_AS_ITS_API_SAYS = (AttributeError, KeyError, IndexError, TypeError)


class AnthropicDialect:
    """Implements serve.gateway.dialect.Dialect for chats."""

    def answer(self, body: Json) -> Json:
        try:
            return _message(body)
        except _NOT_AS_ITS_API_SAYS:
            raise _unreadable("it is not as its API says") from None

    def refusal(self, error: ApiError) -> Json:
        told: Json = {"type": kind_of(error.status), "message": str(error)}
        if error.code is not None:
            told["details"] = {"error_code": error.code}
        return {"type": "error", "error": told}

    async def frames(self, chunks: AsyncIterator[Json]) -> AsyncIterator[bytes]:
        events = _Events()
        async for chunk in chunks:
            try:
                made = list(events.of(chunk))
            except _NOT_AS_ITS_API_SAYS:
                raise _unreadable("a chunk is not as its API says") from None
            for event in made:
                yield _named(event)
        for event in events.end():
            yield _named(event)

    def cut(self, error: ApiError) -> bytes:
        return _named(self.refusal(error))


ANTHROPIC = AnthropicDialect()


def _message(body: Json) -> Json:
    choice = body["choices"][0]
    message = choice["message"]
    texts = [_text(message.get(name)) for name in ("content", "refusal")]
    content: list[Json] = [{"type": "text", "text": text} for text in texts if text]
    uses = [_tool_use(call, choice.get("finish_reason")) for call in message.get("tool_calls") or ()]
    content += [use for use in uses if use is not None]
    ending = _ending(choice, called=any(uses), refused=bool(texts[1]))
    return {**_head(body), "content": content, **ending, "usage": _usage(usage_of(body))}


def _tool_use(call: Json, finish: str | None) -> Json | None:
    """None of one that the limit of tokens has cut off, which the message says."""
    function = call["function"]
    try:
        arguments = msgspec.json.decode(function.get("arguments") or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        if finish == "length":
            return None
        raise _unreadable(f"the arguments of its call of {function['name']} are no JSON object") from None
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments}


class _Events:
    """Turns the chunks of one stream into events; how it has ended, and the tokens, come with its end."""

    def __init__(self) -> None:
        self._begun = False
        self._block = -1  # the index of the last one
        self._open: str | None = None  # its type, while it is not complete
        self._call: tuple[int, str] | None = None  # the index and the id of the call that it is
        self._called = self._refused = False
        self._choice: Json = {}
        self._usage: Usage | None = None

    def of(self, chunk: Json) -> Iterator[Json]:
        if not self._begun:
            self._begun = True
            message = {**_head(chunk), "content": [], **_GOING_ON, "usage": _usage(None)}
            yield {"type": "message_start", "message": message}
        self._usage = usage_of(chunk) or self._usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            for name in ("content", "refusal"):
                if text := _text(delta.get(name)):
                    self._refused |= name == "refusal"
                    yield from self._piece_of_text(text)
            for call in delta.get("tool_calls") or ():
                yield from self._piece_of_call(call)
            if choice.get("finish_reason") is not None:
                self._choice = choice

    def end(self) -> Iterator[Json]:
        yield from self._close()
        ending = _ending(self._choice, called=self._called, refused=self._refused)
        yield {"type": "message_delta", "delta": ending, "usage": _usage(self._usage)}
        yield {"type": "message_stop"}

    def _piece_of_text(self, text: str) -> Iterator[Json]:
        if self._open != "text":
            yield from self._begin({"type": "text", "text": ""})
        yield self._delta({"type": "text_delta", "text": text})

    def _piece_of_call(self, call: Json) -> Iterator[Json]:
        """A call's id comes with its first piece, and with some servers with each."""
        function = call.get("function") or {}
        at = call.get("index") or 0
        of = (at, call.get("id") or (self._call[1] if self._call is not None else ""))
        if self._open != "tool_use" or of != self._call:
            yield from self._begin(
                {"type": "tool_use", "id": call["id"], "name": function["name"], "input": {}}
            )
            self._call, self._called = of, True
        if arguments := _text(function.get("arguments")):
            yield self._delta({"type": "input_json_delta", "partial_json": arguments})

    def _begin(self, block: Json) -> Iterator[Json]:
        yield from self._close()
        self._block += 1
        self._open = block["type"]
        yield {"type": "content_block_start", "index": self._block, "content_block": block}

    def _close(self) -> Iterator[Json]:
        if self._open is not None:
            yield {"type": "content_block_stop", "index": self._block}
        self._open = None

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self._block, "delta": delta}


def _head(body: Json) -> Json:
    return {
        "id": body.get("id") or f"msg_{uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": body.get("model") or "",
    }


def _ending(choice: Json, *, called: bool, refused: bool) -> Json:
    """Which text has ended it some servers say, vLLM among them: in `stop_reason`, beside OpenAI's `finish_reason`."""
    finish, sequence = choice.get("finish_reason"), choice.get("stop_reason")
    if finish == "stop" and called:  # so OpenAI ends a call that it was made to make
        return {**_GOING_ON, "stop_reason": "tool_use"}
    if finish == "stop" and refused:
        return {**_GOING_ON, "stop_reason": "refusal"}
    if finish == "stop" and isinstance(sequence, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": sequence}
    return {**_GOING_ON, "stop_reason": STOP_REASONS.get(finish or "", "end_turn")}


def _usage(usage: Usage | None) -> Json:
    """Anthropic counts what was read from or written to the cache beside the input. Nothing is known as 0: it has no null."""
    usage = usage or Usage()
    return {
        "input_tokens": max(0, usage.input - usage.cached - usage.written),
        "output_tokens": usage.output,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": usage.written,
    }


def _text(value: Any) -> str:
    """Raises TypeError for what is none."""
    if value is not None and not isinstance(value, str):
        raise TypeError
    return value or ""


def _named(event: Json) -> bytes:
    return f"event: {event['type']}\n".encode() + frame(event)


def _unreadable(why: str) -> ApiError:
    """It says nothing of the upstream's health: who asks in OpenAI's form gets the answer as it is."""
    return ApiError(
        f"The model's answer cannot be told as a message: {why}.",
        status=502,
        kind="upstream_error",
        code="upstream_malformed",
    )

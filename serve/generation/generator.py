"""What the gateway asks of a model that chats, wherever it runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Json = dict[str, Any]
Finish = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """`messages` and `tools` are OpenAI's. `schema`: the answer is JSON that fits it. Not `piecemeal`: it comes at once."""

    messages: tuple[Json, ...]
    tools: tuple[Json, ...] = ()
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    schema: Json | None = None
    piecemeal: bool = False


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """`arguments` is a JSON object, as text."""

    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True)
class Generated:
    """A piece of an answer; the last one says why it ends, and what it has taken."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish: Finish | None = None
    prompt_tokens: int = 0
    tokens: int = 0


class Generator(Protocol):
    def generate(self, request: GenerateRequest) -> AsyncGenerator[Generated]:
        """Closing it ends the engine's work. Raises serve.gateway.errors.ApiError."""
        ...

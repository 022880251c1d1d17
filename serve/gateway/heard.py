"""What has been asked and answered, for when a call ends before its upstream has said how many tokens that was."""

from __future__ import annotations

from collections.abc import Sequence

from serve.gateway.accounts import Usage, usage_of
from serve.gateway.requests import ChatRequest, EmbeddingsRequest, Message, ModelRequest, RerankRequest
from serve.gateway.upstream import Json

_LETTERS_OF_A_TOKEN = 4  # of English; OpenAI's own rule of thumb


class Heard:
    """What has come of a stream. `said`: the usage that the upstream has told, None until then."""

    def __init__(self) -> None:
        self.said: Usage | None = None
        self._letters = 0
        self._pieces = 0

    def hear(self, chunk: Json) -> None:
        self.said = usage_of(chunk) or self.said
        letters = _letters_of(chunk)
        self._letters += letters
        self._pieces += letters > 0

    def estimate(self, request: ChatRequest) -> Usage:
        """By the letters of what was asked and answered; a piece of an answer is a token or more."""
        asked = estimated_input(request)
        return Usage(input=asked.input, output=max(self._pieces, _tokens(self._letters)))


def estimated_input(request: ModelRequest) -> Usage:
    """By the letters of what was asked. Tools and images are not counted."""
    if isinstance(request, ChatRequest):
        return Usage(input=_tokens(sum(_letters_said(one) for one in request.messages)))
    if isinstance(request, EmbeddingsRequest):
        return Usage(input=_tokens_given(request.input))
    assert isinstance(request, RerankRequest)
    texts = [one if isinstance(one, str) else one.text for one in request.documents]
    # The query is read with each of them.
    return Usage(input=_tokens(sum(map(len, texts)) + len(request.query) * len(texts)))


def _letters_said(message: Message) -> int:
    if isinstance(message.content, str):
        return len(message.content)
    return sum(len(part.text or "") for part in message.content or ())


def _tokens_given(given: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]) -> int:
    """Of texts, or of what is tokens already."""
    if isinstance(given, str):
        return _tokens(len(given))
    return sum(
        1 if isinstance(one, int) else _tokens(len(one)) if isinstance(one, str) else len(one)
        for one in given
    )


def _tokens(letters: int) -> int:
    return -(-letters // _LETTERS_OF_A_TOKEN)


def _letters_of(chunk: Json) -> int:
    choices = chunk.get("choices")
    found = 0
    for choice in choices if isinstance(choices, list) else ():
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if isinstance(delta, dict):
            found += _letters(delta.get("content")) + _letters(delta.get("reasoning_content"))
            found += sum(_letters(one) for one in _arguments(delta.get("tool_calls")))
    return found


def _arguments(calls: object) -> list[object]:
    functions = (
        [one.get("function") for one in calls if isinstance(one, dict)] if isinstance(calls, list) else []
    )
    return [one.get("arguments") for one in functions if isinstance(one, dict)]


def _letters(text: object) -> int:
    return len(text) if isinstance(text, str) else 0

"""What has come of a stream, for when it ends before its upstream has said what it cost."""

from __future__ import annotations

from serve.gateway.accounts import Usage, usage_of
from serve.gateway.requests import ChatRequest
from serve.gateway.upstream import Json

_LETTERS_OF_A_TOKEN = 4  # of English; OpenAI's own rule of thumb


class Heard:
    """`said`: the usage that the upstream has told, None until then."""

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
        """By the letters of what was asked and answered; a piece of an answer is a token or more. Tools, images not counted."""
        asked = sum(
            len(one.content)
            if isinstance(one.content, str)
            else sum(len(p.text or "") for p in one.content or ())
            for one in request.messages
        )
        return Usage(input=_tokens(asked), output=max(self._pieces, _tokens(self._letters)))


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

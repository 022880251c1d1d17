"""Answers that are JSON and fit a schema: the model is told so, and what it says is read before it goes out.

No grammar steers its tokens: that needs a library that turns schemas into masks over the vocabulary, which is heavy.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from serve.gateway.json_schema import misfit
from serve.generation.generator import GenerateRequest, Json

_LONGEST_SHOWN = 300


def told(request: GenerateRequest) -> GenerateRequest:
    """The same, with the schema in its system message."""
    schema = msgspec.json.encode(request.schema).decode()
    words = f"Answer with JSON only, without any words around it. It must fit this JSON schema:\n{schema}"
    first, *rest = request.messages
    if first["role"] == "system":
        messages = ({**first, "content": f"{first['content']}\n\n{words}"}, *rest)
    else:
        messages = ({"role": "system", "content": words}, *request.messages)
    return replace(request, messages=messages, piecemeal=False)


def corrected(request: GenerateRequest, said: str, why: str) -> GenerateRequest:
    """Asked again, with what was wrong. Another seed would do less: the model does not know what to mend."""
    return replace(
        request,
        messages=(
            *request.messages,
            {"role": "assistant", "content": said},
            {"role": "user", "content": f"That does not fit: {why} Answer again, with JSON only."},
        ),
    )


def complaint(said: str, schema: Json) -> str | None:
    """Why it does not fit, as a sentence; None where it does. May take a while. Raises UnusableSchema."""
    try:
        value = msgspec.json.decode(json_of(said))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return "it is not JSON."
    error = misfit(value, schema)
    return None if error is None else f"at {error.json_path}, {error.message[:_LONGEST_SHOWN]}."


def json_of(said: str) -> str:
    """Without the fence that some models cannot be talked out of."""
    text = said.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        text = text[text.index("\n") + 1 : -3].strip()
    return text

"""A request goes to the first target that can do what it asks."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.integration.gateway import Front, Stage
from tests.integration.upstreams import chunks, completion, message, openai_stream, reply

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
TOOLS: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "v", "schema": {"type": "object"}}}
MODELS = """\
  blunt:
    targets:
      - {upstream: openai, model: plain, lacks: [images, tools]}
      - {upstream: claude, model: claude-haiku-4-5, lacks: [json_schema]}
  dropping:
    targets: [{upstream: openai, model: plain, lacks: [json_schema], drop: [response_format]}]
"""


async def ask(front: Front, content: Any, model: str = "blunt", **more: Any) -> tuple[str, str, str]:
    """The answer, who gave it, and the level."""
    raw = await front.client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": content}], **more
    )
    said = raw.parse().choices[0].message.content
    assert said is not None
    return said, raw.headers["x-callboard-upstream"], raw.headers["x-callboard-level"]


async def test_what_the_first_target_lacks_goes_to_the_next_which_is_no_fallback(stage: Stage) -> None:
    async with stage.front(more=MODELS) as front:
        front.openai.put_on(reply(completion()))
        front.claude.put_on(reply(message({"type": "text", "text": "Claude"})))
        assert await ask(front, "Hello?") == ("Hello", "openai", "normal")
        assert await ask(front, [IMAGE]) == ("Claude", "claude", "normal")
        assert await ask(front, "Hello?", tools=TOOLS) == ("Claude", "claude", "normal")
        assert await ask(front, "{}", response_format=SCHEMA) == ("Hello", "openai", "normal")
        assert (len(front.openai.asked), len(front.claude.asked)) == (2, 2)


async def test_a_stream_too(stage: Stage) -> None:
    async with stage.front(more=MODELS) as front:
        front.openai.put_on(openai_stream(chunks({"content": "Hel"}, {"content": "lo"})))
        stream = await front.client.chat.completions.with_raw_response.create(
            model="blunt", messages=[{"role": "user", "content": "Hi"}], response_format=SCHEMA, stream=True
        )
        assert stream.headers["x-callboard-upstream"] == "openai"
        with pytest.raises(openai.BadRequestError, match="can do what is asked"):
            await front.client.chat.completions.create(
                model="blunt",
                messages=[{"role": "user", "content": "Hi"}],
                response_format=SCHEMA,
                tools=TOOLS,
                stream=True,
            )


async def test_what_no_target_can_do_is_refused_and_nobody_is_asked(stage: Stage) -> None:
    async with stage.front(more=MODELS) as front:
        with pytest.raises(openai.BadRequestError) as refused:
            await ask(front, [IMAGE], response_format=SCHEMA)
        assert refused.value.code == "not_supported"
        assert (
            "openai plain lacks images; claude claude-haiku-4-5 lacks json_schema." in refused.value.message
        )
        assert (front.openai.asked, front.claude.asked) == ([], [])


async def test_what_is_dropped_for_a_target_need_not_be_done_by_it(stage: Stage) -> None:
    async with stage.front(more=MODELS) as front:
        front.openai.put_on(reply(completion()))
        assert await ask(front, "{}", "dropping", response_format=SCHEMA) == ("Hello", "openai", "normal")
        assert "response_format" not in front.openai.asked[0].body

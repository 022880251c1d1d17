"""A generation service with a played engine: what it gives back, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from serve.gateway.errors import ApiError
from serve.generation.engine_protocol import Grown, Sampling
from serve.generation.generator import Generated, GenerateRequest, Json
from serve.generation.service import GenerationService
from serve.local.settings import GenerationSpec

TOOL: Json = {"type": "function", "function": {"name": "weather"}}


class Engine:
    """Implements Engine: a byte is a token. It says the first `said` of what it has to say at once, and no more."""

    device = "cpu"
    longest = 400
    tool_format: str | None = "hermes"
    alive = True
    running = 0
    steps = 0

    def __init__(self, line: str, *, said: int | None = None) -> None:
        self.line = line.encode()
        self.said = len(self.line) if said is None else said
        self.prompts = 0
        self.under_way: set[str] = set()

    def prompt(self, messages: Sequence[Json], tools: Sequence[Json]) -> list[int]:
        self.prompts += 1
        return [1, 2, 3]

    def text(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode(errors="replace")

    def ends(self, token: int) -> bool:
        return False

    def begin(
        self, name: str, prompt: list[int], most: int, sampling: Sampling,
        heard: Callable[[Grown], None], *, piecemeal: bool,
    ) -> None:  # fmt: skip
        ended = self.said == len(self.line)
        if not ended:
            self.under_way.add(name)
        heard(Grown(tokens=self.line[: self.said], ended=ended))

    def cancel(self, name: str) -> None:
        self.under_way.remove(name)

    def close(self) -> None:
        """Nothing is open."""


def asking(**more: Any) -> GenerateRequest:
    return GenerateRequest(messages=({"role": "user", "content": "Hello"},), piecemeal=True, **more)


def serving(engine: Engine, **spec: Any) -> GenerationService:
    return GenerationService("tiny", GenerationSpec(**spec), lambda: engine)


@pytest.mark.parametrize("tools", [(), (TOOL,)])
async def test_closing_an_answer_ends_the_engines_work_before_its_place_is_given_back(tools: Any) -> None:
    engine = Engine("Hello, you", said=5)
    service = serving(engine, sequences=1, waiting=0)
    pieces = service.generate(asking(tools=tools))
    assert await anext(pieces) == Generated(text="Hello")
    assert len(engine.under_way) == 1
    await pieces.aclose()
    assert engine.under_way == set()
    await anext(after := service.generate(asking()))
    await after.aclose()
    await service.close()


@pytest.mark.parametrize("schema", [{"$ref": "#/none"}, {"$ref": "#"}, {"$ref": "http://127.0.0.1:9/"}])
async def test_a_schema_that_leads_nowhere_is_the_clients_matter(schema: Json) -> None:
    engine = Engine("{}")
    service = serving(engine)
    with pytest.raises(ApiError) as caught:
        await anext(service.generate(asking(schema=schema)))
    assert (caught.value.status, caught.value.param) == (400, "response_format")
    assert (caught.value.unwell, engine.prompts) == (False, 1)
    await service.close()


async def test_nonsense_that_is_nested_without_end_is_no_json() -> None:
    engine = Engine("[" * 100_000)
    engine.longest = 200_000
    service = serving(engine, max_tokens=150_000)
    with pytest.raises(ApiError, match="it is not JSON") as caught:
        await asyncio.wait_for(anext(service.generate(asking(schema={}))), 20)
    assert caught.value.code == "model_answer_invalid"
    await service.close()


async def test_what_can_never_fit_is_refused_before_others_wait_for_its_tokens() -> None:
    engine = Engine("Hello")
    service = serving(engine)
    huge = GenerateRequest(messages=({"role": "user", "content": "x" * 64 * engine.longest},))
    with pytest.raises(ApiError) as caught:
        await anext(service.generate(huge))
    assert (caught.value.status, caught.value.code, engine.prompts) == (400, "context_length_exceeded", 0)
    await service.close()


async def test_an_engine_that_hangs_is_noticed_and_one_that_is_slow_or_idle_is_not() -> None:
    now = 0.0
    engine = Engine("Hello", said=1)
    service = GenerationService("tiny", GenerationSpec(), lambda: engine, clock=lambda: now)
    service.check()
    await anext(pieces := service.generate(asking()))
    for engine.running, engine.steps in ((1, 1), (1, 2), (0, 2), (1, 2)):
        now += 200.0
        service.check()
    now += 200.0
    with pytest.raises(RuntimeError, match="at one step for 400 s"):
        service.check()
    await pieces.aclose()
    await service.close()

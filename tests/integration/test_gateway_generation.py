"""Chats of a model that runs here, through the gateway: the official SDK in front, a played engine behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import openai
import pytest

from serve.gateway.local_upstream import LocalModels
from serve.generation.engine_protocol import Grown, Sampling
from serve.generation.generator import Json
from serve.generation.service import GenerationService
from serve.local.settings import GenerationSpec
from tests.integration.gateway import Front, Stage

UPSTREAMS = "upstreams:\n  here: {type: local}"
MODEL = "  local: {targets: [{upstream: here, model: tiny}]}"
ASK: Any = [{"role": "user", "content": "Hello"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"at": "Bern"}}\n</tool_call>'
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "verdict",
        "schema": {"type": "object", "properties": {"hostile": {"type": "boolean"}}, "required": ["hostile"]},
    },
}


class Played:
    """Implements Engine: a byte is a token; it says the next of `lines`, a byte in each turn of the event loop."""

    device = "cpu"
    longest = 400
    alive = True
    steps = 0

    def __init__(self, *lines: str, tool_format: str | None = "hermes") -> None:
        self.lines = [line.encode() for line in lines]
        self.tool_format = tool_format
        self.asked: list[tuple[list[Json], list[Json]]] = []
        self.drawn: list[Sampling] = []
        self.under_way: dict[str, asyncio.Task[None]] = {}
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    def prompt(self, messages: Sequence[Json], tools: Sequence[Json]) -> list[int]:
        if any(one["content"] == "refuse" for one in messages):
            raise ValueError("roles must alternate\nin line 3")
        self.asked.append((list(messages), list(tools)))
        return list("".join(one["content"] for one in messages).encode())

    def text(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode(errors="replace")

    def ends(self, token: int) -> bool:
        return token == ord(".")

    def begin(
        self,
        name: str,
        prompt: list[int],
        most: int,
        sampling: Sampling,
        heard: Callable[[Grown], None],
        *,
        piecemeal: bool,
    ) -> None:
        line = self.lines.pop(0) if len(self.lines) > 1 else self.lines[0]
        self.drawn.append(sampling)
        self.begun.set()

        async def say() -> None:
            for at in range(1, min(len(line), most) + 1):
                await self.go_on.wait()
                await asyncio.sleep(0)
                heard(Grown(tokens=line[:at], ended=at == min(len(line), most)))

        self.under_way[name] = asyncio.create_task(say())

    def cancel(self, name: str) -> None:
        self.under_way.pop(name).cancel()
        self.cancelled.set()

    @property
    def running(self) -> int:
        return sum(not task.done() for task in self.under_way.values())

    def close(self) -> None:
        """Nothing is open."""


@contextlib.asynccontextmanager
async def served(stage: Stage, engine: Played, **spec: Any) -> AsyncIterator[Front]:
    service = GenerationService("tiny", GenerationSpec(**spec), lambda: engine)
    local = LocalModels(generators={("here", "tiny"): service})
    async with stage.front(upstreams=UPSTREAMS, more=MODEL, local=local) as front:
        yield front
    await service.close()


async def ask(front: Front, messages: Any = ASK, **more: Any) -> Any:
    return await front.client.chat.completions.create(model="local", messages=messages, **more)


async def refused(front: Front, messages: Any = ASK, **more: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(front, messages, **more)
    return caught.value


async def streamed(front: Front, **more: Any) -> list[Any]:
    stream = await ask(front, stream=True, stream_options={"include_usage": True}, **more)
    return [chunk async for chunk in stream]


async def test_an_answer_whole_and_in_pieces(stage: Stage) -> None:
    engine = Played("Grüezi, you.")
    async with served(stage, engine) as front:
        answer = await ask(front, seed=7, temperature=0.3, top_p=0.9, max_tokens=50)
        [choice] = answer.choices
        assert (choice.message.content, choice.finish_reason) == ("Grüezi, you.", "stop")
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 13)
        assert engine.drawn == [Sampling(temperature=0.3, top_p=0.9, seed=7)]
        assert (await ask(front, max_completion_tokens=5)).choices[0].finish_reason == "length"
        chunks = await streamed(front)
        texts = [chunk.choices[0].delta.content for chunk in chunks[:-2]]
        assert ("".join(texts), chunks[-2].choices[0].finish_reason) == ("Grüezi, you.", "stop")
        assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 18)
        assert len({chunk.id for chunk in chunks}) == 1
        [account] = (await front.state())["accounts"]
        assert (account["requests"], account["output_tokens"], account["cost_usd"]) == (3, 31, "0")


async def test_a_stop_that_comes_in_pieces_is_never_shown(stage: Stage) -> None:
    engine = Played("one EN two END three.")
    async with served(stage, engine) as front:
        chunks = await streamed(front, stop=["END", "four"])
        texts = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
        assert "".join(texts) == "one EN two "
        assert engine.cancelled.is_set()


async def test_who_goes_away_ends_the_engines_work(stage: Stage) -> None:
    for stream in (True, False):
        engine = Played("Hello.")
        engine.go_on.clear()
        async with served(stage, engine) as front:
            asking = asyncio.create_task(ask(front, stream=stream))
            await engine.begun.wait()
            asking.cancel()
            await asyncio.wait_for(engine.cancelled.wait(), 20)
            assert engine.running == 0


async def test_a_call_of_a_tool_whole_and_in_pieces(stage: Stage) -> None:
    engine = Played(f"I'll look.\n{CALL}\n{CALL}")
    async with served(stage, engine) as front:
        [choice] = (await ask(front, tools=[TOOL])).choices
        assert (choice.message.content, choice.finish_reason) == ("I'll look.", "tool_calls")
        assert [call.function.arguments for call in choice.message.tool_calls] == ['{"at":"Bern"}'] * 2
        chunks = await streamed(front, tools=[TOOL], tool_choice="auto")
        deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
        assert "".join(delta.content or "" for delta in deltas) == "I'll look."
        [calls] = [delta.tool_calls for delta in deltas if delta.tool_calls]
        assert [(call.index, call.function.name) for call in calls] == [(0, "weather"), (1, "weather")]
        answer = {"role": "tool", "tool_call_id": "c", "content": "rain"}
        said = {"role": "assistant", "tool_calls": [choice.message.tool_calls[0].model_dump()]}
        await ask(front, [*ASK, said, answer], tools=[TOOL])
        messages, tools = engine.asked[-1]
        assert messages[1]["tool_calls"][0]["function"]["arguments"] == {"at": "Bern"}
        assert (messages[2]["role"], messages[2]["content"]) == ("tool", "rain")
        assert tools == [TOOL]
        assert (await ask(front, tools=[TOOL], tool_choice="none")).choices[0].finish_reason == "stop"
        engine.lines = [b'<tool_call>{"name": 7}</tool_call>']
        error = await refused(front, tools=[TOOL])
        assert (error.status_code, error.code) == (502, "model_answer_invalid")


async def test_json_fits_its_schema_or_is_not_sent(stage: Stage) -> None:
    engine = Played("Sure!", '```json\n{"hostile": true}\n```', '{"hostile": 1}')
    async with served(stage, engine) as front:
        answer = await ask(front, response_format=SCHEMA)
        assert answer.choices[0].message.content == '{"hostile": true}'
        assert answer.usage.completion_tokens == 5 + 29  # both tries
        first, second = (messages for messages, _ in engine.asked)
        assert '"required":["hostile"]' in first[0]["content"]
        assert "it is not JSON" in second[-1]["content"]
        error = await refused(front, response_format=SCHEMA)
        assert (error.status_code, error.code) == (502, "model_answer_invalid")
        assert "1 is not of type 'boolean'" in error.message
        engine.lines = [b"[1]", b'{"a": 1}']
        assert (await ask(front, response_format={"type": "json_object"})).choices[
            0
        ].message.content == '{"a": 1}'
        engine.lines = [b'{"hostile": true}']
        chunks = await streamed(front, response_format=SCHEMA)
        assert chunks[1].choices[0].delta.content == '{"hostile": true}'


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"tools": [TOOL], "response_format": SCHEMA}, "response_format"),
        ({"stop": ["a", ""]}, "stop"),
        ({"max_tokens": 399}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x" * 500}]}, "messages"),
        ({"messages": [{"role": "user", "content": "refuse"}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content",
        ),
    ],
)
async def test_what_it_cannot_do_is_refused_by_name(stage: Stage, more: Json, param: str) -> None:
    async with served(stage, Played("Hello.")) as front:
        error = await refused(front, **more)
        assert (error.status_code, error.param) == (400, param)
        harmless: Json = {"logprobs": False, "presence_penalty": 0, "user": "u"}
        assert (await ask(front, **harmless)).choices[0].message.content == "Hello."


async def test_a_model_without_words_for_tools_refuses_them(stage: Stage) -> None:
    async with served(stage, Played("Hello.", tool_format=None)) as front:
        error = await refused(front, tools=[TOOL])
        assert (error.status_code, error.code, error.param) == (400, "unsupported_parameter", "tools")


async def test_a_flood_is_refused_with_a_time_and_the_rest_is_answered(stage: Stage) -> None:
    engine = Played("Hello.")
    engine.go_on.clear()
    async with served(stage, engine, sequences=1, waiting=2) as front:
        asking = {asyncio.create_task(ask(front)) for _ in range(10)}
        refusals: set[asyncio.Task[Any]] = set()
        while len(refusals) < 7:
            done, asking = await asyncio.wait(asking, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            assert done
            refusals |= done
        for task in refusals:
            error = task.exception()
            assert isinstance(error, openai.RateLimitError)
            assert int(error.response.headers["retry-after"]) >= 1
        engine.go_on.set()
        assert len(await asyncio.gather(*asking)) == 3

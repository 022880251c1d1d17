"""Models that run here, as an upstream: played ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec
import pytest

from serve.gateway.errors import ApiError
from serve.gateway.local_upstream import LocalModels, LocalUpstream
from serve.gateway.models_file import TargetSpec
from serve.gateway.requests import ChatRequest, read_chat
from serve.generation.generator import Generated, GenerateRequest

TARGET = TargetSpec(upstream="here", model="m")


class Generator:
    """Says its pieces, the first one after a while, and then nothing more."""

    def __init__(self, first_s: float, *pieces: Generated) -> None:
        self.first_s = first_s
        self.pieces = pieces
        self.closed = False

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Generated]:
        try:
            await asyncio.sleep(self.first_s)
            for piece in self.pieces:
                yield piece
            if self.pieces[-1].finish is None:
                await asyncio.get_running_loop().create_future()
        finally:
            self.closed = True


def streamed() -> ChatRequest:
    return read_chat(
        msgspec.json.encode({"model": "m", "stream": True, "messages": [{"role": "user", "content": "a"}]})
    )


def upstream(generator: Generator, silence_s: float) -> LocalUpstream:
    return LocalUpstream("here", LocalModels(generators={("here", "m"): generator}), silence_s)


async def test_a_model_that_falls_silent_in_a_stream_is_not_waited_for_without_end() -> None:
    generator = Generator(0.0, Generated(text="a"))
    chunks = upstream(generator, 0.05).stream(TARGET, streamed())
    said = [(await anext(chunks))["choices"][0]["delta"]["content"] for _ in range(2)]
    assert said == ["", "a"]
    with pytest.raises(ApiError) as caught:
        await anext(chunks)
    assert (caught.value.code, caught.value.unwell, generator.closed) == ("upstream_timeout", True, True)


async def test_its_first_words_may_take_longer_it_may_have_to_be_loaded() -> None:
    generator = Generator(0.2, Generated(text="a"), Generated(finish="stop"))
    chunks = [chunk async for chunk in upstream(generator, 0.05).stream(TARGET, streamed())]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"

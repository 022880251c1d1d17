"""Embeddings of a model that runs here, through the gateway: the official SDK in front, a played model behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from base64 import b64decode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
import openai
import pytest

from serve.embedding.embedder import InputType
from serve.embedding.encoder_protocol import Encoder
from serve.embedding.service import EmbeddingService
from serve.gateway.local_upstream import LocalModels
from serve.generation.generator import Generated, GenerateRequest
from serve.local import refusals
from serve.local.model_folder import BrokenModel
from serve.local.settings import BatchedSpec
from tests.integration.gateway import Front, Stage

UPSTREAMS = "upstreams:\n  here: {type: local}"
MODEL = "  local: {serves: embeddings, targets: [{upstream: here, model: tiny}]}\ncache: {bytes: 0}"
PROMPTS = {"query": "?", "document": "!", None: ""}


class Played:
    """Implements Encoder: a character is a token; a vector holds its text's length, and 4 and 3 so that it can be cut."""

    device = "cpu"
    longest = 8
    characters = 40
    dimensions = 3

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()
        self.asked: list[tuple[InputType | None, list[str]]] = []

    def tokens(self, texts: Sequence[str], input_type: InputType | None, *, most: int) -> list[list[int]]:
        return [[ord(one) for one in (PROMPTS[input_type] + text).replace(" ", "")[:most]] for text in texts]

    def encode(self, batch: Sequence[list[int]], input_type: InputType | None) -> list[Any]:
        words = ["".join(map(chr, ids)) for ids in batch]
        self.asked.append((input_type, words))
        self.begun.set()
        self.go.wait(20)
        if any("bad" in word for word in words):
            raise RuntimeError("shape mismatch\nin layer 7")
        nan = float("nan")
        return [np.array([nan if "nan" in word else len(word), 4, 3], np.float32) for word in words]


@pytest.fixture
def played() -> Played:
    return Played()


@contextlib.asynccontextmanager
async def served(
    stage: Stage, load: Callable[[], Encoder], *, clock: Callable[[], float] = lambda: 0.0, **spec: Any
) -> AsyncIterator[Front]:
    service = EmbeddingService("tiny", BatchedSpec(**spec), load, clock=clock)
    local = LocalModels(embedders={("here", "tiny"): service})
    async with stage.front(upstreams=UPSTREAMS, more=MODEL, local=local) as front:
        yield front
    await service.close()


async def ask(front: Front, given: Any = "hello", **more: Any) -> Any:
    return await front.client.embeddings.create(model="local", input=given, **more)


async def refused(front: Front, given: Any = "hello", **more: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(front, given, **more)
    return caught.value


async def test_each_text_has_its_vector_in_both_formats(stage: Stage, played: Played) -> None:
    async with served(stage, lambda: played) as front:
        packed = await ask(front, ["aaa", "b", "cc"])  # the SDK asks for base64 by itself
        assert [one.embedding for one in packed.data] == [[3, 4, 3], [1, 4, 3], [2, 4, 3]]
        assert [one.index for one in packed.data] == [0, 1, 2]
        assert (packed.model, packed.usage.prompt_tokens, packed.usage.total_tokens) == ("tiny", 6, 6)
        plain = await ask(front, "b", encoding_format="float")
        assert plain.data[0].embedding == [1, 4, 3]
        body = json.dumps({"model": "local", "input": "b", "encoding_format": "base64"}).encode()
        raw = (await front.post("/v1/embeddings", body)).json()["data"][0]["embedding"]
        assert np.frombuffer(b64decode(raw), "<f4").tolist() == [1, 4, 3]
        [account] = (await front.state())["accounts"]
        assert (account["input_tokens"], account["cost_usd"], account["unpriced"]) == (8, "0", 0)


async def test_a_query_and_a_document_have_their_prompts(stage: Stage, played: Played) -> None:
    async with served(stage, lambda: played) as front:
        kinds = ("query", "document", "query", None)
        await asyncio.gather(*(ask(front, "a", extra_body={"input_type": kind}) for kind in kinds))
        found = {(kind, text) for kind, texts in played.asked for text in texts}
        assert found == {("query", "?a"), ("document", "!a"), (None, "a")}


async def test_a_cut_vector_has_the_length_of_one_only_where_the_whole_one_has(
    stage: Stage, played: Played
) -> None:
    async with served(stage, lambda: played) as front:
        assert (await ask(front, "b", dimensions=2)).data[0].embedding == [1, 4]
        played.encode = lambda batch, input_type: [np.array([0.48, 0.64, 0.6], np.float32)]  # type: ignore[method-assign]
        assert (await ask(front, "b", dimensions=2)).data[0].embedding == pytest.approx([0.6, 0.8])
        error = await refused(front, dimensions=4)
        assert (error.status_code, error.param) == (400, "dimensions")
        assert "4 are asked for, and tiny has 3" in error.message


async def test_what_is_too_long_is_refused_or_cut_as_asked(stage: Stage, played: Played) -> None:
    async with served(stage, lambda: played) as front:
        assert (await ask(front, "x" * 8)).usage.prompt_tokens == 8
        error = await refused(front, ["ok", "x" * 9])
        assert (error.status_code, error.code) == (400, "context_length_exceeded")
        assert "input[1] has more than 8 tokens" in error.message
        blank = "x" + " " * 40
        error = await refused(front, ["ok", blank])
        assert (error.status_code, error.code) == (400, "context_length_exceeded")
        assert "input[1] has more than 40 characters" in error.message
        assert (await ask(front, blank, extra_body={"truncate": True})).usage.prompt_tokens == 1
        cut = await ask(front, ["x" * 9], extra_body={"truncate": True})
        assert (cut.usage.prompt_tokens, played.asked[-1]) == (8, (None, ["x" * 8]))
    async with served(stage, lambda: played, truncate=True) as front:
        assert (await ask(front, "x" * 9)).usage.prompt_tokens == 8
        error = await refused(front, "x" * 9, extra_body={"truncate": False})
        assert error.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("given", "more", "param"),
    [
        ("", {}, "input"),
        ([], {}, "input"),
        (["a", ""], {}, "input"),
        (["a"] * 10_000, {}, "input"),
        ([1, 2, 3], {}, "input"),
        (7, {}, "input"),
        ("a", {"input_type": "poem"}, "input_type"),
        ("a", {"truncate": "END"}, "truncate"),
        ("a", {"temperature": 1}, "temperature"),
        ("a", {"dimensions": 0}, "dimensions"),
    ],
)
async def test_bad_input_is_named_and_the_next_one_is_served(
    stage: Stage, played: Played, given: Any, more: Any, param: str
) -> None:
    async with served(stage, lambda: played) as front:
        error = await refused(front, given, extra_body=more)
        assert (error.status_code, error.param) == (400, param)
        assert (await ask(front, "b")).data[0].embedding == [1, 4, 3]


async def test_a_text_on_which_the_model_fails_is_its_own_requests_matter(
    stage: Stage, played: Played
) -> None:
    async with served(stage, lambda: played) as front:
        found = await asyncio.gather(
            *(ask(front, text) for text in ("a", "bad", "c")), return_exceptions=True
        )
        error = found[1]
        assert isinstance(error, openai.InternalServerError)
        assert (error.code, error.message.count("\n")) == ("model_failed", 0)
        assert "tiny has failed: shape mismatch" in error.message
        assert [one.data[0].embedding[0] for one in (found[0], found[2])] == [1, 1]  # type: ignore[union-attr]
        assert "set `dtype: float32`" in (await refused(front, "nan")).message


async def test_a_flood_is_refused_with_a_time_and_the_rest_is_answered(stage: Stage, played: Played) -> None:
    played.go.clear()
    async with served(stage, lambda: played, batch_tokens=8, waiting_tokens=16) as front:
        first = asyncio.create_task(ask(front, "x" * 8))
        await asyncio.to_thread(played.begun.wait, 20)
        waiting = {asyncio.create_task(ask(front, f"{number:08}")) for number in range(20)}
        refusals: set[asyncio.Task[Any]] = set()
        while len(refusals) < 18:
            done, waiting = await asyncio.wait(waiting, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            assert done
            refusals |= done
        for task in refusals:
            error = task.exception()
            assert isinstance(error, openai.RateLimitError)
            assert int(error.response.headers["retry-after"]) >= 1
        played.go.set()
        assert len(await asyncio.gather(first, *waiting)) == 3


async def test_who_goes_away_is_not_worked_for(stage: Stage, played: Played) -> None:
    played.go.clear()
    async with served(stage, lambda: played, batch_tokens=8) as front:
        first = asyncio.create_task(ask(front, "x" * 8))
        await asyncio.to_thread(played.begun.wait, 20)
        gone = asyncio.create_task(ask(front, ["g" * 8] * 50))
        while (await front.state())["running"] < 2:
            pass
        gone.cancel()
        while (await front.state())["running"] > 1:
            pass
        played.go.set()
        await first
        await ask(front, "y")
        assert all(words != ["g" * 8] for _, words in played.asked)


async def test_a_model_that_keeps_failing_is_left_alone_and_the_others_are_not(
    stage: Stage, played: Played
) -> None:
    class Dying:
        async def generate(self, request: GenerateRequest) -> AsyncGenerator[Generated]:
            raise refusals.gone("chatter")
            yield Generated()

    service = EmbeddingService("tiny", BatchedSpec(), lambda: played)
    local = LocalModels(embedders={("here", "tiny"): service}, generators={("here", "chatter"): Dying()})
    upstreams = "upstreams:\n  here: {type: local, retries: 0}"
    more = f"  chat: {{targets: [{{upstream: here, model: chatter}}]}}\n{MODEL}"
    async with stage.front(upstreams=upstreams, more=more, local=local) as front:
        met = []
        for _ in range(6):
            with pytest.raises(openai.APIStatusError) as caught:
                await front.client.chat.completions.create(
                    model="chat", messages=[{"role": "user", "content": "a"}]
                )
            met.append(caught.value.code)
        assert met == ["upstream_unreachable"] * 5 + ["upstream_resting"]
        assert "The upstream here with chatter has failed several times in a row" in caught.value.message
        assert len((await ask(front)).data) == 1
        state = await front.state()
        assert state["upstreams"]["here"] == "open"
        levels = {one["model"]: one["level"] for one in state["models"]}
        assert (levels["chat"], levels["local"]) == ("none", "normal")
    await service.close()


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (
            ModuleNotFoundError("No module named 'torch'"),
            "models_not_installed",
            "Install them with `pip install 'callboard[models]'`",
        ),
        (
            BrokenModel("there is no folder /x."),
            "model_not_loaded",
            "tiny cannot be loaded: there is no folder /x.",
        ),
        (OSError("bad header\nat byte 7"), "model_not_loaded", "tiny cannot be loaded: bad header. Correct"),
    ],
)
async def test_a_model_that_cannot_be_loaded_is_said_and_tried_again_later(
    stage: Stage, played: Played, failure: Exception, code: str, words: str
) -> None:
    found: list[Any] = [failure, played]
    now = 0.0

    def load() -> Encoder:
        one = found.pop(0)
        if isinstance(one, Exception):
            raise one
        return one  # type: ignore[no-any-return]

    async with served(stage, load, clock=lambda: now) as front:
        for _ in range(6):  # nor is the upstream left alone for it
            error = await refused(front)
            assert (error.status_code, error.code, error.type) == (503, code, "configuration_error")
            assert words in error.message
            assert error.response.headers["x-should-retry"] == "false"
        now = 11.0
        assert len((await ask(front)).data) == 1

"""Ranks through the gateway: of a played cross-encoder that runs here, and of a compatible server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from callboard import Context
from serve.gateway.local_upstream import LocalModels
from serve.local.settings import BatchedSpec
from serve.reranking.scorer_protocol import Pair
from serve.reranking.service import RerankingService
from tests.integration.gateway import Front, Stage
from tests.integration.upstreams import reply, status, text
from tests.unit.waiter import AT, Run, Waiter, program, waiters

UPSTREAMS = """upstreams:
  here: {{type: local}}
  house: {{type: openai_compatible, base_url: "{url}/v1", api_key: UPSTREAM, retries: 0, rerank_path: v2/ranks}}
  plain: {{type: openai_compatible, base_url: "{url}/v1", api_key: UPSTREAM, retries: 0}}"""
MODELS = """\
  local: {serves: rerank, targets: [{upstream: here, model: tiny}]}
  house: {serves: rerank, targets: [{upstream: house, model: bge, price: {input: 1}}]}
  both: {serves: rerank, targets: [{upstream: plain, model: bge}, {upstream: here, model: tiny}]}
"""
DOCUMENTS = ["cat", "dog dog", "do"]


class Played:
    """Implements Scorer: a character is a token; a document scores by how many of its letters the query has."""

    device = "cpu"
    longest = 16
    characters = 80

    def tokens(self, documents: Sequence[str], query: str, *, most: int) -> list[Pair]:
        return [Pair([ord(one) for one in f"{query}|{text}".replace("  ", "")[:most]]) for text in documents]

    def scores(self, batch: Sequence[Pair]) -> list[float]:
        pairs = ["".join(map(chr, pair.ids)).split("|") for pair in batch]
        return [
            float("nan") if "nan" in text else sum(one in query for one in text) / 4 for query, text in pairs
        ]


@contextlib.asynccontextmanager
async def served(stage: Stage, **spec: Any) -> AsyncIterator[Front]:
    service = RerankingService("tiny", BatchedSpec(**spec), Played)
    local = LocalModels(rerankers={("here", "tiny"): service})
    async with stage.front(
        upstreams=UPSTREAMS.format(url=stage.openai_url), more=MODELS, local=local
    ) as front:
        yield front
    await service.close()


async def ask(front: Front, model: str = "local", **more: Any) -> httpx2.Response:
    body = {"model": model, "query": "dog", "documents": DOCUMENTS, **more}
    return await front.post("/v1/rerank", json.dumps(body).encode())


def error_of(answer: httpx2.Response) -> tuple[int, Any, str]:
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["message"]


async def test_documents_are_ranked_the_best_first(stage: Stage) -> None:
    async with served(stage) as front:
        found = (await ask(front)).json()
        assert found["results"] == [
            {"index": 1, "relevance_score": 1.5},
            {"index": 2, "relevance_score": 0.5},
            {"index": 0, "relevance_score": 0.0},
        ]
        assert found["usage"] == {"prompt_tokens": 24, "total_tokens": 24}
        best = (await ask(front, top_n=1, return_documents=True, documents=["cat", {"text": "dog"}])).json()
        assert best["results"] == [{"index": 1, "relevance_score": 0.75, "document": {"text": "dog"}}]
        again = await ask(front)
        assert (again.json(), again.headers["x-callboard-cache"]) == (found, "hit")


@pytest.mark.parametrize(
    ("more", "param", "words"),
    [
        ({"documents": []}, "documents", "documents"),
        ({"documents": ["a", ""]}, "documents[1]", "documents[1]"),
        ({"documents": ["a"] * 10_000}, "documents", "2048"),
        ({"query": ""}, "query", "query"),
        ({"top_n": 0}, "top_n", "top_n"),
        ({"truncate": "END"}, "truncate", "true or false"),
        ({"rank_fields": ["a"]}, "rank_fields", "not known to models that run here"),
        (
            {"documents": ["a", "d" * 13]},
            "documents",
            "documents[1] with the query has more than 16 tokens",
        ),
        (
            {"documents": ["a", "d" + " " * 80]},
            "documents",
            "documents[1] with the query has more than 80 characters",
        ),
        ({"query": " " * 81}, "documents", "documents[0] with the query has more than 80 characters"),
    ],
)
async def test_bad_input_is_named_and_the_next_one_is_served(
    stage: Stage, more: dict[str, Any], param: str, words: str
) -> None:
    async with served(stage) as front:
        code, named, message = error_of(await ask(front, **more))
        assert (code, named) == (400, param)
        assert words in message
        assert (await ask(front)).is_success


async def test_what_is_too_long_is_cut_as_asked_and_scores_are_numbers(stage: Stage) -> None:
    async with served(stage) as front:
        cut = (await ask(front, documents=["d" * 20], truncate=True)).json()
        assert (cut["results"][0]["relevance_score"], cut["usage"]["prompt_tokens"]) == (3.0, 16)
        assert "its scores are no numbers" in error_of(await ask(front, documents=["nan"]))[2]


async def test_a_compatible_server_is_asked_at_its_path_with_the_request_as_it_came(stage: Stage) -> None:
    ranks = {"results": [{"index": 1, "relevance_score": 0.9}], "usage": {"total_tokens": 1000}}
    async with served(stage) as front:
        front.openai.put_on(reply(ranks))
        answer = await ask(front, "house", top_n=1, max_chunks_per_doc=3)
        assert answer.json() == ranks
        assert answer.headers["x-callboard-cost-usd"] == "0.001"
        [asked] = front.openai.asked
        assert asked.path == "/v1/v2/ranks"
        assert (asked.body["model"], asked.body["max_chunks_per_doc"]) == ("bge", 3)


@pytest.mark.parametrize(
    "wrong",
    [
        reply({"results": [{"index": 9, "relevance_score": 1}]}),
        reply({"results": [{"index": 0}]}),
        reply({"scores": [1]}),
        text("<html>"),
        status(500),
    ],
)
async def test_where_a_server_fails_the_next_target_ranks(stage: Stage, wrong: Any) -> None:
    async with served(stage) as front:
        front.openai.put_on(wrong)
        answer = await ask(front, "both")
        assert [one["index"] for one in answer.json()["results"]] == [1, 2, 0]
        assert answer.headers["x-callboard-upstream"] == "here"
        assert front.openai.asked[0].path == "/v1/rerank"


async def test_without_a_reranking_model_the_answer_says_what_to_configure(stage: Stage) -> None:
    async with stage.front() as front:
        code, _, message = error_of(await ask(front))
        assert code == 404
        assert message.startswith(
            "No model for reranking is configured here. Add one to /home/models.yaml, with `serves: rerank`"
        )
    async with served(stage) as front:
        code, _, message = error_of(await ask(front, "small"))
        assert (code, "serves chat, not rerank" in message) == (400, True)


async def test_an_agent_has_its_documents_ranked(stage: Stage, tmp_path: Path) -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        ranks = await ctx.model("local").rerank("dog", [*DOCUMENTS, "d" * 20], top_n=2, truncate=True)
        self.state.log += [f"{one.index}: {one.score}" for one in ranks]

    async with (
        served(stage) as front,
        front.agents_client(tmp_path) as client,
        waiters(models=client) as kit,
    ):
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert (kit.dead_letters(), kit.state(AT).log) == ([], ["3: 3.0", "1: 1.5"])

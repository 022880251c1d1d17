"""Models that run here, behind Ray Serve."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from array import array
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

from serve.embedding.embedder import Embedder, EmbedRequest
from serve.gateway.errors import ApiError, unsupported
from serve.gateway.local_chat import chunks, completion, to_generate
from serve.gateway.models_file import TargetSpec
from serve.gateway.requests import ChatRequest, EmbeddingsRequest, ModelRequest, RerankRequest
from serve.gateway.upstream import Json, too_slow
from serve.generation.generator import Generated, Generator
from serve.reranking.reranker import Reranker, ScoreRequest

_KNOWN = frozenset(("model", "input", "encoding_format", "dimensions", "user", "input_type", "truncate"))
_KNOWN_TO_RERANKERS = frozenset(
    ("model", "query", "documents", "top_n", "return_documents", "user", "truncate")
)


@dataclass(frozen=True, kw_only=True)
class LocalModels:
    """What runs here, by upstream and model."""

    embedders: Mapping[tuple[str, str], Embedder] = field(default_factory=dict)
    rerankers: Mapping[tuple[str, str], Reranker] = field(default_factory=dict)
    generators: Mapping[tuple[str, str], Generator] = field(default_factory=dict)


class LocalUpstream:
    """Implements serve.gateway.upstream.Upstream. `silence_s`: between two pieces of a stream, at most."""

    def __init__(self, name: str, models: LocalModels, silence_s: float) -> None:
        self._name = name
        self._models = models
        self._silence_s = silence_s

    async def chat(self, target: TargetSpec, request: ChatRequest) -> Json:
        async with contextlib.aclosing(self._generated(target, request)) as pieces:
            return await completion(target.model, pieces)

    async def stream(self, target: TargetSpec, request: ChatRequest) -> AsyncGenerator[Json]:
        async with contextlib.aclosing(self._generated(target, request)) as pieces:
            async for chunk in chunks(target.model, self._heard(pieces)):
                yield chunk

    async def _heard(self, pieces: AsyncGenerator[Generated]) -> AsyncGenerator[Generated]:
        """The first one is waited for by whoever asks. Raises ApiError."""
        limit = None
        while True:
            try:
                async with asyncio.timeout(limit):
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise too_slow(self._name) from None
            limit = self._silence_s
            yield piece

    def _generated(self, target: TargetSpec, request: ChatRequest) -> AsyncGenerator[Generated]:
        return self._models.generators[self._name, target.model].generate(to_generate(request))

    async def embed(self, target: TargetSpec, request: EmbeddingsRequest) -> Json:
        found = await self._models.embedders[self._name, target.model].embed(_read(request))
        vectors, width = memoryview(found.vectors), 4 * found.dimensions
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": at, "embedding": written}
                for at, written in enumerate(
                    _written(vectors[start : start + width], request.encoding_format)
                    for start in range(0, len(vectors), width)
                )
            ],
            "model": target.model,
            "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
        }

    async def rerank(self, target: TargetSpec, request: RerankRequest) -> Json:
        texts = tuple(one if isinstance(one, str) else one.text for one in request.documents)
        _only(request, _KNOWN_TO_RERANKERS)
        asked = ScoreRequest(query=request.query, documents=texts, truncate=_truncate(request))
        found = await self._models.rerankers[self._name, target.model].rerank(asked)
        best = sorted(enumerate(found.scores), key=lambda one: -one[1])[: request.top_n]
        return {
            "object": "list",
            "results": [
                {"index": at, "relevance_score": score}
                | ({"document": {"text": texts[at]}} if request.return_documents else {})
                for at, score in best
            ],
            "model": target.model,
            "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
        }


def _read(request: EmbeddingsRequest) -> EmbedRequest:
    """Raises ApiError, also for what a model that runs here would leave out."""
    _only(request, _KNOWN)
    given = [request.input] if isinstance(request.input, str) else request.input
    texts = tuple(one for one in given if isinstance(one, str))
    if len(texts) < len(given):
        raise unsupported("input", "is tokens, which mean something else to each model; send texts")
    input_type, truncate = request.extra.get("input_type"), _truncate(request)
    if input_type not in (None, "query", "document"):
        raise ApiError("input_type: must be query or document.", param="input_type")
    return EmbedRequest(texts=texts, input_type=input_type, dimensions=request.dimensions, truncate=truncate)


def _only(request: ModelRequest, known: frozenset[str]) -> None:
    """Raises ApiError for what a model that runs here would leave out."""
    for name in request.body:
        if name not in known:
            raise unsupported(name, "is not known to models that run here")


def _truncate(request: ModelRequest) -> bool | None:
    truncate = request.extra.get("truncate")
    if truncate is not None and not isinstance(truncate, bool):
        raise ApiError("truncate: must be true or false.", param="truncate")
    return truncate


def _written(vector: memoryview, encoding_format: str) -> str | list[float]:
    if encoding_format == "base64":
        return b64encode(vector).decode()
    numbers = array("f", bytes(vector))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()

"""Models that run here, behind Ray Serve."""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping

from serve.embedding.embedder import Embedder, EmbedRequest
from serve.gateway.errors import ApiError, unsupported
from serve.gateway.models_file import TargetSpec
from serve.gateway.requests import ChatRequest, EmbeddingsRequest
from serve.gateway.upstream import Json

_KNOWN = frozenset(("model", "input", "encoding_format", "dimensions", "user", "input_type", "truncate"))


class LocalUpstream:
    """Implements serve.gateway.upstream.Upstream; `embedders` by the name of the model."""

    def __init__(self, embedders: Mapping[str, Embedder]) -> None:
        self._embedders = embedders

    async def chat(self, target: TargetSpec, request: ChatRequest) -> Json:
        raise _no_chat(target)

    async def stream(self, target: TargetSpec, request: ChatRequest) -> AsyncGenerator[Json]:
        raise _no_chat(target)
        yield {}

    async def embed(self, target: TargetSpec, request: EmbeddingsRequest) -> Json:
        found = await self._embedders[target.model].embed(_read(request))
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


def _read(request: EmbeddingsRequest) -> EmbedRequest:
    """Raises ApiError, also for what a model that runs here would leave out."""
    for name in request.body:
        if name not in _KNOWN:
            raise unsupported(name, "is not known to models that run here")
    given = [request.input] if isinstance(request.input, str) else request.input
    texts = tuple(one for one in given if isinstance(one, str))
    if len(texts) < len(given):
        raise unsupported("input", "is tokens, which mean something else to each model; send texts")
    input_type, truncate = request.extra.get("input_type"), request.extra.get("truncate")
    if input_type not in (None, "query", "document"):
        raise ApiError("input_type: must be query or document.", param="input_type")
    if truncate is not None and not isinstance(truncate, bool):
        raise ApiError("truncate: must be true or false.", param="truncate")
    return EmbedRequest(texts=texts, input_type=input_type, dimensions=request.dimensions, truncate=truncate)


def _written(vector: memoryview, encoding_format: str) -> str | list[float]:
    if encoding_format == "base64":
        return b64encode(vector).decode()
    numbers = array("f", bytes(vector))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def _no_chat(target: TargetSpec) -> ApiError:
    return ApiError(f"{target.model} runs here, and makes embeddings only.", elsewhere=True)

"""Models in Ray Serve, as the gateway asks them: with handles of their deployments."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import ray.exceptions
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

from bus.registry import first_line
from serve.embedding.embedder import Embedded, EmbedRequest
from serve.gateway.errors import ApiError
from serve.gateway.local_upstream import LocalModels
from serve.gateway.models_file import Serves
from serve.generation.generator import Generated, GenerateRequest
from serve.local import refusals
from serve.local.batcher import Busy
from serve.local.deployment import LocalModel
from serve.reranking.reranker import Scored, ScoreRequest


def remote_models(handles: Mapping[LocalModel, Any]) -> LocalModels:
    def of(serves: Serves) -> Iterator[tuple[tuple[str, str], str, Any]]:
        return (
            ((o.upstream, o.model), o.model, handle) for o, handle in handles.items() if o.serves == serves
        )

    return LocalModels(
        embedders={at: RemoteEmbedder(model, handle) for at, model, handle in of("embeddings")},
        rerankers={at: RemoteReranker(model, handle) for at, model, handle in of("rerank")},
        generators={at: RemoteGenerator(model, handle) for at, model, handle in of("chat")},
    )


class RemoteEmbedder:
    """Implements serve.embedding.embedder.Embedder."""

    def __init__(self, model: str, handle: Any) -> None:
        self._model = model
        self._handle = handle

    async def embed(self, request: EmbedRequest) -> Embedded:
        found: Embedded = await _answer(self._model, self._handle.embed.remote(request))
        return found


class RemoteReranker:
    """Implements serve.reranking.reranker.Reranker."""

    def __init__(self, model: str, handle: Any) -> None:
        self._model = model
        self._handle = handle

    async def rerank(self, request: ScoreRequest) -> Scored:
        found: Scored = await _answer(self._model, self._handle.rerank.remote(request))
        return found


class RemoteGenerator:
    """Implements serve.generation.generator.Generator."""

    def __init__(self, model: str, handle: Any) -> None:
        self._model = model
        self._handle = handle.options(stream=True)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Generated]:
        response = self._handle.generate.remote(request)
        ended = False
        try:
            with failures(self._model):
                async for piece in response:
                    if isinstance(piece, ApiError):
                        raise piece
                    yield piece
            ended = True
        finally:
            if not ended:
                response.cancel()


async def _answer(model: str, response: Any) -> Any:
    """What a replica gives. Raises ApiError."""
    with failures(model):
        try:
            found = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
    if isinstance(found, ApiError):
        raise found
    return found


@contextlib.contextmanager
def failures(model: str) -> Iterator[None]:
    """Serve's errors become ours."""
    try:
        yield
    except BackPressureError:
        raise refusals.busy(model, Busy(0, 1.0)) from None
    except ray.exceptions.RayTaskError as error:
        # Its process goes on: another try would meet the same, and it says nothing against the others' requests.
        if not isinstance(error.cause, Exception):  # it was cancelled there
            raise refusals.gone(model) from None
        raise refusals.failed(model, first_line(error.cause)) from None
    except (ray.exceptions.RayError, DeploymentUnavailableError, RequestCancelledError):
        raise refusals.gone(model) from None

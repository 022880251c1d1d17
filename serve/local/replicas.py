"""The processes of models. What is wrong with a request or a model is answered, not raised: Serve would log each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from actors.ray_host import configure_logging
from serve.embedding.embedder import Embedded, EmbedRequest
from serve.gateway.errors import ApiError
from serve.generation.generator import Generated, GenerateRequest
from serve.local.environment import prepare
from serve.local.model_folder import BrokenModel
from serve.local.settings import NO_GPU, BatchedSpec, GenerationSpec
from serve.reranking.reranker import Scored, ScoreRequest

if TYPE_CHECKING:
    from serve.embedding.encoder_protocol import Encoder
    from serve.generation.engine_protocol import Engine
    from serve.reranking.scorer_protocol import Scorer


class EmbeddingReplica:
    def __init__(self, model: str, spec: BatchedSpec, device: str, log_level: str) -> None:
        configure_logging(log_level)
        prepare(os.environ)
        from serve.embedding.service import EmbeddingService

        def load() -> Encoder:
            _require(device)
            from serve.embedding.encoder import SentenceEncoder

            return SentenceEncoder(model, spec, device)

        self._service = EmbeddingService(model, spec, load)

    async def embed(self, request: EmbedRequest) -> Embedded | ApiError:
        try:
            return await self._service.embed(request)
        except ApiError as error:
            return error

    def check_health(self) -> None:
        self._service.check()


class RerankingReplica:
    def __init__(self, model: str, spec: BatchedSpec, device: str, log_level: str) -> None:
        configure_logging(log_level)
        prepare(os.environ)
        from serve.reranking.service import RerankingService

        def load() -> Scorer:
            _require(device)
            from serve.reranking.scorer import CrossEncoderScorer

            return CrossEncoderScorer(model, spec, device)

        self._service = RerankingService(model, spec, load)

    async def rerank(self, request: ScoreRequest) -> Scored | ApiError:
        try:
            return await self._service.rerank(request)
        except ApiError as error:
            return error

    def check_health(self) -> None:
        self._service.check()


class GenerationReplica:
    def __init__(self, model: str, spec: GenerationSpec, device: str, log_level: str) -> None:
        configure_logging(log_level)
        prepare(os.environ)
        from serve.generation.service import GenerationService

        def load() -> Engine:
            _require(device)
            from serve.generation.engine import TransformersEngine

            return TransformersEngine(model, spec, device)

        self._service = GenerationService(model, spec, load)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Generated | ApiError]:
        """Serve closes it when the gateway cancels its call, and so the engine's work ends."""
        async with contextlib.aclosing(self._service.generate(request)) as pieces:
            try:
                async for piece in pieces:
                    yield piece
            except ApiError as error:
                yield error

    def check_health(self) -> None:
        self._service.check()


def _require(device: str) -> None:
    """Raises BrokenModel."""
    if device == NO_GPU:
        raise BrokenModel("it is to run on a GPU (`device: cuda`), and Ray has none left for it.")

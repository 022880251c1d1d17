"""An upstream whose calls are told to OpenTelemetry."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from serve.gateway.models_file import TargetSpec
from serve.gateway.requests import ChatRequest, EmbeddingsRequest, RerankRequest
from serve.gateway.telemetry import Telemetry, UpstreamAt
from serve.gateway.upstream import Json, Upstream


class TracedUpstream:
    """Implements serve.gateway.upstream.Upstream. Each try is a call of its own."""

    def __init__(self, upstream: Upstream, at: UpstreamAt, telemetry: Telemetry) -> None:
        self._upstream = upstream
        self._at = at
        self._telemetry = telemetry

    async def chat(self, target: TargetSpec, request: ChatRequest) -> Json:
        with self._telemetry.operation(self._at, target, request) as operation:
            return operation.answered(await self._upstream.chat(target, request))

    async def stream(self, target: TargetSpec, request: ChatRequest) -> AsyncGenerator[Json]:
        with self._telemetry.operation(self._at, target, request) as operation:
            async with contextlib.aclosing(self._upstream.stream(target, request)) as chunks:
                async for chunk in chunks:
                    operation.heard(chunk)
                    yield chunk

    async def embed(self, target: TargetSpec, request: EmbeddingsRequest) -> Json:
        with self._telemetry.operation(self._at, target, request) as operation:
            return operation.answered(await self._upstream.embed(target, request))

    async def rerank(self, target: TargetSpec, request: RerankRequest) -> Json:
        with self._telemetry.operation(self._at, target, request) as operation:
            return operation.answered(await self._upstream.rerank(target, request))

"""One embedding model at work."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from serve.embedding.embedder import Embedded, EmbedRequest, InputType
from serve.embedding.encoder_protocol import Encoder, Vector
from serve.gateway.errors import ApiError
from serve.local import refusals
from serve.local.batched import BatchedModel
from serve.local.batcher import Piece
from serve.local.settings import BatchedSpec


class EmbeddingService:
    """Implements serve.embedding.embedder.Embedder. `load` blocks; it begins at once, and again after it has failed."""

    def __init__(
        self,
        model: str,
        spec: BatchedSpec,
        load: Callable[[], Encoder],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._spec = spec
        self._batched: BatchedModel[Encoder, list[int], Vector] = BatchedModel(
            model, spec, load, _encoded, clock=clock
        )
        self.check = self._batched.check
        self.close = self._batched.close

    async def embed(self, request: EmbedRequest) -> Embedded:
        """Raises ApiError."""
        encoder = await self._batched.loaded()
        if (request.dimensions or 0) > encoder.dimensions:
            raise refusals.too_many_dimensions(self._model, request.dimensions or 0, encoder.dimensions)
        truncate = self._spec.truncate if request.truncate is None else request.truncate
        most = encoder.longest if truncate else encoder.longest + 1

        def refuse(place: int, ids: list[int]) -> ApiError | None:
            what = f"input[{place}]"
            if len(ids) > encoder.longest:
                return refusals.too_long(what, encoder.longest, "input")
            if not truncate and len(request.texts[place]) > encoder.characters:
                return refusals.too_many_characters(what, encoder.characters, "input")
            return None

        tokens = await self._batched.tokenised(
            request.texts, partial(encoder.tokens, input_type=request.input_type, most=most), refuse
        )
        group = request.input_type or ""
        vectors = await self._batched.results([Piece(ids, len(ids), group) for ids in tokens])
        return self._answer(vectors, request.dimensions, sum(len(ids) for ids in tokens))

    def _answer(self, vectors: list[Vector], dimensions: int | None, tokens: int) -> Embedded:
        table: Any = np.stack(vectors)
        if not np.isfinite(table).all():
            raise refusals.no_numbers(self._model, "vectors")
        if dimensions is not None and dimensions < table.shape[1]:
            table = _cut(table, dimensions)
        return Embedded(
            vectors=np.ascontiguousarray(table, "<f4").tobytes(), dimensions=table.shape[1], tokens=tokens
        )


def _encoded(encoder: Encoder, batch: list[list[int]], group: str) -> list[Vector]:
    return encoder.encode(batch, _input_type(group))


def _cut(table: Any, dimensions: int) -> Any:
    """The first of them, of length 1 again where the whole ones are."""
    whole, cut = np.linalg.norm(table, axis=1, keepdims=True), table[:, :dimensions]
    if np.abs(whole - 1).max() > 0.01:
        return cut
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)


def _input_type(group: str) -> InputType | None:
    return "query" if group == "query" else "document" if group == "document" else None

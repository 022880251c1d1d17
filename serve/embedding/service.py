"""One embedding model at work: loaded in the background, its tokens made and its batches encoded in threads."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from bus.registry import first_line
from serve.embedding import refusals
from serve.embedding.batcher import Batcher, Busy, Piece
from serve.embedding.embedder import Embedded, EmbedRequest, InputType
from serve.embedding.encoder_protocol import Encoder, Vector
from serve.embedding.model_folder import BrokenModel
from serve.embedding.settings import EmbeddingSpec
from serve.gateway.errors import ApiError

_logger = logging.getLogger("callboard.embedding")
_TOKENISED_AT_ONCE = 64  # texts; then it is the next request's turn
_LOAD_AGAIN_S = 10.0  # a folder may have been mended
_STUCK_S = 300.0


class EmbeddingService:
    """Implements serve.embedding.embedder.Embedder. `load` blocks; it begins at once, and again after it has failed."""

    def __init__(
        self,
        model: str,
        spec: EmbeddingSpec,
        load: Callable[[], Encoder],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._spec = spec
        self._load = load
        self._clock = clock
        # A tokenizer is not to be used from two threads, and a device gains nothing by two.
        self._tokenising = ThreadPoolExecutor(1, "tokenise")
        self._encoding = ThreadPoolExecutor(1, "encode")
        self._batcher: Batcher[list[int], Vector] | None = None
        self._failed_at: float | None = None
        self._loading: Future[Encoder] = self._encoding.submit(self._loaded)

    async def embed(self, request: EmbedRequest) -> Embedded:
        """Raises ApiError."""
        encoder = await self._encoder()
        if (request.dimensions or 0) > encoder.dimensions:
            raise refusals.too_many_dimensions(self._model, request.dimensions or 0, encoder.dimensions)
        batcher = self._batcher_of(encoder)
        if batcher.full:
            raise refusals.busy(self._model, batcher.busy())
        tokens = await self._tokens(encoder, request)
        group = request.input_type or ""
        try:
            vectors = await batcher.submit([Piece(ids, len(ids), group) for ids in tokens])
        except Busy as error:
            raise refusals.busy(self._model, error) from None
        except Exception as error:
            _logger.exception("%s failed", self._model)
            raise refusals.failed(self._model, first_line(error)) from None
        return self._answer(vectors, request.dimensions, sum(len(ids) for ids in tokens))

    def check(self) -> None:
        """Raises RuntimeError when it hangs, so that another process takes its place."""
        if self._batcher is not None and (stuck_s := self._batcher.stuck_s) > _STUCK_S:
            raise RuntimeError(f"{self._model} has been at one batch for {stuck_s:.0f} s.")

    async def close(self) -> None:
        if self._batcher is not None:
            await self._batcher.close()
        for executor in (self._tokenising, self._encoding):
            executor.shutdown(wait=False, cancel_futures=True)

    # -- the model ---------------------------------------------------------------------------------------

    def _loaded(self) -> Encoder:
        """In a thread. Raises ApiError."""
        began = time.monotonic()
        try:
            encoder = self._load()
        except ModuleNotFoundError as error:
            _logger.warning("%s cannot be loaded: %s", self._model, error)
            raise refusals.not_installed(self._model) from None
        except BrokenModel as error:
            raise refusals.not_loaded(self._model, str(error)) from None
        except Exception as error:  # whatever the libraries raise for a folder that is none
            _logger.warning("%s cannot be loaded", self._model, exc_info=True)
            raise refusals.not_loaded(self._model, f"{first_line(error).rstrip('.')}.") from None
        took = time.monotonic() - began
        _logger.info("%s is loaded on %s, in %.1f s", self._model, encoder.device, took)
        return encoder

    async def _encoder(self) -> Encoder:
        """Raises ApiError."""
        if self._failed_at is not None and self._clock() - self._failed_at >= _LOAD_AGAIN_S:
            self._failed_at = None
            self._loading = self._encoding.submit(self._loaded)
        try:
            # Shielded: a client that goes away does not end it for the others.
            return await asyncio.shield(asyncio.wrap_future(self._loading))
        except ApiError:
            if self._failed_at is None:
                self._failed_at = self._clock()
            raise

    def _batcher_of(self, encoder: Encoder) -> Batcher[list[int], Vector]:
        if self._batcher is None:

            async def encode(batch: list[list[int]], group: str) -> list[Vector]:
                running = asyncio.get_running_loop().run_in_executor
                return await running(self._encoding, encoder.encode, batch, _input_type(group))

            self._batcher = Batcher(
                encode,
                limit=self._spec.batch_limit(encoder.device),
                waiting_limit=self._spec.waiting_limit(encoder.device),
                depth=1 if encoder.device == "cpu" else 2,  # the next batch is ready when a GPU is
            )
        return self._batcher

    async def _tokens(self, encoder: Encoder, request: EmbedRequest) -> list[list[int]]:
        """Raises ApiError for one that is too long, where it is not to be cut."""
        truncate = self._spec.truncate if request.truncate is None else request.truncate
        most = encoder.longest if truncate else encoder.longest + 1
        found: list[list[int]] = []
        for at in range(0, len(request.texts), _TOKENISED_AT_ONCE):
            texts = request.texts[at : at + _TOKENISED_AT_ONCE]
            tokens = partial(encoder.tokens, texts, request.input_type, most=most)
            found += await asyncio.get_running_loop().run_in_executor(self._tokenising, tokens)
            for entry in range(at, len(found)):
                if len(found[entry]) > encoder.longest:
                    raise refusals.too_long(entry, encoder.longest)
        return found

    def _answer(self, vectors: list[Vector], dimensions: int | None, tokens: int) -> Embedded:
        table: Any = np.stack(vectors)
        if not np.isfinite(table).all():
            raise refusals.failed(self._model, "its vectors are no numbers; set `dtype: float32` for it.")
        if dimensions is not None and dimensions < table.shape[1]:
            table = _cut(table, dimensions)
        return Embedded(
            vectors=np.ascontiguousarray(table, "<f4").tobytes(), dimensions=table.shape[1], tokens=tokens
        )


def _cut(table: Any, dimensions: int) -> Any:
    """The first of them, of length 1 again where the whole ones are."""
    whole, cut = np.linalg.norm(table, axis=1, keepdims=True), table[:, :dimensions]
    if np.abs(whole - 1).max() > 0.01:
        return cut
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)


def _input_type(group: str) -> InputType | None:
    return "query" if group == "query" else "document" if group == "document" else None

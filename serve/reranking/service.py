"""One reranking model at work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

from serve.gateway.errors import ApiError
from serve.local import refusals
from serve.local.batched import BatchedModel
from serve.local.batcher import Piece
from serve.local.settings import BatchedSpec
from serve.reranking.reranker import Scored, ScoreRequest
from serve.reranking.scorer_protocol import Pair, Scorer


class RerankingService:
    """Implements serve.reranking.reranker.Reranker. `load` blocks; it begins at once, and again after it has failed."""

    def __init__(
        self,
        model: str,
        spec: BatchedSpec,
        load: Callable[[], Scorer],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._spec = spec
        self._batched: BatchedModel[Scorer, Pair, float] = BatchedModel(
            model, spec, load, _scored, clock=clock
        )
        self.check = self._batched.check
        self.close = self._batched.close

    async def rerank(self, request: ScoreRequest) -> Scored:
        """Raises ApiError."""
        scorer = await self._batched.loaded()
        truncate = self._spec.truncate if request.truncate is None else request.truncate
        most = scorer.longest if truncate else scorer.longest + 1

        def refuse(place: int, pair: Pair) -> ApiError | None:
            what = f"documents[{place}] with the query"
            if len(pair.ids) > scorer.longest:
                return refusals.too_long(what, scorer.longest, "documents")
            if not truncate and max(len(request.query), len(request.documents[place])) > scorer.characters:
                return refusals.too_many_characters(what, scorer.characters, "documents")
            return None

        pairs = await self._batched.tokenised(
            request.documents, partial(scorer.tokens, query=request.query, most=most), refuse
        )
        scores = await self._batched.results([Piece(pair, len(pair.ids)) for pair in pairs])
        if not all(map(math.isfinite, scores)):
            raise refusals.no_numbers(self._model, "scores")
        return Scored(scores=tuple(scores), tokens=sum(len(pair.ids) for pair in pairs))


def _scored(scorer: Scorer, batch: list[Pair], group: str) -> list[float]:
    return scorer.scores(batch)

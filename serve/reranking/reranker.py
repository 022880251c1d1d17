"""What the gateway asks of a reranking model, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """At least one document, none empty. `truncate`: cut what is too long, instead of refusing it; None: as the model is set."""

    query: str
    documents: tuple[str, ...]
    truncate: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """How well each document fits, in the documents' order; more is better. `tokens` of all pairs."""

    scores: tuple[float, ...]
    tokens: int


class Reranker(Protocol):
    async def rerank(self, request: ScoreRequest) -> Scored:
        """Raises serve.gateway.errors.ApiError."""
        ...

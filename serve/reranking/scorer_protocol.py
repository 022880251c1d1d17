"""What a reranking service needs of a model. Its methods block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Pair:
    """A query and a document, as one row of tokens; `types` say which of the two each is of, where the model wants that."""

    ids: list[int]
    types: list[int] | None = None


class Scorer(Protocol):
    """`longest`: tokens of a pair; `characters`: of a query or a document, of which more are not read."""

    device: str
    longest: int
    characters: int

    def tokens(self, documents: Sequence[str], query: str, *, most: int) -> list[Pair]:
        """Of the query with each document, no more than `most`."""
        ...

    def scores(self, batch: Sequence[Pair]) -> list[float]: ...

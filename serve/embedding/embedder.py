"""What the gateway asks of an embedding model, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

InputType = Literal["query", "document"]


@dataclass(frozen=True, kw_only=True)
class EmbedRequest:
    """At least one text, none empty. `truncate`: cut what is too long, instead of refusing it; None: as the model is set.

    `input_type`: some models want a query and a document told apart.
    """

    texts: tuple[str, ...]
    input_type: InputType | None = None
    dimensions: int | None = None
    truncate: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The vectors, one after another, each of `dimensions` little-endian float32; `tokens` of all texts."""

    vectors: bytes
    dimensions: int
    tokens: int


class Embedder(Protocol):
    async def embed(self, request: EmbedRequest) -> Embedded:
        """Raises serve.gateway.errors.ApiError."""
        ...

"""What an embedding service needs of a model. Its methods block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from serve.embedding.embedder import InputType

Vector = Any  # a numpy array of float32


class Encoder(Protocol):
    """`longest`: tokens of a text, its prompt included; `characters`: of a text, of which more are not read; `dimensions` of a
    vector."""

    device: str
    longest: int
    characters: int
    dimensions: int

    def tokens(self, texts: Sequence[str], input_type: InputType | None, *, most: int) -> list[list[int]]:
        """Of each text, with the prompt for that type and no more than `most`."""
        ...

    def encode(self, batch: Sequence[list[int]], input_type: InputType | None) -> list[Vector]:
        """Of texts of one type, which share a batch."""
        ...

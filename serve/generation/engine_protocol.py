"""What a generation service needs of an engine: many sequences at once, each heard of as it grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from serve.generation.generator import Json


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A temperature of 0 takes the likeliest token. The same `seed` and prompt give the same tokens."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Grown:
    """All tokens of a sequence so far. `ended`: there will be no more; `error`: because of that."""

    tokens: Sequence[int]
    ended: bool = False
    error: str | None = None


class Engine(Protocol):
    """`longest`: tokens of a prompt and its answer together. `tool_format`: how it writes the calls of tools; None if it
    knows of none."""

    device: str
    longest: int
    tool_format: str | None

    def prompt(self, messages: Sequence[Json], tools: Sequence[Json]) -> list[int]:
        """Blocks. Raises ValueError where the model's template refuses them, with its reason."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """Without the tokens that end it."""
        ...

    def ends(self, token: int) -> bool:
        """Whether a sequence ends with it."""
        ...

    def begin(
        self,
        name: str,
        prompt: list[int],
        most: int,
        sampling: Sampling,
        heard: Callable[[Grown], None],
        *,
        piecemeal: bool,
    ) -> None:
        """`heard` is called in the event loop: for each token, or not `piecemeal`, once. Raises RuntimeError when it has died."""
        ...

    def cancel(self, name: str) -> None:
        """Of a sequence that has not ended; nothing is heard of it any more."""
        ...

    @property
    def alive(self) -> bool: ...

    @property
    def running(self) -> int:
        """Sequences that are worked on, or wait for it."""
        ...

    @property
    def steps(self) -> int:
        """Taken so far; they grow while any sequence is worked on."""
        ...

    def close(self) -> None:
        """Blocks until its thread has ended."""
        ...

"""Which texts are encoded together: alike in length, so that little is padding, and no more tokens than a batch holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar


class Sized(Protocol):
    """`tokens` of one text; only those of one `group` can share a batch."""

    @property
    def tokens(self) -> int: ...
    @property
    def group(self) -> str: ...


S = TypeVar("S", bound=Sized)


def batches(pieces: Iterable[S], limit: int) -> Iterator[list[S]]:
    """The longest first. A batch counts as many tokens as its longest text, times its texts; one alone may be longer."""
    batch: list[S] = []
    for piece in sorted(pieces, key=lambda one: (one.group, -one.tokens)):
        if batch and (
            piece.group != batch[0].group or max(batch[0].tokens, piece.tokens) * (len(batch) + 1) > limit
        ):
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch

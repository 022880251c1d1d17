"""Which texts share a batch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve.local.batcher import Piece
from serve.local.batches import batches


def made(*lengths: int, limit: int) -> list[list[int]]:
    return [[one.tokens for one in batch] for batch in batches([Piece(None, n) for n in lengths], limit)]


def test_alike_ones_are_together_and_padding_counts() -> None:
    assert made(3, 10, 4, 9, 3, limit=20) == [[10, 9], [4, 3, 3]]
    assert made(10, 1, 1, limit=20) == [[10, 1], [1]]  # a third row of 10 would be 30


def test_one_that_is_longer_than_a_batch_is_alone() -> None:
    assert made(50, 5, 5, limit=20) == [[50], [5, 5]]


def test_those_of_different_groups_are_apart() -> None:
    pieces = [Piece(None, 3, "query"), Piece(None, 3), Piece(None, 9, "query")]
    assert [[(one.group, one.tokens) for one in batch] for batch in batches(pieces, 100)] == [
        [("", 3)],
        [("query", 9), ("query", 3)],
    ]


@given(
    st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["", "query"])), max_size=60), st.integers(1, 90)
)
def test_each_is_in_one_batch_and_none_is_too_large(given: list[tuple[int, str]], limit: int) -> None:
    pieces = [Piece(at, tokens, group) for at, (tokens, group) in enumerate(given)]
    found = list(batches(pieces, limit))
    assert sorted(one.content for batch in found for one in batch) == list(range(len(given)))
    for batch in found:
        assert len({one.group for one in batch}) == 1
        assert len(batch) == 1 or max(one.tokens for one in batch) * len(batch) <= limit

"""Which vectors are near to each other: complete linkage, on vectors made by hand and by chance."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from secops.errors import NotComparable
from secops.likeness import linked

Vectors = list[list[float]]
LEAST = 0.9  # 25.8 degrees


def at(*degrees: float, length: float = 1.0) -> Vectors:
    return [
        [length * math.cos(math.radians(each)), length * math.sin(math.radians(each))] for each in degrees
    ]


def places(vectors: Vectors, least: float = LEAST) -> list[list[int]]:
    return [group for group, _ in linked(vectors, least)]


def test_what_is_near_is_a_group_and_what_is_not_stays_alone() -> None:
    assert places(at(0, 90, 5, 180, 95)) == [[0, 2], [1, 4], [3]]


def test_a_chain_of_near_ones_is_no_group_since_its_ends_are_far() -> None:
    assert places(at(0, 20, 40)) == [[0, 1], [2]]
    assert places(at(40, 20, 0)) == [[0, 1], [2]]  # of equals the first
    assert places(at(0, 20, 40, 60)) == [[0, 1], [2, 3]]


def test_the_nearest_are_joined_first() -> None:
    assert places(at(0, 20, 35)) == [[0], [1, 2]]


def test_the_similarity_is_that_of_the_two_that_are_least_alike() -> None:
    [(group, similarity)] = linked(at(0, 10, 24), LEAST)
    assert (group, similarity) == ([0, 1, 2], round(math.cos(math.radians(24)), 3))
    assert linked(at(7), LEAST) == [([0], 1.0)]
    assert linked([], LEAST) == []


def test_how_long_a_vector_is_means_nothing() -> None:
    assert places([*at(0), *at(5, length=1e-3), *at(90, length=50)]) == [[0, 1], [2]]


def test_the_threshold_itself_is_near_enough() -> None:
    similarity = round(math.cos(math.radians(20)), 3)
    assert places(at(0, 20), similarity) == [[0, 1]]
    assert places(at(0, 20), similarity + 0.001) == [[0], [1]]


def test_the_last_digits_which_differ_between_batches_change_nothing() -> None:
    exact = at(0, 20, 40, 41, 60)
    blurred = [[x + 1e-7, y - 1e-7] for x, y in exact]
    assert linked(exact, LEAST) == linked(blurred, LEAST)


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3).filter(any), max_size=14),
    st.sampled_from([0.3, 0.7, 0.9, 1.0]),
)
def test_each_is_near_to_each_of_its_group_and_no_two_groups_could_be_one(
    vectors: list[list[int]], least: float
) -> None:
    groups = linked(vectors, least)
    assert sorted(place for group, _ in groups for place in group) == list(range(len(vectors)))
    assert [group[0] for group, _ in groups] == sorted(group[0] for group, _ in groups)

    def cosine(one: int, other: int) -> float:
        left, right = vectors[one], vectors[other]
        dot = sum(a * b for a, b in zip(left, right, strict=True))
        return dot / math.hypot(*left) / math.hypot(*right)

    for group, similarity in groups:
        lowest = min((cosine(*pair) for pair in combinations(group, 2)), default=1.0)
        assert similarity == pytest.approx(lowest, abs=0.0006)
        assert similarity >= least
    for (one, _), (other, _) in combinations(groups, 2):
        assert min(cosine(a, b) for a in one for b in other) < least + 0.0006


@pytest.mark.parametrize("vectors", [[[1.0, 0.0], [1.0]], [[0.0, 0.0], [1.0, 0.0]]], ids=["lengths", "zero"])
def test_what_is_no_vector_is_said(vectors: Vectors) -> None:
    with pytest.raises(NotComparable, match="length"):
        linked(vectors, LEAST)

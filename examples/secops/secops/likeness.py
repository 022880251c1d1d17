"""Which of many vectors are near to each other: complete linkage, so that in a group each is near to each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from operator import mul
from typing import TypeAlias

from .errors import NotComparable

# The groups near to each one, with the cosines; a group's name is its first place.
_Near: TypeAlias = dict[int, dict[int, float]]
_DIGITS = 3  # the digits after these differ with the batch that a text was embedded in


def linked(vectors: Sequence[Sequence[float]], least: float) -> list[tuple[list[int], float]]:
    """Return all vectors' places in groups, with the cosine of the two in each that are least alike; alone it is 1.

    The two groups of which even the least alike two are the nearest become one, until no two groups are left that are
    `least` near; of equals the first. So it is the same each time, and the order of groups is that of their first members.
    Complete linkage: T. Sorensen, 1948. Raises NotComparable for vectors of several lengths, or without one.
    """
    near = _near(vectors, least)
    members = {place: [place] for place in near}
    lowest = dict.fromkeys(near, 1.0)
    pairs = [(-cosine, one, other) for one in near for other, cosine in near[one].items() if one < other]
    heapify(pairs)
    while pairs:
        farness, one, other = heappop(pairs)
        if near.get(one, {}).get(other) != -farness:  # of a group that was joined to another since
            continue
        lowest[one] = -farness  # no earlier joining was of less
        members[one] += members.pop(other)
        for third, cosine in _join(near, one, other).items():
            heappush(pairs, (-cosine, min(one, third), max(one, third)))
    return [(sorted(places), lowest[first]) for first, places in members.items()]


def _near(vectors: Sequence[Sequence[float]], least: float) -> _Near:
    units = [_unit(each) for each in vectors]
    if len({len(each) for each in units}) > 1:
        raise NotComparable("The model's vectors have several lengths.")
    near: _Near = {place: {} for place in range(len(units))}
    for one, left in enumerate(units):
        for other in range(one + 1, len(units)):
            cosine = round(sum(map(mul, left, units[other])), _DIGITS)
            if cosine >= least:
                near[one][other] = near[other][one] = cosine
    return near


def _join(near: _Near, one: int, other: int) -> dict[int, float]:
    """Make `other` a part of `one`; return what is near to it now: a third is as near as to the farther of the two."""
    left, right = near[one], near.pop(other)
    near[one] = {third: min(left[third], right[third]) for third in left.keys() & right.keys()}
    for third in (left.keys() | right.keys()) - {one, other}:
        near[third].pop(one, None)
        near[third].pop(other, None)
    for third, cosine in near[one].items():
        near[third][one] = cosine
    return near[one]


def _unit(vector: Sequence[float]) -> list[float]:
    length = math.hypot(*vector)
    if not length:
        raise NotComparable("One of the model's vectors has no length.")
    return [each / length for each in vector]

"""Random voyages: tasks whose legs act on the world outside and ask people, and are undone when they fail or are
cancelled; and what the model says of each leg's end.

As in programs.py, everything follows from the seed and the numbers alone. No two legs share an agent or a key of the
world outside, so that a task may be cancelled at any moment and the rest of the program does not depend on when.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

LATE_S = 0.4  # a permit that nobody gives in time
BELLS = 6  # schedules


class Deed(NamedTuple):
    """A call of one tool. `how` is what the world does with it (see judge.py), `permit` what a person says before it:
    nothing is asked, or it is `granted`, `refused` or comes too `late`. `undone`: it has a compensation."""

    tool: str
    how: str
    permit: str
    sleep_s: float
    undone: bool


class Leg(NamedTuple):
    """What one agent does for one message. `hopeless`: it fails for good after its deeds, which are undone."""

    hopeless: bool
    deeds: tuple[Deed, ...]


class Voyage(NamedTuple):
    """A task. `cancelled_s`: it is cancelled so long after it was submitted, if it lives so long."""

    cancelled_s: float | None
    legs: tuple[Leg, ...]


def voyage(seed: int, index: int) -> Voyage:
    rng = Random((seed << 32) ^ index ^ 0x5A17)
    legs = tuple(
        Leg(rng.random() < 0.1, tuple(_deed(rng) for _ in range(rng.randint(1, 3))))
        for _ in range(rng.randint(1, 3))
    )
    return Voyage(rng.uniform(0.0, 2.0) if rng.random() < 0.3 else None, legs)


def _deed(rng: Random) -> Deed:
    tool = rng.choice(("verified", "by_key", "blindly"))
    how = rng.choice(
        ("ok", "ok", "hang") if tool == "by_key" else ("ok", "ok", "ok", "hang", "deaf", "refuse")
    )
    permit = rng.choice(("granted", "granted", "refused", "late")) if rng.random() < 0.4 else ""
    sleep_s = rng.uniform(0.02, 0.3) if rng.random() < 0.3 else 0.0
    return Deed(tool, how, permit, sleep_s, rng.random() < 0.6)


def sailor(index: int, leg: int) -> str:
    return f"sailor/{index}-{leg}"


def key_of(index: int, leg: int, deed: int) -> str:
    """Under this the world outside counts the deed."""
    return f"voyage-{index}-{leg}-{deed}"


def undoing(key: str) -> str:
    """Under this the world outside counts that the deed was undone."""
    return f"undo-{key}"


def outcomes(deed: Deed) -> set[str]:
    """What the agent may be told of a deed, once its turn has ended."""
    if deed.permit in ("refused", "late"):
        return {"denied"}
    if deed.how == "refuse":
        return {"refused", "unknown"} if deed.tool == "blindly" else {"refused"}
    if deed.tool == "blindly":
        return {"unknown"} if deed.how == "deaf" else {"done", "unknown"}
    return {"done"}

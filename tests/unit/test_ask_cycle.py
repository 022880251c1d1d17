"""Which asks wait for each other, compared with a model that lets every turn end that can."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from actors.ask_cycle import find_deadlock
from storage.edges import Agent, Gate, WaitEdge

AGENTS: list[Agent] = [("d", "t", f"peer/{n}") for n in range(6)]


@dataclass(frozen=True)
class Ask:
    """A leaf of what a turn waits for."""

    edge: WaitEdge


@dataclass(frozen=True)
class Some:
    """So many of these parts."""

    needed: int
    parts: tuple[Ask | Some, ...]


def ask(asker: int, asked: int, at: int, *gates: Gate) -> WaitEdge:
    return WaitEdge(id=f"{at}", asker=AGENTS[asker], asked=AGENTS[asked], made_at=at, gates=gates)


def can_end(part: Ask | Some, ended: set[Agent], asks: set[str]) -> bool:
    """Asks that are not among these have been answered."""
    if isinstance(part, Ask):
        return part.edge.asked in ended or part.edge.id not in asks
    return sum(can_end(inner, ended, asks) for inner in part.parts) >= part.needed


def never_end(turns: dict[Agent, Some], asks: set[str]) -> set[Agent]:
    """The model: agents without a turn have ended, and then whoever can, one after another."""
    ended = set(AGENTS) - turns.keys()
    while going := {a for a, turn in turns.items() if a not in ended and can_end(turn, ended, asks)}:
        ended |= going
    return set(AGENTS) - ended


def random_part(
    rng: random.Random, asker: int, ages: list[int], gates: tuple[Gate, ...], place: str, depth: int
) -> Ask | Some:
    if depth == 0 or rng.random() < 0.4:
        return Ask(ask(asker, rng.randrange(len(AGENTS)), ages.pop(), *gates))
    count = rng.randint(1, 3)
    needed = rng.choice((1, count, count))
    parts = tuple(
        random_part(
            rng, asker, ages,
            gates if needed == count else (*gates, Gate(place, needed, count, n)), f"{place}.{n}", depth - 1,
        )
        for n in range(count)
    )  # fmt: skip
    return Some(needed, parts)


def asks_of(part: Ask | Some) -> list[WaitEdge]:
    if isinstance(part, Ask):
        return [part.edge]
    return [edge for inner in part.parts for edge in asks_of(inner)]


@pytest.mark.parametrize("seed", range(10))
def test_what_is_found_is_what_the_model_cannot_end(seed: int) -> None:
    rng = random.Random(seed)
    deadlocks = sum(compare(rng) for _ in range(300))
    assert 50 < deadlocks < 250


def compare(rng: random.Random) -> bool:
    """One random set of turns; whether it has a deadlock."""
    ages = list(range(200))
    rng.shuffle(ages)
    turns: dict[Agent, Some] = {}
    for asker in rng.sample(range(len(AGENTS)), rng.randint(1, len(AGENTS))):
        part = random_part(rng, asker, ages, (), "g", 2)
        turns[AGENTS[asker]] = part if isinstance(part, Some) else Some(1, (part,))
    edges = [edge for turn in turns.values() for edge in asks_of(turn)]
    everything = {edge.id for edge in edges}
    found = find_deadlock(edges)
    assert (found is not None) == bool(never_end(turns, everything))
    if found is None:
        return False
    older = {edge.id for edge in edges if edge.age < found.newest.age}
    assert not never_end(turns, older), "an earlier ask had closed one"
    assert never_end(turns, {edge.id for edge in found.asks}) >= set(found.agents)
    assert found.agents[:2] == (found.newest.asker, found.newest.asked)
    assert found.agents[-1] == found.newest.asker
    steps = {(edge.asker, edge.asked) for edge in found.asks}
    assert set(zip(found.agents, found.agents[1:], strict=False)) <= steps
    assert len(set(found.agents)) == len(found.agents) - 1
    return True


def test_the_first_deadlock_is_found_so_that_its_end_spares_the_next() -> None:
    first, second, third = ask(0, 1, 1), ask(1, 0, 2), ask(0, 2, 3)
    fourth = ask(2, 1, 4)  # 0 waits for 2, 2 for 1, 1 for 0
    found = find_deadlock([fourth, third, second, first])
    assert found is not None
    assert found.newest == second
    assert find_deadlock([first, third, fourth]) is None


def test_of_two_asks_of_one_moment_all_who_look_refuse_the_same() -> None:
    one, other = ask(0, 1, 5), ask(1, 0, 5)
    later = WaitEdge(id="9", asker=other.asker, asked=other.asked, made_at=5)
    for edges in ([one, later], [later, one]):
        found = find_deadlock(edges)
        assert found is not None
        assert found.newest.id == "9"

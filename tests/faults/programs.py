"""Random programs of agents, and the pure model that says what every final state must be.

A program is a forest of steps. What a step does follows from the program's seed and the step's own number
alone, so that the agents (which carry only the number in their messages) and the model agree on it.
What agents do to their states does not depend on the order between different senders. Each root comes in from
outside in one of three ways: put into a mailbox, published as an event, or submitted as a task.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

FEEDER = "external/feeder"
EVENTS = "external/events/walk"
TASKS = "tasks"  # no sender of its own: each task has an agent that sends its parts
_EVENTS_SHARE, _TASKS_SHARE = 0.2, 0.08
HOT_AGENTS = 4  # these get a tenth of all steps, so that their mailboxes outgrow the cache
DEPTH = 7
_NUMBER_BITS = 52  # exact in every JSON reader


class Child(NamedTuple):
    """A step that another step sends. `delay_s` makes it a durable timer."""

    agent: int
    number: int
    depth: int
    delay_s: float | None
    priority: int | None


class Step(NamedTuple):
    """What handling one message does: fail `fails` times first, then add and send; or fail for good."""

    add: int
    fails: int
    hopeless: bool
    pause_s: float
    children: tuple[Child, ...]


def step(seed: int, agents: int, number: int, depth: int) -> Step:
    """The step of that number."""
    rng = Random((seed << 64) ^ (number << 4) ^ depth)
    add = rng.randrange(1_000_000)
    fails = rng.randint(1, 3) if rng.random() < 0.05 else 0
    hopeless = rng.random() < 0.01
    draw = rng.random()
    pause_s = 0.7 if draw < 0.0005 else rng.uniform(0.001, 0.02) if draw < 0.05 else 0.0
    children: list[Child] = []
    if depth > 0:
        shape = rng.random()
        if shape < 0.68:
            children = [_child(rng, agents, depth - 1)]
        elif shape < 0.84:
            children = [_child(rng, agents, depth - 1) for _ in range(2)]
        elif shape < 0.92:  # several to the same agent, one after another
            same = _choose(rng, agents)
            children = [_child(rng, agents, 0, same) for _ in range(rng.randint(2, 5))]
            children.append(_child(rng, agents, depth - 1, same))
        elif shape < 0.96:
            children = [_child(rng, agents, 0) for _ in range(rng.randint(5, 12))]
    return Step(add, fails, hopeless, pause_s, tuple(children))


def way(seed: int, index: int) -> str:
    """How root number `index` comes in: the sender of its message, or TASKS."""
    draw = Random((seed << 32) ^ index ^ 0x3A7).random()
    return EVENTS if draw < _EVENTS_SHARE else TASKS if draw < _EVENTS_SHARE + _TASKS_SHARE else FEEDER


def root(seed: int, agents: int, index: int) -> Child:
    """The step that comes in from outside as number `index`."""
    return _child(Random((seed << 32) ^ index ^ 0x5EED), agents, DEPTH)._replace(delay_s=None)


def parts(seed: int, agents: int, index: int) -> dict[str, Child]:
    """The steps into which root number `index` is split when it comes in as a task, by the names of the parts."""
    rng = Random((seed << 32) ^ index ^ 0x7A5C)
    return {
        f"part-{number}": _child(rng, agents, DEPTH - 3)._replace(delay_s=None)
        for number in range(rng.randint(1, 3))
    }


def _child(rng: Random, agents: int, depth: int, agent: int | None = None) -> Child:
    return Child(
        agent=_choose(rng, agents) if agent is None else agent,
        number=rng.getrandbits(_NUMBER_BITS),
        depth=depth,
        delay_s=rng.uniform(0.02, 1.5) if rng.random() < 0.06 else None,
        priority=rng.randrange(3) if rng.random() < 0.1 else None,
    )


def _choose(rng: Random, agents: int) -> int:
    return rng.randrange(HOT_AGENTS) if rng.random() < 0.1 else rng.randrange(agents)


@dataclass
class Expected:
    """What one agent must have become."""

    count: int = 0
    total: int = 0
    turns: int = 0
    timers: list[int] = field(default_factory=list)  # and parts of tasks: what is in no order
    sent: Counter[str] = field(default_factory=Counter)  # by recipient, timers apart
    handled: Counter[str] = field(default_factory=Counter)  # by sender, timers and dead letters apart
    dead: list[int] = field(default_factory=list)


def name(agent: int) -> str:
    return f"walker/{agent}"


def run_model(seed: int, agents: int, roots: int) -> dict[str, Expected]:
    """Every agent that the program's first `roots` roots touch, as it must be at the end."""
    world: defaultdict[str, Expected] = defaultdict(Expected)
    waiting: list[tuple[str, Child]] = []
    for index in range(roots):
        sender = way(seed, index)
        steps = parts(seed, agents, index).values() if sender == TASKS else (root(seed, agents, index),)
        waiting += [(sender, child) for child in steps]
    while waiting:
        sender, child = waiting.pop()
        me = name(child.agent)
        state = world[me]
        state.turns += 1
        done = step(seed, agents, child.number, child.depth)
        if child.delay_s is None and sender in world:
            world[sender].sent[me] += 1
        if done.hopeless:
            state.dead.append(child.number)
            continue
        state.count += 1
        state.total += done.add
        if child.delay_s is None and sender != TASKS:
            state.handled[sender] += 1
        else:
            state.timers.append(child.number)
        waiting.extend((me, grandchild) for grandchild in done.children)
    for state in world.values():
        state.timers.sort()
        state.dead.sort()
    return dict(world)


class ExpectedTask(NamedTuple):
    """How one task must have ended; one of whose parts is a dead letter waits for a person."""

    status: str
    result: dict[str, Any] | None


def run_tasks(seed: int, agents: int, roots: int) -> dict[int, ExpectedTask]:
    """The tasks among the program's first `roots` roots, by their index."""
    tasks = {}
    for index in (index for index in range(roots) if way(seed, index) == TASKS):
        done = {
            part: step(seed, agents, child.number, child.depth)
            for part, child in parts(seed, agents, index).items()
        }
        if any(now.hopeless for now in done.values()):
            tasks[index] = ExpectedTask("stuck", None)
        else:
            tasks[index] = ExpectedTask("completed", {part: now.add for part, now in done.items()})
    return tasks

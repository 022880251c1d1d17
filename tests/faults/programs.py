"""Random programs of agents, and the pure model that says what every final state must be.

A program is a forest of steps. What a step does follows from the program's seed and the step's own number
alone, so that the agents (which carry only the number in their messages) and the model agree on it.
What agents do to their states does not depend on the order between different senders. Each root comes in from
outside in one of three ways: put into a mailbox, published as an event, or submitted as a task.

Some steps wait. A walker waits only for walkers of higher numbers and for clerks, so nobody waits in a circle.
Where the outcome of a wait is a race (a timeout, the first of several), what is done about it is the same either way.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

FEEDER = "external/feeder"
EVENTS = "external/events/walk"
TASKS = "tasks"  # no sender of its own: each task has an agent that sends its parts
_EVENTS_SHARE, _TASKS_SHARE = 0.2, 0.08
HOT_AGENTS = 4  # these get a tenth of all steps, so that their mailboxes outgrow the cache
DEPTH = 7
WAITING_SHARE = 0.12
CLERKS = 20
_NUMBER_BITS = 52  # exact in every JSON reader


class Child(NamedTuple):
    """A step that another step sends. `delay_s` makes it a durable timer; `apart` is one that goes out beside others,
    or from a turn that fails for good: like a timer, it is in no order with the other messages of its sender."""

    agent: int
    number: int
    depth: int
    delay_s: float | None
    priority: int | None
    apart: bool = False

    @property
    def is_ordered(self) -> bool:
        return self.delay_s is None and not self.apart


class Send(NamedTuple):
    child: Child


class Compute(NamedTuple):
    """A step in the journal: in a thread or not, with a result that goes to a blob or not. `stumbles`: it is tried
    again by its own policy."""

    in_thread: bool
    large: bool
    stumbles: bool


class Sleep(NamedTuple):
    seconds: float


class Ask(NamedTuple):
    """Ask another walker, which answers when it has done its step, or fails for good."""

    child: Child


class Question(NamedTuple):
    """Ask a clerk. Whether the answer comes before the timeout is a race, unless there is none of the two."""

    clerk: int
    how: str  # now, later (in another turn) or never
    timeout_s: float | None


class Await(NamedTuple):
    """A promise that each of the `resolvers` is told to resolve: one does. Without any, it expires."""

    resolvers: tuple[Child, ...]
    sleep_s: float  # before it is awaited
    timeout_s: float | None


class Line(NamedTuple):
    """One branch of several calls, one after another."""

    calls: tuple[Call, ...]


class Gather(NamedTuple):
    calls: tuple[Call, ...]
    first: int | None


Call = Send | Compute | Sleep | Ask | Question | Await | Line | Gather


class Step(NamedTuple):
    """What handling one message does: it adds, and makes its calls. Before the call of number `breaks_at` it fails the
    first `fails` times, by itself or of a step in the journal; or it fails for good."""

    add: int
    fails: int
    in_step: bool
    hopeless: bool
    breaks_at: int
    pause_s: float
    calls: tuple[Call, ...]


def step(seed: int, agents: int, me: int, number: int, depth: int) -> Step:
    """The step of that number, which walker `me` handles."""
    rng = _rng(seed, number, depth)
    hopeless = _draw_hopeless(rng)
    add = rng.randrange(1_000_000)
    fails = rng.randint(1, 3) if rng.random() < 0.05 else 0
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
    calls: list[Call] = [Send(child) for child in children]
    if rng.random() < WAITING_SHARE:
        for _ in range(rng.randint(1, 4)):
            calls.insert(rng.randint(0, len(calls)), _wait(rng, seed, agents, me, max(0, depth - 1)))
        if rng.random() < 0.2:
            fails = rng.randint(1, 2)
    breaks_at = rng.randint(0, len(calls))
    in_step = rng.random() < 0.5
    if hopeless:
        calls = [_apart(call) for call in calls]
    return Step(add, fails, in_step, hopeless, breaks_at, pause_s, tuple(calls))


def _rng(seed: int, number: int, depth: int) -> Random:
    return Random((seed << 64) ^ (number << 4) ^ depth)


def _draw_hopeless(rng: Random) -> bool:
    """The first draw of each step."""
    return rng.random() < 0.01


def _wait(rng: Random, seed: int, agents: int, me: int, depth: int) -> Call:
    """A call that waits, or may."""
    shape = rng.random()
    if shape < 0.35:
        return _call(rng, agents, me, depth)
    if shape < 0.6:
        branches: list[Call] = [_call(rng, agents, me, depth) for _ in range(rng.randint(2, 5))]
        if rng.random() < 0.5:
            branches.append(Line((_compute(rng), _sleep(rng), _apart(_ask(rng, agents, me, depth)))))
        return Gather(tuple(branches), None)
    if shape < 0.8:  # which calls a given-up line has come to is a race: it may ask nobody
        branches = [_call(rng, agents, me, depth) for _ in range(rng.randint(2, 4))]
        branches.append(Line((_compute(rng), _sleep(rng), _compute(rng))))
        return Gather(tuple(branches), rng.randint(1, len(branches) - 1))
    if me + 1 < agents and rng.random() < 0.8:
        resolvers = [_above(rng, agents, me, depth) for _ in range(rng.choice((1, 1, 2)))]
        kept = tuple(_hopeful(rng, seed, child) for child in resolvers)
        return Await(kept, rng.uniform(0.02, 0.15) if rng.random() < 0.5 else 0.0, None)
    return Await((), 0.0, rng.uniform(0.05, 0.2))


def _call(rng: Random, agents: int, me: int, depth: int) -> Call:
    shape = rng.random()
    if shape < 0.4:
        return _compute(rng)
    if shape < 0.55:
        return _sleep(rng)
    if shape < 0.75:
        return _ask(rng, agents, me, depth)
    how = rng.choice(("now", "now", "later", "later", "never"))
    timeout_s = rng.uniform(0.03, 0.3) if how == "never" or rng.random() < 0.4 else None
    return Question(rng.randrange(CLERKS), how, timeout_s)


def _ask(rng: Random, agents: int, me: int, depth: int) -> Call:
    """The last of the walkers has nobody to ask."""
    return Ask(_above(rng, agents, me, depth)) if me + 1 < agents else _compute(rng)


def _above(rng: Random, agents: int, me: int, depth: int) -> Child:
    child = _child(rng, agents, min(depth, 1), rng.randrange(me + 1, agents))
    return child._replace(delay_s=None)


def _hopeful(rng: Random, seed: int, child: Child) -> Child:
    while _draw_hopeless(_rng(seed, child.number, child.depth)):
        child = child._replace(number=rng.getrandbits(_NUMBER_BITS))
    return child


def _compute(rng: Random) -> Compute:
    return Compute(in_thread=rng.random() < 0.5, large=rng.random() < 0.1, stumbles=rng.random() < 0.1)


def _sleep(rng: Random) -> Sleep:
    return Sleep(rng.uniform(0.02, 0.3))


def _apart(call: Call) -> Call:
    match call:
        case Send(child):
            return Send(child._replace(apart=True))
        case Ask(child):
            return Ask(child._replace(apart=True))
        case Await():
            return call._replace(resolvers=tuple(c._replace(apart=True) for c in call.resolvers))
        case Line() | Gather():
            return call._replace(calls=tuple(_apart(inner) for inner in call.calls))
        case _:
            return call


def _sent(calls: tuple[Call, ...]) -> Iterator[Child]:
    """The steps that go out with these calls."""
    for call in calls:
        match call:
            case Send(child) | Ask(child):
                yield child
            case Await():
                yield from call.resolvers
            case Line() | Gather():
                yield from _sent(call.calls)


def _questions(calls: tuple[Call, ...]) -> Iterator[Question]:
    for call in calls:
        if isinstance(call, Question):
            yield call
        elif isinstance(call, Line | Gather):
            yield from _questions(call.calls)


def _done(now: Step) -> tuple[Call, ...]:
    """The calls of which something stays: of a turn that fails for good what went out before its last wait."""
    if not now.hopeless:
        return now.calls
    before = now.calls[: now.breaks_at]
    while before and isinstance(before[-1], Send):
        before = before[:-1]
    return before


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
        f"part-{number}": _child(rng, agents, DEPTH - 3)._replace(delay_s=None, apart=True)
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
    timers: list[int] = field(default_factory=list)  # and parts of tasks and so on: what is in no order
    sent: Counter[str] = field(default_factory=Counter)  # by recipient, timers apart
    handled: Counter[str] = field(default_factory=Counter)  # by sender, timers and dead letters apart
    dead: list[int] = field(default_factory=list)


def name(agent: int) -> str:
    return f"walker/{agent}"


class Model(NamedTuple):
    """How everything must be at the end."""

    walkers: dict[str, Expected]
    questions: Counter[int]  # that each clerk has answered, or let expire


def run_model(seed: int, agents: int, roots: int) -> Model:
    """Every agent that the program's first `roots` roots touch, as it must be at the end."""
    world: defaultdict[str, Expected] = defaultdict(Expected)
    questions: Counter[int] = Counter()
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
        now = step(seed, agents, child.agent, child.number, child.depth)
        if child.is_ordered and sender in world:
            world[sender].sent[me] += 1
        done = _done(now)
        waiting.extend((me, sent) for sent in _sent(done))
        questions.update(question.clerk for question in _questions(done))
        if now.hopeless:
            state.dead.append(child.number)
            continue
        state.count += 1
        state.total += now.add
        if child.is_ordered:
            state.handled[sender] += 1
        else:
            state.timers.append(child.number)
    for state in world.values():
        state.timers.sort()
        state.dead.sort()
    return Model(dict(world), questions)


class ExpectedTask(NamedTuple):
    """How one task must have ended; one of whose parts is a dead letter waits for a person."""

    status: str
    result: dict[str, Any] | None


def run_tasks(seed: int, agents: int, roots: int) -> dict[int, ExpectedTask]:
    """The tasks among the program's first `roots` roots, by their index."""
    tasks = {}
    for index in (index for index in range(roots) if way(seed, index) == TASKS):
        done = {
            part: step(seed, agents, child.agent, child.number, child.depth)
            for part, child in parts(seed, agents, index).items()
        }
        if any(now.hopeless for now in done.values()):
            tasks[index] = ExpectedTask("stuck", None)
        else:
            tasks[index] = ExpectedTask("completed", {part: now.add for part, now in done.items()})
    return tasks

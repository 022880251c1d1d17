"""Asks that wait for each other: whether any do, and which of them is to be refused."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from storage.edges import Agent, Gate, WaitEdge


@dataclass(frozen=True)
class AskDeadlock:
    """Turns of which none can end before another one of them has.

    `newest` is the ask that has closed it, `agents` a cycle through it, which begins and ends with its asker; `asks`
    are all those that it takes, `newest` among them: without any one of them it may be none.
    """

    newest: WaitEdge
    agents: tuple[Agent, ...]
    asks: tuple[WaitEdge, ...]


def find_deadlock(edges: Iterable[WaitEdge]) -> AskDeadlock | None:
    """The deadlock that came first, so that nobody is refused for one that an earlier refusal has ended.

    Whoever looks at the same asks finds the same.
    """
    ordered = sorted(edges, key=lambda edge: edge.age)
    if not _stuck(ordered):
        return None
    least, most = 1, len(ordered)
    while least < most:
        middle = (least + most) // 2
        if _stuck(ordered[:middle]):
            most = middle
        else:
            least = middle + 1
    newest = ordered[least - 1]
    stuck = _stuck(ordered[:least])
    # Without the newest ask nobody is stuck, so whoever is stuck leads to it: it lies on a cycle of stuck turns.
    between = [edge for edge in ordered[:least] if edge.asker in stuck and edge.asked in stuck]
    came_by = _reach(newest.asked, between)
    path = [newest.asker]
    while path[-1] != newest.asked:
        path.append(came_by[path[-1]].asker)
    asks = tuple(edge for edge in between if edge.asker in came_by)
    return AskDeadlock(newest, (newest.asker, *reversed(path)), asks)


def may_come(edges: Iterable[WaitEdge]) -> set[Agent]:
    """The askers that would be stuck if of those who may end a task one that waits were the last. Nobody looks at them by
    itself when the others have ended without that."""
    return _stuck([edge.of_one_holder for edge in edges])


def _stuck(edges: Sequence[WaitEdge]) -> set[Agent]:
    """The agents whose turns cannot end unless one of these ends first: the largest such set."""
    asked_by: dict[Agent, list[WaitEdge]] = {}
    askers_of: dict[Agent, list[Agent]] = {}
    for edge in edges:
        asked_by.setdefault(edge.asker, []).append(edge)
        askers_of.setdefault(edge.asked, []).append(edge.asker)
    stuck = set(asked_by)
    to_look = deque(stuck)
    while to_look:
        agent = to_look.popleft()
        if agent in stuck and not _is_held([e.gates for e in asked_by[agent] if e.asked in stuck]):
            stuck.discard(agent)
            to_look.extend(askers_of.get(agent, ()))
    return stuck


def _is_held(asks: Sequence[tuple[Gate, ...]], depth: int = 0) -> bool:
    """Whether a turn cannot go on when these of its asks are never answered."""
    gathers: dict[str, dict[int, list[tuple[Gate, ...]]]] = {}
    needed: dict[str, Gate] = {}
    for gates in asks:
        if len(gates) == depth:
            return True
        gate = gates[depth]
        gathers.setdefault(gate.place, {}).setdefault(gate.branch, []).append(gates)
        needed[gate.place] = gate
    for place, branches in gathers.items():
        held = sum(_is_held(branch, depth + 1) for branch in branches.values())
        if held > needed[place].branches - needed[place].needed:
            return True
    return False


def _reach(start: Agent, edges: Iterable[WaitEdge]) -> dict[Agent, WaitEdge]:
    """All that waits lead to from an agent, itself included if they lead back, and the first ask that leads there."""
    asked_by: dict[Agent, list[WaitEdge]] = {}
    for edge in edges:
        asked_by.setdefault(edge.asker, []).append(edge)
    came_by: dict[Agent, WaitEdge] = {}
    to_look = deque([start])
    while to_look:
        for edge in asked_by.get(to_look.popleft(), ()):
            if edge.asked not in came_by:
                came_by[edge.asked] = edge
                to_look.append(edge.asked)
    return came_by

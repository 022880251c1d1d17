"""Who gets a task: one small class for each policy of domain.yaml."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.domain import TaskSpec

Load = Callable[[Sequence[str]], Awaitable[Mapping[str, int]]]
"""How many unfinished tasks each of some agents (`kind/key`) has."""

Members = Callable[[str], Sequence[str]]
"""The agents (`kind/key`) that have a skill."""


@dataclass(frozen=True)
class To:
    """This agent (`kind/key`) gets it."""

    agent: str


@dataclass(frozen=True)
class Call:
    """These agents are asked for bids."""

    agents: tuple[str, ...]
    bid_within_s: float


@dataclass(frozen=True)
class Refused:
    """Nobody can get it, and why."""

    reason: str


Assignment = To | Call | Refused


class Policy(Protocol):
    async def assign(self, task_id: str) -> Assignment: ...


class Direct:
    """Every task goes to the agent that domain.yaml names."""

    def __init__(self, spec: TaskSpec) -> None:
        self._to = spec.to

    async def assign(self, task_id: str) -> Assignment:
        if self._to is None:
            return Refused("domain.yaml names no `tasks.to` for the policy direct.")
        return To(self._to.replace("{task}", task_id))


class LeastLoaded:
    """The agent with the skill that has the fewest unfinished tasks; among equals the first by name."""

    def __init__(self, spec: TaskSpec, members: Members, load: Load) -> None:
        self._skill = spec.skill
        self._members = members
        self._load = load

    async def assign(self, task_id: str) -> Assignment:
        able = _able(self._skill, self._members)
        if isinstance(able, Refused):
            return able
        load = await self._load(able)
        return To(min(able, key=lambda agent: (load[agent], agent)))


class ContractNet:
    """Every agent with the skill is asked for a bid; the task's agent gives it to the best."""

    def __init__(self, spec: TaskSpec, members: Members) -> None:
        self._skill = spec.skill
        self._within_s = spec.bid_deadline_s
        self._members = members

    async def assign(self, task_id: str) -> Assignment:
        able = _able(self._skill, self._members)
        return able if isinstance(able, Refused) else Call(tuple(able), self._within_s)


def make_policy(name: str, spec: TaskSpec, members: Members, load: Load) -> Policy:
    """The policy of that name, one of storage.tasks.POLICIES."""
    match name:
        case "direct":
            return Direct(spec)
        case "least_loaded":
            return LeastLoaded(spec, members, load)
        case "contract_net":
            return ContractNet(spec, members)
    raise ValueError(f"there is no policy {name!r}")


def _able(skill: str | None, members: Members) -> list[str] | Refused:
    if skill is None:
        return Refused("domain.yaml names no `tasks.skill` for this policy.")
    able = sorted(members(skill))
    return able or Refused(f"No agent has the skill {skill!r}: list `members` of a kind that has it.")

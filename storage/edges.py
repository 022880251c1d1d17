"""Who waits for whom: the committed asks of open turns."""

from __future__ import annotations

import msgspec

Agent = tuple[str, str, str]  # domain, tenant, kind/key


class Gate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A `gather` around an ask that needs only some of its branches; `branch` is the ask's among them."""

    place: str
    needed: int
    branches: int
    branch: int


def holder_gate(promise: str, task: str, holders: int, holder: int) -> Gate:
    """Around a wait for a task: any one of those by whose turns the task goes on may end it."""
    return Gate(f"{_of_task(promise)}{task}", 1, holders, holder)


def _of_task(promise: str) -> str:
    return f"task {promise} "


class WaitEdge(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One ask that an open turn waits for. `made_at` is in microseconds since 1970, by Postgres' clock.

    A wait for a task is an ask of its parent's leader, and an edge to each agent by whose turns the task goes on.
    """

    id: str
    asker: Agent
    asked: Agent
    made_at: int
    gates: tuple[Gate, ...] = ()
    """The gathers around it that may do without it, the outermost first."""

    @property
    def age(self) -> tuple[int, str, Agent]:
        """The order in which asks are made; those of one promise to one agent are equal."""
        return self.made_at, self.id, self.asked

    @property
    def of_one_holder(self) -> WaitEdge:
        """The same if only this one were left of those by whose turns a task goes on."""
        gates = tuple(gate for gate in self.gates if not gate.place.startswith(_of_task(self.id)))
        return self if len(gates) == len(self.gates) else msgspec.structs.replace(self, gates=gates)


class Refusal(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of an ask that was to be refused: the agents that have mail of it, with their partitions.

    `gone` are the asks of the cycle that nobody waits for any more: then nothing was refused. One of them that `moves`
    waits for a task of which others may still go on, and may be of the cycle when they have.
    """

    mail: tuple[tuple[str, int, str, str], ...] = ()  # domain, partition, tenant, kind/key
    gone: frozenset[str] = frozenset()
    moves: bool = False


PromisePlace = tuple[str, str]
"""Tenant and id: the order in which a domain's promises are read."""
FIRST_PLACE: PromisePlace = ("", "00000000-0000-0000-0000-000000000000")  # before all of them


class ChainedAsks(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a page of a domain's promises says: the agents (tenant, `kind/key`) that wait for one which itself waits for
    another or for a task, and the page's last promise; None when there are no more."""

    agents: tuple[tuple[str, str], ...] = ()
    last: PromisePlace | None = None

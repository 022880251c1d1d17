"""The agents that a host has in memory, and the reading of their states."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Protocol

from actors.activation import Activation
from actors.agent import Agent, agent_type
from actors.scope import Scope
from bus.errors import StorageUnavailable
from storage.records import StoredState

_logger = logging.getLogger("callboard.roster")

LOAD_STATES = 500  # states read in one query
_RETRY_S = 0.2


class _UnknownKindAgent(Agent):
    """Stands in for a kind that the domain does not have: all its messages become dead letters."""

    kind = "unknown"


class StateReader(Protocol):
    async def load_states(
        self, domain: str, agents: Sequence[tuple[str, str]]
    ) -> tuple[list[StoredState], int]: ...


class Roster:
    """Every agent that has messages or state in memory, by (tenant, agent). The one not used for longest is first."""

    def __init__(self, scope: Scope, store: StateReader, on_loaded: Callable[[Activation], None]) -> None:
        self._scope = scope
        self._store = store
        self._on_loaded = on_loaded
        self._unknown = agent_type(_UnknownKindAgent)
        self._activations: OrderedDict[tuple[str, str], Activation] = OrderedDict()
        self._to_load: deque[Activation] = deque()
        self._load_wanted = asyncio.Event()
        self._is_loaded = True
        self._page_read = asyncio.Event()  # of the page that is read next

    def __len__(self) -> int:
        return len(self._activations)

    @property
    def is_loaded(self) -> bool:
        """Whether every agent in memory has its committed state."""
        return self._is_loaded

    async def loaded(self, activations: Iterable[Activation]) -> None:
        """Wait until each of these has its committed state, or is gone; not for those that come into memory meanwhile, of
        which there may be no end."""
        waiting = list(activations)
        while waiting := [a for a in waiting if a.alive and not a.loaded]:
            await self._page_read.wait()

    def find(self, key: tuple[str, str]) -> Activation | None:
        return self._activations.get(key)

    def in_partitions(self, partitions: Container[int]) -> list[Activation]:
        return [a for a in self._activations.values() if a.partition in partitions]

    def activation(self, tenant: str, agent: str, partition: int, *, first: bool = False) -> Activation:
        """The agent in memory; its state is read in its turn, or before those that wait for theirs."""
        activation = self._activations.get((tenant, agent))
        if activation is None:
            kind = self._scope.kinds.get(agent.partition("/")[0], self._unknown)
            activation = Activation(tenant, agent, partition, kind)
            activation.used_at = self._scope.clock.now()
            self._activations[(tenant, agent)] = activation
            if first:
                self._to_load.appendleft(activation)
            else:
                self._to_load.append(activation)
            self._load_wanted.set()
            self._is_loaded = False
        return activation

    def touch(self, activation: Activation) -> None:
        activation.used_at = self._scope.clock.now()
        self._activations.move_to_end(activation.key)

    def remove(self, activation: Activation) -> None:
        """The agent leaves memory."""
        activation.alive = False
        if self._activations.get(activation.key) is activation:
            del self._activations[activation.key]

    def evict_idle(self, *, older_than: float) -> list[Activation]:
        """Remove idle agents: all not used since `older_than`, and the oldest above the limit."""
        evicted: list[Activation] = []
        excess = len(self._activations) - self._scope.limits.activations
        for activation in self._activations.values():
            if activation.used_at >= older_than and len(evicted) >= excess:
                break
            if activation.is_idle:
                evicted.append(activation)
        for activation in evicted:
            self.remove(activation)
        return evicted

    async def load_states(self) -> None:
        """Runs for ever: reads the states of agents that came into memory, many in one query."""
        while True:
            await self._load_wanted.wait()
            page = [self._to_load.popleft() for _ in range(min(LOAD_STATES, len(self._to_load)))]
            wanted = [activation for activation in page if activation.alive]
            if not self._to_load:
                self._load_wanted.clear()
            try:
                stored, looked = (
                    await self._store.load_states(self._scope.domain, [a.key for a in wanted])
                    if wanted
                    else ([], 0)
                )
            except StorageUnavailable as error:
                _logger.warning("states cannot be read yet: %s", error.message)
                self._to_load.extendleft(reversed(wanted))
                self._load_wanted.set()
                await asyncio.sleep(_RETRY_S)
                continue
            if looked < len(wanted):  # their states are too large for one page
                self._to_load.extendleft(reversed(wanted[looked:]))
                self._load_wanted.set()
            found = {(s.tenant, s.agent): s for s in stored}
            for activation in wanted[:looked]:
                if activation.alive:
                    activation.restore(found.get(activation.key))
                    self._on_loaded(activation)
            self._is_loaded = not self._to_load
            self._page_read.set()
            self._page_read = asyncio.Event()

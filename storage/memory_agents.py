"""Agents in memory, for tests: their states, their histories, and their dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bus.errors import StaleTurn
from storage.chain import Transition
from storage.memory_rows import DeadLetterRow
from storage.records import GENESIS, StoredState, TurnRecord

AgentKey = tuple[str, str, str]  # domain, tenant, agent


class MemoryAgents:
    """The tables `agents`, `transitions` and `dead_letters` of all domains. `turn_of` says what an agent's open turn does."""

    def __init__(self, turn_of: Callable[[str, str, str], str | None]) -> None:
        self.states: dict[AgentKey, StoredState] = {}
        self.transitions: dict[AgentKey, list[Transition]] = {}
        self.dead_letters: dict[tuple[str, int], DeadLetterRow] = {}  # by tenant and number
        self._turn_of = turn_of
        self._dead = 0

    def check(self, domain: str, turns: Sequence[TurnRecord]) -> None:
        """Raise StaleTurn for a turn that another one has come before, or that takes back what is gone."""
        versions: dict[tuple[str, str], int] = {}
        for turn in turns:
            before = versions.setdefault((turn.tenant, turn.agent), self._version(domain, turn))
            if turn.version != before + 1:
                raise StaleTurn(f"{turn.agent} is at version {before}, not {turn.version - 1}.")
            versions[(turn.tenant, turn.agent)] = turn.version
        undead = [(t.tenant, number) for t in turns for number in t.undead]
        if len(set(undead)) < len(undead) or not self.dead_letters.keys() >= set(undead):
            raise StaleTurn("A dead letter to be taken back is gone.")

    def apply(self, domain: str, turns: Sequence[TurnRecord]) -> None:
        for turn in turns:
            key = (domain, turn.tenant, turn.agent)
            self.states[key] = StoredState(
                tenant=turn.tenant, agent=turn.agent, version=turn.version, state=turn.state,
                schema_version=turn.schema_version, lifecycle=turn.lifecycle, hash=turn.hash,
            )  # fmt: skip
            self.transitions.setdefault(key, []).append(
                Transition(version=turn.version, body=turn.body, prev=turn.prev, hash=turn.hash)
            )
            if turn.dead is not None:
                self.bury(
                    tenant=turn.tenant, partition=turn.partition, agent=turn.agent,
                    message_id=turn.message_id, reason=turn.dead.reason, error=turn.dead.error,
                    failures=turn.dead.failures, header_json=turn.header_json, payload=turn.payload,
                    frames=turn.dead.frames,
                )  # fmt: skip
            for number in turn.undead:
                del self.dead_letters[(turn.tenant, number)]

    def bury(self, *, tenant: str, **fields: Any) -> None:
        self._dead += 1
        self.dead_letters[(tenant, self._dead)] = DeadLetterRow(id=self._dead, tenant=tenant, **fields)

    def has_committed(self, domain: str, turn: TurnRecord) -> bool:
        history = self.transitions.get((domain, turn.tenant, turn.agent), [])
        return any(t.version == turn.version and t.hash == turn.hash for t in history)

    def is_paused(self, domain: str, tenant: str, agent: str) -> bool:
        stored = self.states.get((domain, tenant, agent))
        return stored is not None and stored.lifecycle == "paused"

    def load(
        self, domain: str, agents: Sequence[tuple[str, str]], page_bytes: int
    ) -> tuple[list[StoredState], int]:
        found: list[StoredState] = []
        room = page_bytes
        for looked, (tenant, agent) in enumerate(agents):
            if room <= 0:
                return found, looked
            stored = self.states.get((domain, tenant, agent))
            turn = self._turn_of(domain, tenant, agent)
            if stored is None and turn is not None:
                stored = StoredState(
                    tenant=tenant, agent=agent, version=0, schema_version=0, lifecycle="created", state=None,
                    hash=GENESIS,
                )  # fmt: skip
            if stored is not None:
                found.append(msgspec.structs.replace(stored, turn=turn))
                room -= len((stored.state or "").encode())
        return found, len(agents)

    def _version(self, domain: str, turn: TurnRecord) -> int:
        stored = self.states.get((domain, turn.tenant, turn.agent))
        return 0 if stored is None else stored.version

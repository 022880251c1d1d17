"""The reading of states: whoever waits for some of them waits for no others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from actors.activation import Activation
from actors.roster import Roster
from bus.errors import StorageUnavailable
from callboard.testing import TestKit
from storage.memory import MemoryStore
from storage.records import PAGE_BYTES, StoredState
from tests.unit.agents import Keeper


class _BusyStore(MemoryStore):
    """With each page that it reads, one agent more comes into memory."""

    def __init__(self) -> None:
        super().__init__()
        self.roster: Roster
        self.reads = 0

    async def load_states(
        self, domain: str, agents: Sequence[tuple[str, str]], *, page_bytes: int = PAGE_BYTES
    ) -> tuple[list[StoredState], int]:
        self.reads += 1
        self.roster.activation("default", f"keeper/new-{self.reads}", 1)
        await asyncio.sleep(0)
        if self.reads == 1:
            raise StorageUnavailable("away")
        return await super().load_states(domain, agents)


async def test_the_states_of_some_agents_are_waited_for_however_many_others_keep_coming(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actors.roster._RETRY_S", 0.0)
    async with TestKit([Keeper]) as kit:
        scope = kit._scope
    store = _BusyStore()
    loaded: list[Activation] = []
    store.roster = roster = Roster(scope, store, loaded.append)
    agents = [roster.activation("default", f"keeper/{number}", 0) for number in range(3)]
    reading = asyncio.create_task(roster.load_states())
    roster.remove(agents[2])
    async with asyncio.timeout(5):
        await roster.loaded(agents)
    reading.cancel()
    assert loaded[:2] == agents[:2]
    assert not roster.is_loaded

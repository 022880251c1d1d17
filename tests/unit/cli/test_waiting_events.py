"""How often the stream is asked how many events wait."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from callboard.cli import waiting_events
from callboard.cli.waiting_events import WaitingEvents


async def test_a_count_is_kept_for_a_while_and_made_anew_where_it_must_be_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = [7, 5, 3]

    async def counted(self: WaitingEvents, domain: str) -> int:
        return left.pop(0)

    monkeypatch.setattr(WaitingEvents, "_count", counted)
    nowhere: Any = SimpleNamespace(client=SimpleNamespace(jetstream=lambda timeout: None))
    waiting = WaitingEvents(nowhere, nowhere)
    monkeypatch.setattr(waiting_events, "_LOOK_EVERY_S", 1e9)
    assert [await waiting("desk"), await waiting("desk")] == [7, 7]
    assert await waiting("desk", now=True) == 5
    assert await waiting("desk") == 5
    monkeypatch.setattr(waiting_events, "_LOOK_EVERY_S", 0.0)
    assert await waiting("desk") == 3

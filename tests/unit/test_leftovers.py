"""A host whose epoch has ended and whose process does not go away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bus.transport import LoopbackTransport
from coordinators import domain
from coordinators.domain import DomainCoordinator


class Frozen:
    """Implements coordinators.launcher.HostProcess: to kill it takes a while."""

    kills = 0

    async def ended(self) -> None:
        await asyncio.Event().wait()

    async def kill(self) -> None:
        self.kills += 1


async def test_a_frozen_host_that_is_killed_is_not_taken_for_one_that_comes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(domain, "KILL_AFTER_S", 0.0)
    none: Any = None
    coordinator = DomainCoordinator(none, LoopbackTransport(), none, "shop", 1)
    process = Frozen()
    started = coordinator._watch("shop-1", process, "code", ours=True)
    started.started -= 3600.0
    started.ready = True
    coordinator._ended["shop-1"] = started.started
    await coordinator._kill_leftovers()
    assert process.kills == 1
    caplog.clear()
    assert coordinator._coming(set()) == 0
    assert caplog.messages == []
    assert started.watch is not None
    started.watch.cancel()

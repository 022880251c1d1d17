"""A host whose epoch has ended and whose process does not go away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinators import processes
from coordinators.processes import Processes


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
    monkeypatch.setattr(processes, "KILL_AFTER_S", 0.0)
    none: Any = None
    kept = Processes(none, "shop", lambda: None)
    process = Frozen()
    started = kept.watch("shop-1", process, "code", ours=True)
    started.started -= 3600.0
    started.ready = True
    kept.leaves("shop-1")
    await kept.kill_leftovers()
    assert process.kills == 1
    caplog.clear()
    assert kept.coming(set()) == {}
    assert caplog.messages == []
    kept.close()

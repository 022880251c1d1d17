"""The daily upkeep comes once a day, and again within minutes when something was in the way."""

from __future__ import annotations

import pytest

from bus.errors import StorageUnavailable
from coordinators import upkeep as module
from coordinators.upkeep import EVERY_S, TRY_AGAIN_S, Upkeep


class Retaining:
    """Stands in for retention; it fails as it is told."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.times = 0

    async def __call__(self, url: str, *, months: int | None) -> str:
        self.times += 1
        if self.failures:
            raise self.failures.pop()
        return "all is well"


@pytest.mark.parametrize("failure", [StorageUnavailable("Postgres is away."), RuntimeError("a bug")])
async def test_upkeep_that_failed_is_tried_again_within_minutes_and_else_a_day_later(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    retaining, now = Retaining(), 0.0
    retaining.failures.append(failure)
    monkeypatch.setattr(module, "retain", retaining)
    upkeep = Upkeep("postgresql://nowhere", clock=lambda: now)

    async def times_at(moment: float) -> int:
        nonlocal now
        now = moment
        await upkeep()
        if upkeep._task is not None:
            await upkeep._task
        return retaining.times

    assert await times_at(0.0) == 1
    assert await times_at(TRY_AGAIN_S - 1) == 1
    assert await times_at(TRY_AGAIN_S) == 2
    assert await times_at(TRY_AGAIN_S * 2) == 2
    assert await times_at(TRY_AGAIN_S + EVERY_S) == 3

"""How often the master looks whether a domain that is asleep has something to do."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from coordinators import master


@pytest.mark.parametrize(("takes_s", "every_s"), [(0.01, 1.0), (2.0, 40.0)])
async def test_where_much_waits_it_is_read_a_small_part_of_the_time(
    monkeypatch: pytest.MonkeyPatch, takes_s: float, every_s: float
) -> None:
    now, looks = 0.0, []

    async def look(pool: object, domain: str) -> None:
        nonlocal now
        looks.append(now)
        now += takes_s

    monkeypatch.setattr(master, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(master, "wake_if_due", look)
    nothing: Any = None
    leads = master.Master(nothing, 1, nothing)
    while now < 100.0:
        assert not await leads._wakes("shop")
        now += 0.5
    assert [later - earlier for earlier, later in pairwise(looks)] == pytest.approx(
        [every_s] * (len(looks) - 1), abs=0.6
    )
    assert len(looks) >= 100.0 // (every_s + 0.6)

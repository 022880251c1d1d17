from __future__ import annotations

import time

import pytest

from actors.scope import Clock

HOURS_S = 5 * 3600.0


@pytest.mark.parametrize("jump_s", [HOURS_S, -HOURS_S])
def test_a_jump_of_the_machines_time_of_day_moves_nothing_that_waits(
    monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    clock = Clock()
    clock.correct(1_000.0)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    assert clock.now() == pytest.approx(1_000.0, abs=1.0)


def test_until_postgres_is_heard_the_machines_time_of_day_counts() -> None:
    assert Clock().now() == pytest.approx(time.time(), abs=1.0)

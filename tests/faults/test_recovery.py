"""A dead host's work is done elsewhere soon. The figures that are published come from `recovery.py` itself.

How soon the rate is back depends on what else the machine does: it is measured there and not asserted here.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from callboard.services import Services
from tests.faults.chaos_run import seed_of
from tests.faults.chronicle import Chronicle
from tests.faults.recovery import measure, plain_hosts


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("how", "first_s"), [(signal.SIGKILL, 2.0), (signal.SIGSTOP, 4.0)])
async def test_a_dead_hosts_work_is_done_elsewhere_soon(
    own_services: Services, tmp_path: Path, chronicle: Chronicle, how: signal.Signals, first_s: float
) -> None:
    chronicle.seed = seed_of(1)
    async with plain_hosts(own_services, tmp_path / "run", 1_000) as cluster:
        seen = await measure(cluster, kills=5, chains=1_000, how=how, seed=chronicle.seed)
    chronicle.figures = (
        f"{how.name}, p95 of {seen['kills']}: handled elsewhere after {seen['first_p95_s']} s, all that waited "
        f"after {seen['waited_p95_s']} s, rate back after {seen['rate_p95_s']} s"
    )
    assert seen["lost"] == 0
    assert seen["first_p95_s"] <= first_s
    assert seen["waited_p95_s"] <= 5.0

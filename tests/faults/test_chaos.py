"""Random programs under every fault: the end is what the model says, each message handled once and in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from callboard.services import Services
from tests.faults import faults, moves, outages, points, processes
from tests.faults.chaos_run import Fault, chaos_run, seed_of
from tests.faults.chronicle import Chronicle

# One of each kind: a death outside and inside a commit, a zombie, a coordinator, a move, a wait, the services.
SHORT = (
    processes.kill_host,
    points.kill_after_commit,
    points.stop_before_commit,
    points.kill_in_takeover,
    points.kill_when_put_away,
    moves.hand_back_and_forth,
    outages.crash_postgres,
    outages.drop_deliveries,
)


def _shuffled(chosen: Sequence[Fault], seed: int) -> list[Fault]:
    return Random(seed).sample(chosen, len(chosen))


@pytest.mark.timeout(600)
async def test_a_fault_of_each_kind_while_a_random_program_runs(
    own_services: Services, tmp_path: Path, chronicle: Chronicle
) -> None:
    seed = seed_of(0)
    outcome = await chaos_run(
        own_services,
        tmp_path / "run",
        _shuffled(SHORT, seed),
        seed=seed,
        chronicle=chronicle,
        turns_between=(100, 300),
    )
    assert not outcome.complaints, outcome.report(seed)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("which", [0, 1])
async def test_every_fault_once_while_a_random_program_runs(
    own_services: Services, tmp_path: Path, chronicle: Chronicle, which: int
) -> None:
    """Every fault stands in exactly one half."""
    seed = seed_of(which)
    outcome = await chaos_run(
        own_services, tmp_path / "run", _shuffled(faults.ALL[which::2], seed), seed=seed, chronicle=chronicle
    )
    assert not outcome.complaints, outcome.report(seed)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(100, 112))
async def test_any_faults_in_any_order(
    own_services: Services, tmp_path: Path, chronicle: Chronicle, seed: int
) -> None:
    seed = seed_of(seed)
    chosen = Random(seed).choices(faults.ALL, k=30)
    outcome = await chaos_run(
        own_services, tmp_path / "run", chosen, seed=seed, chronicle=chronicle, hosts=2 + seed % 2, agents=400
    )
    assert not outcome.complaints, outcome.report(seed)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(faults.BY_NAME))
async def test_one_fault_again_and_again(
    own_services: Services, tmp_path: Path, chronicle: Chronicle, name: str
) -> None:
    seed = seed_of(sum(name.encode()))
    outcome = await chaos_run(
        own_services, tmp_path / "run", [faults.BY_NAME[name]] * 8, seed=seed, chronicle=chronicle, agents=60
    )
    assert not outcome.complaints, outcome.report(seed)

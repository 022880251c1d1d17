"""The harness can fail: with a fault planted into the product it finds what that fault does wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from callboard.services import Services
from tests.faults import moves, outages, points, processes
from tests.faults.chaos_run import Fault, chaos_run, hunt, seed_of
from tests.faults.chronicle import Chronicle

WITHIN_S = 120.0
DISORDER = "out of order|left out"  # what comes too late is missing until it comes


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("planted", "hosts", "chosen", "sign"),
    [
        ("fence_off", 1, [points.stop_before_commit], "that it did not own"),
        ("deduplication_off", 2, [], "twice"),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in [
                ("publish_before_commit", 2, [], DISORDER),
                ("no_reload", 2, [outages.drop_deliveries], DISORDER),
                ("no_reload_after_a_hand_over", 2, [moves.hand_back_and_forth], DISORDER),
                ("order_of_arrival", 2, [], DISORDER),
                ("cursor_runs_ahead", 2, [], "left out"),
                ("assigned_twice", 1, [], r"was assigned \d+ times"),
                ("wake_ups_stay", 2, [], "its wake-up lies in the mailbox"),
                ("settled_again", 2, [], "was settled 2 times"),
                ("sent_again", 2, [], "twice"),
                ("steps_computed_again", 2, [], "computed again|has step .* twice"),
                ("wall_clock", 2, [processes.jump_clocks], "and is due at"),
                ("flushed_again", 2, [], "has . entries"),
            ]
        ),
    ],
)
async def test_a_planted_fault_turns_the_harness_red(
    own_services: Services, tmp_path: Path, planted: str, hosts: int, chosen: list[Fault], sign: str
) -> None:
    found = await hunt(
        own_services, tmp_path / "run", chosen, seed=seed_of(1), hosts=hosts, agents=30, planted=planted,
        within_s=WITHIN_S,
    )  # fmt: skip
    assert any(re.search(sign, complaint) for complaint in found), found


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_what_a_second_run_of_a_turn_flushes_is_refused_and_nothing_goes_wrong(
    own_services: Services, tmp_path: Path
) -> None:
    found = await hunt(
        own_services, tmp_path / "run", [], seed=seed_of(1), hosts=2, agents=30, planted="flushed_in_vain",
        within_s=20.0,
    )  # fmt: skip
    assert found == []


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("planted", "sign"),
    [("undone_never", "was done and not undone"), ("decided_again", "could be decided again")],
)
async def test_a_fault_in_what_voyages_do_turns_them_red(
    own_services: Services, tmp_path: Path, planted: str, sign: str
) -> None:
    outcome = await chaos_run(
        own_services, tmp_path / "run", [], seed=seed_of(1), chronicle=Chronicle(), agents=30, planted=(planted,)
    )  # fmt: skip
    assert any(re.search(sign, complaint) for complaint in outcome.complaints), outcome.complaints

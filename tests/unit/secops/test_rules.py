"""Verdicts and severities at their thresholds, alone and among neighbours."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from secops.rules import judge
from secops.sweep import Suspect, Sweep, find_sweep, find_sweeps
from secops.thresholds import Thresholds
from secops.verdict import Severity, Verdict
from secops.watch import Login, Watch

LIMITS = Thresholds()
START = datetime(2024, 1, 1, tzinfo=UTC)


def watch(
    failures: int = 0, users: int = 1, peak: int = 0, source: str = "192.0.2.1", began_h: float = 0
) -> Watch:
    named = {f"u{number}": failures // users for number in range(users)} if failures else {}
    return Watch(
        source=source,
        failures=failures,
        users=named,
        peak=peak,
        first_at=START + timedelta(hours=began_h),
    )


def login(failures: int, users: int, method: str = "password") -> Login:
    return Login(line=9, at=None, user="a", method=method, failures_before=failures, users_before=users)


@pytest.mark.parametrize(
    ("each", "verdict", "severity"),
    [
        (watch(), Verdict.CLEAN, Severity.LOW),
        (watch(1, peak=1), Verdict.NOISE, Severity.LOW),
        (watch(9, peak=4), Verdict.NOISE, Severity.LOW),
        (watch(5, peak=5), Verdict.BRUTE_FORCE, Severity.MEDIUM),
        (watch(10, peak=1), Verdict.BRUTE_FORCE, Severity.MEDIUM),
        (watch(50, peak=5), Verdict.BRUTE_FORCE, Severity.HIGH),
        (watch(4, users=4, peak=4), Verdict.NOISE, Severity.LOW),
        (watch(5, users=5, peak=5), Verdict.ENUMERATION, Severity.MEDIUM),
        (watch(15, users=5, peak=5), Verdict.ENUMERATION, Severity.MEDIUM),
        (watch(20, users=5, peak=5), Verdict.BRUTE_FORCE, Severity.MEDIUM),
        (watch(20, users=20, peak=5), Verdict.ENUMERATION, Severity.HIGH),
    ],
)
def test_thresholds_decide_where_they_stand(each: Watch, verdict: Verdict, severity: Severity) -> None:
    judgement = judge(each, LIMITS)
    assert (judgement.verdict, judgement.severity) == (verdict, severity)


@pytest.mark.parametrize(
    ("logins", "expected"),
    [
        ([login(4, 2)], (Verdict.NOISE, Severity.LOW)),
        ([login(5, 1)], (Verdict.COMPROMISED, Severity.CRITICAL)),
        ([login(3, 3)], (Verdict.COMPROMISED, Severity.CRITICAL)),
        ([login(5, 1, "keyboard-interactive/pam")], (Verdict.COMPROMISED, Severity.CRITICAL)),
        ([login(5, 1, "publickey")], (Verdict.COMPROMISED, Severity.HIGH)),
        ([login(5, 1, "publickey"), login(5, 1)], (Verdict.COMPROMISED, Severity.CRITICAL)),
        ([login(0, 0)], (Verdict.NOISE, Severity.LOW)),
    ],
)
def test_a_login_after_failures_is_a_compromise(
    logins: list[Login], expected: tuple[Verdict, Severity]
) -> None:
    judgement = judge(watch(4).model_copy(update={"logins": tuple(logins)}), LIMITS)
    assert (judgement.verdict, judgement.severity) == expected


def sweep_of(watches: list[Watch]) -> Sweep | None:
    return find_sweep("192.0.2.0/24", [Suspect.of(each, LIMITS) for each in watches], LIMITS)


def sources(count: int, gap_h: float = 0.1) -> list[Watch]:
    return [watch(1, source=f"192.0.2.{number}", began_h=number * gap_h) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("count", "severity"), [(3, Severity.LOW), (5, Severity.MEDIUM), (16, Severity.HIGH)]
)
def test_quiet_neighbours_make_a_sweep(count: int, severity: Severity) -> None:
    sweep = sweep_of(sources(count))
    assert sweep is not None
    assert (len(sweep.members), sweep.failures, sweep.judgement.severity) == (count, count, severity)


def test_two_neighbours_are_no_sweep() -> None:
    assert sweep_of(sources(2)) is None


def test_neighbours_far_apart_in_time_are_no_sweep() -> None:
    assert sweep_of(sources(9, gap_h=3.5)) is None
    late = [*sources(3), watch(1, source="192.0.2.99", began_h=50)]
    sweep = sweep_of(late)
    assert sweep is not None
    assert "192.0.2.99" not in sweep.members


def test_loud_and_clean_neighbours_are_not_counted() -> None:
    others = [watch(50, peak=50, source="192.0.2.50"), watch(source="192.0.2.51")]
    assert sweep_of([*sources(2), *others]) is None


def test_the_order_of_neighbours_does_not_matter() -> None:
    watches = [*sources(9, gap_h=1.7), *(watch(1, source=f"2001:db8::{n}") for n in range(1, 5))]
    shuffled = random.Random(1).sample(watches, len(watches))
    assert find_sweeps(watches, LIMITS) == find_sweeps(shuffled, LIMITS)
    assert [sweep.network for sweep in find_sweeps(watches, LIMITS)] == ["192.0.2.0/24", "2001:db8::/64"]


def test_host_names_and_other_networks_are_no_neighbours() -> None:
    watches = [watch(1, source=source) for source in ("a.example", "b.example", "c.example", "192.0.3.1")]
    assert find_sweeps([*watches, *sources(2)], LIMITS) == []

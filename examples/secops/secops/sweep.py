"""Sweeps: several addresses of one network, each failing too little to be noticed by itself."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from .address import network_of, sort_key
from .rules import Judgement, judge, plural
from .thresholds import Thresholds
from .verdict import Severity, Verdict
from .watch import Watch


class Sweep(BaseModel):
    """The members of one sweep and the judgement that each of them gets."""

    model_config = ConfigDict(frozen=True)

    network: str
    members: tuple[str, ...]
    failures: int
    judgement: Judgement


def find_sweep(network: str, watches: Iterable[Watch], limits: Thresholds) -> Sweep | None:
    """Return the sweep among the sources of one network, whatever their order; None if there is none.

    Members are sources that are `noise` by themselves. A source takes part when `sweep_addresses` of them,
    itself among them, began to fail within `sweep_period_s` of each other; sources without a time take part
    together. Louder neighbours keep their own verdict and are not counted.
    """
    quiet = sorted(
        (watch for watch in watches if judge(watch, limits).verdict is Verdict.NOISE),
        key=lambda watch: (_began(watch), sort_key(watch.source)),
    )
    members: dict[str, Watch] = {}
    start = 0
    for end, last in enumerate(quiet):
        while _began(last) - _began(quiet[start]) > limits.sweep_period_s:
            start += 1
        if end - start + 1 >= limits.sweep_addresses:
            members.update({watch.source: watch for watch in quiet[start : end + 1]})
    if not members:
        return None
    return _sweep(network, members, limits)


def find_sweeps(watches: Iterable[Watch], limits: Thresholds) -> list[Sweep]:
    """Return the sweeps among all sources, by network."""
    networks: dict[str, list[Watch]] = {}
    for watch in watches:
        network = network_of(watch.source)
        if network is not None:
            networks.setdefault(network, []).append(watch)
    found = (find_sweep(network, members, limits) for network, members in sorted(networks.items()))
    return [sweep for sweep in found if sweep is not None]


def _began(watch: Watch) -> float:
    return watch.first_at.timestamp() if watch.first_at else 0.0


def _sweep(network: str, members: dict[str, Watch], limits: Thresholds) -> Sweep:
    size = len(members)
    failures = sum(watch.failures for watch in members.values())
    severity = Severity.LOW
    if size >= limits.sweep_medium:
        severity = Severity.MEDIUM
    if size >= limits.sweep_high:
        severity = Severity.HIGH
    return Sweep(
        network=network,
        members=tuple(sorted(members, key=sort_key)),
        failures=failures,
        judgement=Judgement(
            verdict=Verdict.SWEEP,
            severity=severity,
            why=f"{size} addresses of {network} failed within the same "
            f"{plural(limits.sweep_period_s // 3600, 'hour')}: {plural(failures, 'failure')}, few for each.",
        ),
    )

"""Sweeps: several addresses of one network, each failing too little to be noticed by itself."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict

from .address import network_of, sort_key
from .rules import Judgement, judge, plural
from .thresholds import Thresholds
from .verdict import Severity, Verdict
from .watch import Watch


class Suspect(BaseModel):
    """What the judgement of a network needs of one source: what it is by itself, how much, and since when."""

    model_config = ConfigDict(frozen=True)

    source: str
    verdict: Verdict
    failures: int
    first_at: datetime | None = None

    @classmethod
    def of(cls, watch: Watch, limits: Thresholds) -> Self:
        verdict = judge(watch, limits).verdict
        return cls(source=watch.source, verdict=verdict, failures=watch.failures, first_at=watch.first_at)


class Sweep(BaseModel):
    """The members of one sweep and the judgement that each of them gets."""

    model_config = ConfigDict(frozen=True)

    network: str
    members: tuple[str, ...]
    failures: int
    judgement: Judgement


def find_sweep(network: str, suspects: Iterable[Suspect], limits: Thresholds) -> Sweep | None:
    """Return the sweep among the sources of one network, whatever their order; None if there is none.

    Members are sources that are `noise` by themselves. A source takes part when `sweep_addresses` of them,
    itself among them, began to fail within `sweep_period_s` of each other; sources without a time take part
    together. Louder neighbours keep their own verdict and are not counted.
    """
    quiet = sorted(
        (suspect for suspect in suspects if suspect.verdict is Verdict.NOISE),
        key=lambda suspect: (_began(suspect), sort_key(suspect.source)),
    )
    members: dict[str, Suspect] = {}
    start = 0
    for end, last in enumerate(quiet):
        while _began(last) - _began(quiet[start]) > limits.sweep_period_s:
            start += 1
        if end - start + 1 >= limits.sweep_addresses:
            members.update({suspect.source: suspect for suspect in quiet[start : end + 1]})
    if not members:
        return None
    return _sweep(network, members, limits)


def find_sweeps(watches: Iterable[Watch], limits: Thresholds) -> list[Sweep]:
    """Return the sweeps among all sources, by network."""
    networks: dict[str, list[Suspect]] = {}
    for watch in watches:
        network = network_of(watch.source)
        if network is not None:
            networks.setdefault(network, []).append(Suspect.of(watch, limits))
    found = (find_sweep(network, members, limits) for network, members in sorted(networks.items()))
    return [sweep for sweep in found if sweep is not None]


def _began(suspect: Suspect) -> float:
    return suspect.first_at.timestamp() if suspect.first_at else 0.0


def _sweep(network: str, members: dict[str, Suspect], limits: Thresholds) -> Sweep:
    size = len(members)
    failures = sum(suspect.failures for suspect in members.values())
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

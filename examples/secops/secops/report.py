"""The incident report: one JSON document for machines; `markdown.render` makes the page for people."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from .address import sort_key
from .finding import Finding
from .verdict import Severity, Verdict


class Period(BaseModel):
    """The first and last time in the log, in UTC; without `has_year` the year is nominal."""

    model_config = ConfigDict(frozen=True)

    first: datetime | None = None
    last: datetime | None = None
    has_year: bool = True


class LineCounts(BaseModel):
    """Lines of the log, of those the ones sshd wrote, and what these told.

    `unattributed` are lines that tell of a failure, but not for certain of whom.
    """

    model_config = ConfigDict(frozen=True)

    total: int = 0
    sshd: int = 0
    failures: int = 0
    accepted: int = 0
    unattributed: int = 0


class LogFacts(BaseModel):
    """What is known of the log as a whole once its last line has been read."""

    model_config = ConfigDict(frozen=True)

    name: str
    digest: str
    lines: LineCounts
    period: Period


class IncidentReport(BaseModel):
    """Two reports on the same log differ in `id` and `generated_at` only."""

    model_config = ConfigDict(frozen=True)

    id: str
    generated_at: datetime
    log: LogFacts
    highest: Severity
    failures: int
    verdicts: dict[Verdict, int]
    addresses: tuple[Finding, ...]


def build_report(
    facts: LogFacts, findings: Iterable[Finding], *, report_id: str, generated_at: datetime
) -> IncidentReport:
    """Aggregate findings, whatever their order, the gravest first."""
    ordered = sorted(
        findings,
        key=lambda each: (
            -each.severity.rank,
            list(Verdict).index(each.verdict),
            -each.failures,
            sort_key(each.address),
        ),
    )
    return IncidentReport(
        id=report_id,
        generated_at=generated_at,
        log=facts,
        highest=max((each.severity for each in ordered), key=lambda each: each.rank, default=Severity.LOW),
        failures=sum(each.failures for each in ordered),
        verdicts={verdict: sum(each.verdict is verdict for each in ordered) for verdict in Verdict},
        addresses=tuple(ordered),
    )

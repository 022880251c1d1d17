"""The incident report: one JSON document for machines; `markdown.render` makes the page for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import accumulate

from pydantic import BaseModel, ConfigDict

from .address import sort_key
from .finding import Finding
from .grouping import NOT_COMPARED, Group, Likeness, groups_of
from .policy import Action
from .response import Outcome, Response
from .verdict import Severity, Verdict

# A message carries 16 MiB, and the page made of the same findings takes as much again; about 8,000 of them.
MAX_LISTED_BYTES = 6 * 1024 * 1024


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
    """Two reports on the same log differ in `id`, `generated_at` and the responses only.

    `failures` and `verdicts` count every finding, `responses` what became of those that are listed. A finding that is no longer listed, because `addresses` is
    full, is among the least grave; `left_out` says of how many sources, at most, the report says nothing more.
    `groups` are sources that behaved alike; None when they were not compared, and then `groups_note` says why. It also
    says so when some were left out of the comparison, and is empty otherwise.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    generated_at: datetime
    log: LogFacts
    highest: Severity
    failures: int
    verdicts: dict[Verdict, int]
    responses: dict[Outcome, int]
    addresses: tuple[Finding, ...]
    left_out: int = 0
    groups: tuple[Group, ...] | None = None
    groups_note: str = ""


class Docket(BaseModel):
    """Findings on their way to a report: the gravest ones that fit into it, and exact figures about all.

    What it holds does not depend on the order in which findings are added.
    """

    findings: list[Finding] = []
    sizes: list[int] = []
    """Bytes of each finding's JSON."""
    failures: int = 0
    verdicts: dict[Verdict, int] = {}
    highest: Severity = Severity.LOW
    left_out: int = 0
    first_out: Finding | None = None
    """The gravest finding that had no room: none that is less grave may take it."""

    def add(self, findings: Iterable[Finding], *, limit: int = MAX_LISTED_BYTES) -> None:
        added = Docket()
        for each in findings:
            added.findings.append(each)
            added.sizes.append(len(each.model_dump_json().encode()))
            added.failures += each.failures
            added.verdicts[each.verdict] = added.verdicts.get(each.verdict, 0) + 1
            added.highest = max(added.highest, each.severity, key=lambda severity: severity.rank)
        self.merge(added, limit=limit)

    def merge(self, other: Docket, *, limit: int = MAX_LISTED_BYTES) -> None:
        kept = [*zip(self.findings, self.sizes, strict=True), *zip(other.findings, other.sizes, strict=True)]
        self.failures += other.failures
        for verdict, count in other.verdicts.items():
            self.verdicts[verdict] = self.verdicts.get(verdict, 0) + count
        self.highest = max(self.highest, other.highest, key=lambda severity: severity.rank)
        kept.sort(key=lambda entry: _gravity(entry[0]))
        # What is kept is a prefix of all there ever was: so the order of additions is no matter.
        out = [each for each in (self.first_out, other.first_out) if each is not None]
        fits = sum(1 for total in accumulate(size for _, size in kept) if total <= limit)
        out += [each for each, _ in kept[fits : fits + 1]]
        if out:
            self.first_out = min(out, key=_gravity)
            fits = sum(1 for each, _ in kept[:fits] if _gravity(each) < _gravity(self.first_out))
        self.left_out += other.left_out + len(kept) - fits
        self.findings = [each for each, _ in kept[:fits]]
        self.sizes = [size for _, size in kept[:fits]]

    def report(
        self,
        facts: LogFacts,
        *,
        report_id: str,
        generated_at: datetime,
        responses: Mapping[str, Response] = {},
        likeness: Likeness = NOT_COMPARED,
    ) -> IncidentReport:
        """Return the report, with what became of the proposals by address; the others are proposals still."""
        addresses = tuple(_responded(each, responses.get(each.address)) for each in self.findings)
        outcomes = Counter(each.response.outcome for each in addresses if each.response is not None)
        return IncidentReport(
            id=report_id,
            generated_at=generated_at,
            log=facts,
            highest=self.highest,
            failures=self.failures,
            verdicts={verdict: self.verdicts.get(verdict, 0) for verdict in Verdict},
            responses={outcome: outcomes[outcome] for outcome in Outcome},
            addresses=addresses,
            left_out=self.left_out,
            groups=groups_of(addresses, likeness),
            groups_note=likeness.note,
        )


def build_report(
    facts: LogFacts, findings: Iterable[Finding], *, report_id: str, generated_at: datetime
) -> IncidentReport:
    """Aggregate findings, whatever their order, the gravest first."""
    docket = Docket()
    docket.add(findings)
    return docket.report(facts, report_id=report_id, generated_at=generated_at)


def _responded(finding: Finding, response: Response | None) -> Finding:
    if finding.action == Action.NONE:
        return finding
    return finding.model_copy(update={"response": response or Response(outcome=Outcome.PROPOSED)})


def _gravity(finding: Finding) -> tuple[int, int, int, tuple[int, int, str]]:
    return (
        -finding.severity.rank,
        list(Verdict).index(finding.verdict),
        -finding.failures,
        sort_key(finding.address),
    )

"""The whole job in one process, without agents: what the agents' report is compared with."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from .finding import Finding, decide
from .lines import Log
from .policy import Policy
from .report import IncidentReport, build_report
from .rules import judge
from .survey import Survey
from .sweep import find_sweeps
from .thresholds import Thresholds
from .watch import Watch, observe


def findings_of(watches: Iterable[Watch], policy: Policy, limits: Thresholds) -> list[Finding]:
    """Judge every source, alone and among its neighbours, and propose an action for each."""
    everyone = list(watches)
    sweeps = {member: sweep for sweep in find_sweeps(everyone, limits) for member in sweep.members}
    findings = []
    for watch in everyone:
        sweep = sweeps.get(watch.source)
        judgement = sweep.judgement if sweep else judge(watch, limits)
        findings.append(decide(watch, judgement, policy, limits, sweep.network if sweep else None))
    return findings


def triage(
    log: Log, policy: Policy, *, report_id: str, generated_at: datetime, limits: Thresholds | None = None
) -> IncidentReport:
    """Read a log and return its incident report."""
    limits = limits or Thresholds()
    survey, watches = Survey(), dict[str, Watch]()
    for line in log:
        sighting = survey.read(line.number, line.text)
        if sighting is not None:
            watch = watches.get(sighting.source) or Watch(source=sighting.source)
            watches[sighting.source] = observe(watch, sighting, limits)
    return build_report(
        survey.facts(log.name, log.digest),
        findings_of(watches.values(), policy, limits),
        report_id=report_id,
        generated_at=generated_at,
    )

"""A finding: what one source did, what it means and what is proposed."""

from __future__ import annotations

import re
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from .policy import Action, Policy, Proposal
from .response import Response
from .rules import Judgement, suspicious_logins
from .thresholds import Thresholds
from .verdict import Severity, Verdict
from .watch import Login, Watch


class Finding(BaseModel):
    """One source's entry in the report.

    `users` in order of first try; `users_complete` is false when there were more than are remembered.
    `evidence` are line numbers, ascending: every line that tells of a failure, and for `compromised` the
    accepted logins; of many, the first and the last ones (`evidence_total` is how many there were).
    `logins` are the accepted logins that make a source `compromised`.
    `action` is `none`, `watch`, `escalate` or `block Nh`. `response` is what became of it: None for `none`, and until
    somebody has seen to it.
    """

    model_config = ConfigDict(frozen=True)

    address: str
    failures: int
    users: tuple[str, ...]
    users_complete: bool
    verdict: Verdict
    severity: Severity
    why: str
    evidence: tuple[int, ...]
    evidence_total: int
    action: str
    action_why: str
    accepted: int
    logins: tuple[Login, ...] = ()
    peak: int
    network: str | None = None
    first_at: datetime | None = None
    last_at: datetime | None = None
    response: Response | None = None

    @property
    def block_hours(self) -> int | None:
        """For how long a block is proposed; None for any other action."""
        found = re.fullmatch(rf"{Action.BLOCK} (\d+)h", self.action)
        return int(found[1]) if found else None


def finding_of(
    watch: Watch, judgement: Judgement, proposal: Proposal, limits: Thresholds, network: str | None = None
) -> Finding:
    """Put together what is known of one source; `network` names the sweep it took part in."""
    lines = set(watch.evidence.lines)
    total = watch.evidence.total
    logins: tuple[Login, ...] = ()
    if judgement.verdict is Verdict.COMPROMISED:
        logins = tuple(suspicious_logins(watch, limits))
        lines.update(login.line for login in logins)
        total += len(logins)
    return Finding(
        address=watch.source,
        failures=watch.failures,
        users=tuple(watch.users),
        users_complete=watch.unlisted == 0,
        verdict=judgement.verdict,
        severity=judgement.severity,
        why=judgement.why,
        evidence=tuple(sorted(lines)),
        evidence_total=total,
        action=proposal.text,
        action_why=proposal.why,
        accepted=watch.accepted,
        logins=logins,
        peak=watch.peak,
        network=network,
        first_at=watch.first_at,
        last_at=watch.last_at,
    )


def decide(
    watch: Watch, judgement: Judgement, policy: Policy, limits: Thresholds, network: str | None = None
) -> Finding:
    """Return the finding of one source with the policy's proposal."""
    proposal = policy.propose(watch.source, judgement.verdict, judgement.severity)
    return finding_of(watch, judgement, proposal, limits, network)

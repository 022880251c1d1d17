"""What the responder can do to the world."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from callboard import Happened, NotHappened, tool

from .blocklist import configured
from .errors import NotBlocked
from .nft import Entry
from .rulebook import POLICY
from .verdict import Severity, Verdict


class Receipt(BaseModel):
    """The block that is in force, and the file in which it stands."""

    model_config = ConfigDict(frozen=True)

    since: datetime
    until: datetime
    file: str


def needs_approval(address: str, hours: int, severity: Severity, verdict: Verdict, why: str) -> bool:
    """As the written policy says."""
    return POLICY.approval.is_needed(severity)


def was_blocked(
    address: str, hours: int, severity: Severity, verdict: Verdict, why: str
) -> Happened | NotHappened | None:
    """Look into the file: a call that was cut off has acted if the address stands there. Where its time is over, that may
    be of an earlier call, so a person decides."""
    found = configured().find(address)
    if found is None:
        return NotHappened()
    return Happened(_receipt(found)) if found.until > datetime.now(UTC) else None


def standing_block(address: str) -> Receipt | None:
    """The block of an address that is in force, whoever has asked for it; None where there is none or nobody can tell."""
    try:
        found = configured().find(address)
    except NotBlocked:
        return None
    return _receipt(found) if found is not None and found.until > datetime.now(UTC) else None


@tool(
    effect="at_most_once",
    timeout=30,
    requires_approval=needs_approval,
    approvers=POLICY.approval.approvers,
    approval_timeout=POLICY.approval.timeout_s,
    on_unknown=was_blocked,
)
def block_address(address: str, hours: int, severity: Severity, verdict: Verdict, why: str) -> Receipt:
    """Block a source address for some hours.

    The default adapter writes it into an nftables set in a file, and loads nothing. An address that is blocked already
    stays so until its time is over. One that the policy protects is never blocked, whoever has approved it.
    """
    if (reason := POLICY.protected(address)) is not None:
        raise NotBlocked(f"{address} is not blocked: {reason}.")
    return _receipt(configured().add(address, hours, f"{verdict} {severity}, {why}"))


def _receipt(found: Entry) -> Receipt:
    return Receipt(
        since=found.until - timedelta(hours=found.hours),
        until=found.until,
        file=str(configured().path),
    )

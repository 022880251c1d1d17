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
    """The block that is in force, and the file in which it stands.

    `earlier_until` is when an earlier block of the address was to end, if there was one: it was extended, unless it
    `stood`, because it ends later than this one would.
    """

    model_config = ConfigDict(frozen=True)

    since: datetime
    until: datetime
    file: str
    earlier_until: datetime | None = None
    stood: bool = False


def needs_approval(address: str, hours: int, severity: Severity, verdict: Verdict, why: str) -> bool:
    """As the written policy says."""
    return POLICY.approval.is_needed(severity)


def was_blocked(
    address: str, hours: int, severity: Severity, verdict: Verdict, why: str, idempotency_key: str
) -> Happened | NotHappened:
    """Look into the file: a call that was cut off has acted if the address stands there with the call's name. If another
    call's block stands in its place, to make this one after all changes nothing, or extends it."""
    found = configured().find(address)
    if found is None or not idempotency_key.endswith(found.call):
        return NotHappened()
    return Happened(_receipt(found))


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
def block_address(
    address: str, hours: int, severity: Severity, verdict: Verdict, why: str, idempotency_key: str
) -> Receipt:
    """Block a source address for some hours from now on.

    The default adapter writes it into an nftables set in a file, and loads nothing. A block that the address has already
    is extended; one that ends later stands. One that the policy protects is never blocked, whoever has approved it.
    """
    if (reason := POLICY.protected(address)) is not None:
        raise NotBlocked(f"{address} is not blocked: {reason}.")
    block = configured().add(address, hours, idempotency_key, f"{verdict} {severity}, {why}")
    earlier = None if block.before is None else block.before.until
    return _receipt(block.entry, earlier_until=earlier, stood=block.entry is block.before)


def _receipt(found: Entry, *, earlier_until: datetime | None = None, stood: bool = False) -> Receipt:
    return Receipt(
        since=found.until - timedelta(hours=found.hours), until=found.until, file=str(configured().path),
        earlier_until=earlier_until, stood=stood,
    )  # fmt: skip

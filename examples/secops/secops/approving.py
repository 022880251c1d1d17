"""What the written policy decides by itself: `callboard run --approve policy`."""

from __future__ import annotations

from callboard import Asked, Ruling

from .rulebook import POLICY, POLICY_NAME
from .tools import block_address


def decide(asked: Asked) -> Ruling | None:
    """Approve or refuse a block as the policy says, None where it leaves that to people."""
    if asked.action != f"call {block_address.name}":
        return None
    block = block_address.bind((), asked.details).values
    reason = POLICY.protected(block["address"])
    if reason is not None:
        return Ruling(approved=False, by=POLICY_NAME, comment=reason)
    allowed = POLICY.approval.by_policy
    if allowed is None or not allowed.covers(block["severity"], block["hours"]):
        return None
    return Ruling(
        approved=True,
        by=POLICY_NAME,
        comment=f"a block at {block['severity']} for at most {allowed.hours} hours",
    )

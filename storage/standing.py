"""What has become of a promise, and what stands in the way of somebody who would settle it."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from bus.errors import AlreadySettled, CallboardError, InvalidMessage, NotEntitled
from storage.journal import Kind

OUTSIDE = "external/"  # before a person's name
_DECISIONS = ("approved", "denied")
_LET_GO = "abandoned"  # by the turn that has made it: nobody has settled it
_WAYS = {
    Kind.APPROVAL: "`callboard approve` or `callboard deny` decides it.",
    Kind.OUTCOME: "`callboard ledger settle` says what has happened.",
    Kind.PROMISE: "`callboard promise resolve` resolves it.",
}


class _Asked(msgspec.Struct, frozen=True):
    digest: str = ""
    approvers: tuple[str, ...] = ()


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A promise as one who would settle it finds it. `details` and `value` are JSON text, times seconds since 1970."""

    address: str  # of its agent
    kind: str
    name: str
    status: str
    settled_by: str | None
    settled_at: float | None
    due_at: float | None
    is_due: bool
    may_approve: bool
    may_deny: bool
    details: str | None
    value: str | None

    def why_not(self, status: str, by: str, digest: str | None) -> CallboardError | None:
        """Why `by` cannot settle it so: AlreadySettled when somebody was first or the time is up, NotEntitled, or
        InvalidMessage for another kind of promise or another digest than that of what is to be approved."""
        asked = msgspec.json.decode(self.details or "{}", type=_Asked)
        what = f"{called(self.kind, self.name, asked.digest)} of {self.address}"
        if self.status != "pending":
            if self.status == _LET_GO:
                return AlreadySettled(
                    f"{what} was withdrawn at {moment_text(self.settled_at)}: its turn has ended, or has gone on without it.",
                    fix="Nothing was changed.", status=self.status, by=None, at=self.settled_at,
                )  # fmt: skip
            who = (self.settled_by or "nobody").removeprefix(OUTSIDE)
            how = "expired" if self.status == "expired" else f"was {self.status} by {who}"
            return AlreadySettled(
                f"{what} {how} at {moment_text(self.settled_at)}.",
                fix="Nothing was changed.", status=self.status, by=who, at=self.settled_at,
            )  # fmt: skip
        if self.is_due:
            return AlreadySettled(
                f"The time for {what} was up at {moment_text(self.due_at)}.",
                fix="Nothing was changed.", status="expired", by=None, at=self.due_at,
            )  # fmt: skip
        if (self.kind == Kind.APPROVAL) != (status in _DECISIONS) or self.kind in (Kind.ASK, Kind.SLEEP):
            return of_another_kind(what, self.kind, status)
        if not (self.may_deny if status == "denied" else self.may_approve):
            names = ", ".join(asked.approvers)
            return NotEntitled(
                f"{by} may not {'deny' if status == 'denied' else 'approve'} {what}.",
                fix=f"One of these may: {names}; `--as NAME` says who decides." if names else "",
            )
        if not asked.digest.startswith(digest or ""):
            return InvalidMessage(
                f"What is to be approved has another digest than {digest}.",
                fix="Look at it again: `callboard approvals`.",
            )
        return None


def called(kind: str, name: str, digest: str) -> str:
    """What people call it: the journal knows an approval by the digest of what is asked as well, and a call by that of its
    arguments."""
    if kind == Kind.OUTCOME:
        return name.rpartition(" ")[0]
    return name.removesuffix(f" {digest[:16]}")


def of_another_kind(what: str, kind: str, status: str) -> InvalidMessage:
    return InvalidMessage(
        f"{what} is of the kind {kind}, and cannot be {status} so.",
        fix=_WAYS.get(Kind(kind), "Only its agent's partner, or the clock, settles it."),
    )


def moment_text(at: float | None) -> str:
    return f"{datetime.fromtimestamp(at or 0.0, UTC):%Y-%m-%d %H:%M:%S} UTC"

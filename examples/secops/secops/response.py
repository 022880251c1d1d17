"""A response: what became of the action proposed for one source."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Outcome(StrEnum):
    """What became of a proposed action."""

    EXECUTED = "executed"
    STANDS = "already_blocked"
    DENIED = "denied"
    TIMED_OUT = "timed_out"
    FAILED = "failed"
    PROPOSED = "proposed"

    @property
    def words(self) -> str:
        return self.replace("_", " ")


class Response(BaseModel):
    """What became of one proposal, and who has decided it.

    `proposed` is left to people: only blocks are carried out. `decided_by`, `decided_at` and `comment` are those of the
    approval, None and empty where none was needed or nobody decided in time. `blocked_at`, `blocked_until` and `place`
    (a file) are those of the block that is in force, which is an earlier one where the outcome is not `executed`;
    `extended_from` is when the earlier one was to end, if this one goes on from it; `error` is why this one was not
    carried out. Times are in UTC.
    """

    model_config = ConfigDict(frozen=True)

    outcome: Outcome
    needed_approval: bool = False
    decided_by: str | None = None
    decided_at: datetime | None = None
    comment: str = ""
    blocked_at: datetime | None = None
    blocked_until: datetime | None = None
    extended_from: datetime | None = None
    place: str | None = None
    error: str = ""

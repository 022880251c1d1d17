"""A contract net's call for bids, as a task's agent keeps it."""

from __future__ import annotations

from pydantic import BaseModel, Field

from actors.context import Context
from actors.task_messages import CallForBids, TaskWork
from coordinators.tasks.messages import BidDeadline

STOOD_STILL_S = 1.0  # a bid deadline that comes so late was held up with all that was to come before it
MAX_CALLS = 5  # before nobody wants the task; resuming it adds one


class Auction(BaseModel):
    """Who was asked, and what they answered. The first answer of each candidate counts."""

    work: TaskWork  # what the winner will get
    policy: str
    candidates: tuple[str, ...]
    within_s: float
    bid_by: float = 0.0
    calls: int = 0
    bids: dict[str, float] = Field(default_factory=dict)
    declined: list[str] = Field(default_factory=list)

    def call(self, ctx: Context) -> None:
        """Ask for bids whoever has not answered, until the bid deadline."""
        self.calls += 1
        self.bid_by = ctx.now + self.within_s
        call = CallForBids(**self.work.model_dump(), bid_by=self.bid_by)
        for candidate in self.candidates:
            if self.awaits(candidate):
                ctx.send(candidate, call, deadline=min(self.bid_by, self.work.deadline or self.bid_by))
        ctx.send_later(ctx.address, BidDeadline(call=self.calls), at=self.bid_by)

    def was_held_up(self, now: float) -> bool:
        """Whether, at the bid deadline, nobody has bid since nothing went on, in a paused domain for one."""
        return not self.bids and self.calls < MAX_CALLS and now > self.bid_by + STOOD_STILL_S

    def awaits(self, candidate: str) -> bool:
        """Whether an answer of this agent counts."""
        return candidate in self.candidates and candidate not in self.bids and candidate not in self.declined

    @property
    def is_settled(self) -> bool:
        """All have answered: there is nobody to wait for."""
        return len(self.bids) + len(self.declined) == len(self.candidates)

    def winner(self) -> str | None:
        """The highest bid; among equals the first by name."""
        return min(self.bids, key=lambda name: (-self.bids[name], name), default=None)

"""A contract net's call for bids, as a task's agent keeps it."""

from __future__ import annotations

from pydantic import BaseModel, Field

from actors.task_messages import TaskWork


class Auction(BaseModel):
    """Who was asked, and what they answered. The first answer of each candidate counts."""

    work: TaskWork  # what the winner will get
    policy: str
    candidates: tuple[str, ...]
    bids: dict[str, float] = Field(default_factory=dict)
    declined: list[str] = Field(default_factory=list)

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

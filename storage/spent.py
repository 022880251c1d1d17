"""What tasks use of what they may."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from bus.amount import figure


class Spent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a write uses of the limits of a task: `root` is its reference, `partition` that of its agent, if known.

    `asks` are those in flight: one that is settled counts as -1.
    """

    root: str
    partition: int | None
    hops: int = 0
    asks: int = 0
    steps: int = 0
    tokens: int = 0
    cost: Decimal = Decimal(0)

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            root=self.root, partition=self.partition, hops=self.hops + other.hops, asks=self.asks + other.asks,
            steps=self.steps + other.steps, tokens=self.tokens + other.tokens, cost=self.cost + other.cost,
        )  # fmt: skip


class Reached(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A limit above which a task (`domain/id`) is. `told` is the partition of its agent, if this commit has told it."""

    tenant: str
    task: str
    limit: str
    used: Decimal
    allowed: Decimal
    told: int | None = None

    @property
    def words(self) -> str:
        """What is said of it."""
        return f"The task has used {figure(self.used)} {self.limit}; its limit is {figure(self.allowed)}."

"""Line numbers that prove a finding: the first ones, the last ones, and how many there were."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Evidence(BaseModel):
    """At most `limit` line numbers from the start and as many from the end; `total` is exact."""

    model_config = ConfigDict(frozen=True)

    first: tuple[int, ...] = ()
    last: tuple[int, ...] = ()
    total: int = 0

    def add(self, line: int, limit: int) -> Evidence:
        if len(self.first) < limit:
            return Evidence(first=(*self.first, line), last=self.last, total=self.total + 1)
        return Evidence(first=self.first, last=(*self.last, line)[-limit:], total=self.total + 1)

    @property
    def lines(self) -> list[int]:
        return [*self.first, *self.last]

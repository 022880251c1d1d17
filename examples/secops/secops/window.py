"""A sliding window of failures, bounded, with an exact peak at its own grain."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from .thresholds import Thresholds


class Window(BaseModel):
    """Failures of the last `window_s` seconds as `(bucket start in seconds, failures)`, oldest first."""

    model_config = ConfigDict(frozen=True)

    buckets: tuple[tuple[int, int], ...] = ()

    @property
    def total(self) -> int:
        return sum(count for _, count in self.buckets)

    def add(self, at_s: int, count: int, limits: Thresholds) -> Window:
        """Return the window after `count` failures at `at_s`; a line older than the window changes nothing.

        It never holds more than `window_s / bucket_s + 1` buckets. Lines of one source may come out of order
        in time by less than a window.
        """
        start = at_s - at_s % limits.bucket_s
        newest = max(start, self.buckets[-1][0] if self.buckets else start)
        counts = dict(self.buckets)
        counts[start] = counts.get(start, 0) + count
        oldest = newest - limits.window_s
        return Window(buckets=tuple(sorted(item for item in counts.items() if item[0] > oldest)))

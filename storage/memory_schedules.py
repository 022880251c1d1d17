"""Schedules in memory, for tests: when each comes next, and when it came last."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import msgspec

from storage.schedules import Firing, ScheduleRow


class MemorySchedules:
    """The table `schedules` of all domains."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.rows: dict[tuple[str, str], ScheduleRow] = {}  # by domain and name
        self._now = now

    def read(self, domain: str) -> list[ScheduleRow]:
        return [row for (of, _), row in sorted(self.rows.items()) if of == domain]

    def keep(self, domain: str, rows: Sequence[ScheduleRow]) -> None:
        """These alone are left; one that is still the same keeps its place in time."""
        names = {row.name for row in rows}
        for of, name in list(self.rows):
            if of == domain and name not in names:
                del self.rows[(of, name)]
        for row in rows:
            before = self.rows.get((domain, row.name))
            if before is not None and (before.cron, before.timezone) == (row.cron, row.timezone):
                row = msgspec.structs.replace(row, next_at=before.next_at, last_at=before.last_at)
            self.rows[(domain, row.name)] = row

    def advance(self, domain: str, firing: Firing) -> bool:
        """Go on to the time after this one; False when it is not due, or another host was first."""
        row = self.rows.get((domain, firing.name))
        if row is None or row.next_at != firing.due or row.next_at > self._now():
            return False
        last_at = self._now() if firing.messages else row.last_at
        self.rows[(domain, firing.name)] = msgspec.structs.replace(
            row, next_at=firing.next_at, last_at=last_at
        )
        return True

    def next_due(self, domain: str, partitions: Collection[int]) -> float | None:
        """When the first comes; the owner of partition 0 looks after them."""
        if 0 not in partitions:
            return None
        return min((row.next_at for (of, _), row in self.rows.items() if of == domain), default=None)

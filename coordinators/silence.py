"""Which hosts are silent, by the coordinator's own clock.

What Postgres says of a beat's age is no measure: heartbeats are unlogged, so its crash recovery empties their table,
and while it stands still nobody's beat arrives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from storage.placement import HostRow

SILENT_AFTER_S = 0.9  # three missed beats of 250 ms, and the time that a beat takes
UNKNOWN_AFTER_S = 3.0  # of a host without any beat in Postgres: so long it may take to come back there
SETTLED_AFTER_S = 2.0  # after Postgres was away, everybody is silent: hosts get this long to beat again
COUNTS_AT_MOST_S = 0.5  # of the time between two looks, so that silence takes more than two of them


@dataclass(slots=True)
class _Last:
    """The last beat that was seen of a host, and for how long it has been the last one."""

    beat_at: float | None
    silent_s: float = 0.0


class Silence:
    """Counts the time between looks that find the same beat.

    The time that a look itself takes does not count, and a long pause between two only in part: in it Postgres or
    this process stood still, not the host.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[int, _Last] = {}
        self._looked_at = clock()
        self._settled_at = clock() + SETTLED_AFTER_S

    def unsettle(self) -> None:
        """Postgres was away: hosts get time to reach it again."""
        self._settled_at = self._clock() + SETTLED_AFTER_S

    def look(self, hosts: Iterable[HostRow], *, asked_at: float) -> None:
        """Take in the beats of all live hosts, as a read that began at `asked_at` found them."""
        counts = min(max(0.0, asked_at - self._looked_at), COUNTS_AT_MOST_S)
        self._looked_at = self._clock()
        before, self._last = self._last, {}
        for host in hosts:
            last = before.get(host.epoch)
            if last is None or last.beat_at != host.beat_at:
                last = _Last(host.beat_at)
            else:
                last.silent_s += counts
            self._last[host.epoch] = last

    def of(self, host: HostRow) -> float | None:
        """For how long the host has been silent, if that is too long; else None."""
        last = self._last[host.epoch]
        limit = SILENT_AFTER_S if last.beat_at is not None else UNKNOWN_AFTER_S
        if last.silent_s <= limit or self._clock() < self._settled_at:
            return None
        return last.silent_s

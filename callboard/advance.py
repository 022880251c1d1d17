"""How long the hosts of a domain, and of those that it waits for, have got no further."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from storage.placement import HostRow


class Advance:
    """Each look at a domain counts as an advance if more of its hosts than ever have its newest code, are ready with it or
    own partitions, or fewer than ever have older code. Hosts that come and go again and again are none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._best: dict[tuple[str, str], tuple[int, ...]] = {}

    def look(self, domain: str, code: str, hosts: Sequence[HostRow]) -> None:
        """Take in the live hosts of a domain whose newest code is this."""
        newest = [host for host in hosts if host.code == code]
        ready = [host for host in newest if host.ready]
        now = (len(newest), len(ready), sum(len(host.owned) for host in ready), len(newest) - len(hosts))
        before = self._best.get((domain, code), now)
        best = tuple(map(max, before, now))
        if best != before:
            self._since = self._clock()
        self._best[domain, code] = best

    @property
    def still_for_s(self) -> float:
        """How long ago the last one was."""
        return self._clock() - self._since

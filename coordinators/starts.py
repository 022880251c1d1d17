"""How soon another host may be started after some have failed to start, and how long it may take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

PAUSES_S = (0.0, 1.0, 5.0, 15.0, 30.0)  # after so many failures in a row
START_WITHIN_S = 60.0  # a host is ready after 2 to 6 s
_DOUBLED = 3  # times at most


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last_at: float = float("-inf")
    start_from: float = float("-inf")


class Starts:
    """Counts by the digest of a domain's code: that hosts of other code are well says nothing of this one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of: dict[str, _Failures] = {}

    def may_start(self, code: str) -> bool:
        failures = self._of.get(code)
        return failures is None or self._clock() >= failures.start_from

    def within_s(self, code: str) -> float:
        """How long a host may take until it is ready. Twice as long after each that has failed: on a machine that is too
        busy for the first, a second one with as much time would get no further."""
        failures = self._of.get(code)
        return START_WITHIN_S * 2 ** min(failures.count, _DOUBLED) if failures is not None else START_WITHIN_S

    def succeeded(self, code: str) -> None:
        """A host that was started for this code is ready."""
        self._of.pop(code, None)

    def failed(self, code: str, *, started_at: float) -> float:
        """Return how long the next start has to wait. Hosts that were started together fail together, once."""
        failures = self._of.setdefault(code, _Failures())
        now = self._clock()
        if started_at >= failures.last_at:
            pause = PAUSES_S[min(failures.count, len(PAUSES_S) - 1)]
            failures.count += 1
            failures.last_at = now
            failures.start_from = now + pause
        return max(0.0, failures.start_from - now)

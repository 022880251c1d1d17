"""How long turns may follow each other before the event loop looks at its sockets again."""

from __future__ import annotations

import asyncio
import time

SLICE_S = 0.01  # of all workers together; more delays what comes in, less costs throughput


class Slice:
    """One share of the event loop's time. A worker that finds it over asks for the next, which begins with the next
    round of the loop, and goes on after that. A count of turns would not do: a turn takes from some microseconds to
    milliseconds."""

    def __init__(self) -> None:
        self._ends = 0.0
        self._asked = False

    @property
    def is_over(self) -> bool:
        return time.perf_counter() >= self._ends

    def ask(self) -> None:
        """Whoever is woken from now on finds the next slice begun."""
        if not self._asked:
            self._asked = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._asked = False
        self._ends = time.perf_counter() + SLICE_S

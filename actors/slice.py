"""How long turns may follow each other before the event loop looks at its sockets again."""

from __future__ import annotations

import asyncio
import time

SLICE_S = 0.01  # of all workers together; more delays what comes in, less costs throughput


class Slice:
    """One share of the event loop's time. Workers that find it over wait for the next, which begins with the next
    round of the loop. A count of turns would not do: a turn takes from some microseconds to milliseconds."""

    def __init__(self) -> None:
        self._ends = 0.0
        self._asked = False

    @property
    def is_over(self) -> bool:
        return time.perf_counter() >= self._ends

    async def next(self) -> None:
        if not self._asked:  # called before any of the workers that wait go on
            self._asked = True
            asyncio.get_running_loop().call_soon(self._begin)
        await asyncio.sleep(0)

    def _begin(self) -> None:
        self._asked = False
        self._ends = time.perf_counter() + SLICE_S

"""Calls of tools that something in this process may still be making."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from actors.exits import as_failures
from actors.threads import in_thread


class UnderWay:
    """Counts the runs of each call, by the call's id; of threads too, which go on when nobody waits for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: Counter[str] = Counter()

    def __contains__(self, call: str) -> bool:
        return call in self._runs

    @contextmanager
    def noted(self, call: str | None) -> Iterator[None]:
        self._begin(call)
        try:
            yield
        finally:
            self._end(call)

    def noting(self, function: Callable[[], Any], call: str | None) -> Callable[[], Any]:
        """The function, noted from now on until it has returned. One that is never called counts for ever: then nobody
        can say that it never will be."""
        self._begin(call)

        def noted() -> Any:
            try:
                return function()
            finally:
                self._end(call)

        return noted

    def _begin(self, call: str | None) -> None:
        if call is not None:
            with self._lock:
                self._runs[call] += 1

    def _end(self, call: str | None) -> None:
        if call is not None:
            with self._lock:
                self._runs[call] -= 1
                if not self._runs[call]:
                    del self._runs[call]


UNDER_WAY = UnderWay()


async def called(
    function: Callable[..., Any], named: dict[str, Any], timeout_s: float, call: str | None = None
) -> Any:
    """Call it, noted as under way for as long as anything of it runs. Raises TimeoutError."""
    with as_failures():
        if inspect.iscoroutinefunction(function):
            with UNDER_WAY.noted(call):
                async with asyncio.timeout(timeout_s):
                    return await function(**named)
        # A thread that nobody waits for any more goes on: it says itself when it is done.
        noted = UNDER_WAY.noting(functools.partial(function, **named), call)
        return await in_thread(noted, timeout_s=timeout_s)

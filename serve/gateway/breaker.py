"""A circuit breaker: an upstream that keeps failing is left alone for a while, then tried by a few."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Literal

from serve.gateway.errors import ApiError

FAILURES = 5  # in a row open it
REST_S = 30.0
TRIALS = 3  # at once when it is half open, and so many successes close it

State = Literal["closed", "open", "half_open"]


class Breaker:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._trying = 0
        self._passed = 0
        self._period = 0

    @property
    def state(self) -> State:
        if self._opened_at is None:
            return "closed"
        return "half_open" if self.opens_in_s == 0 else "open"

    @property
    def opens_in_s(self) -> float:
        """How long it still refuses all calls."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + REST_S - self._clock())

    def enter(self) -> Ticket | None:
        """A ticket for one call, which has to be settled; None while the upstream is left alone."""
        state = self.state
        if state == "open" or (state == "half_open" and self._trying >= TRIALS):
            return None
        if state == "half_open":
            self._trying += 1
        return Ticket(self, self._period)

    def settle(self, period: int, healthy: bool | None) -> None:
        """How a call has ended; None says nothing of the upstream's health. One of an earlier period is too late."""
        if period != self._period:
            return
        half_open = self._opened_at is not None
        if half_open:
            self._trying -= 1
        if healthy is False:
            self._failures += 1
            if half_open or self._failures >= FAILURES:
                self._enter(self._clock())
        elif healthy:
            self._failures = 0
            self._passed += half_open
            if self._passed >= TRIALS:
                self._enter(None)

    def _enter(self, opened_at: float | None) -> None:
        """A new period: calls that began before it do not speak for what comes after."""
        self._opened_at = opened_at
        self._failures = self._trying = self._passed = 0
        self._period += 1


class Ticket:
    """One call through a breaker."""

    def __init__(self, breaker: Breaker, period: int) -> None:
        self._breaker = breaker
        self._period = period

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Settles it when the block fails; a client that goes away says nothing of the upstream."""
        try:
            yield
        except ApiError as error:
            self.settle(False if error.unwell else None)
            raise
        except BaseException:
            self.settle(None)
            raise

    @contextlib.contextmanager
    def settled(self) -> Iterator[None]:
        """Settles it when the block ends, whichever way."""
        with self.failing():
            yield
        self.settle(True)

    def settle(self, healthy: bool | None) -> None:
        """None says nothing of the health of who was called."""
        self._breaker.settle(self._period, healthy)

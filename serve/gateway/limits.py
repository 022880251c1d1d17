"""How much clients may ask at once and a minute; past it they get a 429 with Retry-After."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from serve.gateway.errors import ApiError
from serve.gateway.models_file import LimitSpec


class Allowance:
    """So much a minute, and at most a minute's worth saved up. What is spent afterwards may overdraw it."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_minute / 60
        self._most = float(per_minute)
        self._left = float(per_minute)
        self._clock = clock
        self._at = clock()

    def wait_s(self, needed: float) -> float:
        """How long until so much is there; 0 when it is."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (needed - self._left) / self._rate)

    def spend(self, amount: float) -> None:
        self._left -= amount


class Arrival:
    """One request whose body is read, and that body's bytes until it is answered."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.bytes = 0

    def take(self, size: int) -> None:
        """Room for so much more of its body. Raises ApiError."""
        self._limits.take(size)
        self.bytes += size


class Limits:
    def __init__(self, spec: LimitSpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._spec = spec
        self.running = 0
        self._bytes = 0
        self._requests = _allowance(spec.requests_per_minute, clock)
        self._tokens = _allowance(spec.tokens_per_minute, clock)

    @contextlib.contextmanager
    def arriving(self) -> Iterator[Arrival]:
        """For a request, from before its body is read to the end of its answer.

        It takes no place of those that are worked on: whoever sends slowly would keep it from the others. Where there is
        none to be had its body is not read at all. Raises ApiError past a limit.
        """
        self._refuse_too_many()
        arrival = Arrival(self)
        try:
            yield arrival
        finally:
            self._bytes -= arrival.bytes

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """For a request that is there, to the end of its answer. Raises ApiError past a limit."""
        self._refuse_too_many()
        if self._requests is not None:
            self._requests.spend(1)
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def _refuse_too_many(self) -> None:
        if self.running >= self._spec.concurrent:
            raise _too_many(f"{self._spec.concurrent} requests are under way", 1.0)
        if self._tokens is not None and (wait := self._tokens.wait_s(1)) > 0:
            raise _too_many(f"{self._spec.tokens_per_minute:,} tokens a minute are used up", wait)
        if self._requests is not None and (wait := self._requests.wait_s(1)) > 0:
            raise _too_many(f"{self._spec.requests_per_minute:,} requests a minute are used up", wait)

    def take(self, size: int) -> None:
        """Room for a part of a body. Raises ApiError past the limit of all of them."""
        if self._bytes + size > self._spec.bytes:
            raise _too_many(f"requests of {self._bytes:,} bytes are under way", 1.0)
        self._bytes += size

    def spend(self, tokens: int) -> None:
        """What an answer has cost is known when it is there; who asks next waits for it."""
        if self._tokens is not None:
            self._tokens.spend(tokens)


def _allowance(per_minute: int | None, clock: Callable[[], float]) -> Allowance | None:
    return None if per_minute is None else Allowance(per_minute, clock)


def _too_many(what: str, wait_s: float) -> ApiError:
    return ApiError(
        f"Too much is asked of the gateway: {what}.",
        fix="Try again later, or raise `limits` in models.yaml.",
        status=429,
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after_s=wait_s,
        again=True,
    )

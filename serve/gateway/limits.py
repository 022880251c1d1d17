"""How much clients may ask at once and a minute, all of them and each tenant; past it they get a 429 with Retry-After."""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from serve.gateway.errors import ApiError
from serve.gateway.models_file import LimitSpec, ShareSpec

MOST_TENANTS = 10_000  # past it the one that has asked longest ago begins anew: tenants are what headers say


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


class Share:
    """What all, or those of one tenant, may ask together. `whose` and `setting` are for the words of a refusal."""

    def __init__(
        self, spec: LimitSpec | ShareSpec, whose: str, setting: str, clock: Callable[[], float]
    ) -> None:
        self._spec = spec
        self._whose = whose
        self._setting = setting
        self.running = 0
        self._requests = _allowance(spec.requests_per_minute, clock)
        self._tokens = _allowance(spec.tokens_per_minute, clock)

    def check(self) -> None:
        """Raises ApiError where nothing of it is left."""
        if self._spec.concurrent is not None and self.running >= self._spec.concurrent:
            raise self.too_many(f"{self._spec.concurrent} requests are under way", 1.0)
        if self._tokens is not None and (wait := self._tokens.wait_s(1)) > 0:
            raise self.too_many(f"{self._spec.tokens_per_minute:,} tokens a minute are used up", wait)
        if self._requests is not None and (wait := self._requests.wait_s(1)) > 0:
            raise self.too_many(f"{self._spec.requests_per_minute:,} requests a minute are used up", wait)

    def enter(self) -> None:
        if self._requests is not None:
            self._requests.spend(1)
        self.running += 1

    def leave(self) -> None:
        self.running -= 1

    def spend(self, tokens: int) -> None:
        if self._tokens is not None:
            self._tokens.spend(tokens)

    def too_many(self, what: str, wait_s: float) -> ApiError:
        return ApiError(
            f"Too much is asked of the gateway{self._whose}: {what}.",
            fix=f"Try again later, or raise `{self._setting}` in models.yaml.",
            status=429,
            kind="rate_limit_error",
            code="rate_limit_exceeded",
            retry_after_s=wait_s,
            again=True,
        )


class Limits:
    def __init__(self, spec: LimitSpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._spec = spec
        self._clock = clock
        self._bytes = 0
        self._all = Share(spec, "", "limits", clock)
        self._tenants: OrderedDict[str, Share] = OrderedDict()

    @property
    def running(self) -> int:
        return self._all.running

    @contextlib.contextmanager
    def arriving(self, tenant: str) -> Iterator[Arrival]:
        """For a request, from before its body is read to the end of its answer.

        It takes no place of those that are worked on: whoever sends slowly would keep it from the others. Where there is
        none to be had its body is not read at all. Raises ApiError past a limit.
        """
        self._shares(tenant)
        arrival = Arrival(self)
        try:
            yield arrival
        finally:
            self._bytes -= arrival.bytes

    @contextlib.contextmanager
    def entered(self, tenant: str) -> Iterator[None]:
        """For a request that is there, to the end of its answer. Raises ApiError past a limit."""
        shares = self._shares(tenant)
        for share in shares:
            share.enter()
        try:
            yield
        finally:
            for share in shares:
                share.leave()

    def take(self, size: int) -> None:
        """Room for a part of a body. Raises ApiError past the limit of all of them."""
        if self._bytes + size > self._spec.bytes:
            raise self._all.too_many(f"requests of {self._bytes:,} bytes are under way", 1.0)
        self._bytes += size

    def spend(self, tenant: str, tokens: int) -> None:
        """What an answer has cost is known when it is there; who asks next waits for it."""
        self._all.spend(tokens)
        self._tenant(tenant).spend(tokens)

    def _shares(self, tenant: str) -> tuple[Share, Share]:
        """Raises ApiError where one of them has nothing left."""
        shares = self._all, self._tenant(tenant)
        for share in shares:
            share.check()
        return shares

    def _tenant(self, name: str) -> Share:
        share = self._tenants.get(name)
        if share is None:
            share = self._tenants[name] = Share(
                self._spec.tenant, " by this tenant", "limits.tenant", self._clock
            )
            if len(self._tenants) > MOST_TENANTS:
                self._tenants.popitem(last=False)
        self._tenants.move_to_end(name)
        return share


def _allowance(per_minute: int | None, clock: Callable[[], float]) -> Allowance | None:
    return None if per_minute is None else Allowance(per_minute, clock)

"""From a model's name to an answer: its targets in order, each tried as often as it may be.

This is the only place that tries again. Once the first piece of an answer is there, nobody else is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar

from serve.gateway.accounts import Usage, cost_of
from serve.gateway.breaker import Breaker, State, Ticket
from serve.gateway.capability import able, not_able
from serve.gateway.errors import ApiError, malformed, none_has_answered
from serve.gateway.last_errors import LastErrors
from serve.gateway.models_file import ModelSpec, TargetSpec, UpstreamSpec
from serve.gateway.order import Order
from serve.gateway.requests import ChatRequest, EmbeddingsRequest, ModelRequest, RerankRequest, without
from serve.gateway.upstream import TOO_SLOW, Json, Upstream, too_slow

T = TypeVar("T")
# Told of a call that ends before anything of its answer is there, since its client has gone or it takes too long.
GiveUp = Callable[[TargetSpec], None]
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 8.0
_TYPICAL = Usage(input=3000, output=1000)  # what targets are compared by, where the cheapest is asked first


class Reached:
    """An upstream with what is known of it."""

    def __init__(self, spec: UpstreamSpec, upstream: Upstream, clock: Callable[[], float]) -> None:
        self.spec = spec
        self.upstream = upstream
        self._clock = clock
        self._breakers: dict[str, Breaker] = {}

    def breaker(self, model: str) -> Breaker:
        """Models that run here are processes of their own: one that fails says nothing of the others."""
        of = model if self.spec.type == "local" else ""
        if of not in self._breakers:
            self._breakers[of] = Breaker(self._clock)
        return self._breakers[of]

    @property
    def state(self) -> State:
        """The worst of its breakers'."""
        states = {one.state for one in self._breakers.values()}
        return "open" if "open" in states else "half_open" if "half_open" in states else "closed"


@dataclass(frozen=True)
class Answer:
    """Which target has answered, and what. `similarity` of its question to the one that was asked, where these differ."""

    target: TargetSpec
    body: Json
    similarity: float | None = None


@dataclass(frozen=True)
class OpenStream:
    """A stream whose first chunk is there; `chunks` begins with it."""

    target: TargetSpec
    chunks: AsyncIterator[Json]


class Relay:
    def __init__(
        self,
        upstreams: Mapping[str, Reached],
        *,
        pause_s: float = _FIRST_PAUSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstreams = upstreams
        self._pause_s = pause_s
        self._clock = clock
        self._order = Order(self._price, clock)
        self.last_errors = LastErrors(clock)

    async def answer(self, name: str, model: ModelSpec, request: ModelRequest, give_up: GiveUp) -> Answer:
        """Raises ApiError."""

        async def ask(at: Reached, target: TargetSpec) -> Json:
            with _given_up(target, give_up):
                return await _ask(at.upstream, target, without(request, target.drop))

        target, ticket, body = await self._first(name, model, request, ask)
        with ticket.settled():
            return Answer(target, body)

    @contextlib.asynccontextmanager
    async def stream(
        self, name: str, model: ModelSpec, request: ChatRequest, give_up: GiveUp
    ) -> AsyncIterator[OpenStream]:
        """Leaving the block ends the upstream's work, wherever it is. Raises ApiError, also while it is read."""

        async def begin(at: Reached, target: TargetSpec) -> tuple[Json, AsyncGenerator[Json]]:
            chunks = at.upstream.stream(target, without(request, target.drop))
            try:
                with _given_up(target, give_up):
                    return await anext(chunks), chunks
            except StopAsyncIteration:
                raise malformed(target.upstream, "its stream is empty") from None
            except BaseException:
                await chunks.aclose()
                raise

        target, ticket, (first, chunks) = await self._first(name, model, request, begin)

        async def all_of_it() -> AsyncIterator[Json]:
            yield first
            async for chunk in chunks:
                yield chunk

        with self.last_errors.kept(target), ticket.settled():
            try:
                yield OpenStream(target, all_of_it())
            finally:
                await chunks.aclose()

    def is_open(self, target: TargetSpec) -> bool:
        """Whether it is left alone for a while."""
        return self._upstreams[target.upstream].breaker(target.model).state == "open"

    def states(self) -> dict[str, str]:
        """Of each upstream whether it is asked: closed, open (it is not, or one of its models that run here) or half_open."""
        return {name: at.state for name, at in self._upstreams.items()}

    async def _first(
        self,
        name: str,
        model: ModelSpec,
        request: ModelRequest,
        call: Callable[[Reached, TargetSpec], Awaitable[T]],
    ) -> tuple[TargetSpec, Ticket, T]:
        """The first target that answers, of those that can. Raises ApiError: at once where no other target could do better."""
        failures: list[tuple[str, ApiError]] = []
        targets = able(self._order.of(model), request)
        if not targets:
            raise not_able(model.targets, request)
        for target in targets:
            try:
                ticket, found = await self._patiently(self._upstreams[target.upstream], target, call)
            except ApiError as error:
                failures.append((target.upstream, error))
                if not error.elsewhere:
                    raise
            else:
                return target, ticket, found
        raise none_has_answered(name, failures)

    async def _patiently(
        self, at: Reached, target: TargetSpec, call: Callable[[Reached, TargetSpec], Awaitable[T]]
    ) -> tuple[Ticket, T]:
        """The retry loop."""
        left = at.spec.retries
        while True:
            try:
                return await self._once(at, target, call)
            except ApiError as error:
                pause = self._pause(at.spec, error, at.spec.retries - left)
                if not error.again or left == 0 or pause is None:
                    raise
            left -= 1
            await asyncio.sleep(pause)

    def _pause(self, spec: UpstreamSpec, error: ApiError, tried: int) -> float | None:
        """How long to wait before another try; None is: longer than anybody should."""
        if error.retry_after_s is not None:
            return error.retry_after_s if error.retry_after_s <= spec.retry_after_s else None
        # Spread: many who were refused at once do not come back at once.
        longest: float = min(_LONGEST_PAUSE_S, self._pause_s * 2**tried)
        return random.uniform(longest / 2, longest)

    async def _once(
        self, at: Reached, target: TargetSpec, call: Callable[[Reached, TargetSpec], Awaitable[T]]
    ) -> tuple[Ticket, T]:
        """The ticket is still to be settled where the call has not failed."""
        breaker = at.breaker(target.model)
        ticket = breaker.enter()
        if ticket is None:
            of_model = f" with {target.model}" if at.spec.type == "local" else ""
            raise _resting(target.upstream + of_model, breaker.opens_in_s)
        with self.last_errors.kept(target), ticket.failing():
            began = self._clock()
            try:
                async with asyncio.timeout(at.spec.answer_s):
                    found = await call(at, target)
            except TimeoutError:
                self._order.took(target, at.spec.answer_s)
                raise too_slow(target.upstream) from None
            except ApiError as error:
                if error.elsewhere:  # what fails at once is not fast
                    self._order.took(target, at.spec.answer_s)
                raise
            self._order.took(target, self._clock() - began)
            return ticket, found

    def _price(self, target: TargetSpec) -> Decimal | None:
        return cost_of(target, self._upstreams[target.upstream].spec, _TYPICAL)


@contextlib.contextmanager
def _given_up(target: TargetSpec, give_up: GiveUp) -> Iterator[None]:
    try:
        yield
    except asyncio.CancelledError:  # so also begins what will be a TimeoutError
        give_up(target)
        raise
    except ApiError as error:
        if error.code == TOO_SLOW:  # by its own time limits, such as that of a stream's silence
            give_up(target)
        raise


async def _ask(upstream: Upstream, target: TargetSpec, request: ModelRequest) -> Json:
    if isinstance(request, ChatRequest):
        return await upstream.chat(target, request)
    if isinstance(request, EmbeddingsRequest):
        return await upstream.embed(target, request)
    assert isinstance(request, RerankRequest)
    return await upstream.rerank(target, request)


def _resting(upstream: str, for_s: float) -> ApiError:
    return ApiError(
        f"The upstream {upstream} has failed several times in a row and is left alone for a while.",
        status=503,
        kind="upstream_error",
        code="upstream_resting",
        retry_after_s=max(1.0, for_s),
        elsewhere=True,
    )

"""Answers kept in the process, for requests that are equal to the letter; and equal requests at one time made once.

Behind it may stand a shelf, on which answers outlive the process.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal, Protocol

import msgspec

from serve.gateway.models_file import CacheSpec
from serve.gateway.relay import Answer
from serve.gateway.requests import ChatRequest, ModelRequest

How = Literal["miss", "again", "hit", "shared", "similar"]
_OVERHEAD_BYTES = 512  # of an entry, beside its answer
_MOST_ADRIFT = 64  # calls that nobody waits for any more


def cache_key(
    tenant: str, request: ModelRequest, corpus: str | None = None, category: str | None = None
) -> str | None:
    """None for what may have another answer each time: a chat without `temperature: 0`, or a stream. `corpus` and `category` are
    what the client's headers name that its answer depends on."""
    if isinstance(request, ChatRequest) and (
        request.stream or request.temperature is None or request.temperature > 0 or (request.n or 1) > 1
    ):
        return None
    # `user` stays in: an upstream may answer one of its users differently.
    asked: list[Any] = [tenant, type(request).__name__, request.body]
    if corpus is not None or category is not None:
        asked.append([corpus, category])
    return sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()


def repeat_key(tenant: str, request: ModelRequest, key: str) -> str:
    """Of a request that may be made again with the same `Idempotency-Key`."""
    asked = [tenant, key, type(request).__name__, request.body]
    return sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()


@dataclass(frozen=True)
class Kept:
    """An answer of the shelf: the digest of the `Idempotency-Key` that it was made for, and how long it holds."""

    answer: Answer
    made_for: bytes | None
    holds_s: float


class Shelf(Protocol):
    """Where the answer to one request may stand as well. It raises nothing, and keeps nobody waiting."""

    async def find(self, *, old: bool = False) -> Kept | None:
        """`old`: also one that holds no longer."""
        ...

    def keep(self, answer: Answer, body: bytes, made_for: bytes | None) -> None:
        """`body` is that of the answer, as JSON."""
        ...


@dataclass
class _Entry:
    answer: Answer
    size: int
    until: float
    made_for: bytes | None  # the digest of an `Idempotency-Key`


@dataclass(frozen=True)
class _Landed:
    """What a call has come back with, and whether an upstream was asked for it."""

    answer: Answer
    made_for: bytes | None
    is_made: bool


@dataclass
class _Flight:
    task: asyncio.Task[_Landed]
    made_for: bytes | None
    passengers: int = field(default=0)


class ExactCache:
    """Least recently used out first, bounded in bytes; `clock` in seconds."""

    def __init__(self, spec: CacheSpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._spec = spec
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._flights: dict[str, _Flight] = {}
        self.bytes = 0

    async def get(
        self,
        key: str,
        make: Callable[[], Awaitable[Answer]],
        by: str | None = None,
        shelf: Shelf | None = None,
    ) -> tuple[Answer, How]:
        """From the cache, from the shelf, from a call that is under way for somebody else, or from one of its own.

        A call made with an `Idempotency-Key` (`by`) goes on when its client goes away: whoever comes back with that key
        gets what was made for it, "again".
        """
        made_for = None if by is None else sha256(by.encode()).digest()
        entry = self._entries.get(key)
        if entry is not None and entry.until > self._clock():
            self._entries.move_to_end(key)
            return entry.answer, _kept_for(entry.made_for, made_for)
        flight = self._flights.get(key)
        if flight is not None:
            how: How = "again" if made_for is not None and flight.made_for == made_for else "shared"
        else:
            how = "miss"
            task = asyncio.ensure_future(self._fly(key, make, made_for, shelf))
            flight = self._flights[key] = _Flight(task, made_for)
        landed = await self._aboard(key, flight)
        if landed.answer.similarity is not None:
            how = "similar"
        return landed.answer, how if landed.is_made else _kept_for(landed.made_for, made_for)

    async def stale(self, key: str, shelf: Shelf | None = None) -> Answer | None:
        """What was answered once, also if that is too long ago to be given while somebody can be asked."""
        entry = self._entries.get(key)
        if entry is not None and entry.until + self._spec.stale_s > self._clock():
            return entry.answer
        found = None if shelf is None else await shelf.find(old=True)
        return None if found is None else found.answer

    async def _aboard(self, key: str, flight: _Flight) -> _Landed:
        """Wait with the others; the last who goes away ends the call, unless they may come back for it."""
        flight.passengers += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.passengers -= 1
            if flight.passengers == 0 and not flight.task.done() and not self._drifts(flight):
                if self._flights.get(key) is flight:
                    del self._flights[key]
                flight.task.cancel()
                await asyncio.wait([flight.task])  # the upstream's call has ended, not only been told to

    def _drifts(self, flight: _Flight) -> bool:
        if (
            flight.made_for is None
            or sum(not other.passengers for other in self._flights.values()) > _MOST_ADRIFT
        ):
            return False
        flight.task.add_done_callback(
            lambda task: task.cancelled() or task.exception()
        )  # nobody may ask for it
        return True

    async def _fly(
        self, key: str, make: Callable[[], Awaitable[Answer]], made_for: bytes | None, shelf: Shelf | None
    ) -> _Landed:
        try:
            found = None if shelf is None else await shelf.find()
            answer = await make() if found is None else found.answer
            if answer.similarity is not None:  # it is the answer to another question
                return _Landed(answer, made_for, is_made=True)
        finally:
            # One that its last passenger has left takes a while to end; by then the key may be another's.
            if (flight := self._flights.get(key)) is not None and flight.task is asyncio.current_task():
                del self._flights[key]
        body = msgspec.json.encode(answer.body)
        if found is not None:
            self._keep(key, answer, len(body), min(found.holds_s, self._spec.ttl_s), found.made_for)
            return _Landed(answer, found.made_for, is_made=False)
        self._keep(key, answer, len(body), self._spec.ttl_s, made_for)
        if shelf is not None:
            shelf.keep(answer, body, made_for)
        return _Landed(answer, made_for, is_made=True)

    def _keep(self, key: str, answer: Answer, size: int, holds_s: float, made_for: bytes | None) -> None:
        size += _OVERHEAD_BYTES
        if size > self._spec.bytes:
            return
        self._drop(key)
        self._entries[key] = _Entry(answer, size, self._clock() + holds_s, made_for)
        self.bytes += size
        while self.bytes > self._spec.bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.size


def _kept_for(made_for: bytes | None, asked_by: bytes | None) -> How:
    return "again" if asked_by is not None and made_for == asked_by else "hit"

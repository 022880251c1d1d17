"""The answers of the exact cache in Postgres: they outlive the gateway's process, and several gateways share them.

Nobody waits for it: what it does not say at once it does not know, what cannot be written is not kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from bus.errors import CallboardError, InvalidData, StorageUnavailable
from serve.gateway.breaker import Breaker, State
from serve.gateway.cache import Kept
from serve.gateway.models_file import CacheSpec, ModelSpec, UpstreamSpec
from serve.gateway.relay import Answer
from serve.gateway.revision import revision_of
from serve.gateway.upstream import Json
from storage.answers import AnswerBounds, AnswerKey, StoredAnswer

T = TypeVar("T")
WITHIN_S = 0.05  # a look; connecting included
_LOOKS_AT_ONCE = 64
_LARGEST = 4 * 1024 * 1024  # a larger answer is not read within that time
_WAITING_BYTES = 16 * 1024 * 1024  # of answers that are to be written
_WRITTEN_AT_ONCE = 64
_WRITTEN_WITHIN_S = 10.0
_LEAVING_S = 2.0
_TOLD_EVERY_S = 60.0

_logger = logging.getLogger("callboard.gateway")


class Answers(Protocol):
    """storage.answers.PostgresAnswers. Each raises CallboardError."""

    async def find(self, key: AnswerKey, *, old: bool = False) -> tuple[StoredAnswer, float] | None: ...

    async def keep(self, answers: Sequence[tuple[AnswerKey, StoredAnswer]], bounds: AnswerBounds) -> None: ...

    async def close(self) -> None: ...


class SharedCache:
    """`open_answers` connects, and is called when the first request comes. It is left alone for a while when it fails."""

    def __init__(
        self,
        spec: CacheSpec,
        models: Mapping[str, ModelSpec],
        upstreams: Mapping[str, UpstreamSpec],
        open_answers: Callable[[], Coroutine[Any, Any, Answers]],
        *,
        within_s: float = WITHIN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bounds = AnswerBounds(
            holds_s=spec.ttl_s, stays_s=spec.stale_s, answers=spec.shared.answers, bytes=spec.shared.bytes
        )
        self._largest = min(_LARGEST, spec.shared.bytes)
        self._revisions = {name: revision_of(model, upstreams) for name, model in models.items()}
        self._open_answers = open_answers
        self._within_s = within_s
        self._clock = clock
        self._breaker = Breaker(clock)
        self._opening: asyncio.Task[Answers] | None = None
        self._looks: set[asyncio.Task[Any]] = set()
        self._waiting: dict[AnswerKey, StoredAnswer] = {}
        self._waiting_bytes = 0
        self._writing: asyncio.Task[None] | None = None
        self._told_at: float | None = None

    @property
    def state(self) -> State:
        """Whether it is asked: closed, open (it is not) or half_open."""
        return self._breaker.state

    def shelf(self, tenant: str, name: str, model: ModelSpec, key: str) -> PostgresShelf | None:
        """Where the answer to one request stands: `key` is the digest of it. None where it has no place."""
        if "\0" in tenant:  # Postgres has no such text
            return None
        return PostgresShelf(self, AnswerKey(tenant, bytes.fromhex(key), self._revisions[name]), model)

    async def find(self, key: AnswerKey, *, old: bool = False) -> tuple[StoredAnswer, float] | None:
        """None also where it cannot be said in time. Raises nothing."""
        ticket = self._breaker.enter() if len(self._looks) < _LOOKS_AT_ONCE else None
        if ticket is None:
            return None
        healthy: bool | None = None
        try:
            found = await self._in_time(self._look(key, old))
            healthy = True
            return found
        except CallboardError as error:
            healthy = False
            self._tell(f"Answers of models are not looked up in Postgres: {error}")
            return None
        finally:
            ticket.settle(healthy)

    def keep(self, key: AnswerKey, answer: StoredAnswer) -> None:
        """Soon, and only if there is room for it until then."""
        if answer.size > self._largest or self._breaker.state == "open":
            return
        if self._waiting_bytes + answer.size > _WAITING_BYTES:
            self._tell("Answers of models come faster than Postgres keeps them: some are not kept.")
            return
        self._forget(key)
        self._waiting[key] = answer
        self._waiting_bytes += answer.size
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def close(self) -> None:
        """What was to be written is, if that is soon done."""
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=_LEAVING_S)
        tasks = [task for task in (*self._looks, self._writing, self._opening) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_LEAVING_S)
        if self._opening is not None and self._opening.done() and not _has_failed(self._opening):
            await self._opening.result().close()

    async def _look(self, key: AnswerKey, old: bool) -> tuple[StoredAnswer, float] | None:
        return await (await self._opened()).find(key, old=old)

    async def _opened(self) -> Answers:
        """Connecting goes on when who waits for it has left. Raises CallboardError."""
        if self._opening is None or (self._opening.done() and _has_failed(self._opening)):
            self._opening = asyncio.create_task(self._open_answers())
            self._opening.add_done_callback(_has_failed)
        opening = self._opening
        await asyncio.wait([opening])
        return opening.result()

    async def _in_time(self, look: Coroutine[Any, Any, T]) -> T:
        """Raises StorageUnavailable. What is given up ends by itself: the driver has Postgres end it first."""
        task = asyncio.create_task(look)
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)
        task.add_done_callback(_has_failed)  # whose error nobody may ask for
        try:
            done, _ = await asyncio.wait([task], timeout=self._within_s)
        finally:
            task.cancel()
        if not done:
            raise StorageUnavailable(f"Postgres does not answer within {self._within_s * 1000:.0f} ms.")
        return task.result()

    async def _write(self) -> None:
        while self._waiting and (ticket := self._breaker.enter()) is not None:
            batch = self._batch()
            healthy: bool | None = None
            try:
                async with asyncio.timeout(_WRITTEN_WITHIN_S):
                    await (await self._opened()).keep(batch, self._bounds)
                healthy = True
            except (CallboardError, TimeoutError) as error:
                healthy = None if isinstance(error, InvalidData) else False
                self._tell(f"Answers of models are not kept in Postgres: {str(error) or 'it is too slow.'}")
            finally:
                ticket.settle(healthy)
        self._waiting.clear()
        self._waiting_bytes = 0

    def _batch(self) -> list[tuple[AnswerKey, StoredAnswer]]:
        """The next few, of no more bytes than the largest answer may have."""
        batch: list[tuple[AnswerKey, StoredAnswer]] = []
        size = 0
        for key, answer in list(self._waiting.items())[:_WRITTEN_AT_ONCE]:
            size += answer.size
            if batch and size > _LARGEST:
                break
            batch.append((key, answer))
            self._forget(key)
        return batch

    def _forget(self, key: AnswerKey) -> None:
        answer = self._waiting.pop(key, None)
        if answer is not None:
            self._waiting_bytes -= answer.size

    def _tell(self, line: str) -> None:
        """Once a minute at most: it may be so for every request."""
        if self._told_at is None or self._clock() - self._told_at >= _TOLD_EVERY_S:
            self._told_at = self._clock()
            _logger.warning("%s", line)


def _has_failed(task: asyncio.Task[Any]) -> bool:
    """Of one that has ended; asyncio does not complain of an error that was looked at."""
    return task.cancelled() or task.exception() is not None


class PostgresShelf:
    """The place of one request. Implements serve.gateway.cache.Shelf."""

    def __init__(self, cache: SharedCache, key: AnswerKey, model: ModelSpec) -> None:
        self._cache = cache
        self._key = key
        self._model = model

    async def find(self, *, old: bool = False) -> Kept | None:
        found = await self._cache.find(self._key, old=old)
        if found is None:
            return None
        stored, holds_s = found
        try:
            body = msgspec.json.decode(stored.body, type=Json)
            return Kept(Answer(self._model.targets[stored.target], body), stored.made_for, holds_s)
        except (msgspec.DecodeError, IndexError):  # somebody has edited it
            return None

    def keep(self, answer: Answer, body: bytes, made_for: bytes | None) -> None:
        target = self._model.targets.index(answer.target)
        self._cache.keep(self._key, StoredAnswer(target=target, made_for=made_for, body=body))

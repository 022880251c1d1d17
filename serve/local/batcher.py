"""Texts of many requests, encoded together: batches by tokens, in turn among the requests, with a limit to what waits.

Ray Serve's own `@serve.batch(batch_size_fn=...)` counts whole requests: one above the limit is an error, one that does not
fit goes behind all that came later, none is spread over several batches, and nothing limits what waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from serve.local.batches import batches

C = TypeVar("C")
R = TypeVar("R")
_WINDOW = 4  # batches that are taken, sorted together and done before it is the next requests' turn
_WEIGHT = 0.2  # of the newest batch in the measured speed
_LONGEST_WAIT_S = 60.0


class Busy(Exception):
    """More waits than may. `retry_after_s`: until about so much is done, by the speed of the last batches."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(f"{waiting:,} tokens wait")
        self.waiting = waiting
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Piece(Generic[C]):
    """One text: `content` is what is encoded."""

    content: C
    tokens: int
    group: str = ""


@dataclass(eq=False)
class _Job(Generic[C, R]):
    """A request: what of it waits still, and what is done."""

    waiting: deque[_Part[C, R]]
    done: asyncio.Future[list[R]]
    results: dict[int, R] = field(default_factory=dict)
    pieces: int = 0


@dataclass(frozen=True, eq=False)
class _Part(Generic[C, R]):
    job: _Job[C, R]
    place: int
    content: C
    tokens: int
    group: str


class Batcher(Generic[C, R]):
    """`encode` gives a result for each of the contents of a batch, in their order; it is called `depth` times at once."""

    def __init__(
        self,
        encode: Callable[[list[C], str], Awaitable[Sequence[R]]],
        *,
        limit: int,
        waiting_limit: int,
        depth: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._encode = encode
        self._limit = limit
        self._waiting_limit = waiting_limit
        self._depth = depth
        self._clock = clock
        self._jobs: deque[_Job[C, R]] = deque()  # of which something waits
        self._live: set[_Job[C, R]] = set()
        self._arrived = asyncio.Event()
        self._running: dict[asyncio.Task[None], float] = {}
        self._speed: float | None = None  # tokens a second
        self._loop = asyncio.create_task(self._work())
        self.waiting = 0

    async def submit(self, pieces: Sequence[Piece[C]]) -> list[R]:
        """Their results, in order; at least one. Raises Busy, and what `encode` raises for one of them alone."""
        size = sum(piece.tokens for piece in pieces)
        # A request that is larger than all that may wait is taken when it is the only one.
        if self.waiting and self.waiting + size > self._waiting_limit:
            raise self.busy()
        job: _Job[C, R] = _Job(deque(), asyncio.get_running_loop().create_future(), pieces=len(pieces))
        parts = [_Part(job, at, one.content, one.tokens, one.group) for at, one in enumerate(pieces)]
        # In order of length already here: a window takes only some, and alike ones make good batches.
        job.waiting.extend(sorted(parts, key=lambda part: (part.group, -part.tokens)))
        self.waiting += size
        self._jobs.append(job)
        self._live.add(job)
        self._arrived.set()
        try:
            return await job.done
        finally:
            self._live.discard(job)
            self._forget(job)

    def busy(self) -> Busy:
        wait_s = _LONGEST_WAIT_S if self._speed is None else self.waiting / self._speed
        return Busy(self.waiting, min(_LONGEST_WAIT_S, max(1.0, wait_s)))

    @property
    def full(self) -> bool:
        return self.waiting >= self._waiting_limit

    @property
    def stuck_s(self) -> float:
        """How long the oldest batch under way has taken so far; endless where none will be begun any more."""
        if self._loop.done():
            return float("inf")
        return max((self._clock() - began for began in self._running.values()), default=0.0)

    async def close(self) -> None:
        """End what is under way; whoever waits gets a CancelledError."""
        tasks = [self._loop, *self._running]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for job in self._live:
            job.done.cancel()

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while window := self._window():
                for batch in batches(window, self._limit):
                    task = asyncio.create_task(self._run(batch))
                    self._running[task] = self._clock()
                    task.add_done_callback(self._running.pop)
                    # The next window is taken no earlier than it can begin: more may have come until then.
                    while len(self._running) >= self._depth:
                        await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)

    def _window(self) -> list[_Part[C, R]]:
        """Of each request one text in turn, so that a large request does not keep small ones waiting."""
        window: list[_Part[C, R]] = []
        size = 0
        while self._jobs and size < _WINDOW * self._limit:
            job = self._jobs.popleft()
            part = job.waiting.popleft()
            window.append(part)
            size += part.tokens
            self.waiting -= part.tokens
            if job.waiting:
                self._jobs.append(job)
        return window

    async def _run(self, batch: list[_Part[C, R]]) -> None:
        batch = [part for part in batch if not part.job.done.done()]
        if not batch:
            return
        began = self._clock()
        try:
            results = await self._encode([part.content for part in batch], batch[0].group)
        except Exception as error:
            if len(batch) > 1:  # one of them is to blame, or all are too much at once
                half = len(batch) // 2
                await self._run(batch[:half])
                await self._run(batch[half:])
            elif not batch[0].job.done.done():
                batch[0].job.done.set_exception(error)
            return
        self._measured(sum(part.tokens for part in batch), self._clock() - began)
        for part, result in zip(batch, results, strict=True):
            _settle(part, result)

    def _measured(self, tokens: int, seconds: float) -> None:
        speed = tokens / max(seconds, 1e-6)
        self._speed = speed if self._speed is None else self._speed + _WEIGHT * (speed - self._speed)

    def _forget(self, job: _Job[C, R]) -> None:
        """Nobody waits for it any more; what of it has not begun is not done."""
        if job.waiting:
            self.waiting -= sum(part.tokens for part in job.waiting)
            job.waiting.clear()
            with contextlib.suppress(ValueError):
                self._jobs.remove(job)


def _settle(part: _Part[C, R], result: R) -> None:
    job = part.job
    if job.done.done():
        return
    job.results[part.place] = result
    if len(job.results) == job.pieces:
        job.done.set_result([job.results[at] for at in range(job.pieces)])

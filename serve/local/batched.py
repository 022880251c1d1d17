"""One model at work on batches of texts: loaded in the background, its tokens made and its batches run in threads."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from bus.registry import first_line
from serve.gateway.errors import ApiError
from serve.local import refusals
from serve.local.batcher import Batcher, Busy, Piece
from serve.local.loading import Loading, OnDevice
from serve.local.settings import BatchedSpec

_logger = logging.getLogger("callboard.models")
_TOKENISED_AT_ONCE = 64  # texts; then it is the next request's turn
_STUCK_S = 300.0

M = TypeVar("M", bound=OnDevice)
C = TypeVar("C")
R = TypeVar("R")


class BatchedModel(Generic[M, C, R]):
    """`run` gives a result for each content of a batch; it and `load` block, in a thread of their own."""

    def __init__(
        self,
        model: str,
        spec: BatchedSpec,
        load: Callable[[], M],
        run: Callable[[M, list[C], str], Sequence[R]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._spec = spec
        self._run = run
        # A tokenizer is not to be used from two threads, and a device gains nothing by two.
        self._tokenising = ThreadPoolExecutor(1, "tokenise")
        self._running = ThreadPoolExecutor(1, "run")
        self._batcher: Batcher[C, R] | None = None
        self._loading = Loading(model, load, self._running, clock)

    async def loaded(self) -> M:
        """Raises ApiError."""
        return await self._loading.loaded()

    async def tokenised(
        self,
        texts: Sequence[str],
        tokens: Callable[[Sequence[str]], list[C]],
        refuse: Callable[[int, C], ApiError | None],
    ) -> list[C]:
        """Of each text. Raises ApiError, also what `refuse` gives for a text's place and tokens."""
        batcher = self._batcher_of(await self.loaded())
        if batcher.full:
            raise refusals.busy(self._model, batcher.busy())
        found: list[C] = []
        for at in range(0, len(texts), _TOKENISED_AT_ONCE):
            few = texts[at : at + _TOKENISED_AT_ONCE]
            found += await asyncio.get_running_loop().run_in_executor(self._tokenising, tokens, few)
            for place in range(at, len(found)):
                if (error := refuse(place, found[place])) is not None:
                    raise error
        return found

    async def results(self, pieces: Sequence[Piece[C]]) -> list[R]:
        """In their order. Raises ApiError."""
        batcher = self._batcher_of(await self.loaded())
        try:
            return await batcher.submit(pieces)
        except Busy as error:
            raise refusals.busy(self._model, error) from None
        except Exception as error:
            _logger.exception("%s failed", self._model)
            raise refusals.failed(self._model, first_line(error)) from None

    def check(self) -> None:
        """Raises RuntimeError when it hangs, so that another process takes its place."""
        if self._batcher is not None and (stuck_s := self._batcher.stuck_s) > _STUCK_S:
            raise RuntimeError(f"{self._model} has been at one batch for {stuck_s:.0f} s.")

    async def close(self) -> None:
        if self._batcher is not None:
            await self._batcher.close()
        for executor in (self._tokenising, self._running):
            executor.shutdown(wait=False, cancel_futures=True)

    def _batcher_of(self, model: M) -> Batcher[C, R]:
        if self._batcher is None:

            async def run(batch: list[C], group: str) -> Sequence[R]:
                in_thread = asyncio.get_running_loop().run_in_executor
                return await in_thread(self._running, self._run, model, batch, group)

            self._batcher = Batcher(
                run,
                limit=self._spec.batch_limit(model.device),
                waiting_limit=self._spec.waiting_limit(model.device),
                depth=1 if model.device == "cpu" else 2,  # the next batch is ready when a GPU is
            )
        return self._batcher

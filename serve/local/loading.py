"""A model that is loaded in the background, at once, and anew some time after it could not be."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Generic, Protocol, TypeVar

from bus.registry import first_line
from serve.gateway.errors import ApiError
from serve.local import refusals
from serve.local.model_folder import BrokenModel

_logger = logging.getLogger("callboard.models")
_LOAD_AGAIN_S = 10.0  # a folder may have been mended


class OnDevice(Protocol):
    @property
    def device(self) -> str: ...


M = TypeVar("M", bound=OnDevice)


class Loading(Generic[M]):
    """`load` blocks, in a thread of `executor`; what it raises is said to each request."""

    def __init__(
        self, model: str, load: Callable[[], M], executor: Executor, clock: Callable[[], float]
    ) -> None:
        self._model = model
        self._load = load
        self._executor = executor
        self._clock = clock
        self._failed_at: float | None = None
        self._loading: Future[M] = executor.submit(self._loaded)

    async def loaded(self) -> M:
        """Raises ApiError."""
        if self._failed_at is not None and self._clock() - self._failed_at >= _LOAD_AGAIN_S:
            self._failed_at = None
            self._loading = self._executor.submit(self._loaded)
        try:
            # Shielded: a client that goes away does not end it for the others.
            return await asyncio.shield(asyncio.wrap_future(self._loading))
        except ApiError:
            if self._failed_at is None:
                self._failed_at = self._clock()
            raise

    def _loaded(self) -> M:
        """In a thread. Raises ApiError."""
        began = time.monotonic()
        try:
            found = self._load()
        except ModuleNotFoundError as error:
            _logger.warning("%s cannot be loaded: %s", self._model, error)
            raise refusals.not_installed(self._model) from None
        except BrokenModel as error:
            raise refusals.not_loaded(self._model, str(error)) from None
        except Exception as error:  # whatever the libraries raise for a folder that is none
            _logger.warning("%s cannot be loaded", self._model, exc_info=True)
            raise refusals.not_loaded(self._model, f"{first_line(error).rstrip('.')}.") from None
        _logger.info("%s is loaded on %s, in %.1f s", self._model, found.device, time.monotonic() - began)
        return found

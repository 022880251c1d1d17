"""What each target has failed with last, for who looks at the gateway."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from serve.gateway.errors import ApiError
from serve.gateway.models_file import TargetSpec
from serve.gateway.upstream import Json

MOST_LETTERS = 300  # of an upstream's own words; there are as many errors at most as models.yaml has targets


class _Met(NamedTuple):
    """Its words only: the error itself holds on to the request that it was met by."""

    code: str | None
    error: str
    at: float


class LastErrors:
    """Without what clients have asked wrong; `clock` in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._met: dict[tuple[str, str], _Met] = {}

    @contextlib.contextmanager
    def kept(self, target: TargetSpec) -> Iterator[None]:
        """Of the block, which asks that target."""
        try:
            yield
        except ApiError as error:
            if error.status == 429 or error.status >= 500:
                met = _Met(error.code, str(error)[:MOST_LETTERS], self._clock())
                self._met[target.upstream, target.model] = met
            raise

    def listed(self) -> list[Json]:
        """The newest first; `ago_s` in seconds."""
        now = self._clock()
        newest = sorted(self._met.items(), key=lambda one: -one[1].at)
        return [
            {
                "upstream": upstream,
                "model": model,
                "code": met.code,
                "error": met.error,
                "ago_s": round(now - met.at, 1),
            }
            for (upstream, model), met in newest
        ]

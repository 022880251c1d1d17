"""What the gateway needs of a server that answers, and how its refusals are read."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import httpx2

from serve.gateway.errors import ApiError
from serve.gateway.models_file import TargetSpec
from serve.gateway.requests import ChatRequest, EmbeddingsRequest, RerankRequest

Json = dict[str, Any]
TOO_SLOW = "upstream_timeout"  # the code of an answer that did not come in time


class Upstream(Protocol):
    """Each raises ApiError, and ends its call when it is cancelled or closed."""

    async def chat(self, target: TargetSpec, request: ChatRequest) -> Json:
        """An OpenAI `chat.completion`."""
        ...

    def stream(self, target: TargetSpec, request: ChatRequest) -> AsyncGenerator[Json]:
        """OpenAI's `chat.completion.chunk`s; the last one has the usage and no choices, where it is known."""
        ...

    async def embed(self, target: TargetSpec, request: EmbeddingsRequest) -> Json:
        """An OpenAI list of embeddings."""
        ...

    async def rerank(self, target: TargetSpec, request: RerankRequest) -> Json:
        """`results`, the best first, each with `index` and `relevance_score`."""
        ...


def refused(
    upstream: str, model: str, status: int, headers: Mapping[str, str], code: str | None, words: str
) -> ApiError:
    """What an HTTP status of an upstream means for the client. `words` are the upstream's own, free of secrets."""
    wait = retry_after(headers)
    if status in (400, 413, 422):
        return ApiError(words, status=413 if status == 413 else 400, code=code)
    if status in (401, 402, 403):  # its words may hold a part of the key
        return ApiError(
            f"The upstream {upstream} refuses the gateway's key (HTTP {status}).",
            fix="Correct the secret that models.yaml names for it, and look at the account.",
            status=502,
            kind="upstream_error",
            code="upstream_refused_key",
            elsewhere=True,
        )
    if status == 404:
        return ApiError(
            f"The upstream {upstream} does not know the model {model}.",
            fix="Correct models.yaml.",
            status=502,
            kind="upstream_error",
            code="upstream_unknown_model",
            elsewhere=True,
        )
    if status == 429:
        spent = code == "insufficient_quota"
        return ApiError(
            f"The upstream {upstream} has its limit reached: {words}",
            status=429,
            kind="rate_limit_error",
            code=code or "rate_limit_exceeded",
            retry_after_s=wait,
            again=not spent,
            elsewhere=True,
        )
    passing = status >= 500 or status in (408, 409)
    return ApiError(
        f"The upstream {upstream} has failed (HTTP {status}): {words}",
        status=502,
        kind="upstream_error",
        code="upstream_failed",
        retry_after_s=wait,
        again=passing,
        elsewhere=True,
        unwell=passing,
    )


def unreachable(upstream: str) -> ApiError:
    return ApiError(
        f"The connection to the upstream {upstream} has failed.",
        status=502,
        kind="upstream_error",
        code="upstream_unreachable",
        again=True,
        elsewhere=True,
        unwell=True,
    )


def timed_out(upstream: str, why: BaseException | None) -> ApiError:
    """Of a connection that was not made in time nobody has been asked anything."""
    if isinstance(why, httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return unreachable(upstream)
    return too_slow(upstream)


def too_slow(upstream: str) -> ApiError:
    return ApiError(
        f"The upstream {upstream} has not answered in time.",
        status=504,
        kind="upstream_error",
        code=TOO_SLOW,
        again=True,
        elsewhere=True,
        unwell=True,
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `retry-after-ms` or `Retry-After` in either of its forms; None where it says nothing readable."""
    try:
        if (millis := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(millis) / 1000)
    except ValueError:
        pass
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds < 1e9 else None

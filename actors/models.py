"""Who answers for models: what a turn needs of the gateway, whoever brings it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import Any, Protocol

import msgspec

from bus.errors import ModelUnavailable

Json = dict[str, Any]


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request in OpenAI's form, and for whom it is made.

    The same `key` with the same body is the same request: when it is made again, because whoever made it died before
    the answer was on record, it has the same answer, and nobody pays twice.
    """

    path: str  # below the base URL: `chat/completions`, `embeddings`, `rerank`
    body: Json
    key: str
    tenant: str
    agent: str
    task: str | None = None
    timeout_s: float | None = None


class ModelReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer in OpenAI's form. `cost` is in US dollars; 0 where nobody knows the price, or somebody else has paid."""

    body: Json
    tokens: int = 0
    cost: Decimal = Decimal(0)


class ModelClient(Protocol):
    async def make(self, request: ModelRequest) -> ModelReply:
        """Raises ModelFailed, and ModelUnavailable for what may go better later."""
        ...

    async def close(self) -> None: ...


class NoModels:
    """Where there is no gateway."""

    async def make(self, request: ModelRequest) -> ModelReply:
        raise ModelUnavailable(
            "No model gateway is reached from here.",
            fix="Start Callboard with `callboard up`; in a test, give the kit `models=...`.",
        )

    async def close(self) -> None:
        """Nothing is open."""


class GivenModels:
    """Answers given by a function of the path and the body: for tests."""

    def __init__(self, answer: Callable[[str, Json], Json | Awaitable[Json]]) -> None:
        self._answer = answer
        self.requests: list[ModelRequest] = []

    async def make(self, request: ModelRequest) -> ModelReply:
        self.requests.append(request)
        found = self._answer(request.path, request.body)
        body = await found if inspect.isawaitable(found) else found
        return ModelReply(body=body, tokens=tokens_of(body))

    async def close(self) -> None:
        """Nothing is open."""


def tokens_of(body: Mapping[str, Any]) -> int:
    """What an answer says that it has used, in and out; 0 where it says nothing readable."""
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return 0
    # Some who rerank say the total only.
    counts = (usage.get("prompt_tokens", usage.get("total_tokens")), usage.get("completion_tokens"))
    return sum(count for count in counts if isinstance(count, int) and count > 0)

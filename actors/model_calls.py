"""The part of Context that asks models: each answer is recorded, and charged to the task, once."""

from __future__ import annotations

import base64
import logging
import math
from abc import ABC, abstractmethod
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from actors import values
from actors.arguments import require_policy
from actors.attempts import attempt
from actors.awaited import Begun, to_be_awaited
from actors.branch import Branch
from actors.journal import Journal
from actors.models import Json, ModelReply, ModelRequest
from actors.retry import RetryPolicy
from actors.spending import CHARGE, MODEL, Charge
from bus.envelope import Envelope
from bus.errors import InvalidMessage, InvalidModelAnswer, ModelFailed, ModelUnavailable
from bus.registry import describe_validation

if TYPE_CHECKING:
    from actors.scope import Scope

_OWN = (ModelFailed.__name__, ModelUnavailable.__name__)  # whose words need not say what they are
M = TypeVar("M", bound=BaseModel)
# The gateway has asked all upstreams as often as it may; this is for one that is starting, or full.
RETRY = RetryPolicy(attempts=6, first_delay_s=0.5, factor=2.0, max_delay_s=8.0, retry_on=(ModelUnavailable,))


class ToolRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The model wants a function called; `arguments` is JSON text, and the model may have got it wrong."""

    id: str
    name: str
    arguments: str


class ChatAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a model has said. `message` is its message in OpenAI's form, to be handed back in the next request."""

    text: str
    tool_calls: list[ToolRequest]
    finish_reason: str
    model: str
    message: Json


class Ranked(msgspec.Struct, frozen=True):
    """A document's place in what was given, and how well it fits; more is better."""

    index: int
    score: float


class Model:
    """One model of the gateway, by its name in models.yaml, with what every request to it says."""

    def __init__(
        self, calls: ModelCalls, name: str, retry: RetryPolicy | None, options: Mapping[str, Any]
    ) -> None:
        self._calls = calls
        self._name = name
        self._retry = retry
        self._options = options

    @property
    def _begun(self) -> Begun:
        return self._calls._begun

    @to_be_awaited
    async def chat(
        self,
        messages: str | Sequence[Json],
        *,
        key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  (the request's own)
        **options: Any,
    ) -> ChatAnswer:
        """Ask it: with one text, or messages in OpenAI's form. `options` are OpenAI's: temperature, tools, max_tokens...

        `timeout` is in seconds, of one try. Raises ModelFailed, and what `ctx.step` raises.
        """
        _, body = await self._chat("chat", messages, key, timeout, options)
        return _said(body)

    @to_be_awaited
    async def structured(
        self,
        messages: str | Sequence[Json],
        answer: type[M],
        *,
        key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        **options: Any,
    ) -> M:
        """The same, with an answer in the form of a pydantic model.

        Raises InvalidModelAnswer when what it says does not fit: a turn that fails of it asks anew when it is tried again.
        """
        schema = {"name": answer.__name__, "schema": answer.model_json_schema(), "strict": True}
        options = {**options, "response_format": {"type": "json_schema", "json_schema": schema}}
        place, body = await self._chat(f"structured {answer.__name__}", messages, key, timeout, options)
        said = _said(body)
        try:
            return answer.model_validate_json(said.text)
        except ValidationError as error:
            raise InvalidModelAnswer(
                f"{self._name} has not answered as {answer.__name__}: {describe_validation(error)}.",
                fix="Ask again with the complaint, or ask a model that keeps to a schema.",
                place=place,
                answer=said.text,
            ) from None

    @to_be_awaited
    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        **options: Any,
    ) -> list[list[float]]:
        """A vector for each text, in their order."""
        body = {
            **options,
            "input": [texts] if isinstance(texts, str) else list(texts),
            "encoding_format": "base64",
        }
        _, found = await self._make("embeddings", "embed", body, key, timeout)
        try:
            return [_floats(row["embedding"]) for row in sorted(found["data"], key=lambda row: row["index"])]
        except (KeyError, TypeError, ValueError):
            raise _unreadable(self._name, "embeddings") from None

    @to_be_awaited
    async def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        **options: Any,
    ) -> list[Ranked]:
        """The documents that fit the query, the best first."""
        body: Json = {**options, "query": query, "documents": list(documents)}
        if top_n is not None:
            body["top_n"] = top_n
        _, found = await self._make("rerank", "rerank", body, key, timeout)
        try:
            return [Ranked(int(row["index"]), float(row["relevance_score"])) for row in found["results"]]
        except (KeyError, TypeError, ValueError):
            raise _unreadable(self._name, "a ranking") from None

    async def _chat(
        self,
        what: str,
        messages: str | Sequence[Json],
        key: str | None,
        timeout_s: float | None,
        options: Json,
    ) -> tuple[str, Json]:
        if {**self._options, **options}.get("stream"):
            raise InvalidMessage("A recorded answer comes whole.", fix="Leave `stream` out.")
        given = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        return await self._make("chat/completions", what, {**options, "messages": given}, key, timeout_s)

    async def _make(
        self, path: str, what: str, body: Json, key: str | None, timeout_s: float | None
    ) -> tuple[str, Json]:
        body = {**self._options, **body, "model": self._name}
        return await self._calls._ask_model(
            path, f"{what} {self._name}", body, key, timeout_s, self._retry or RETRY
        )


class ModelCalls(ABC):
    __slots__ = ()

    def model(self, name: str, *, retry: RetryPolicy | None = None, **options: Any) -> Model:
        """A model of the gateway, by its name in models.yaml; `options` go into each request to it.

        A gateway that is away or full is asked again for some 20 s, or as `retry` says: NO_RETRY for what can be done without.
        """
        if retry is not None:
            require_policy(retry)
        return Model(self, name, retry, options)

    async def _ask_model(
        self, path: str, name: str, body: Json, key: str | None, timeout_s: float | None, retry: RetryPolicy
    ) -> tuple[str, Json]:
        """Its place, and the recorded answer, or a new one; raises ModelFailed."""
        journal = self._journal()
        place = self._branch().place(key)
        bill = f"{place}$"
        journal.forgive(bill)  # it is on record with the answer
        envelope = self._envelope
        # The same after a crash; another one once the turn has failed, which wants another answer.
        made_for = f"{envelope.header.id}:{envelope.failures}:{place}"
        request = ModelRequest(
            path=path, body=body, key=sha256(made_for.encode()).hexdigest(), tenant=envelope.tenant,
            agent=f"{self._scope.domain}/{envelope.agent}", task=envelope.header.task,
            timeout_s=self._within(timeout_s),
        )  # fmt: skip

        def charged(reply: ModelReply) -> None:
            """On record together with the answer, or neither."""
            if reply.tokens or reply.cost:
                charge = Charge(tokens=reply.tokens, cost=reply.cost)
                journal.record(bill, CHARGE, CHARGE, charge.to_json())

        async def made() -> ModelReply:
            reply: ModelReply = await attempt(self, self._scope.models.make, (request,), {}, retry, name)
            return reply

        ok, text = await self._once(
            place, MODEL, name, made, value_of=lambda reply: reply.body, beside=charged
        )
        if not ok:
            error = msgspec.json.decode(text, type=values.Error)
            words = error.message if error.type in _OWN else values.error_line(text)
            raise ModelFailed(f"{name}: {words}", place=place)
        return place, msgspec.json.decode(text)

    def _within(self, timeout_s: float | None) -> float | None:
        left = None if self.deadline is None else max(0.001, self.deadline - self._scope.clock.now())
        return min((limit for limit in (timeout_s, left) if limit is not None), default=None)

    # -- what Context brings -------------------------------------------------------------------------

    _begun: Begun
    _scope: Scope
    _envelope: Envelope

    @property
    @abstractmethod
    def logger(self) -> logging.LoggerAdapter[logging.Logger]: ...

    @property
    @abstractmethod
    def deadline(self) -> float | None: ...

    @abstractmethod
    def _journal(self) -> Journal: ...

    @abstractmethod
    def _branch(self) -> Branch: ...

    @abstractmethod
    async def _once(
        self,
        place: str,
        kind: str,
        name: str,
        make: Callable[[], Awaitable[Any]],
        *,
        value_of: Callable[[Any], Any] = ...,
        beside: Callable[[Any], None] = ...,
    ) -> tuple[bool, str]: ...


def _said(body: Json) -> ChatAnswer:
    try:
        choice = body["choices"][0]
        message = choice["message"]
        return ChatAnswer(
            text=message.get("content") or "",
            tool_calls=[
                ToolRequest(
                    id=call["id"], name=call["function"]["name"], arguments=call["function"]["arguments"]
                )
                for call in message.get("tool_calls") or ()
            ],
            finish_reason=choice.get("finish_reason") or "",
            model=body.get("model") or "",
            message=message,
        )
    except (KeyError, IndexError, TypeError, AttributeError):
        raise _unreadable(str(body.get("model", "the model")), "a chat's answer") from None


def _floats(encoded: str | Sequence[float]) -> list[float]:
    if not isinstance(encoded, str):  # an upstream that does not know base64
        found = [float(number) for number in encoded]
    else:
        found = array("f", base64.b64decode(encoded, validate=True)).tolist()
    if not all(map(math.isfinite, found)):
        raise ValueError("not finite")
    return found


def _unreadable(name: str, what: str) -> ModelFailed:
    return ModelFailed(f"What {name} has answered cannot be read as {what}.", fix="See the gateway's log.")

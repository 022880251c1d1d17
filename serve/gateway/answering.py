"""From a request to its answer: from the cache, from an upstream, or, when none can be reached, from what is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from decimal import Decimal

import msgspec

from serve.gateway import rules
from serve.gateway.accounts import Accounts, Payer, Usage, cost_of, usage_of
from serve.gateway.cache import ExactCache, Shelf, cache_key, repeat_key
from serve.gateway.errors import ApiError
from serve.gateway.exchange import Exchange
from serve.gateway.heard import Heard, estimated_input
from serve.gateway.levels import Level, Levels
from serve.gateway.limits import Limits
from serve.gateway.models_file import ModelsFile, ModelSpec, TargetSpec
from serve.gateway.relay import Answer, GiveUp, Relay
from serve.gateway.requests import ChatRequest, ModelRequest, embeddings_request
from serve.gateway.revision import revision_of
from serve.gateway.shared_cache import SharedCache
from serve.gateway.similar import Found, Question, SimilarAnswers, nearness, text_of
from serve.gateway.upstream import Json

_EMBEDDED_WITHIN_S = 1.0  # a question is sooner answered than compared
_MILLION_EACH = Usage(input=1_000_000, output=1_000_000)
_SAME = 0.9  # the cosine from which on two answers, in other words, say the same


class Answering:
    def __init__(
        self,
        file: ModelsFile,
        relay: Relay,
        cache: ExactCache,
        shared: SharedCache | None,
        limits: Limits,
        accounts: Accounts,
        levels: Levels,
        clock: Callable[[], float],
    ) -> None:
        self._file = file
        self._relay = relay
        self._cache = cache
        self._shared = shared
        self._limits = limits
        self._accounts = accounts
        self._levels = levels
        self._similar = {
            name: SimilarAnswers(model.similar, revision_of(model, file.upstreams), file.cache.ttl_s, clock)
            for name, model in file.models.items()
            if model.similar is not None and file.cache.bytes > 0
        }

    def similar_state(self, name: str) -> dict[str, int] | None:
        """Of a model that is answered by answers to similar questions; None of others."""
        similar = self._similar.get(name)
        return None if similar is None else similar.state

    async def whole(
        self, exchange: Exchange, payer: Payer, model: ModelSpec, request: ModelRequest, by: str | None
    ) -> None:
        """`by`: its Idempotency-Key. Raises ApiError."""
        similar = self._similar.get(request.model)
        asked = exchange.request.headers
        corpus, category = asked.get("x-callboard-corpus"), asked.get("x-callboard-category")
        question = None
        if similar is not None:
            question = similar.question(payer.tenant, request, corpus, category)

        async def make() -> Answer:
            if similar is None or question is None:
                return await self._paid(payer, model, request)
            return await self._similar_or_paid(payer, model, request, similar, question)

        # Who shares a call shares what it finds: a category may want no similar answer.
        key = cache_key(payer.tenant, request, corpus, None if similar is None else category)
        if key is None and by is not None:
            key = repeat_key(payer.tenant, request, by)
        shelf = None
        if key is not None and self._shared is not None:
            shelf = self._shared.shelf(payer.tenant, request.model, model, key)
        try:
            if key is None:
                answer, how = await make(), "miss"
            else:
                answer, how = await self._cache.get(key, make, by, shelf)
        except ApiError as error:
            await self._do_without(exchange, model, request, error, key, shelf)
            return
        is_paid = how in ("miss", "again")
        if not is_paid:
            self._accounts.free(payer, request.model)
        headers = {"x-callboard-upstream": answer.target.upstream, "x-callboard-cache": how}
        if answer.similarity is not None:
            headers["x-callboard-similarity"] = str(answer.similarity)
        if how == "miss":
            headers["x-callboard-level"] = self._levels.answered_by(request, answer.target)
        cost = self._cost(answer.target, usage_of(answer.body)) if is_paid else Decimal(0)
        if cost is not None:
            headers["x-callboard-cost-usd"] = f"{cost:f}"
        await exchange.answer(answer.body, headers=headers)

    async def stream(self, exchange: Exchange, payer: Payer, model: ModelSpec, request: ChatRequest) -> None:
        """Raises ApiError."""
        heard = Heard()

        async def kept(chunks: AsyncIterator[Json]) -> AsyncIterator[Json]:
            async for chunk in chunks:
                heard.hear(chunk)
                yield chunk

        try:
            giving_up = self._giving_up(payer, request)
            async with self._relay.stream(request.model, model, request, giving_up) as opened:
                headers = {
                    "x-callboard-upstream": opened.target.upstream,
                    "x-callboard-level": self._levels.answered_by(request, opened.target),
                }
                try:
                    await exchange.stream(_wanted(kept(opened.chunks), request), headers)
                finally:  # it has been worked on, also where the end was not waited for
                    self._charge_stream(payer, request, opened.target, heard)
        except ApiError as error:
            if exchange.answered:
                raise
            self._accounts.failed(payer, request.model)
            await self._do_without(exchange, model, request, error)

    async def _do_without(
        self,
        exchange: Exchange,
        model: ModelSpec,
        request: ModelRequest,
        error: ApiError,
        key: str | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        """Answer it without any upstream. Raises `error` where there is nothing left, or it is the client's matter."""
        if error.status < 500 and error.status != 429:
            raise error
        stale = await self._cache.stale(key, shelf) if key is not None else None
        # Whoever is told to come back later does better than with a rule.
        said = None
        if isinstance(request, ChatRequest) and error.status != 429:
            said = await asyncio.to_thread(rules.answer_of, model.rules, request)
        level: Level = "cache" if stale is not None else "rules" if said is not None else "none"
        self._levels.met(request.model, level)
        headers = {"x-callboard-level": level, "x-callboard-cost-usd": "0"}
        if stale is not None:
            headers |= {"x-callboard-upstream": stale.target.upstream, "x-callboard-cache": "stale"}
            await exchange.answer(stale.body, headers=headers)
        elif said is None:
            raise error
        elif isinstance(request, ChatRequest) and request.stream:
            await exchange.stream(_wanted(rules.chunks(said), request), headers)
        else:
            await exchange.answer(rules.completion(said), headers=headers)

    async def _similar_or_paid(
        self,
        payer: Payer,
        model: ModelSpec,
        request: ModelRequest,
        similar: SimilarAnswers,
        question: Question,
    ) -> Answer:
        vectors = await self._vectors(payer, similar.spec.by, [question.text])
        if vectors is None:
            return await self._paid(payer, model, request)
        found = similar.find(question, vectors[0])
        if found is not None and not found.is_sampled:
            return found.answer
        try:
            answer = await self._paid(payer, model, request)
        except ApiError:
            if found is None:
                raise
            return found.answer
        if found is not None and not await self._say_the_same(payer, similar.spec.by, found, answer):
            similar.wrong += 1
        similar.keep(question, vectors[0], answer)
        return answer

    async def _say_the_same(self, payer: Payer, by: str, found: Found, answer: Answer) -> bool:
        one, other = text_of(found.answer), text_of(answer)
        if one is None or other is None:
            return found.answer.body.get("choices") == answer.body.get("choices")
        if one.split() == other.split():
            return True
        vectors = await self._vectors(payer, by, [one, other])
        return vectors is not None and nearness(*vectors) >= _SAME

    async def _vectors(self, payer: Payer, by: str, texts: list[str]) -> list[list[float]] | None:
        """None where they cannot be had soon."""
        request, model = embeddings_request(by, texts), self._file.models[by]
        key = cache_key(payer.tenant, request)
        assert key is not None
        try:
            async with asyncio.timeout(_EMBEDDED_WITHIN_S):
                answer, _ = await self._cache.get(key, lambda: self._paid(payer, model, request))
            vectors = msgspec.convert([one["embedding"] for one in answer.body["data"]], list[list[float]])
        except (ApiError, TimeoutError, KeyError, TypeError, msgspec.ValidationError):
            return None
        return vectors if len(vectors) == len(texts) else None

    async def _paid(self, payer: Payer, model: ModelSpec, request: ModelRequest) -> Answer:
        try:
            giving_up = self._giving_up(payer, request)
            answer = await self._relay.answer(request.model, model, request, giving_up)
        except ApiError:
            self._accounts.failed(payer, request.model)
            raise
        self._charge(payer, request.model, answer.target, usage_of(answer.body))
        return answer

    def _charge(self, payer: Payer, model: str, target: TargetSpec, usage: Usage | None) -> None:
        self._accounts.charge(payer, model, usage, self._cost(target, usage))
        if usage is not None:
            self._limits.spend(payer.tenant, usage.total)

    def _giving_up(self, payer: Payer, request: ModelRequest) -> GiveUp:
        """What was asked has been read, as far as anybody knows; what of an answer was made nobody says any more."""

        def give_up(target: TargetSpec) -> None:
            usage = estimated_input(request)
            self._accounts.give_up(payer, request.model, usage, self._cost(target, None))
            self._limits.spend(payer.tenant, usage.total)

        return give_up

    def _charge_stream(self, payer: Payer, request: ChatRequest, target: TargetSpec, heard: Heard) -> None:
        """Who leaves before the end pays by the letters for the tokens; what they have cost nobody knows."""
        usage = heard.said or heard.estimate(request)
        self._accounts.charge(payer, request.model, usage, self._cost(target, heard.said))
        self._limits.spend(payer.tenant, usage.total)

    def _cost(self, target: TargetSpec, usage: Usage | None) -> Decimal | None:
        """None where nobody says the tokens, unless none of them costs anything."""
        cost = cost_of(target, self._file.upstreams[target.upstream], usage or _MILLION_EACH)
        return cost if usage is not None or cost == 0 else None


async def _wanted(chunks: AsyncIterator[Json], request: ChatRequest) -> AsyncIterator[Json]:
    """What the client has asked for: the usage is always asked for of upstreams."""
    async for chunk in chunks:
        if not request.wants_usage and "usage" in chunk:
            chunk = {name: value for name, value in chunk.items() if name != "usage"}
            if not chunk.get("choices"):
                continue
        yield chunk

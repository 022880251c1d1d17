"""The model gateway: OpenAI's API, and Anthropic's for messages, in front of all upstreams, as an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from typing import TypeVar
from urllib.parse import unquote

import httpx2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from actors.model_gateway import MAX_NAME
from actors.secret import Secrets
from serve.gateway.accounts import Accounts, Payer
from serve.gateway.answering import Answering
from serve.gateway.cache import ExactCache
from serve.gateway.dialect import OPENAI, Dialect
from serve.gateway.errors import ApiError
from serve.gateway.exchange import Endpoint, Exchange, Handle
from serve.gateway.key import same
from serve.gateway.levels import Levels
from serve.gateway.limits import Limits
from serve.gateway.local_upstream import LocalModels, LocalUpstream
from serve.gateway.messages_reply import ANTHROPIC
from serve.gateway.messages_request import read_messages
from serve.gateway.models_file import ModelSpec, Serves, TargetSpec, UpstreamSpec, parse_models
from serve.gateway.relay import Reached, Relay
from serve.gateway.requests import ChatRequest, ModelRequest, read_chat, read_embeddings, read_rerank
from serve.gateway.secret import has_key, missing_keys
from serve.gateway.settings import GatewaySettings
from serve.gateway.shared_cache import WITHIN_S, SharedCache
from serve.gateway.telemetry import Telemetry, UpstreamAt
from serve.gateway.traced_upstream import TracedUpstream
from serve.gateway.upstream import Json, Upstream
from storage.answers import PostgresAnswers

# More than there are calls at once, so that none waits for a connection.
_CONNECTIONS = httpx2.Limits(max_connections=4096, max_keepalive_connections=100)
# A company's proxy cannot reach what listens on this machine.
_WITHOUT_PROXY = dict.fromkeys(("all://127.0.0.1", "all://localhost", "all://[::1]"))
# Read in a thread: megabytes of messages take a while, and all others would wait.
_LARGE_BYTES = 32 * 1024
R = TypeVar("R", bound=ModelRequest)
_WHAT: dict[Serves, str] = {"chat": "chats", "embeddings": "embeddings", "rerank": "reranking"}
_HOW: dict[Serves, str] = {
    "chat": "with the upstream that answers for it",
    "embeddings": "with `serves: embeddings` and the upstream that answers for it",
    "rerank": "with `serves: rerank` and a cross-encoder on an upstream of type local, or a compatible server",
}


class Gateway:
    """Holds what requests share. `app` is the ASGI application. Raises InvalidModelsFile."""

    def __init__(
        self,
        settings: GatewaySettings,
        secrets: Secrets,
        *,
        local: LocalModels = LocalModels(),  # noqa: B008  (it is empty, and frozen)
        telemetry: Telemetry | None = None,
        retry_pause_s: float = 0.25,
        shared_within_s: float = WITHIN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._secrets = secrets
        self._telemetry = telemetry
        self._file = parse_models(settings.models, settings.models_path)
        self._http = httpx2.AsyncClient(limits=_CONNECTIONS, mounts=_WITHOUT_PROXY)
        self._relay = Relay(
            {
                name: Reached(
                    spec,
                    self._told(name, spec, _upstream(name, spec, secrets, self._http, local)),
                    clock,
                )
                for name, spec in self._file.upstreams.items()
            },
            pause_s=retry_pause_s,
            clock=clock,
        )
        self._cache = ExactCache(self._file.cache, clock)
        self._shared = self._shared_cache(settings.postgres_url, shared_within_s, clock)
        self._limits = Limits(self._file.limits, clock)
        self._accounts = Accounts()
        self._levels = Levels(
            self._file.models, self._is_away, cached=self._file.cache.bytes > 0, clock=clock
        )
        self._answering = Answering(
            self._file,
            self._relay,
            self._cache,
            self._shared,
            self._limits,
            self._accounts,
            self._levels,
            clock,
        )
        self.app = Starlette(
            routes=[
                self._route("/v1/chat/completions", "POST", self._chat),
                self._route("/v1/messages", "POST", self._messages, ANTHROPIC),
                self._route("/v1/messages/{rest:path}", None, _not_translated, ANTHROPIC),
                self._route("/v1/embeddings", "POST", self._embed),
                self._route("/v1/rerank", "POST", self._rerank),
                self._route("/v1/models", "GET", self._list_models),
                self._route("/v1/models/{name:path}", "GET", self._show_model),
                self._route("/callboard/gateway", "GET", self._show_state),
            ],
            exception_handlers={HTTPException: _not_here},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        await self._http.aclose()
        if self._shared is not None:
            await self._shared.close()
        if self._telemetry is not None:
            await asyncio.to_thread(self._telemetry.close)

    def _shared_cache(
        self, postgres_url: str | None, within_s: float, clock: Callable[[], float]
    ) -> SharedCache | None:
        """None where nothing is to be kept, or no Postgres is known."""
        spec = self._file.cache
        if postgres_url is None or spec.bytes == 0 or spec.shared.bytes == 0:
            return None
        return SharedCache(
            spec,
            self._file.models,
            self._file.upstreams,
            lambda: PostgresAnswers.open(postgres_url),
            within_s=within_s,
            clock=clock,
        )

    def _route(self, path: str, method: str | None, handle: Handle, dialect: Dialect = OPENAI) -> Route:
        """`method`: None is any."""

        async def admitted(exchange: Exchange) -> None:
            self._admit(exchange.request)
            if self._telemetry is None or method != "POST":
                await handle(exchange)
            else:
                with self._telemetry.request(path, exchange.request.headers):
                    await handle(exchange)

        endpoint = Endpoint(admitted, body_limit=self._file.limits.body_bytes, dialect=dialect)
        return Route(path, endpoint, methods=None if method is None else [method])

    def _told(self, name: str, spec: UpstreamSpec, upstream: Upstream) -> Upstream:
        """To telemetry, where there is any."""
        if self._telemetry is None:
            return upstream
        return TracedUpstream(upstream, UpstreamAt.of(name, spec), self._telemetry)

    def _admit(self, request: Request) -> None:
        """By either SDK's header: who sends both may have the other one's from its environment."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = [token.strip() if scheme.lower() == "bearer" else "", request.headers.get("x-api-key", "")]
        if not any(given):
            raise _unauthorized("There is no key with the request.")
        if not any(same(one, self._settings.key) for one in given):
            raise _unauthorized("The key is wrong.")

    # -- the endpoints ---------------------------------------------------------------------------------

    async def _chat(self, exchange: Exchange) -> None:
        await self._chatted(exchange, read_chat)

    async def _messages(self, exchange: Exchange) -> None:
        await self._chatted(exchange, read_messages)

    async def _chatted(self, exchange: Exchange, read: Callable[[bytes], ChatRequest]) -> None:
        payer = _payer(exchange.request.headers)
        async with self._arrived(exchange, payer) as body:
            request = await reading(read, body)
            model = self._model(request.model, "chat")
            if request.stream:
                await exchange.while_connected(
                    lambda: self._answering.stream(exchange, payer, model, request)
                )
            else:
                await self._whole(exchange, payer, model, request)

    async def _embed(self, exchange: Exchange) -> None:
        payer = _payer(exchange.request.headers)
        async with self._arrived(exchange, payer) as body:
            request = await reading(read_embeddings, body)
            model = self._model(request.model, "embeddings")
            await self._whole(exchange, payer, model, request)

    async def _rerank(self, exchange: Exchange) -> None:
        payer = _payer(exchange.request.headers)
        async with self._arrived(exchange, payer) as body:
            request = await reading(read_rerank, body)
            model = self._model(request.model, "rerank")
            await self._whole(exchange, payer, model, request)

    @contextlib.asynccontextmanager
    async def _arrived(self, exchange: Exchange, payer: Payer) -> AsyncIterator[bytes]:
        """Its body, and a place among those that are worked on. Raises ApiError."""
        with self._limits.arriving(payer.tenant) as arrival:
            body = await exchange.body(arrival.take, within_s=self._file.limits.body_s)
            with self._limits.entered(payer.tenant):
                yield body

    async def _whole(self, exchange: Exchange, payer: Payer, model: ModelSpec, request: ModelRequest) -> None:
        by = _idempotency_key(exchange.request.headers)
        await exchange.while_connected(lambda: self._answering.whole(exchange, payer, model, request, by))

    async def _list_models(self, exchange: Exchange) -> None:
        data = [self._described(name, model) for name, model in self._file.models.items()]
        await exchange.answer({"object": "list", "data": data})

    async def _show_model(self, exchange: Exchange) -> None:
        name = exchange.request.path_params["name"]
        await exchange.answer(self._described(name, self._model(name)))

    async def _show_state(self, exchange: Exchange) -> None:
        await exchange.answer(
            {
                "models": [
                    {
                        "model": name,
                        "serves": model.serves,
                        "level": self._levels.now(name),
                        "targets": [f"{target.upstream}: {target.model}" for target in model.targets],
                        "similar": self._answering.similar_state(name),
                    }
                    for name, model in self._file.models.items()
                ],
                "running": self._limits.running,
                "upstreams": self._relay.states(),
                "errors": self._relay.last_errors.listed(),
                "missing_keys": [asdict(one) for one in missing_keys(self._file, self._secrets)],
                "cache_bytes": self._cache.bytes,
                "shared_cache": "off" if self._shared is None else self._shared.state,
                "accounts": self._accounts.listed(),
            }
        )

    def _described(self, name: str, model: ModelSpec) -> Json:
        """As OpenAI has it, and how well it is served just now."""
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": model.targets[0].upstream,
            "level": self._levels.now(name),
        }

    # -- the rest --------------------------------------------------------------------------------------

    def _is_away(self, target: TargetSpec) -> bool:
        """Whether it would not be asked, or only to be refused."""
        has = has_key(target.upstream, self._file.upstreams[target.upstream], self._secrets)
        return not has or self._relay.is_open(target)

    def _model(self, name: str, serves: Serves | None = None) -> ModelSpec:
        model = self._file.models.get(name)
        path = self._settings.models_path
        if serves is not None and all(one.serves != serves for one in self._file.models.values()):
            raise ApiError(
                f"No model for {_WHAT[serves]} is configured here.",
                fix=f"Add one to {path}, {_HOW[serves]}, and run `callboard up` again.",
                status=404,
                code="model_not_found",
                param="model",
            )
        if model is None:
            known = ", ".join(sorted(self._file.models)[:20])
            raise ApiError(
                f"There is no model {name!r} here"
                + (f"; there are {known}." if known else ", since none is configured."),
                fix=f"Add it to {path} and run `callboard up` again.",
                status=404,
                code="model_not_found",
                param="model",
            )
        if serves is not None and model.serves != serves:
            raise ApiError(
                f"The model {name!r} serves {model.serves}, not {serves}.",
                fix=f"Ask another one, or correct {path}.",
                code="model_not_supported",
                param="model",
            )
        return model


def _upstream(
    name: str,
    spec: UpstreamSpec,
    secrets: Secrets,
    http: httpx2.AsyncClient,
    local: LocalModels,
) -> Upstream:
    """With its SDK imported only where it is needed: each takes a second or two."""
    if spec.type == "local":
        return LocalUpstream(name, local, spec.silence_s)
    if spec.type == "anthropic":
        from serve.gateway.anthropic_upstream import AnthropicUpstream

        return AnthropicUpstream(name, spec, secrets, http)
    from serve.gateway.openai_upstream import OpenAIUpstream

    return OpenAIUpstream(name, spec, secrets, http)


async def reading(read: Callable[[bytes], R], body: bytes) -> R:
    """Raises what `read` raises."""
    return read(body) if len(body) < _LARGE_BYTES else await asyncio.to_thread(read, body)


def _payer(headers: Mapping[str, str]) -> Payer:
    found = {}
    for name in ("tenant", "task", "agent"):
        value = headers.get(f"x-callboard-{name}")
        if value is not None:
            if not value or len(value) > MAX_NAME or not value.isprintable():
                raise ApiError(f"The header X-Callboard-{name.capitalize()} is no name.", param=name)
            found[name] = unquote(value)
    return Payer(**{"tenant": "default", **found})


def _idempotency_key(headers: Mapping[str, str]) -> str | None:
    """Of a request whose client may make it again when it has not heard the answer."""
    key = headers.get("idempotency-key")
    if key is not None and (not key or len(key) > MAX_NAME):
        raise ApiError(
            "The header Idempotency-Key is no key.",
            fix=f"Send 1 to {MAX_NAME} characters.",
            param="idempotency-key",
        )
    return key


def _unauthorized(what: str) -> ApiError:
    return ApiError(
        what,
        fix="Send `Authorization: Bearer KEY` or `x-api-key: KEY`; `callboard gateway --key` prints it.",
        status=401,
        code="invalid_api_key",
    )


async def _not_translated(exchange: Exchange) -> None:
    raise ApiError(
        f"{exchange.request.url.path}: of Anthropic's Messages API the gateway has /v1/messages only.",
        fix="Ask Anthropic for what else there is, such as batches and counts of tokens.",
        code="unknown_url",
    )


async def _not_here(request: Request, error: Exception) -> Response:
    """Starlette's own refusals, in OpenAI's form."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}: "
    refused = ApiError(
        what + ("not with that method." if error.status_code == 405 else "there is no such place."),
        fix="" if request.url.path.startswith("/v1/") else "The base URL ends in /v1.",
        status=error.status_code,
        code="method_not_allowed" if error.status_code == 405 else "unknown_url",
    )
    return JSONResponse(refused.body(), refused.status, headers=error.headers)

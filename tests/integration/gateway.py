"""A gateway in this event loop, with played upstreams behind it and the official OpenAI SDK in front."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
from starlette.types import ASGIApp, Receive, Scope, Send

from actors.model_gateway import KEY as KEY_FILE
from actors.model_gateway import RECORD, GatewayClient
from actors.secret import GivenSecrets
from serve.gateway import GatewaySettings
from serve.gateway.app import Gateway
from serve.gateway.local_upstream import LocalModels
from serve.gateway.telemetry import Telemetry
from tests.integration.upstreams import KEY, Played, serving

LOCAL_KEY = "cb-the-key-of-the-gateway"
SHARED_WITHIN_S = 10.0  # a busy machine is no Postgres that is slow

MODELS = """
{upstreams}
  openai: {{type: openai, base_url: "{openai}/v1", api_key: UPSTREAM, {times}}}
  claude: {{type: anthropic, base_url: "{claude}", api_key: UPSTREAM, {times}}}
  keyless: {{type: openai, base_url: "{openai}/v1", api_key: NOBODY_HAS_IT}}
models:
  small: {{targets: [{{upstream: openai, model: gpt-5-mini, price: {{input: 0.25, output: 2}}}}]}}
  claude: {{targets: [{{upstream: claude, model: claude-haiku-4-5, max_tokens: 777}}]}}
  either: {{targets: [{{upstream: openai, model: gpt-5-mini}}, {{upstream: claude, model: claude-haiku-4-5}}]}}
  unset: {{targets: [{{upstream: keyless, model: gpt-5-mini}}]}}
  unset-or-claude: {{targets: [{{upstream: keyless, model: gpt-5-mini}}, {{upstream: claude, model: c}}]}}
  vectors: {{serves: embeddings, targets: [{{upstream: openai, model: text-embedding-3-small}}]}}
{more}
"""


class Front:
    """The gateway as its clients see it, and its two upstreams."""

    def __init__(
        self, url: str, openai_played: Played, claude_played: Played, http: httpx2.AsyncClient
    ) -> None:
        self.url = url
        self.openai = openai_played
        self.claude = claude_played
        self.http = http
        self.client = self.client_with(LOCAL_KEY)

    def client_with(self, key: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key=key, max_retries=0, http_client=self.http, timeout=20
        )

    async def post(self, path: str, content: bytes, **headers: str) -> httpx2.Response:
        """A request as no SDK would make it."""
        given = {"authorization": f"Bearer {LOCAL_KEY}", "content-type": "application/json", **headers}
        return await self.http.post(self.url + path, content=content, headers=given)

    @contextlib.asynccontextmanager
    async def agents_client(self, folder: Path) -> AsyncIterator[GatewayClient]:
        """As on a host: the port and the key stand in the data folder."""
        port = int(self.url.rstrip("/").rpartition(":")[2].partition("/")[0])
        (folder / RECORD).write_text(json.dumps({"port": port}))
        (folder / KEY_FILE).write_text(LOCAL_KEY)
        (folder / KEY_FILE).chmod(0o600)
        client = GatewayClient(folder)
        yield client
        await client.close()

    async def state(self) -> Any:
        answer = await self.http.get(
            f"{self.url}/callboard/gateway", headers={"authorization": f"Bearer {LOCAL_KEY}"}
        )
        return answer.json()


class Clock:
    """A gateway's, which a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """The servers, which the gateways of several tests share; it is an application itself, and plays `gateway`."""

    def __init__(self) -> None:
        self.openai, self.claude = Played(), Played()
        self.gateway: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            assert self.gateway is not None
            await self.gateway(scope, receive, send)

    @classmethod
    @contextlib.asynccontextmanager
    async def set(cls) -> AsyncIterator[Stage]:
        stage = cls()
        async with (
            serving(stage.openai) as stage.openai_url,
            serving(stage.claude) as stage.claude_url,
            serving(stage) as stage.url,
            httpx2.AsyncClient(trust_env=False) as stage.http,
        ):
            yield stage

    openai_url: str
    claude_url: str
    url: str
    http: httpx2.AsyncClient

    @contextlib.asynccontextmanager
    async def front(
        self,
        *,
        times: str = "answer_s: 5",
        more: str = "",
        upstreams: str = "upstreams:",
        clock: Callable[[], float] = time.monotonic,
        without_models: bool = False,
        local: LocalModels = LocalModels(),  # noqa: B008
        telemetry: Telemetry | None = None,
        postgres_url: str | None = None,
        shared_within_s: float = SHARED_WITHIN_S,
    ) -> AsyncIterator[Front]:
        """A gateway of a test's own, with upstreams that were asked nothing yet. Within it another one takes its place."""
        self.openai.fresh()
        self.claude.fresh()
        text = MODELS.format(
            openai=self.openai_url, claude=self.claude_url, times=times, more=more, upstreams=upstreams
        )
        settings = GatewaySettings(
            key=LOCAL_KEY,
            postgres_url=postgres_url,
            models="" if without_models else text,
            models_path="/home/models.yaml",
        )
        secrets = GivenSecrets({"UPSTREAM": KEY})
        app = Gateway(
            settings,
            secrets,
            local=local,
            telemetry=telemetry,
            retry_pause_s=0.01,
            shared_within_s=shared_within_s,
            clock=clock,
        ).app
        before = self.gateway
        async with app.router.lifespan_context(app):
            self.gateway = app
            yield Front(self.url, self.openai, self.claude, self.http)
        self.gateway = before

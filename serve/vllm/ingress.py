"""What listens before the engines: Ray's OpenAI-compatible ingress behind a key. Imports ray.serve.llm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from ray.llm._internal.serve.core.ingress.ingress import init
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse

from serve.gateway.errors import ApiError
from serve.gateway.key import same

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class KeyRequired:
    """ASGI middleware: nothing is answered without the key, the documentation neither."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            scheme, _, given = HTTPConnection(scope).headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not same(given.strip(), self._key):
                refusal = JSONResponse(_UNKNOWN.body(), _UNKNOWN.status, _UNKNOWN.headers())
                return await refusal(scope, receive, send)
        return await self._app(scope, receive, send)


_UNKNOWN = ApiError(
    "The key is missing, or is another one.",
    fix="Send `Authorization: Bearer KEY` with the secret that vllm.yaml names as api_key.",
    status=401,
    code="invalid_api_key",
)


def ingress(key: str) -> Any:
    """The class of the deployment."""
    app: FastAPI = init()
    app.add_middleware(KeyRequired, key=key)  # added last, it is asked first
    return make_fastapi_ingress(OpenAiIngress, app=app)

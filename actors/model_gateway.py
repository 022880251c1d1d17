"""The gateway over HTTP, as agents reach it. Where it answers stands in files of the data folder, read for each request:
it may have been started after the host, and anew at another port."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from actors.models import Json, ModelReply, ModelRequest, tokens_of
from bus.amount import exact
from bus.errors import DataFolderError, ModelFailed, ModelUnavailable

if TYPE_CHECKING:
    import httpx2

RECORD = "gateway.json"
KEY = "gateway.key"
MAX_NAME = 256  # characters of a header that says who asks
_ANSWER_WITHIN_S = (
    900.0  # where the caller says nothing; the gateway's own limits, in models.yaml, are shorter
)
_CONNECT_WITHIN_S = 5.0
_SHOWN = 300  # characters of an answer that is no JSON


@dataclass(frozen=True, kw_only=True)
class GatewayAddress:
    """Where a gateway answers."""

    port: int
    key: str = field(repr=False)

    @property
    def base_url(self) -> str:
        """For an OpenAI client."""
        return base_url(self.port)


def base_url(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1"


def read_record(folder: Path) -> dict[str, Any]:
    """What was written of the gateway that was served last; empty where none was."""
    try:
        found = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("port"), int) else {}


def read_key(path: Path) -> str:
    """Raises DataFolderError when there is none, or others than its owner could read it."""
    try:
        mode = path.stat().st_mode
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no ASCII"
        raise DataFolderError(
            f"The gateway's key {path} cannot be read: {why}.", fix="`callboard up` makes one."
        ) from None
    if mode & 0o077:
        raise DataFolderError(
            f"The gateway's key {path} can be read by others than its owner.",
            fix=f"Remove {path}; the next `callboard up` makes another.",
        )
    if len(key) < 16:
        raise DataFolderError(
            f"The gateway's key {path} is too short.",
            fix=f"Remove {path}; the next `callboard up` makes another.",
        )
    return key


class GatewayClient:
    """Implements actors.models.ModelClient; `folder` is the data folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._http: httpx2.AsyncClient | None = None

    async def make(self, request: ModelRequest) -> ModelReply:
        address = await asyncio.to_thread(self._address)
        import httpx2  # by those hosts only whose agents ask models, and only where one was ever served

        if self._http is None:
            self._http = httpx2.AsyncClient(trust_env=False)
        headers = {
            "authorization": f"Bearer {address.key}",
            "idempotency-key": request.key,
            "x-callboard-tenant": request.tenant,
            "x-callboard-agent": quote(request.agent)[:MAX_NAME],  # its key may have any characters
            **({"x-callboard-task": request.task} if request.task is not None else {}),
        }
        limit = request.timeout_s or _ANSWER_WITHIN_S
        try:
            answer = await self._http.post(
                f"{address.base_url}/{request.path}",
                json=request.body,
                headers=headers,
                timeout=httpx2.Timeout(limit, connect=min(limit, _CONNECT_WITHIN_S)),
            )
        except (httpx2.ReadTimeout, httpx2.WriteTimeout):
            raise ModelFailed(
                f"The model has not answered within {limit:g} s.",
                fix="Ask it again, since the first request loads a model that runs here, or give it more `timeout`.",
            ) from None
        except httpx2.TransportError as error:
            raise ModelUnavailable(
                f"The model gateway cannot be reached: {type(error).__name__}.",
                fix="Look at `callboard gateway`.",
            ) from None
        return _read(answer)

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    def _address(self) -> GatewayAddress:
        record = read_record(self._folder)
        if not record:
            raise ModelUnavailable("No model gateway was started here.", fix="Start one with `callboard up`.")
        try:
            return GatewayAddress(port=record["port"], key=read_key(self._folder / KEY))
        except DataFolderError as error:
            raise ModelFailed(error.message, fix=error.fix) from None


def _read(answer: httpx2.Response) -> ModelReply:
    """Raises ModelFailed."""
    try:
        body: Json | None = answer.json()
    except ValueError:
        body = None
    if answer.is_success and isinstance(body, dict):
        cost = exact(answer.headers.get("x-callboard-cost-usd", "0"))
        return ModelReply(body=body, tokens=0 if _is_free(answer) else tokens_of(body), cost=cost)
    said = body.get("error") if isinstance(body, dict) else None
    if isinstance(said, dict) and isinstance(said.get("message"), str):
        words = said["message"]
        is_final = "retry-after" not in answer.headers
    else:  # Ray Serve itself: the gateway is starting, or has died
        words = f"The model gateway has answered {answer.status_code}: {answer.text[:_SHOWN]!r}."
        is_final = answer.status_code < 500
    raise (ModelFailed if is_final else ModelUnavailable)(words, status=answer.status_code)


def _is_free(answer: httpx2.Response) -> bool:
    """Whether somebody else has used the tokens."""
    return answer.headers.get("x-callboard-cache") in ("hit", "shared", "stale")

"""One HTTP request and its answer over ASGI: a body with a limit, and work that ends when the client goes away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve.gateway.dialect import OPENAI, Dialect
from serve.gateway.errors import ApiError
from serve.gateway.upstream import Json

_logger = logging.getLogger("callboard.gateway")

Handle = Callable[["Exchange"], Awaitable[None]]
Work = Callable[[], Coroutine[Any, Any, None]]


class Exchange:
    """What a handler sees: the request, and two ways to answer it, both written in the client's dialect."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, body_limit: int, dialect: Dialect) -> None:
        self.request = Request(scope, receive)
        self.answered = False
        self._scope = scope
        self._receive = receive
        self._send = send
        self._body_limit = body_limit
        self._dialect = dialect

    async def body(self, take: Callable[[int], None], *, within_s: float) -> bytes:
        """Raises ApiError when it is larger than allowed, as soon as that is known, or takes longer; so may `take`, with each
        part's size."""
        try:
            async with asyncio.timeout(within_s):
                return await self._read(take)
        except TimeoutError:
            raise _too_slow(within_s) from None

    async def _read(self, take: Callable[[int], None]) -> bytes:
        told = self.request.headers.get("content-length", "")
        if told.isdecimal() and int(told) > self._body_limit:
            raise _too_large(self._body_limit)
        parts, size = [], 0
        async for part in self.request.stream():
            size += len(part)
            if size > self._body_limit:
                raise _too_large(self._body_limit)
            take(len(part))
            parts.append(part)
        return b"".join(parts)

    async def while_connected(self, work: Work) -> None:
        """Do it, and cancel it when the client goes away; call this when the body has been read."""
        task = asyncio.create_task(work())
        gone = asyncio.create_task(self._gone())
        try:
            await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientDisconnect
            task.result()
        finally:
            await _end(gone)
            await _end(task)

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def answer(self, body: Json, *, headers: Mapping[str, str] = {}) -> None:
        """Raises ApiError for an answer that the dialect has no form for."""
        await self._respond(self._dialect.answer(body), 200, headers)

    async def refuse(self, error: ApiError) -> None:
        await self._respond(self._dialect.refusal(error), error.status, error.headers())

    async def _respond(self, body: Json, status: int, headers: Mapping[str, str]) -> None:
        self.answered = True
        response = Response(msgspec.json.encode(body), status, dict(headers), "application/json")
        await response(self._scope, self._receive, self._send)

    async def stream(self, chunks: AsyncIterator[Json], headers: Mapping[str, str] = {}) -> None:
        """Server-sent events, with the dialect's end if they end well; after the first byte an error can only be an event."""
        self.answered = True
        head = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
            **headers,
        }
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": pairs})
        try:
            async for frame in self._dialect.frames(chunks):
                await self._write(frame)
        except ApiError as error:
            await self._write(self._dialect.cut(error))
            raise
        except OSError:  # nobody reads it any more
            raise
        except Exception:  # without a word it would look like an answer's end
            await self._write(self._dialect.cut(_our_fault()))
            raise
        finally:
            with contextlib.suppress(OSError):
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, frame: bytes) -> None:
        await self._send({"type": "http.response.body", "body": frame, "more_body": True})


class Endpoint:
    """An ASGI application that answers every request through a handler, or with an error in the client's dialect.

    The handler is cancelled when the client goes away, and what it waits for with it.
    """

    def __init__(self, handle: Handle, *, body_limit: int, dialect: Dialect = OPENAI) -> None:
        self._handle = handle
        self._body_limit = body_limit
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, self._body_limit, self._dialect)
        try:
            await self._handle(exchange)
        except (ClientDisconnect, OSError):
            _logger.debug("a client has gone away")
        except ApiError as error:
            if not exchange.answered:
                await exchange.refuse(error)
        except Exception:
            _logger.exception("%s %s failed", scope["method"], scope["path"])
            if not exchange.answered:
                await exchange.refuse(_our_fault())


async def _end(task: asyncio.Task[None]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait([task])


def _too_large(limit: int) -> ApiError:
    return ApiError(
        f"The request has more than {limit:,} bytes.",
        fix="Send less, or raise `limits.body_bytes` in models.yaml.",
        status=413,
        code="request_too_large",
    )


def _too_slow(within_s: float) -> ApiError:
    return ApiError(
        f"The request's body was not there within {within_s:g} seconds.",
        fix="Send it at once, or raise `limits.body_s` in models.yaml.",
        status=408,
        code="request_timeout",
    )


def _our_fault() -> ApiError:
    return ApiError(
        "The gateway has failed.",
        fix="Its log says why.",
        status=500,
        kind="server_error",
        code="internal_error",
    )

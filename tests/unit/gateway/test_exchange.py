"""An answer over ASGI, to a client that is played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve.gateway.errors import ApiError
from serve.gateway.exchange import Endpoint, Exchange

SCOPE: Any = {"type": "http", "method": "POST", "path": "/", "headers": []}


async def answered(events: AsyncIterator[Any]) -> str:
    """What comes of a stream of these."""
    said: list[bytes] = []

    async def handle(exchange: Exchange) -> None:
        await exchange.stream(events)

    async def receive() -> Any:
        await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        said.append(message.get("body", b""))

    await Endpoint(handle, body_limit=1)(SCOPE, receive, send)
    return b"".join(said).decode()


@pytest.mark.parametrize(
    ("error", "code"),
    [(ApiError("no", code="some"), "some"), (ValueError("of our own making"), "internal_error")],
)
async def test_a_stream_that_breaks_off_says_so_and_is_never_taken_for_done(
    error: Exception, code: str
) -> None:
    async def events() -> AsyncIterator[Any]:
        yield {"a": 1}
        raise error

    said = await answered(events())
    assert said.startswith('data: {"a":1}\n\n')
    assert f'"code":"{code}"' in said
    assert "[DONE]" not in said
    assert "own making" not in said

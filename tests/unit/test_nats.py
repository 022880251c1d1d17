"""The NATS transport, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from bus.events import EventStream
from bus.nats import UNSENT_BYTES, NatsTransport


class SlowServer:
    """A client whose server takes nothing: what is published stays in its buffer."""

    is_connected = True

    def __init__(self) -> None:
        self.pending_data_size = 0

    async def publish(self, subject: str, data: bytes) -> None:
        self.pending_data_size += len(data)


async def test_what_a_slow_server_does_not_take_is_bounded() -> None:
    transport = NatsTransport()
    client: Any = SlowServer()
    transport.client = client
    for _ in range(100):
        transport.publish("callboard.agents.test.0", bytes(1024 * 1024))
    assert UNSENT_BYTES < client.pending_data_size <= UNSENT_BYTES + 1024 * 1024


NOBODY = {"Status": "503"}


@pytest.mark.parametrize(
    ("ask", "headers"),
    [
        (lambda transport: transport.request("subject", b"", timeout_s=5), None),
        (lambda transport: transport.request("subject", b"", timeout_s=5), NOBODY),
        (lambda transport: EventStream(transport).publish("test", "name", b""), None),
    ],
    ids=["request", "nobody there", "event"],
)
async def test_a_cancellation_that_comes_together_with_the_answer_is_not_lost(
    ask: Callable[[NatsTransport], Awaitable[object]], headers: dict[str, str] | None
) -> None:
    transport = NatsTransport()
    client: Any = transport.client
    client._resp_sub_prefix = bytearray(b"_INBOX.")

    async def publish(*arguments: object, **named: object) -> None:
        asyncio.get_running_loop().call_soon(answer_and_cancel)

    def answer_and_cancel() -> None:
        [answer] = client._resp_map.values()
        answer.set_result(Msg(client, data=b'{"stream": "", "seq": 1}', headers=headers))
        asking.cancel()

    client.publish = publish
    asking = asyncio.ensure_future(ask(transport))
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_cancellation_that_comes_together_with_the_end_of_a_flush_is_not_lost() -> None:
    transport = NatsTransport()
    client: Any = transport.client
    client._reading_task = client._flusher_task = asyncio.get_running_loop().create_future()

    async def ping(pong: asyncio.Future[bool]) -> None:
        asyncio.get_running_loop().call_soon(answer_and_cancel, pong)

    def answer_and_cancel(pong: asyncio.Future[bool]) -> None:
        pong.set_result(True)
        flushing.cancel()

    client._send_ping = ping
    flushing = asyncio.ensure_future(transport.flush())
    with pytest.raises(asyncio.CancelledError):
        await flushing


async def _at_once() -> None:
    await asyncio.sleep(0)


async def _as_the_library_waits() -> None:
    answer = asyncio.Event()
    asyncio.get_running_loop().call_soon(answer.set)
    await asyncio.wait_for(answer.wait(), 5)


@pytest.mark.parametrize("wait", [_at_once, _as_the_library_waits])
async def test_a_cancellation_that_comes_together_with_a_connection_is_not_lost_and_closes_it(
    monkeypatch: pytest.MonkeyPatch, wait: Callable[[], Awaitable[None]]
) -> None:
    closed: list[Client] = []

    async def connect(self: Client, *arguments: object, **named: object) -> None:
        asyncio.get_running_loop().call_soon(lambda: connecting.cancel())
        await wait()

    async def close(self: Client) -> None:
        closed.append(self)

    monkeypatch.setattr(Client, "connect", connect)
    monkeypatch.setattr(Client, "close", close)
    connecting = asyncio.ensure_future(NatsTransport.connect("nats://127.0.0.1:1", name="test"))
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert len(closed) == 1

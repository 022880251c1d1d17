"""The NATS transport, without a server."""

from __future__ import annotations

from typing import Any

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

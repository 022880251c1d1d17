"""How parcels travel: the contract, and a transport inside one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

Receive = Callable[[bytes], None]
"""Takes the data of one message; must not block."""


class Subscription(Protocol):
    async def close(self) -> None: ...


class Transport(Protocol):
    """Fast and lossy: a message that is lost costs latency, since Postgres has it too."""

    def publish(self, subject: str, data: bytes) -> None:
        """Send without waiting; while disconnected the message is dropped."""
        ...

    async def subscribe(self, subject: str, receive: Receive, on_loss: Callable[[], None]) -> Subscription:
        """Receive from now on; `on_loss` is called when messages were, or may have been, dropped."""
        ...

    async def flush(self) -> None:
        """Return when the server has seen all that was sent and subscribed so far, or when it is away."""
        ...


class LoopbackTransport:
    """Delivers inside one event loop; `lose` makes it drop what a test wants dropped."""

    def __init__(self) -> None:
        self._receivers: dict[str, list[Receive]] = {}
        self.lose: Callable[[str], bool] = lambda subject: False

    def publish(self, subject: str, data: bytes) -> None:
        if self.lose(subject):
            return
        loop = asyncio.get_running_loop()
        for receive in self._receivers.get(subject, ()):
            loop.call_soon(receive, data)

    async def subscribe(self, subject: str, receive: Receive, on_loss: Callable[[], None]) -> Subscription:
        self._receivers.setdefault(subject, []).append(receive)
        return _Loopback(self._receivers[subject], receive)

    async def flush(self) -> None:
        return


class _Loopback:
    def __init__(self, receivers: list[Receive], receive: Receive) -> None:
        self._receivers = receivers
        self._receive = receive

    async def close(self) -> None:
        self._receivers.remove(self._receive)

"""The NATS transport: connection, loss detection, and the stream of events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Self
from urllib.parse import urlsplit

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, SlowConsumerError

from bus.errors import PayloadTooLarge, ServiceUnavailable, SettingsError
from bus.transport import Receive, Subscription

_logger = logging.getLogger("callboard.nats")

CONNECT_WITHIN_S = 5.0  # at first; a connection that is lost is tried again for ever
UNSENT_BYTES = (
    32 * 1024 * 1024
)  # published and not sent: past that, a server is too slow and messages are dropped
PENDING_BYTES = 64 * 1024 * 1024  # a receiver that is further behind loses messages, and reloads


class _Client(Client):
    """A message whose subject is no UTF-8, or whose headers are none, would end the library's reading: its connection would
    hear nothing more until it is found stale, and then the same message again. And who is cancelled as an answer comes is
    not told of it."""

    async def connect(self, *arguments: Any, **named: Any) -> None:
        with _cancellation_kept():
            await super().connect(*arguments, **named)

    async def request(self, *arguments: Any, **named: Any) -> Msg:
        with _cancellation_kept():
            return await super().request(*arguments, **named)

    async def flush(self, *arguments: Any, **named: Any) -> None:
        with _cancellation_kept():
            await super().flush(*arguments, **named)

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Any:
        try:
            return super()._build_message(sid, subject, reply, data, headers)
        except UnicodeDecodeError:
            return super()._build_message(sid, _legible(subject), _legible(reply), data, headers)

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        try:
            return await super()._process_headers(headers)
        except (IndexError, UnicodeDecodeError):
            return None


@contextlib.contextmanager
def _cancellation_kept() -> Iterator[None]:
    """The library waits with `asyncio.wait_for`, and that of Python 3.11 loses a cancellation that comes together with what
    it waits for: its caller would go on, and whoever has cancelled it would wait for it, for ever if it works in a loop."""
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        yield
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError


def _legible(subject: bytes) -> bytes:
    return subject.decode(errors="replace").encode()


class NatsTransport:
    """Implements Transport on one NATS connection, which reconnects for ever."""

    def __init__(self) -> None:
        self.client: Client = _Client()
        self._on_loss: dict[int, Callable[[], None]] = {}
        self._reconnected: list[Callable[[], None]] = []

    @classmethod
    async def connect(cls, url: str, *, name: str, timeout_s: float | None = None) -> Self:
        """Raises ServiceUnavailable when the server cannot be reached at first, SettingsError for a bad URL."""
        self = cls()
        place = _place(url)
        try:
            async with asyncio.timeout(timeout_s or CONNECT_WITHIN_S):
                await self.client.connect(
                    [part.strip() for part in url.split(",")],
                    name=name,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.1,  # type: ignore[arg-type]  # seconds; it only sleeps so long
                    allow_reconnect=True,
                    connect_timeout=2,
                    ping_interval=5,
                    max_outstanding_pings=2,
                    pending_size=2 * UNSENT_BYTES,
                    skip_subject_validation=True,  # subjects are made here, never from user text
                    error_cb=self._on_error,
                    reconnected_cb=self._on_reconnected,
                )
        except BaseException as error:  # a cancellation may come when it is connected already
            with contextlib.suppress(Exception):
                await self.client.close()
            if not isinstance(error, TimeoutError | NatsError | OSError):
                raise
            raise ServiceUnavailable(
                f"NATS at {place} does not answer: {str(error) or type(error).__name__}.",
                fix="`callboard doctor` says what is wrong with it.",
            ) from None
        return self

    @property
    def is_connected(self) -> bool:
        return bool(self.client.is_connected)

    @property
    def connection(self) -> int:
        """Which connection this is: one more after each reconnect, before anything is received over it."""
        return int(self.client.stats["reconnects"])

    def publish(self, subject: str, data: bytes) -> None:
        if not self.client.is_connected or self.client.pending_data_size > UNSENT_BYTES:
            return  # whoever would have received it will see the gap
        # Client.publish is a coroutine that only awaits when its buffer is full: run it as far as it goes.
        task = self.client.publish(subject, data)
        try:
            task.send(None)
        except StopIteration:
            return
        except (NatsError, OSError) as error:
            _logger.debug("not published to %s: %s", subject, error)
            return
        task.close()  # the message is in the buffer all the same

    async def subscribe(self, subject: str, receive: Receive, on_loss: Callable[[], None]) -> Subscription:
        async def take(message: Msg) -> None:
            receive(message.data)

        try:
            subscription = await self.client.subscribe(
                subject, cb=take, pending_msgs_limit=-1, pending_bytes_limit=PENDING_BYTES
            )
        except NatsError as error:
            raise ServiceUnavailable(f"NATS refused a subscription to {subject}: {error}.") from error
        self._on_loss[id(subscription)] = on_loss
        return _Subscribed(self, subscription)

    async def flush(self) -> None:
        with contextlib.suppress(NatsError, OSError, asyncio.TimeoutError):
            await self.client.flush(timeout=2)

    def on_reconnected(self, callback: Callable[[], None]) -> None:
        """Call back after each reconnect: whatever was published meanwhile never arrived here."""
        self._reconnected.append(callback)

    async def serve(
        self, subject: str, answer: Callable[[bytes], Awaitable[bytes | None]], *, queue: str = ""
    ) -> Subscription:
        """Answer requests on a subject, each by one member of the queue group and all of them at once.

        `answer` bounds how many it works on, and turns its own errors into bytes; for None nothing is said.
        """
        under_way: set[asyncio.Task[None]] = set()

        async def respond(message: Msg) -> None:
            data = await answer(message.data)
            if data is not None:
                with contextlib.suppress(NatsError):
                    await message.respond(data)

        async def take(message: Msg) -> None:
            task = asyncio.create_task(respond(message))
            under_way.add(task)
            task.add_done_callback(under_way.discard)

        subscription = await self.client.subscribe(subject, queue=queue, cb=take)
        return _Serving(self, subscription, under_way)

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> bytes:
        """Ask and wait for one answer; raises ServiceUnavailable when nobody answers."""
        try:
            return (await self.client.request(subject, data, timeout=timeout_s)).data
        except (TimeoutError, NatsError, OSError) as error:
            raise ServiceUnavailable(f"Nobody answered on {subject}: {type(error).__name__}.") from None

    async def ask_until_answered(
        self, subject: str, data: bytes, *, again_s: float, timeout_s: float
    ) -> bytes:
        """Ask again and again until somebody answers, for what may be asked twice. Raises ServiceUnavailable, or
        PayloadTooLarge.

        One of a queue group may be frozen: NATS chooses it all the same, and asks nobody else by itself.
        """
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def take(message: Msg) -> None:
            nobody_there = not message.data and (message.headers or {}).get("Status") == "503"
            if not nobody_there and not answer.done():
                answer.set_result(message.data)

        inbox = self.client.new_inbox()
        try:
            subscription = await self.client.subscribe(inbox, cb=take)
            try:
                async with asyncio.timeout(timeout_s):
                    while not answer.done():
                        await self.client.publish(subject, data, reply=inbox)
                        await asyncio.wait((answer,), timeout=again_s)
            finally:
                await subscription.unsubscribe()
        except MaxPayloadError:
            raise self.too_large("request", data) from None
        except (TimeoutError, NatsError, OSError) as error:
            raise ServiceUnavailable(f"Nobody answered on {subject}: {type(error).__name__}.") from None
        return answer.result()

    def too_large(self, what: str, data: bytes) -> PayloadTooLarge:
        """The error of what the server takes from nobody, and the client does not send."""
        return PayloadTooLarge(
            f"A {what} of {len(data)} bytes is too large for NATS, which takes {self.client.max_payload} with its headers.",
            fix="Store it elsewhere and send a reference, or raise `max_payload` in the configuration of NATS.",
        )

    async def close(self) -> None:
        with contextlib.suppress(NatsError, OSError, asyncio.TimeoutError):
            await self.client.close()

    def forget(self, subscription: NatsSubscription) -> None:
        self._on_loss.pop(id(subscription), None)

    async def _on_error(self, error: Exception) -> None:
        if isinstance(error, SlowConsumerError):
            _logger.warning(
                "slow consumer on %s: messages were dropped and will be read again", error.subject
            )
            lost = self._on_loss.get(id(error.sub))
            if lost is not None:
                lost()
            return
        _logger.debug("NATS: %s", error)

    async def _on_reconnected(self) -> None:
        _logger.info("reconnected to NATS")
        for lost in list(self._on_loss.values()):
            lost()
        for callback in self._reconnected:
            callback()


class _Subscribed:
    def __init__(self, transport: NatsTransport, subscription: NatsSubscription) -> None:
        self._transport = transport
        self._subscription: Any = subscription

    async def close(self) -> None:
        self._transport.forget(self._subscription)
        with contextlib.suppress(NatsError, OSError):
            await self._subscription.unsubscribe()


class _Serving(_Subscribed):
    def __init__(
        self, transport: NatsTransport, subscription: NatsSubscription, under_way: set[asyncio.Task[None]]
    ) -> None:
        super().__init__(transport, subscription)
        self._under_way = under_way

    async def close(self) -> None:
        """What is under way is not answered any more."""
        await super().close()
        for task in self._under_way:
            task.cancel()


def _place(url: str) -> str:
    """Host and port of a NATS URL, or of each of several; raises SettingsError without quoting it."""
    try:
        where = [urlsplit(part.strip()) for part in url.split(",")]
        return ", ".join(f"{part.hostname}:{part.port}" for part in where)
    except ValueError:
        raise SettingsError(
            "The NATS URL cannot be read.", fix="Write it as nats://USER:PASSWORD@HOST:PORT."
        ) from None

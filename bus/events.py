"""Events and triggers from outside: one JetStream stream, read in its own order from where we stand."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import msgspec
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from bus.address import DEFAULT_TENANT
from bus.errors import ServiceUnavailable
from bus.nats import NatsTransport
from bus.subjects import EVENTS_ALL, EVENTS_STREAM, events

TYPE_HEADER = "Callboard-Type"
TENANT_HEADER = "Callboard-Tenant"
TASK_HEADER = "Callboard-Task"
PRIORITY_HEADER = "Callboard-Priority"
MSG_ID_HEADER = "Nats-Msg-Id"
TRACE_HEADER = "traceparent"

MAX_STREAM_BYTES = 4 * 1024 * 1024 * 1024
DUPLICATE_WINDOW_S = 120.0  # JetStream's own; the `seen` keys in Postgres remember for far longer


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event as the stream holds it. `seq` counts from 1 within one incarnation of the stream."""

    seq: int
    name: str
    data: bytes
    headers: Mapping[str, str]
    time: float


class EventStream:
    """The stream CALLBOARD_EVENTS. Full means refused: a publisher is told, and nothing old is lost."""

    def __init__(self, transport: NatsTransport) -> None:
        self._js: JetStreamContext = transport.client.jetstream(timeout=5)

    async def ensure(self) -> str:
        """Create the stream if there is none; return its incarnation (when it was created).

        Raises ServiceUnavailable when JetStream does not answer or is off.
        """
        try:
            try:
                info = await self._js.stream_info(EVENTS_STREAM)
            except NotFoundError:
                info = await self._js.add_stream(
                    StreamConfig(
                        name=EVENTS_STREAM,
                        subjects=[EVENTS_ALL],
                        retention=RetentionPolicy.LIMITS,
                        storage=StorageType.FILE,
                        discard=DiscardPolicy.NEW,
                        max_bytes=MAX_STREAM_BYTES,
                        duplicate_window=DUPLICATE_WINDOW_S,
                    )
                )
        except (TimeoutError, NatsError, OSError) as error:
            raise _unavailable(error) from error
        return str(info.created)

    async def publish(
        self,
        domain: str,
        name: str,
        data: bytes,
        *,
        message_id: str | None = None,
        headers: Mapping[str, str] = {},
    ) -> int:
        """Publish one event; returns its sequence once the stream has it. Raises ServiceUnavailable."""
        sent = dict(headers)
        if message_id is not None:
            # JetStream compares ids over the whole stream, whoever publishes there.
            sent[MSG_ID_HEADER] = f"{domain}/{sent.get(TENANT_HEADER, DEFAULT_TENANT)}/{message_id}"
        try:
            ack = await self._js.publish(events(domain, name), data, headers=sent or None)
        except (TimeoutError, NatsError, OSError) as error:
            raise _unavailable(error) from error
        return ack.seq

    async def reader(self, domain: str, after: int) -> EventReader:
        """Read a domain's events after a sequence number. The consumer of an earlier reader is replaced."""
        durable = f"callboard-{domain}"
        try:
            with contextlib.suppress(NotFoundError):
                await self._js.delete_consumer(EVENTS_STREAM, durable)
            subscription = await self._js.pull_subscribe(
                events(domain),
                durable=durable,
                stream=EVENTS_STREAM,
                config=ConsumerConfig(
                    ack_policy=AckPolicy.ALL,
                    deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=after + 1,
                    max_ack_pending=10_000,
                    ack_wait=3600,  # nothing is delivered twice: a new reader starts from Postgres' cursor
                ),
            )
        except (TimeoutError, NatsError, OSError) as error:
            raise _unavailable(error) from error
        return EventReader(subscription)


class EventReader:
    """Fetches events in stream order."""

    def __init__(self, subscription: JetStreamContext.PullSubscription) -> None:
        self._subscription = subscription
        self._last: object = None

    async def fetch(self, limit: int, *, timeout_s: float) -> list[Event]:
        """The next events, at most `limit`; none when the time is up. Raises ServiceUnavailable."""
        try:
            messages = await self._subscription.fetch(limit, timeout=timeout_s)
        except (TimeoutError, NatsTimeoutError):
            return []
        except (NatsError, OSError) as error:
            raise _unavailable(error) from error
        if not messages:
            return []
        self._last = messages[-1]
        return [
            Event(
                seq=message.metadata.sequence.stream,
                name=message.subject.rsplit(".", 1)[-1],
                data=message.data,
                headers=message.headers or {},
                time=message.metadata.timestamp.timestamp(),
            )
            for message in messages
        ]

    async def acknowledge(self) -> None:
        """Acknowledge all that was fetched; a lost acknowledgement costs nothing."""
        if self._last is not None:
            with contextlib.suppress(NatsError, OSError):
                await self._last.ack()  # type: ignore[attr-defined]
            self._last = None

    async def close(self) -> None:
        with contextlib.suppress(NatsError, OSError):
            await self._subscription.unsubscribe()


def _unavailable(error: BaseException) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"JetStream does not answer: {str(error) or type(error).__name__}.",
        fix="Check that NATS runs with JetStream: `callboard doctor`.",
    )

"""Events and triggers from outside: one JetStream stream, read in its own order from where we stand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Mapping
from secrets import token_hex
from typing import Self

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError
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
FORGOTTEN_AFTER_S = 60.0  # JetStream keeps the consumer of a dead host so long
ANSWER_WITHIN_S = 1.0
DUPLICATE_WINDOW_S = 120.0  # JetStream's own; the `seen` keys in Postgres remember for far longer

_ACK = "$JS.ACK."  # the reply subject of an event; JetStream's own words have none, whatever headers an event has
_TIME_IS_UP = ("404", "408")


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
        self._transport = transport
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
        """Read a domain's events after a sequence number. Raises ServiceUnavailable."""
        try:
            consumer = await self._js.add_consumer(
                EVENTS_STREAM,
                ConsumerConfig(
                    name=f"callboard-{domain}-{token_hex(8)}",  # a reader that was replaced takes nothing from the next
                    filter_subject=events(domain),
                    ack_policy=AckPolicy.ALL,
                    deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=after + 1,
                    max_ack_pending=10_000,
                    ack_wait=3600,  # nothing is delivered twice: a new reader starts from Postgres' cursor
                    inactive_threshold=FORGOTTEN_AFTER_S,
                ),
            )
            return await EventReader.open(self._transport, consumer.name)
        except (TimeoutError, NatsError, OSError) as error:
            raise _unavailable(error) from error


class EventReader:
    """Fetches events in stream order, through a JetStream consumer of its own.

    The consumer numbers what it delivers. A number that is missing is an event that got lost on its way here, with
    a connection that broke for one: JetStream takes it for delivered, so the reader ends, and the next one starts
    where Postgres says.
    """

    def __init__(self, transport: NatsTransport, consumer: str) -> None:
        self._transport = transport
        self._consumer = consumer
        self._inbox = transport.client.new_inbox()
        self._subscription: NatsSubscription | None = None
        self._came: deque[Msg] = deque()
        self._arrival = asyncio.Event()
        self._asked = 0  # events that JetStream was asked for and has not delivered
        self._asked_until = 0.0
        self._delivered = 0
        self._last: Msg | None = None

    @classmethod
    async def open(cls, transport: NatsTransport, consumer: str) -> Self:
        self = cls(transport, consumer)
        self._subscription = await transport.client.subscribe(self._inbox, cb=self._take)
        return self

    async def fetch(self, limit: int, *, timeout_s: float) -> list[Event]:
        """The next events, at most `limit`; none when the time is up.

        Raises ServiceUnavailable when JetStream does not answer, or when events were lost on their way.
        """
        found: list[Event] = []
        try:
            async with asyncio.timeout(timeout_s):
                while not found:
                    await self._ask(limit, timeout_s)
                    self._arrival.clear()
                    if not self._came:
                        await self._arrival.wait()
                    found = self._next(limit)
        except TimeoutError:
            return []
        except (NatsError, OSError) as error:
            raise _unavailable(error) from error
        return found

    async def acknowledge(self) -> None:
        """Acknowledge all that was fetched; a lost acknowledgement costs nothing."""
        if self._last is not None:
            with contextlib.suppress(NatsError, OSError):
                await self._last.ack()
            self._last = None

    async def close(self) -> None:
        """JetStream forgets the consumer, at the latest when it has long been idle."""
        self._transport.publish(f"$JS.API.CONSUMER.DELETE.{EVENTS_STREAM}.{self._consumer}", b"")
        if self._subscription is not None:
            with contextlib.suppress(NatsError, OSError):
                await self._subscription.unsubscribe()

    async def _take(self, message: Msg) -> None:
        self._came.append(message)
        self._arrival.set()

    async def _ask(self, limit: int, expires_s: float) -> None:
        now = time.monotonic()
        if self._came or (self._asked > 0 and now < self._asked_until):
            return
        # An answer that has not come long after its time never will: the connection broke meanwhile.
        self._asked, self._asked_until = limit, now + expires_s + ANSWER_WITHIN_S
        request = {"batch": limit, "expires": int(expires_s * 1e9)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS_STREAM}.{self._consumer}"
        await self._transport.client.publish(subject, json.dumps(request).encode(), reply=self._inbox)

    def _next(self, limit: int) -> list[Event]:
        found: list[Event] = []
        while self._came and len(found) < limit:
            message = self._came[0]
            if not message.reply.startswith(_ACK):
                self._came.popleft()
                self._end_request(message)
                continue
            place = message.metadata.sequence
            if place.consumer != self._delivered + 1:
                if found:
                    return found  # these came whole
                raise ServiceUnavailable("Events were lost on their way here, and are read again.")
            self._came.popleft()
            self._delivered = place.consumer
            self._asked -= 1
            self._last = message
            found.append(
                Event(
                    seq=place.stream,
                    name=message.subject.rsplit(".", 1)[-1],
                    data=message.data,
                    headers=message.headers or {},
                    time=message.metadata.timestamp.timestamp(),
                )
            )
        return found

    def _end_request(self, message: Msg) -> None:
        """JetStream's word that it delivers no more for a request: its time is up, or something is wrong."""
        headers = message.headers or {}
        status = headers.get("Status", "")
        if status not in _TIME_IS_UP:
            raise ServiceUnavailable(f"JetStream ended a reader: {status} {headers.get('Description', '')}.")
        self._asked = 0


def _unavailable(error: BaseException) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"JetStream does not answer: {str(error) or type(error).__name__}.",
        fix="Check that NATS runs with JetStream: `callboard doctor`.",
    )

"""Events and triggers from outside: one JetStream stream, read in its own order from where we stand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any, Self

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
FETCH_BYTES = 8 * 1024 * 1024  # asked for at once; a larger event comes alone
DUPLICATE_WINDOW_S = 120.0  # JetStream's own; the `seen` keys in Postgres remember for far longer
_FORGETS_WITHIN_S = 0.1  # the shortest that JetStream allows

_ACK = "$JS.ACK."  # the reply subject of an event; JetStream's own words have none, whatever headers an event has
_TIME_IS_UP = ("404", "408")
_TOO_LARGE = "Message Size Exceeds MaxBytes"  # for what is left of a request
_ALL_CAME = "Batch Completed"
_NO_MESSAGE = 10037  # JetStream's error code for a sequence that it does not have
_RFC3339 = re.compile(r"(.*?)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")


class StreamState(msgspec.Struct, frozen=True, kw_only=True):
    """What the stream looks like over one connection. `created` tells it from others of its name."""

    created: str
    last_seq: int
    connection: int


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event as the stream holds it. `seq` counts from 1 within one incarnation of the stream."""

    seq: int
    name: str
    data: bytes
    headers: Mapping[str, str]
    at_ns: int  # when the stream took it: nanoseconds since 1970, UTC

    @property
    def time(self) -> float:
        """Seconds since 1970, UTC."""
        return self.at_ns / 1e9


class EventStream:
    """The stream CALLBOARD_EVENTS. Full means refused: a publisher is told, and nothing old is lost."""

    def __init__(self, transport: NatsTransport) -> None:
        self._transport = transport
        self._js: JetStreamContext = transport.client.jetstream(timeout=5)

    async def ensure(self) -> StreamState:
        """Create the stream if there is none; return how it stands.

        Raises ServiceUnavailable when JetStream does not answer or is off.
        """
        connection = self._transport.connection  # before the question: a later one would be another's answer
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
        return StreamState(created=str(info.created), last_seq=info.state.last_seq, connection=connection)

    async def taken_at(self, seq: int) -> int | None:
        """When the stream took the event that it has under a number (ns since 1970, UTC); None when it has none."""
        try:
            request = json.dumps({"seq": seq}).encode()
            reply = await self._transport.client.request(
                f"$JS.API.STREAM.MSG.GET.{EVENTS_STREAM}", request, timeout=5
            )
        except (TimeoutError, NatsError, OSError) as error:
            raise _unavailable(error) from error
        answer = json.loads(reply.data)
        error_code = answer.get("error", {}).get("err_code")
        if error_code == _NO_MESSAGE:
            return None
        if error_code is not None:
            raise ServiceUnavailable(
                f"JetStream refuses to show event {seq}: {answer['error']['description']}."
            )
        return _nanoseconds(answer["message"]["time"])

    async def first_after(self, domain: str, at_ns: int) -> int | None:
        """The number of a domain's first event that the stream took after a time; None when there is none yet."""
        moment = datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        start = f"{moment}.{at_ns % 1_000_000_000:09d}Z"
        reader = await self._reader(
            domain, None, deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=start
        )
        try:
            while events := await reader.fetch(100, timeout_s=ANSWER_WITHIN_S):
                for event in events:
                    if event.at_ns > at_ns:
                        return event.seq
        finally:
            await reader.close()
        return None

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

    async def purge(self, domain: str) -> None:
        """Delete a domain's events, read or not, and forget their ids: each may come again.

        Raises ServiceUnavailable.
        """
        await self.ensure()
        try:
            await self._js.purge_stream(EVENTS_STREAM, subject=events(domain))
            # JetStream remembers the ids of what it has deleted, and would drop the same events of a domain that
            # begins anew. It forgets them all by a short window; Postgres remembers those of the other domains.
            config = (await self._js.stream_info(EVENTS_STREAM)).config
            try:
                await self._js.update_stream(replace(config, duplicate_window=_FORGETS_WITHIN_S))
                await asyncio.sleep(3 * _FORGETS_WITHIN_S)
            finally:
                await self._js.update_stream(replace(config, duplicate_window=DUPLICATE_WINDOW_S))
        except (TimeoutError, NatsError, OSError) as error:
            raise _unavailable(error) from error

    async def reader(self, domain: str, after: int, *, connection: int | None = None) -> EventReader:
        """Read a domain's events after a sequence number. Raises ServiceUnavailable.

        `connection` is the one over which the number was found to be right; the reader ends with it.
        """
        return await self._reader(
            domain, connection, deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=after + 1
        )

    async def _reader(self, domain: str, connection: int | None, **start: Any) -> EventReader:
        if connection is None:
            connection = self._transport.connection
        try:
            consumer = await self._js.add_consumer(
                EVENTS_STREAM,
                ConsumerConfig(
                    name=f"callboard-{domain}-{token_hex(8)}",  # a reader that was replaced takes nothing from the next
                    filter_subject=events(domain),
                    ack_policy=AckPolicy.ALL,
                    max_ack_pending=10_000,
                    ack_wait=3600,  # nothing is delivered twice: a new reader starts from Postgres' cursor
                    inactive_threshold=FORGOTTEN_AFTER_S,
                    **start,
                ),
            )
            return await EventReader.open(self._transport, consumer.name, connection)
        except (TimeoutError, NatsError, OSError) as error:
            raise _unavailable(error) from error


class EventReader:
    """Fetches events in stream order, through a JetStream consumer of its own.

    The consumer numbers what it delivers. A number that is missing is an event that got lost on its way here, with
    a connection that broke for one: JetStream takes it for delivered, so the reader ends, and the next one starts
    where Postgres says. It ends with its connection too: the server at the other end of the next one may have
    crashed, and have given numbers of events that were read to others.
    """

    def __init__(self, transport: NatsTransport, consumer: str, connection: int) -> None:
        self._transport = transport
        self._consumer = consumer
        self._connection = connection
        self._inbox = transport.client.new_inbox()
        self._request = 0
        self._subscription: NatsSubscription | None = None
        self._came: deque[Msg] = deque()
        self._arrival = asyncio.Event()
        self._asked = 0  # events that JetStream was asked for and has not delivered
        self._asked_until = 0.0
        self._too_large = False  # the next event is larger than a whole request may bring
        self._delivered = 0
        self._last: Msg | None = None

    @classmethod
    async def open(cls, transport: NatsTransport, consumer: str, connection: int) -> Self:
        self = cls(transport, consumer, connection)
        self._subscription = await transport.client.subscribe(f"{self._inbox}.*", cb=self._take)
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
            found = []
        except (NatsError, OSError) as error:
            raise _unavailable(error) from error
        if self._transport.connection != self._connection:
            raise ServiceUnavailable(
                "The connection to NATS broke, so the place in the stream is looked up again."
            )
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
        if self._too_large:
            self._asked, request["batch"] = 1, 1
        else:
            request["max_bytes"] = FETCH_BYTES
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS_STREAM}.{self._consumer}"
        self._request += 1
        await self._transport.client.publish(
            subject, json.dumps(request).encode(), reply=f"{self._inbox}.{self._request}"
        )

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
            self._too_large = False
            self._last = message
            found.append(
                Event(
                    seq=place.stream,
                    name=message.subject.rsplit(".", 1)[-1],
                    data=message.data,
                    headers=message.headers or {},
                    at_ns=_taken_at(message.reply),
                )
            )
        return found

    def _end_request(self, message: Msg) -> None:
        """JetStream's word that it delivers no more for a request: its time is up, or something is wrong."""
        if not message.subject.endswith(f".{self._request}"):
            return  # of an earlier one, all of which has come
        headers = message.headers or {}
        status, words = headers.get("Status", ""), headers.get("Description", "")
        if status == "409" and words == _TOO_LARGE:
            self._too_large = True
        elif status not in _TIME_IS_UP and (status, words) != ("409", _ALL_CAME):
            raise ServiceUnavailable(f"JetStream ended a reader: {status} {words}.")
        self._asked = 0


def _taken_at(reply: str) -> int:
    """When the stream took an event, out of the subject of its acknowledgement: exact, as a float is not."""
    tokens = reply.split(".")
    return int(tokens[7] if len(tokens) == 9 else tokens[Msg.Ack.Timestamp])


def _nanoseconds(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time; datetime knows microseconds only."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise ServiceUnavailable(f"JetStream gives a time that cannot be read: {text}.")
    seconds = int(datetime.fromisoformat(found[1] + found[3].replace("Z", "+00:00")).timestamp())
    return seconds * 1_000_000_000 + int((found[2] or "0").ljust(9, "0"))


def _unavailable(error: BaseException) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"JetStream does not answer: {str(error) or type(error).__name__}.",
        fix="Check that NATS runs with JetStream: `callboard doctor`.",
    )

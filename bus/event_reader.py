"""Reading events from outside in stream order, through a JetStream consumer that is this reader's alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from typing import Self

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError

from bus.errors import ServiceUnavailable
from bus.event import Event
from bus.nats import NatsTransport
from bus.subjects import EVENTS_STREAM

ANSWER_WITHIN_S = 1.0
FETCH_BYTES = 8 * 1024 * 1024  # asked for at once; a larger event comes alone

_ACK = "$JS.ACK."  # the reply subject of an event; JetStream's own words have none, whatever headers an event has
_TIME_IS_UP = ("404", "408")
_TOO_LARGE = "Message Size Exceeds MaxBytes"  # for what is left of a request
_ALL_CAME = "Batch Completed"


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
            raise unavailable(error) from error
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


def unavailable(error: BaseException) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"JetStream does not answer: {str(error) or type(error).__name__}.",
        fix="Check that NATS runs with JetStream: `callboard doctor`.",
    )

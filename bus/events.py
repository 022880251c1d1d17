"""Events and triggers from outside: one JetStream stream, read in its own order from where we stand."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import cycle
from secrets import token_hex
from typing import Any

import msgspec
from nats.errors import Error as NatsError
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from bus.address import DEFAULT_TENANT
from bus.errors import Overloaded, ServiceUnavailable
from bus.event import MSG_ID_HEADER, TENANT_HEADER
from bus.event_reader import EventReader, unavailable
from bus.nats import NatsTransport
from bus.subjects import EVENTS_ALL, EVENTS_STREAM, events

STREAM_BYTES = 4 * 1024 * 1024 * 1024
EVENTS_PER_NAME = 1_000_000  # of one domain
KEPT_S = 24 * 3600.0
RETRY_AFTER_S = 5.0  # a reader looks as often whether the stream is filling up
FORGOTTEN_AFTER_S = 60.0  # JetStream keeps the consumer of a dead host so long
DUPLICATE_WINDOW_S = 120.0  # JetStream's own; the `seen` keys in Postgres remember for far longer
_FORGETS_WITHIN_S = 0.1  # the shortest that JetStream allows
_FORGOTTEN_WITHIN_S = 30.0
_SHOWN_WITHIN_S = 5.0

_KEPT = "callboard-kept-s"  # in the stream's own metadata, where every host reads it
_NO_MESSAGE = 10037  # JetStream's error code for a sequence that it does not have
_NOT_STORED = 10077  # and for an event that the stream has not taken
_FULL = "maximum bytes exceeded"
_NAME_FULL = "maximum messages per subject exceeded"
_RFC3339 = re.compile(r"(.*?)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")


class StreamState(msgspec.Struct, frozen=True, kw_only=True):
    """What the stream looks like over one connection. `created` tells it from others of its name.

    `max_bytes`, and `max_per_name` for the events of one name of one domain, are None where there is no such bound;
    `most` is how many the fullest name has of the domain that was asked about, 0 where none was. `kept_s` is how long
    events stay after they were accepted.
    """

    created: str
    last_seq: int
    connection: int
    bytes: int = 0
    max_bytes: int | None = None
    most: int = 0
    max_per_name: int | None = None
    kept_s: float = KEPT_S

    @property
    def fill(self) -> float:
        """How much is used of what the domain that was asked about may use: at 1 its events are refused."""
        return self.share(self.bytes, self.most)

    def share(self, size: int, events: int) -> float:
        """How much of the room so many bytes, or so many events of one name, would take: 1 is all of it."""
        return max(
            size / self.max_bytes if self.max_bytes else 0.0,
            events / self.max_per_name if self.max_per_name else 0.0,
        )


class EventStream:
    """The stream CALLBOARD_EVENTS. Full means refused: a publisher is told, and nothing old is lost. A domain whose
    events nobody reads is refused before it has filled the stream for the others, name by name."""

    def __init__(self, transport: NatsTransport) -> None:
        self._transport = transport
        self._js: JetStreamContext = transport.client.jetstream(timeout=5)

    async def ensure(
        self, *, max_bytes: int | None = None, max_per_name: int | None = None, kept_s: float | None = None
    ) -> StreamState:
        """Create the stream if there is none; return how it stands.

        What is given is set, also on a stream that is there; otherwise that keeps what it has. Raises
        ServiceUnavailable when JetStream does not answer or is off.
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
                        max_bytes=max_bytes or STREAM_BYTES,
                        max_msgs_per_subject=max_per_name or EVENTS_PER_NAME,
                        discard_new_per_subject=True,
                        duplicate_window=DUPLICATE_WINDOW_S,
                        metadata={_KEPT: str(KEPT_S if kept_s is None else kept_s)},
                    )
                )
            wanted = info.config
            if max_bytes is not None:
                wanted = replace(wanted, max_bytes=max_bytes)
            if max_per_name is not None:
                wanted = replace(wanted, max_msgs_per_subject=max_per_name, discard_new_per_subject=True)
            if kept_s is not None:
                wanted = replace(wanted, metadata={**(wanted.metadata or {}), _KEPT: str(kept_s)})
            if wanted != info.config:
                info = await self._js.update_stream(wanted)
        except (TimeoutError, NatsError, OSError) as error:
            raise unavailable(error) from error
        return _state(info, connection)

    async def exists(self) -> bool:
        """Raises ServiceUnavailable."""
        try:
            await self._js.stream_info(EVENTS_STREAM)
        except NotFoundError:
            return False
        except (TimeoutError, NatsError, OSError) as error:
            raise unavailable(error) from error
        return True

    async def state(self, domain: str | None = None) -> StreamState:
        """How the stream stands, for a domain; raises ServiceUnavailable, also when there is none."""
        connection = self._transport.connection
        try:
            asked = None if domain is None else events(domain)
            return _state(await self._js.stream_info(EVENTS_STREAM, subjects_filter=asked), connection)
        except (TimeoutError, NatsError, OSError) as error:
            raise unavailable(error) from error

    async def subjects(self) -> dict[str, int]:
        """How many events the stream holds under each subject. Raises ServiceUnavailable."""
        try:
            info = await self._js.stream_info(EVENTS_STREAM, subjects_filter=EVENTS_ALL)
        except (TimeoutError, NatsError, OSError) as error:
            raise unavailable(error) from error
        return info.state.subjects or {}

    async def count_after(self, domain: str, seq: int, name: str = "*") -> int:
        """How many events of a domain, of one name or of all, the stream has after a number. Raises ServiceUnavailable."""
        config = ConsumerConfig(
            name=f"callboard-{domain}-{token_hex(8)}",
            filter_subject=events(domain, name),
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=seq + 1,
            mem_storage=True,
            inactive_threshold=FORGOTTEN_AFTER_S,
        )
        try:
            consumer = await self._js.add_consumer(EVENTS_STREAM, config)
        except (TimeoutError, NatsError, OSError) as error:
            raise unavailable(error) from error
        self._transport.publish(f"$JS.API.CONSUMER.DELETE.{EVENTS_STREAM}.{consumer.name}", b"")
        return consumer.num_pending or 0

    async def taken_at(self, seq: int) -> int | None:
        """When the stream took the event that it has under a number (ns since 1970, UTC); None when it has none."""
        return await self._taken_at(seq=seq)

    async def next_taken_at(self, subject: str, after: int) -> int | None:
        """The same of a subject's first event after a number."""
        return await self._taken_at(seq=after + 1, next_by_subj=subject)

    async def _taken_at(self, **wanted: Any) -> int | None:
        try:
            request = json.dumps(wanted).encode()
            reply = await self._transport.client.request(
                f"$JS.API.STREAM.MSG.GET.{EVENTS_STREAM}", request, timeout=5
            )
        except (TimeoutError, NatsError, OSError) as error:
            raise unavailable(error) from error
        answer = json.loads(reply.data)
        error_code = answer.get("error", {}).get("err_code")
        if error_code == _NO_MESSAGE:
            return None
        if error_code is not None:
            raise ServiceUnavailable(
                f"JetStream refuses to show event {wanted['seq']}: {answer['error']['description']}."
            )
        return _nanoseconds(answer["message"]["time"])

    async def first_after(self, domain: str, at_ns: int) -> int | None:
        """The number of a domain's first event that the stream took after a time; None when there is none yet.

        Raises ServiceUnavailable.
        """
        moment = datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        start = f"{moment}.{at_ns % 1_000_000_000:09d}Z"
        reader, left = await self._reader(
            domain, None, deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=start
        )
        try:
            while left > 0:
                events = await reader.fetch(100, timeout_s=_SHOWN_WITHIN_S)
                if not events:
                    raise ServiceUnavailable("JetStream has events that it does not deliver in time.")
                for event in events:
                    if event.at_ns > at_ns:
                        return event.seq
                left -= len(events)
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
        """Publish one event; returns its sequence once the stream has it.

        Raises Overloaded while the stream is full, or has as many events of that name as it may: it does not have the
        event. PayloadTooLarge for what NATS takes from nobody. Or ServiceUnavailable.
        """
        sent = dict(headers)
        if message_id is not None:
            # JetStream compares ids over the whole stream, whoever publishes there.
            sent[MSG_ID_HEADER] = f"{domain}/{sent.get(TENANT_HEADER, DEFAULT_TENANT)}/{message_id}"
        # The client looks at the data alone, and the server ends the connection of who sends more.
        if len(data) + _header_bytes(sent) > self._transport.client.max_payload:
            raise self._transport.too_large("event", data)
        try:
            ack = await self._js.publish(events(domain, name), data, headers=sent or None)
        except APIError as error:
            full = _refusal(error, domain, name)
            if full is None:
                raise unavailable(error) from error
            raise Overloaded(
                full,
                retry_after_s=RETRY_AFTER_S,
                fix="Try again after some seconds; `callboard doctor` says which domain does not read its events.",
            ) from None
        except (TimeoutError, NatsError, OSError) as error:
            raise unavailable(error) from error
        return ack.seq

    async def unread(self, domain: str, after: int) -> int:
        """How many events of a domain come after a sequence number. Raises ServiceUnavailable."""
        try:
            consumer = await self._js.add_consumer(EVENTS_STREAM, self._consumer(domain, **_from(after)))
            await self._js.delete_consumer(EVENTS_STREAM, consumer.name)
        except (TimeoutError, NatsError, OSError) as error:
            raise unavailable(error) from error
        return consumer.num_pending or 0

    async def drop_before(self, domain: str, seq: int) -> None:
        """Delete a domain's events below a sequence number, and leave their ids remembered for JetStream's window.

        Raises ServiceUnavailable.
        """
        try:
            await self._js.purge_stream(EVENTS_STREAM, subject=events(domain), seq=seq)
        except (TimeoutError, NatsError, OSError) as error:
            raise unavailable(error) from error

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
            newest = f"{domain}/newest/{token_hex(8)}"
            has_room = await self._probe(domain, newest) is not None
            try:
                windows = cycle((_FORGETS_WITHIN_S, 2 * _FORGETS_WITHIN_S))
                await self._js.update_stream(replace(config, duplicate_window=next(windows)))
                async with asyncio.timeout(_FORGOTTEN_WITHIN_S):
                    await asyncio.sleep(_FORGETS_WITHIN_S if has_room else 30 * _FORGETS_WITHIN_S)
                    while await self._probe(domain, newest):  # on a busy machine NATS takes its time
                        # It looks through its ids when the window changes, and may do so by the window of before.
                        await self._js.update_stream(replace(config, duplicate_window=next(windows)))
                        await asyncio.sleep(_FORGETS_WITHIN_S)
            finally:
                await self._js.update_stream(replace(config, duplicate_window=DUPLICATE_WINDOW_S))
                await self._js.purge_stream(EVENTS_STREAM, subject=events(domain))
        except (TimeoutError, NatsError, OSError) as error:
            raise unavailable(error) from error

    async def _probe(self, domain: str, message_id: str) -> bool | None:
        """Publish an event of this id; whether JetStream remembers the id from before, or None if it has no room."""
        try:
            ack = await self._js.publish(events(domain, "probe"), b"", headers={MSG_ID_HEADER: message_id})
        except APIError as error:
            if _refusal(error, domain, "probe") is None:
                raise
            return None
        return bool(ack.duplicate)

    async def reader(self, domain: str, after: int, *, connection: int | None = None) -> EventReader:
        """Read a domain's events after a sequence number. Raises ServiceUnavailable.

        `connection` is the one over which the number was found to be right; the reader ends with it.
        """
        return (await self._reader(domain, connection, **_from(after)))[0]

    async def _reader(self, domain: str, connection: int | None, **start: Any) -> tuple[EventReader, int]:
        """A reader, and how many events it has before it."""
        if connection is None:
            connection = self._transport.connection
        try:
            consumer = await self._js.add_consumer(EVENTS_STREAM, self._consumer(domain, **start))
            reader = await EventReader.open(self._transport, consumer.name, connection)
        except (TimeoutError, NatsError, OSError) as error:
            raise unavailable(error) from error
        return reader, consumer.num_pending or 0

    def _consumer(self, domain: str, **start: Any) -> ConsumerConfig:
        return ConsumerConfig(
            name=f"callboard-{domain}-{token_hex(8)}",  # a reader that was replaced takes nothing from the next
            filter_subject=events(domain),
            ack_policy=AckPolicy.ALL,
            max_ack_pending=10_000,
            ack_wait=3600,  # nothing is delivered twice: a new reader starts from Postgres' cursor
            inactive_threshold=FORGOTTEN_AFTER_S,
            **start,
        )


def _header_bytes(headers: Mapping[str, str]) -> int:
    if not headers:
        return 0
    return len("NATS/1.0\r\n\r\n") + sum(
        len(f"{name}: {value}\r\n".encode()) for name, value in headers.items()
    )


def _refusal(error: APIError, domain: str, name: str) -> str | None:
    """Why the stream has no room for an event; None where that is not what is wrong."""
    if error.err_code != _NOT_STORED:
        return None
    if error.description == _NAME_FULL:
        return f"The stream of events has as many {name!r} of {domain} as it may."
    return "The stream of events is full." if error.description == _FULL else None


def _from(after: int) -> dict[str, Any]:
    return {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": after + 1}


def _state(info: StreamInfo, connection: int) -> StreamState:
    config = info.config
    try:
        kept_s = float((config.metadata or {})[_KEPT])
    except (KeyError, ValueError):
        kept_s = KEPT_S
    return StreamState(
        created=str(info.created),
        last_seq=info.state.last_seq,
        connection=connection,
        bytes=info.state.bytes,
        max_bytes=config.max_bytes if config.max_bytes and config.max_bytes > 0 else None,
        most=max((info.state.subjects or {}).values(), default=0),
        max_per_name=config.max_msgs_per_subject if config.max_msgs_per_subject > 0 else None,
        kept_s=kept_s,
    )


def _nanoseconds(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time; datetime knows microseconds only."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise ServiceUnavailable(f"JetStream gives a time that cannot be read: {text}.")
    seconds = int(datetime.fromisoformat(found[1] + found[3].replace("Z", "+00:00")).timestamp())
    return seconds * 1_000_000_000 + int((found[2] or "0").ljust(9, "0"))

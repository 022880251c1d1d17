"""Events from outside become messages: in stream order, once, by the owner of the domain's first partition."""

from __future__ import annotations

import asyncio
import json
import logging
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from bus.address import DEFAULT_TENANT, partition_of, require_word
from bus.envelope import Header, Outgoing, Priority, header_to_json, new_id
from bus.errors import (
    CallboardError,
    Fenced,
    InvalidPayload,
    NoHandler,
    ServiceUnavailable,
    StaleTurn,
    StorageUnavailable,
)
from bus.events import (
    MSG_ID_HEADER,
    PRIORITY_HEADER,
    TASK_HEADER,
    TENANT_HEADER,
    TRACE_HEADER,
    TYPE_HEADER,
    Event,
    EventReader,
    EventStream,
)
from bus.nats import NatsTransport
from bus.registry import decode_payload, refuse_nul
from storage.records import DeadEvent, EventBatch

if TYPE_CHECKING:
    from actors.domain import EventSpec
    from actors.host import Host

_logger = logging.getLogger("callboard.ingress")

FIRST_PARTITION = 0
BATCH = 500
WAIT_S = 1.0
_LOOK_EVERY_S = 0.1
_RETRY_S = 0.5
_BUSY_SHARE = 0.5  # of the host's cache: above it the stream holds the events for a while


class Ingress:
    """Part of every host; it works while the host owns the first partition, which is its fence."""

    def __init__(self, host: Host, transport: NatsTransport) -> None:
        self._host = host
        self._stream = EventStream(transport)

    async def run(self) -> None:
        host = self._host
        if not host.scope.events:
            return
        while not host.has_ended:
            if not host.holdings.may_run(FIRST_PARTITION):
                await asyncio.sleep(_LOOK_EVERY_S)
                continue
            try:
                await self._read()
            except (ServiceUnavailable, StorageUnavailable) as error:
                _logger.warning("events wait: %s", error.message)
                await asyncio.sleep(_RETRY_S)
            except (Fenced, StaleTurn) as error:
                _logger.info("events are read from the cursor again: %s", error.message)
                await asyncio.sleep(_RETRY_S)

    async def _read(self) -> None:
        """Read from the cursor in Postgres until the first partition leaves."""
        host = self._host
        incarnation = await self._stream.ensure()
        cursor = await host.store.event_cursor(host.fence.domain)
        start = cursor[1] if cursor is not None and cursor[0] == incarnation else 0
        reader = await self._stream.reader(host.fence.domain, start)
        try:
            while host.holdings.may_run(FIRST_PARTITION) and not host.has_ended:
                if host.mailboxes.backlog > host.scope.limits.cached_messages * _BUSY_SHARE:
                    await asyncio.sleep(_LOOK_EVERY_S)
                    continue
                await self._accept_next(reader, incarnation)
        finally:
            await reader.close()

    async def _accept_next(self, reader: EventReader, incarnation: str) -> None:
        host = self._host
        events = await reader.fetch(BATCH, timeout_s=WAIT_S)
        if not events:
            return
        batch = EventBatch(keys=[], messages=[], dead=[])
        for event in events:
            key = event.headers.get(MSG_ID_HEADER) or f"{incarnation}:{event.seq}"
            try:
                message = await self._as_message(event)
            except CallboardError as error:
                if isinstance(error, StorageUnavailable):
                    raise
                _logger.warning("an event on %s is a dead letter: %s", event.name, error.message)
                batch.dead.append(_dead(event, error, host.partitions))
                continue
            batch.keys.append(f"event:{key}")
            batch.messages.append(message)
        numbers = await host.store.accept_events(host.fence, (incarnation, events[-1].seq), batch)
        fresh = [m for m in batch.messages if m.header.id in numbers]
        host.outbound.publish((m, numbers[m.header.id]) for m in fresh)
        await reader.acknowledge()

    async def _as_message(self, event: Event) -> Outgoing:
        host = self._host
        spec = self._spec_of(event)
        tenant = require_word(event.headers.get(TENANT_HEADER, DEFAULT_TENANT), "tenant")
        payload = _text(event.data)
        refuse_nul(payload)
        decode_payload(spec.type, payload)
        fields: Any = json.loads(payload)
        try:
            agent = spec.target(fields)
        except (KeyError, TypeError) as error:
            raise InvalidPayload(f"The event {event.name} has no field {error} to route it by.") from None
        blob = None
        if len(payload) > host.scope.limits.claim_check_bytes:
            blob = sha256(event.data).hexdigest()
            await host.store.put_blob(host.fence.domain, tenant, blob, event.data)
            payload = "null"
        header = Header(
            id=new_id(),
            type=spec.type,
            sender=f"external/events/{event.name}",
            sent_at=event.time,
            task=event.headers.get(TASK_HEADER),
            priority=_priority(event),
            traceparent=event.headers.get(TRACE_HEADER),
            blob=blob,
        )
        return Outgoing(
            domain=host.fence.domain,
            tenant=tenant,
            agent=agent,
            partition=partition_of(tenant, agent, host.partitions),
            header=header,
            header_json=header_to_json(header),
            payload=payload,
        )

    def _spec_of(self, event: Event) -> EventSpec:
        given = event.headers.get(TYPE_HEADER)
        fitting = [
            s
            for (name, type_), s in self._host.scope.events.items()
            if name == event.name and given in (None, type_)
        ]
        if len(fitting) != 1:
            raise NoHandler(
                f"The domain subscribes to no event {event.name!r} of type {given!r}.",
                fix=f"List it under `events` in domain.yaml, or set the header {TYPE_HEADER}.",
            )
        return fitting[0]


def _priority(event: Event) -> int:
    given = event.headers.get(PRIORITY_HEADER, str(int(Priority.NORMAL)))
    if given not in ("0", "1", "2"):
        raise InvalidPayload(f"{given!r} is no priority.", fix=f"Set {PRIORITY_HEADER} to 0, 1 or 2.")
    return int(given)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidPayload("An event's data is not UTF-8.", fix="Publish JSON in UTF-8.") from None


def _dead(event: Event, error: CallboardError, partitions: int) -> DeadEvent:
    agent = f"events/{event.name}"
    header = Header(
        id=new_id(),
        type=event.headers.get(TYPE_HEADER, event.name)[:200],
        sender=f"external/events/{event.name}",
        sent_at=event.time,
    )
    return DeadEvent(
        tenant=DEFAULT_TENANT,
        partition=partition_of(DEFAULT_TENANT, agent, partitions),
        agent=agent,
        message=header.id,
        reason="invalid_event",
        error=str(error).replace("\0", ""),
        header=header_to_json(header),
        payload=json.dumps(
            {"data": event.data.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")}
        ),
    )

"""Events from outside become messages: in stream order, once, by the owner of the domain's first partition."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from actors.event_place import find_place
from actors.event_purge import EventPurge
from actors.task_messages import TROUBLE, TaskTrouble, task_agent
from bus.address import DEFAULT_TENANT, parse_address, partition_of, require_word
from bus.envelope import Header, Outgoing, Priority, header_to_json, new_id
from bus.errors import (
    CallboardError,
    Fenced,
    InvalidData,
    InvalidMessage,
    InvalidPayload,
    NoHandler,
    PayloadTooLarge,
    ServiceUnavailable,
    StaleTurn,
    StorageUnavailable,
)
from bus.event_reader import Event, EventReader
from bus.events import (
    MSG_ID_HEADER,
    PRIORITY_HEADER,
    TASK_HEADER,
    TENANT_HEADER,
    TRACE_HEADER,
    TYPE_HEADER,
    EventStream,
)
from bus.nats import NatsTransport
from bus.registry import decode_payload, encode_payload, first_line, refuse_nul
from bus.task_ref import task_ref
from storage.records import DeadEvent, EventBatch, EventCursor
from storage.room import Bounds

if TYPE_CHECKING:
    from actors.domain import EventSpec
    from actors.host import Host

_logger = logging.getLogger("callboard.ingress")

FIRST_PARTITION = 0
BATCH = 500
WAIT_S = 1.0
MAX_WORD = 200  # characters of a header that is kept; a longer Nats-Msg-Id stands as its digest
MAX_ERROR = 2_000
_LOOK_EVERY_S = 0.1
_RETRY_S = 0.5
_BUSY_SHARE = 0.5  # of the host's cache: above it the stream holds the events for a while


class Ingress:
    """Part of every host; it works while the host owns the first partition, which is its fence."""

    def __init__(self, host: Host, transport: NatsTransport) -> None:
        self._host = host
        self._stream = EventStream(transport)
        self._purge = EventPurge(self._stream, host.fence.domain)

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
        domain = host.fence.domain
        state = await self._stream.ensure()
        cursor = await host.store.event_cursor(domain)
        place = await find_place(self._stream, state, cursor, domain)
        if cursor is not None and place.incarnation != cursor.incarnation:
            # On record before anything is read: once the stream has grown again, its loss is harder to see.
            await host.store.accept_events(host.fence, place, EventBatch(keys=[], messages=[], dead=[]))
        reader = await self._stream.reader(domain, place.seq, connection=state.connection)
        self._purge.begin(state, place)
        try:
            while host.holdings.may_run(FIRST_PARTITION) and not host.has_ended:
                await self._purge.look()
                if host.mailboxes.fill > _BUSY_SHARE:
                    await asyncio.sleep(_LOOK_EVERY_S)
                    continue
                await self._accept_next(reader, place.incarnation)
        finally:
            await reader.close()

    async def _accept_next(self, reader: EventReader, incarnation: str) -> None:
        limits = self._host.scope.limits
        batch = min(
            BATCH, (min(limits.mailbox, limits.backlog) + 1) // 2
        )  # so many fit as soon as half is free
        events = await reader.fetch(batch, timeout_s=WAIT_S)
        if events:
            upto = await self._accept(events, incarnation)
            await reader.acknowledge()
            self._purge.accepted(upto, sum(len(event.data) for event in events), len(events))

    async def _accept(
        self, events: list[Event], incarnation: str, refusal: InvalidData | None = None
    ) -> EventCursor:
        """Commit events as messages, those that cannot be as dead letters, and the cursor past them, which it returns.

        `refusal` is why Postgres has refused the one event that is given.
        """
        host = self._host
        batch = EventBatch(keys=[], messages=[], dead=[])
        for event in events:
            try:
                if refusal is not None:
                    raise refusal
                message = await self._as_message(event)
            except StorageUnavailable:
                raise
            except Exception as error:  # whatever is wrong with one event, the others go on
                if isinstance(error, NoHandler | InvalidMessage) and await host.scope.is_outdated():
                    raise ServiceUnavailable(
                        f"Newer code of the domain may know the event {event.name!r}: its hosts are about to come."
                    ) from error
                words = str(error) if isinstance(error, CallboardError) else first_line(error)
                _logger.warning("an event on %s is a dead letter: %s", event.name, words)
                place = f"{incarnation}:{event.seq}"
                dead, header = _dead(event, place, words, host.fence.domain, host.partitions)
                batch.dead.append(dead)
                self._tell_task(batch, dead, header)
                continue
            batch.keys.append(f"event:{_key(event, incarnation)}")
            batch.messages.append(message)
        await self._wait_for_room(batch)
        upto = EventCursor(incarnation=incarnation, seq=events[-1].seq, at_ns=events[-1].at_ns)
        try:
            numbers = await host.store.accept_events(host.fence, upto, batch)
        except InvalidData as error:
            if refusal is not None:
                raise
            middle = len(events) // 2
            if middle:
                await self._accept(events[:middle], incarnation)
                await self._accept(events[middle:], incarnation)
            else:
                await self._accept(events, incarnation, refusal=error)
            return upto
        except StorageUnavailable:  # perhaps they are there: their owners look
            host.outbound.skip({(message.domain, message.partition) for message in batch.messages})
            raise
        fresh = [m for m in batch.messages if m.header.id in numbers]
        host.outbound.publish((m, numbers[m.header.id]) for m in fresh)
        return upto

    async def _wait_for_room(self, batch: EventBatch) -> None:
        """Read no further while too many messages wait: the stream holds the others, and refuses events once full."""
        host = self._host
        limits = host.scope.limits
        bounds = Bounds(mailbox=limits.mailbox, backlog=limits.backlog)
        wanted = Counter((m.tenant, m.partition, m.agent) for m in batch.messages if m.header.type != TROUBLE)
        domain, said = host.fence.domain, False
        while host.holdings.may_run(FIRST_PARTITION) and not host.has_ended:
            lack = await host.store.lack_of_room(domain, wanted, bounds) if wanted else None
            if lack is None:
                return
            if not said:
                _logger.warning("events of %s wait in their stream: %s", domain, lack.error().message)
                said = True
            await self._purge.look()
            await asyncio.sleep(_RETRY_S)

    async def _as_message(self, event: Event) -> Outgoing:
        host = self._host
        spec = self._spec_of(event)
        tenant = _tenant_of(event)
        limits = host.scope.limits
        if len(event.data) > limits.payload_bytes:
            raise PayloadTooLarge(
                f"The event {event.name} has {len(event.data)} bytes; {limits.payload_bytes} is the limit."
            )
        payload = _text(event.data)
        refuse_nul(payload)
        decode_payload(spec.type, payload)
        fields: Any = json.loads(payload)
        try:
            agent = spec.target(fields)
        except (KeyError, TypeError) as error:
            raise InvalidPayload(f"The event {event.name} has no field {error} to route it by.") from None
        parse_address(f"{host.fence.domain}/{agent}")
        blob = None
        if len(event.data) > limits.claim_check_bytes:
            blob = sha256(event.data).hexdigest()
            await host.store.put_blob(host.fence.domain, tenant, blob, event.data)
            payload = "null"
        header = Header(
            id=new_id(),
            type=spec.type,
            sender=f"external/events/{event.name}",
            sent_at=event.time,
            task=_task_of(event, host.fence.domain),
            priority=_priority(event),
            traceparent=_word(event, TRACE_HEADER),
            blob=blob,
            undoes=spec.shared,
            shared=spec.shared,
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

    def _tell_task(self, batch: EventBatch, dead: DeadEvent, letter: Header) -> None:
        """An event of a task that no agent can be given: its task's agent is told, as of any dead letter."""
        if letter.task is None:
            return
        try:
            to = parse_address(str(task_agent(letter.task)))
            partitions = self._host.scope.directory.partitions(to.domain, to.kind)
        except CallboardError:  # no task that could be told
            return
        trouble = TaskTrouble(type=letter.type, id=letter.id, reason=dead.reason, error=dead.error)
        header = Header(
            id=new_id(),
            type=TROUBLE,
            sender=letter.sender,
            sent_at=letter.sent_at,
            causation=letter.id,
            task=letter.task,
        )
        batch.keys.append(f"trouble:{dead.key}")
        batch.messages.append(
            Outgoing(
                domain=to.domain,
                tenant=dead.tenant,
                agent=to.agent,
                partition=partition_of(dead.tenant, to.agent, partitions),
                header=header,
                header_json=header_to_json(header),
                payload=encode_payload(trouble),
            )
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


def _key(event: Event, incarnation: str) -> str:
    """What makes the event the only one of its kind; Postgres cannot index a key of any length."""
    given = event.headers.get(MSG_ID_HEADER)
    if not given:
        return f"{incarnation}:{event.seq}"
    if len(given) <= MAX_WORD and "\0" not in given:
        return given
    return f"sha256:{sha256(given.encode()).hexdigest()}"


def _tenant_of(event: Event) -> str:
    return require_word(event.headers.get(TENANT_HEADER, DEFAULT_TENANT), "tenant")


def _word(event: Event, header: str) -> str | None:
    given = event.headers.get(header)
    if given is not None and (len(given) > MAX_WORD or "\0" in given):
        raise InvalidPayload(f"The header {header} has a NUL in it, or more than {MAX_WORD} characters.")
    return given


def _task_of(event: Event, domain: str) -> str | None:
    given = _word(event, TASK_HEADER)
    return task_ref(given, domain) if given else None


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


def _dead(event: Event, place: str, words: str, domain: str, partitions: int) -> tuple[DeadEvent, Header]:
    agent = _plain(f"events/{event.name}")
    task, tenant = None, DEFAULT_TENANT
    with contextlib.suppress(CallboardError):  # that may be what is wrong with it
        task = _task_of(event, domain)
    with contextlib.suppress(CallboardError):
        tenant = _tenant_of(event)
    header = Header(
        id=new_id(),
        type=_plain(event.headers.get(TYPE_HEADER, event.name))[:MAX_WORD],
        sender=f"external/{agent}",
        sent_at=event.time,
        task=task,
    )
    dead = DeadEvent(
        key=f"dead-event:{place}",  # not the key that it came with: published again, it may find newer code
        tenant=tenant,
        partition=partition_of(tenant, agent, partitions),
        agent=agent,
        message=header.id,
        reason="invalid_event",
        error=_plain(words)[:MAX_ERROR],
        header=header_to_json(header),
        payload=json.dumps({"data": _plain(event.data.decode(errors="replace"))}),
    )
    return dead, header


def _plain(text: str) -> str:
    """Text that Postgres can store."""
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")

"""Events from outside become messages: in stream order, once, by the owner of the domain's first partition."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING

from actors.event_message import NEWER_CODE_MAY_KNOW, dead_event, key_of, message_of, words_of
from actors.event_place import find_place
from actors.event_purge import EventPurge
from actors.task_messages import TROUBLE, TaskTrouble, task_agent
from bus.address import parse_address, partition_of
from bus.envelope import Header, Outgoing, header_to_json, new_id
from bus.errors import (
    CallboardError,
    Fenced,
    InvalidData,
    ServiceUnavailable,
    StaleTurn,
    StorageUnavailable,
    UnknownDomain,
)
from bus.event import Event
from bus.event_reader import EventReader
from bus.events import EventStream
from bus.nats import NatsTransport
from bus.registry import encode_payload
from storage.records import DeadEvent, EventBatch, EventCursor
from storage.room import Bounds

if TYPE_CHECKING:
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
            except UnknownDomain as error:  # this one: its last host waits for its calls, and then ends
                raise ServiceUnavailable(
                    f"The domain {host.fence.domain} was removed, and has its events when it is back."
                ) from error
            except Exception as error:  # whatever is wrong with one event, the others go on
                if isinstance(error, NEWER_CODE_MAY_KNOW) and await host.scope.is_outdated():
                    raise ServiceUnavailable(
                        f"Newer code of the domain may know the event {event.name!r}: its hosts are about to come."
                    ) from error
                words = words_of(error)
                _logger.warning("an event on %s is a dead letter: %s", event.name, words)
                dead, header = dead_event(event, incarnation, words, host.fence.domain, host.partitions)
                batch.dead.append(dead)
                self._tell_task(batch, dead, header)
                continue
            batch.keys.append(key_of(event, incarnation))
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
        message, blob = message_of(event, host.scope)
        if blob is not None:
            await host.store.put_blob(host.fence.domain, message.tenant, *blob)
        return message

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

"""Messages from outside: written into mailboxes once per key, their owners told.

A message is accepted when `accept` returns: it is committed. Whoever gets StorageUnavailable does not know,
and tries again under the same key.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from hashlib import sha256

import msgspec
from pydantic import BaseModel

from bus import subjects, wire
from bus.address import DEFAULT_TENANT, Address, partition_of
from bus.envelope import Header, Outgoing, Priority, header_to_json, new_id
from bus.errors import PayloadTooLarge, UnknownDomain, UnknownKind
from bus.limits import BACKLOG_MESSAGES, CLAIM_CHECK_BYTES, MAILBOX_MESSAGES, PAYLOAD_BYTES, SEEN_WINDOW
from bus.registry import encode_payload, wire_name_of
from bus.task_ref import task_ref
from bus.transport import Transport
from storage.boundary import translated
from storage.domains import Connection, DomainRow, all_domains
from storage.queries import query
from storage.room import Bounds, Recipient, lack_of_room

OPERATOR = "external/operator"  # who sends, where nobody says who
_NAMED = 50  # agents in one nudge; for more, one read of the whole partition is cheaper


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """A message to be accepted. `key` makes it the only one of its key in the window; None is no check.

    `control` is for the messages of actors/control.py: they pass the queue. `any_kind` accepts an agent whose
    kind the domain has lost: there may be something left to clear away. The deadline is seconds since 1970, UTC,
    the task `domain/id`, or the id alone where it is the recipient's domain; of a child `root` is the one at the top.
    `payload` is the message as JSON where somebody has it; else it is written here.
    """

    to: Address
    message: BaseModel
    payload: str | None = None
    key: str | None = None
    control: bool = False
    any_kind: bool = False
    sender: str = OPERATOR
    priority: Priority = Priority.NORMAL
    deadline: float | None = None
    task: str | None = None
    root: str | None = None
    traceparent: str | None = None


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one message; `seq` is None when its key had been seen before."""

    id: str
    to: Address
    seq: int | None


async def accept(
    db: Connection,
    transport: Transport | None,
    messages: Sequence[Incoming],
    *,
    tenant: str = DEFAULT_TENANT,
    window: timedelta = SEEN_WINDOW,
    admitted: bool = False,
) -> list[Accepted]:
    """Commit the messages, all or none, and nudge their owners; without a transport a sweep finds them.

    Raises UnknownDomain, UnknownKind, InvalidPayload, PayloadTooLarge, or Overloaded while too many messages wait for a
    recipient or in its domain, before anything is written. The limits are those that the recipient's domain sets.
    Control messages are not refused for a long mailbox, nor what is `admitted`: it comes from inside, or follows from
    what was accepted before.
    """
    domains = {row.domain: _Recipients.of(row) for row in await all_domains(db)}
    outgoing: list[Outgoing] = []
    blobs: list[tuple[str, str, str, bytes]] = []
    for incoming in messages:
        to = incoming.to
        if to.domain not in domains:
            raise UnknownDomain(f"There is no domain {to.domain!r}.")
        domain = domains[to.domain]
        if not incoming.any_kind and domain.kinds and to.kind not in domain.kinds:
            raise UnknownKind(f"The domain {to.domain!r} has no agent kind {to.kind!r}.")
        payload, blob = incoming.payload, None
        if payload is None:
            payload = encode_payload(incoming.message)
        data = payload.encode()
        if len(data) > domain.payload_bytes:
            raise PayloadTooLarge(f"The payload has {len(data)} bytes; {domain.payload_bytes} is the limit.")
        if len(data) > domain.claim_check_bytes:
            payload, blob = "null", sha256(data).hexdigest()
            blobs.append((to.domain, tenant, blob, data))
        outgoing.append(_outgoing(incoming, tenant, domain.partitions, payload, blob))
    if not admitted:
        await _require_room(db, domains, outgoing)
    with translated():
        for row in blobs:
            await db.execute(query("put_blob"), *row)
        rows = await db.fetch(
            query("accept_from_outside"),
            [message.key for message in messages],
            window,
            [o.domain for o in outgoing],
            [o.tenant for o in outgoing],
            [o.partition for o in outgoing],
            [o.agent for o in outgoing],
            [o.control for o in outgoing],
            [o.header.id for o in outgoing],
            [o.header_json for o in outgoing],
            [o.payload for o in outgoing],
        )
    numbers = {row["id"]: row["seq"] for row in rows}
    if transport is not None:
        fresh = [o for o in outgoing if o.header.id in numbers]
        nudge(transport, {(o.domain, o.partition, o.tenant, o.agent) for o in fresh})
        await transport.flush()
    return [
        Accepted(id=o.header.id, to=m.to, seq=numbers.get(o.header.id))
        for m, o in zip(messages, outgoing, strict=True)
    ]


async def _require_room(
    db: Connection, domains: Mapping[str, _Recipients], outgoing: Sequence[Outgoing]
) -> None:
    wanted: dict[str, Counter[Recipient]] = {}
    for message in outgoing:
        if not message.control:
            mailboxes = wanted.setdefault(message.domain, Counter())
            mailboxes[message.tenant, message.partition, message.agent] += 1
    for domain, mailboxes in wanted.items():
        if (lack := await lack_of_room(db, domain, mailboxes, domains[domain].bounds)) is not None:
            raise lack.error()


def nudge(transport: Transport, recipients: Iterable[tuple[str, int, str, str]]) -> None:
    """Ask the owners of agents (domain, partition, tenant, `kind/key`) to read their mailboxes again.

    Named, so that a message costs one small read, however much other mail the partition has.
    """
    named: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for domain, partition, tenant, agent in sorted(recipients):
        named.setdefault((domain, partition), []).append((tenant, agent))
    for (domain, partition), agents in named.items():
        parcel = wire.nudge(partition, agents if len(agents) <= _NAMED else ())
        transport.publish(subjects.agents(domain, partition), wire.encode_parcel(parcel))


def _outgoing(incoming: Incoming, tenant: str, partitions: int, payload: str, blob: str | None) -> Outgoing:
    header = Header(
        id=new_id(),
        type=wire_name_of(type(incoming.message)),
        sender=incoming.sender,
        sent_at=time.time(),
        task=incoming.task if incoming.task is None else task_ref(incoming.task, incoming.to.domain),
        root=incoming.root,
        priority=int(incoming.priority),
        deadline=incoming.deadline,
        traceparent=incoming.traceparent,
        blob=blob,
    )
    return Outgoing(
        domain=incoming.to.domain,
        tenant=tenant,
        agent=incoming.to.agent,
        partition=partition_of(tenant, incoming.to.agent, partitions),
        header=header,
        header_json=header_to_json(header),
        payload=payload,
        control=incoming.control,
    )


class _Recipients(msgspec.Struct, frozen=True, kw_only=True):
    """What of a domain a sender must know."""

    partitions: int
    kinds: list[str]
    claim_check_bytes: int
    payload_bytes: int
    bounds: Bounds

    @classmethod
    def of(cls, row: DomainRow) -> _Recipients:
        limits = json.loads(row.spec).get("limits", {})
        return cls(
            partitions=row.partitions,
            kinds=row.kinds,
            claim_check_bytes=limits.get("claim_check_bytes", CLAIM_CHECK_BYTES),
            payload_bytes=limits.get("payload_bytes", PAYLOAD_BYTES),
            bounds=Bounds(
                mailbox=limits.get("mailbox", MAILBOX_MESSAGES),
                backlog=limits.get("backlog", BACKLOG_MESSAGES),
            ),
        )

"""An event from outside as a message, or as the dead letter that it becomes, which can be read anew."""

from __future__ import annotations

import contextlib
import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from bus import subjects
from bus.address import DEFAULT_TENANT, parse_address, partition_of, require_word
from bus.envelope import Header, Outgoing, Priority, header_to_json, new_id
from bus.errors import (
    CallboardError,
    InvalidMessage,
    InvalidPayload,
    NoHandler,
    PayloadTooLarge,
    UnknownKind,
)
from bus.event import (
    MSG_ID_HEADER,
    PRIORITY_HEADER,
    TASK_HEADER,
    TENANT_HEADER,
    TRACE_HEADER,
    TYPE_HEADER,
    Event,
)
from bus.registry import decode_payload, first_line, refuse_nul
from bus.task_ref import published_task_ref
from storage.records import INVALID_EVENT, DeadEvent

if TYPE_CHECKING:
    from actors.event_spec import EventSpec
    from actors.scope import Scope

NEWER_CODE_MAY_KNOW = (NoHandler, InvalidMessage, UnknownKind)  # what is wrong with an event
MAX_WORD = 200  # characters of a header that is kept; a longer Nats-Msg-Id stands as its digest
MAX_ERROR = 2_000
_MOST_NAMED = 10
_READ = (TYPE_HEADER, TENANT_HEADER, TASK_HEADER, PRIORITY_HEADER, TRACE_HEADER)


class BuriedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of an event's dead letter: all that its publisher and a retry know it by. `key` makes it the only one of
    its kind, `at_ns` is when the stream took it. One that is not `whole` had something in it that Postgres cannot store,
    which no reader of events takes either."""

    subject: str
    sequence: int
    headers: dict[str, str]
    data: str
    key: str
    at_ns: int
    whole: bool

    def event(self) -> Event:
        name = self.subject.rsplit(".", 1)[-1]
        return Event(
            seq=self.sequence, name=name, data=self.data.encode(), headers=self.headers, at_ns=self.at_ns
        )


def message_of(
    event: Event, scope: Scope, *, id_: str | None = None, letter: int | None = None
) -> tuple[Outgoing, tuple[str, bytes] | None]:
    """The message, and the blob (digest, bytes) that its payload must be in before it is committed, if it is large.

    A retry gives the id that it had and the number of its dead letter. Raises whatever is wrong with the event.
    """
    spec = _spec_of(event, scope)
    tenant = _tenant_of(event)
    limits = scope.limits
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
    to = parse_address(f"{scope.domain}/{agent}")
    blob = None
    if len(event.data) > limits.claim_check_bytes:
        blob = sha256(event.data).hexdigest(), event.data
        payload = "null"
    header = Header(
        id=id_ or new_id(),
        type=spec.type,
        sender=f"external/events/{event.name}",
        sent_at=event.time,
        task=_task_of(event, scope.domain),
        priority=_priority(event),
        traceparent=_word(event, TRACE_HEADER),
        blob=None if blob is None else blob[0],
        undoes=spec.shared,
        shared=spec.shared,
        letter=letter,
    )
    message = Outgoing(
        domain=scope.domain,
        tenant=tenant,
        agent=agent,
        partition=partition_of(tenant, agent, scope.directory.partitions(to.domain, to.kind)),
        header=header,
        header_json=header_to_json(header),
        payload=payload,
    )
    return message, blob


def key_of(event: Event, incarnation: str) -> str:
    """What makes the event the only one of its kind; Postgres cannot index a key of any length."""
    given = event.headers.get(MSG_ID_HEADER)
    if not given:
        return f"event:{incarnation}:{event.seq}"
    if len(given) <= MAX_WORD and "\0" not in given:
        return f"event:{given}"
    return f"event:sha256:{sha256(given.encode()).hexdigest()}"


def words_of(error: Exception) -> str:
    """What is wrong with an event, as its dead letter says it."""
    return _plain(str(error) if isinstance(error, CallboardError) else first_line(error))[:MAX_ERROR]


def dead_event(
    event: Event, incarnation: str, words: str, domain: str, partitions: int
) -> tuple[DeadEvent, Header]:
    """An event that no agent can be given, and its header."""
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
    data = _plain(event.data.decode(errors="replace"))
    read = [event.headers[name] for name in _READ if name in event.headers]
    buried = BuriedEvent(
        subject=_plain(subjects.events(domain, event.name)),
        sequence=event.seq,
        headers={_plain(name): _plain(value) for name, value in event.headers.items()},
        data=data,
        key=key_of(event, incarnation),
        at_ns=event.at_ns,
        whole=data.encode() == event.data and all(_plain(value) == value for value in read),
    )
    dead = DeadEvent(
        # Not the key that it came with: published again, it may find newer code.
        key=f"dead-event:{incarnation}:{event.seq}",
        tenant=tenant,
        partition=partition_of(tenant, agent, partitions),
        agent=agent,
        message=header.id,
        reason=INVALID_EVENT,
        error=words,
        header=header_to_json(header),
        payload=msgspec.json.encode(buried).decode(),
    )
    return dead, header


def _spec_of(event: Event, scope: Scope) -> EventSpec:
    given = event.headers.get(TYPE_HEADER)
    listed = {type_: spec for (name, type_), spec in scope.events.items() if name == event.name}
    if given is None and len(listed) == 1:
        return next(iter(listed.values()))
    if given in listed:
        return listed[given]
    if not listed:
        names = _some(sorted({name for name, _ in scope.events}))
        raise NoHandler(
            f"The domain {scope.domain} lists no event {event.name!r}; it takes {names}.",
            fix=f"List it under `events` in domain.yaml, and have it read anew with `callboard dead-letters retry`; "
            f"or publish to {subjects.events(scope.domain, 'NAME')} with a name that is listed.",
        )
    types = _some(sorted(listed))
    if given is None:
        raise NoHandler(
            f"The domain {scope.domain} lists the event {event.name!r} with several types: {types}.",
            fix=f"Publish it with one of them in the header {TYPE_HEADER}.",
        )
    raise NoHandler(
        f"The domain {scope.domain} lists the event {event.name!r} with the type {types}, and not with {given!r}.",
        fix=f"Correct the header {TYPE_HEADER}, or list that type under `events` in domain.yaml.",
    )


def _some(words: list[str]) -> str:
    more = len(words) - _MOST_NAMED
    return ", ".join(words[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _tenant_of(event: Event) -> str:
    return require_word(event.headers.get(TENANT_HEADER, DEFAULT_TENANT), "tenant")


def _word(event: Event, header: str) -> str | None:
    given = event.headers.get(header)
    if given is not None and (len(given) > MAX_WORD or "\0" in given):
        raise InvalidPayload(f"The header {header} has a NUL in it, or more than {MAX_WORD} characters.")
    return given


def _task_of(event: Event, domain: str) -> str | None:
    given = _word(event, TASK_HEADER)
    return published_task_ref(given, domain) if given else None


def _priority(event: Event) -> int:
    given = event.headers.get(PRIORITY_HEADER, str(int(Priority.NORMAL)))
    if given not in ("0", "1", "2"):
        raise InvalidPayload(f"{given!r} is not a priority.", fix=f"Set {PRIORITY_HEADER} to 0, 1 or 2.")
    return int(given)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidPayload("An event's data is not UTF-8.", fix="Publish JSON in UTF-8.") from None


def _plain(text: str) -> str:
    """Text that Postgres can store."""
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")

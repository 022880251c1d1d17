"""What a handler is given besides its message."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from actors.task_reports import TaskReports
from bus.address import Address, parse_address, partition_of
from bus.envelope import Envelope, Header, Outgoing, Priority, header_to_json, new_id
from bus.errors import DeadlineExceeded, HopLimitExceeded, InvalidMessage, PayloadTooLarge
from bus.registry import encode_json, encode_payload, wire_name_of
from storage.records import TaskEvent, TaskWrite

if TYPE_CHECKING:
    from actors.scope import Scope

_logger = logging.getLogger("callboard.agent")


class Context(TaskReports):
    """One turn's window on the world. Nothing that a handler asks of it happens before the turn commits."""

    __slots__ = (
        "_address", "_blobs", "_bytes", "_closed", "_destroyed", "_envelope", "_notes", "_scope", "_sends", "_task_events", "_tasks",
        "_undead", "now",
    )  # fmt: skip

    def __init__(self, scope: Scope, envelope: Envelope, now: float) -> None:
        self._scope = scope
        self._envelope = envelope
        self._address: Address | None = None
        self._sends: list[Outgoing] = []
        self._blobs: list[tuple[str, str, bytes]] = []
        self._notes: list[str] = []
        self._tasks: list[TaskWrite] = []
        self._task_events: list[TaskEvent] = []
        self._undead: list[int] = []
        self._destroyed = False
        self._bytes = 0
        self._closed = False
        self.now = now
        """Database time at the turn's start, seconds since 1970, UTC."""

    @property
    def address(self) -> Address:
        """The agent's own address."""
        if self._address is None:
            kind, _, key = self._envelope.agent.partition("/")
            self._address = Address(self._scope.domain, kind, key)
        return self._address

    @property
    def tenant(self) -> str:
        return self._envelope.tenant

    @property
    def header(self) -> Header:
        """The header of the message being handled."""
        return self._envelope.header

    @property
    def sender(self) -> str:
        """Who sent the message: an agent's address, or `external/...`."""
        return self._envelope.header.sender

    @property
    def task(self) -> str | None:
        """The task that this message is part of, as `domain/id`; every report takes it as its `task`."""
        return self._envelope.header.task

    @property
    def deadline(self) -> float | None:
        """When the work must be done, seconds since 1970, UTC."""
        return self._envelope.header.deadline

    @property
    def failures(self) -> int:
        """How often this message has failed before."""
        return self._envelope.failures

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that names the agent and the message."""
        extra = {"agent": str(self.address), "message_id": self.header.id}
        return logging.LoggerAdapter(_logger, extra)

    def send(
        self,
        address: str | Address,
        message: BaseModel,
        *,
        priority: Priority | None = None,
        deadline: float | None = None,
    ) -> str:
        """Send a message when this turn commits; return its id.

        Priority, deadline, task and correlation are handed on from the message being handled. Raises
        InvalidAddress, UnknownDomain, UnknownKind, InvalidPayload, PayloadTooLarge, HopLimitExceeded.
        """
        return self._send(address, message, priority, self.deadline if deadline is None else deadline, None)

    def send_later(
        self,
        address: str | Address,
        message: BaseModel,
        *,
        delay_s: float | None = None,
        at: float | None = None,
        priority: Priority | None = None,
    ) -> str:
        """Send a message at a time (seconds since 1970, UTC) or after a delay, by database time; durable."""
        if (delay_s is None) == (at is None):
            raise InvalidMessage("send_later takes either delay_s or at.", fix="Give exactly one of them.")
        due = at if at is not None else self.now + (delay_s or 0.0)
        return self._send(address, message, priority, self.deadline, due)

    def reply(self, message: BaseModel) -> str:
        """Send to whoever sent the message being handled; raises InvalidMessage if that was no agent."""
        if self.sender.startswith("external/"):
            raise InvalidMessage(
                f"{self.sender} is no agent and cannot be replied to.",
                fix="Send the result to an agent or a task.",
            )
        return self._send(self.sender, message, None, self.deadline, None)

    def publish(self, topic: str, message: BaseModel) -> int:
        """Send to every agent subscribed to a topic in domain.yaml; return how many."""
        targets = self._scope.subscribers(topic)
        for target in targets:
            self._send(f"{self._scope.domain}/{target}", message, None, self.deadline, None)
        return len(targets)

    def explain(self, decision: str, **facts: Any) -> None:
        """Write a decision and the facts behind it (JSON values) into the history; raises InvalidPayload."""
        self._must_be_open()
        note = encode_json({"decision": decision, **facts})
        self._count_bytes(len(note))
        self._notes.append(note)

    def destroy(self) -> None:
        """Delete this agent's state when the turn commits; its history stays."""
        self._must_be_open()
        self._destroyed = True

    def close(self) -> None:
        """The turn has ended: what is asked of it from now on, by a task left behind, can no longer happen."""
        self._closed = True

    def record_task(self, row: TaskWrite | None, events: Sequence[TaskEvent]) -> None:
        """Write a task's row and lines of its log when the turn commits: for the task's own agent only."""
        if row is not None:
            self._tasks.append(row)
        self._task_events.extend(events)

    def _send_report(self, to: Address, message: BaseModel) -> None:
        self._send(to, message, None, None, None)

    def _send(
        self,
        address: str | Address,
        message: BaseModel,
        priority: Priority | None,
        deadline: float | None,
        due: float | None,
    ) -> str:
        if self._closed:
            self._must_be_open()
        scope = self._scope
        to = parse_address(str(address))  # an Address may have been made by hand
        partitions = scope.directory.partitions(to.domain, to.kind)
        came = self._envelope.header
        if len(self._sends) >= scope.limits.sends_per_turn:
            raise InvalidMessage(
                f"One turn may send {scope.limits.sends_per_turn} messages.",
                fix="Send the rest in further turns, or raise the domain's `limits.sends_per_turn`.",
            )
        if came.hops >= scope.limits.hops:
            raise HopLimitExceeded(f"The chain of {came.correlation or came.id} has {came.hops} hops.")
        if deadline is not None and deadline <= self.now:
            raise DeadlineExceeded(
                "The deadline of a message to be sent has passed.", fix="Give a later one."
            )
        payload = encode_payload(message)
        blob = None
        if _size(payload, scope.limits.claim_check_bytes) > scope.limits.claim_check_bytes:
            payload, blob = self._check_in(payload)
        header = Header(
            id=new_id(),
            type=wire_name_of(type(message)),
            sender=f"{scope.domain}/{self._envelope.agent}",
            sent_at=self.now,
            correlation=came.correlation or came.id,
            causation=came.id,
            task=came.task,
            priority=came.priority if priority is None else int(priority),
            deadline=deadline,
            hops=came.hops + 1,
            traceparent=came.traceparent,
            blob=blob,
        )
        header_json = header_to_json(header)
        self._count_bytes(len(header_json) + len(payload))
        agent = f"{to.kind}/{to.key}"
        self._sends.append(
            Outgoing(
                domain=to.domain,
                tenant=self._envelope.tenant,
                agent=agent,
                partition=partition_of(self._envelope.tenant, agent, partitions),
                header=header,
                header_json=header_json,
                payload=payload,
                visible_at=due,
            )
        )
        return header.id

    def _must_be_open(self) -> None:
        if self._closed:
            raise InvalidMessage(
                "The turn has ended; nothing more can happen in it.",
                fix="Await what the handler starts before it returns.",
            )

    def _count_bytes(self, size: int) -> None:
        """Bounds what one turn puts into the commit; characters are near enough."""
        self._bytes += size
        if self._bytes > self._scope.limits.turn_bytes:
            raise PayloadTooLarge(
                f"One turn may send and explain {self._scope.limits.turn_bytes} bytes.",
                fix="Send the rest in further turns, or raise the domain's `limits.turn_bytes`.",
            )

    def _check_in(self, payload: str) -> tuple[str, str]:
        data = payload.encode()
        limit = self._scope.limits.payload_bytes
        if len(data) > limit:
            raise PayloadTooLarge(f"The payload has {len(data)} bytes; {limit} is the limit.")
        digest = sha256(data).hexdigest()
        self._blobs.append((self._envelope.tenant, digest, data))
        return "null", digest


def _size(text: str, limit: int) -> int:
    """How many bytes the text has in UTF-8; at most four times its length, so most need no counting."""
    return len(text) if 4 * len(text) <= limit else len(text.encode())

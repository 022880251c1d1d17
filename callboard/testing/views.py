"""What a test reads: committed rows, with their messages as the models they were."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from bus.envelope import Header, header_from_json
from bus.errors import InvalidMessage
from bus.registry import decode_payload
from storage.chain import Transition
from storage.journal import Kind
from storage.memory_rows import DeadLetterRow, MailRow
from storage.memory_turns import MemoryTurns
from storage.records import TaskWrite


@dataclass(frozen=True, kw_only=True)
class Step:
    """One turn in an agent's history."""

    version: int
    at: float
    decision: str
    lifecycle: str
    header: Header
    message: BaseModel | None
    notes: list[dict[str, Any]]
    sends: list[dict[str, str]]
    body: str


@dataclass(frozen=True, kw_only=True)
class WaitingMessage:
    """One message in a mailbox."""

    seq: int
    header: Header
    message: BaseModel | None
    failures: int
    trials: int
    retry_at: float | None
    last_error: str | None


@dataclass(frozen=True, kw_only=True)
class DeadMessage:
    """One message that was given up; `message` is None when it cannot be read."""

    id: int
    address: str
    reason: str
    error: str
    failures: int
    header: Header
    message: BaseModel | None
    payload: str
    frames: str


@dataclass(frozen=True, kw_only=True)
class OpenQuestion:
    """What a person is asked: `kind` is approval or outcome, `details` what they are shown."""

    id: str
    address: str
    kind: str
    name: str
    details: dict[str, Any]
    due_at: float | None


def open_questions(waits: MemoryTurns, domain: str, tenant: str) -> list[OpenQuestion]:
    return [
        OpenQuestion(
            id=id_, address=f"{of}/{row.agent}", kind=row.made.kind, name=row.made.name,
            details=json.loads(row.made.details or "{}"), due_at=row.made.due_at,
        )
        for (of, owner, id_), row in waits.promises.rows.items()
        if (of, owner) == (domain, tenant) and row.status == "pending"
        and row.made.kind in (Kind.APPROVAL, Kind.OUTCOME)
    ]  # fmt: skip


def step(transition: Transition, blobs: dict[str, bytes]) -> Step:
    body = json.loads(transition.body)
    header = header_from_json(json.dumps(body["message"]["header"]))
    return Step(
        version=transition.version,
        at=body["at"],
        decision=body["decision"],
        lifecycle=body["lifecycle"],
        header=header,
        message=open_message(header, json.dumps(body["message"]["payload"]), blobs),
        notes=body["notes"],
        sends=body["sends"],
        body=transition.body,
    )


def waiting(row: MailRow, blobs: dict[str, bytes]) -> WaitingMessage:
    header = header_from_json(row.header_json)
    return WaitingMessage(
        seq=row.seq,
        header=header,
        message=open_message(header, row.payload, blobs),
        failures=row.failures,
        trials=row.trials,
        retry_at=row.retry_at,
        last_error=row.last_error,
    )


def dead(domain: str, row: DeadLetterRow, blobs: dict[str, bytes]) -> DeadMessage:
    header = header_from_json(row.header_json)
    return DeadMessage(
        id=row.id,
        address=f"{domain}/{row.agent}",
        reason=row.reason,
        error=row.error,
        failures=row.failures,
        header=header,
        message=open_message(header, row.payload, blobs),
        payload=row.payload,
        frames=row.frames,
    )


def open_message(header: Header, payload: str, blobs: dict[str, bytes]) -> BaseModel | None:
    """The message as its class; None when it does not fit or no class has its name."""
    if header.blob is not None:
        payload = blobs[header.blob].decode()
    try:
        return decode_payload(header.type, payload)
    except InvalidMessage:
        return None


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """A task as its task agent has last committed it. `progress` goes from 0 to 1."""

    status: str
    assignee: str | None
    progress: float
    result: Any
    error: dict[str, Any] | None


def task_state(row: TaskWrite) -> TaskState:
    return TaskState(
        status=row.status,
        assignee=row.assignee,
        progress=row.progress,
        result=None if row.result is None else json.loads(row.result),
        error=None if row.error is None else json.loads(row.error),
    )

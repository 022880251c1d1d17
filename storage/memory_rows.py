"""The rows of the store in memory, and what Postgres' columns would take of them."""

from __future__ import annotations

from uuid import UUID

import msgspec

from bus.envelope import Outgoing
from bus.errors import InvalidData
from storage.records import DeadEvent, TurnRecord

_NONE: frozenset[int] = frozenset()


class HostRow(msgspec.Struct, kw_only=True):
    """One incarnation of a host."""

    owned: frozenset[int] = _NONE
    wanted: frozenset[int] = _NONE
    suspect: frozenset[int] = _NONE
    stopped: frozenset[int] = _NONE
    draining: bool = False
    ready: bool = False
    ended_why: str | None = None
    gone: bool = False

    @property
    def is_live(self) -> bool:
        return self.ended_why is None


class MailRow(msgspec.Struct, kw_only=True):
    """One message in a mailbox."""

    seq: int
    id: str
    header_json: str
    payload: str
    failures: int = 0
    trials: int = 0
    retry_at: float | None = None
    last_error: str | None = None


class TimerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One message that is due later."""

    seq: int
    due_at: float
    message: Outgoing


class DeadLetterRow(msgspec.Struct, frozen=True, kw_only=True):
    """One message that was given up."""

    id: int
    tenant: str
    partition: int
    agent: str
    message_id: str
    reason: str
    error: str
    failures: int
    header_json: str
    payload: str


def check_turn(turn: TurnRecord) -> None:
    for text in (turn.body, turn.state, *(event.body for event in turn.task_events)):
        check_json(text)
    for write in turn.tasks:
        check_json(write.result)
        check_json(write.error)
    if turn.dead is not None:
        check_text(turn.dead.error)
        check_json(turn.header_json)
        check_json(turn.payload)
    for send in turn.sends:
        check_outgoing(send)


def check_dead(dead: DeadEvent) -> None:
    check_text(dead.error)
    check_json(dead.header)
    check_json(dead.payload)


def check_outgoing(message: Outgoing) -> None:
    check_json(message.header_json)
    check_json(message.payload)
    try:
        UUID(message.header.id)
    except ValueError:
        raise InvalidData(f"{message.header.id!r} is no UUID.") from None


def check_text(text: str) -> None:
    """What a text column takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidData("Text with a lone surrogate cannot be stored.") from None
    if "\0" in text:
        raise InvalidData("Text with NUL cannot be stored.")


def check_json(text: str | None) -> None:
    """What a json column takes: valid JSON, with `\\u0000` in it or not."""
    if text is None:
        return
    check_text(text)
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidData(f"That is not JSON: {error}.") from None

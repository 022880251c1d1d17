"""The rows of the store in memory, and what Postgres' columns would take of them."""

from __future__ import annotations

from uuid import UUID

import msgspec

from bus.envelope import Outgoing
from bus.errors import InvalidData
from storage.journal import Kind, PromiseWrite
from storage.ledger import LedgerWrite
from storage.records import DeadEvent, Mark, TurnRecord

_NONE: frozenset[int] = frozenset()


class HostRow(msgspec.Struct, kw_only=True):
    """One incarnation of a host."""

    owned: frozenset[int] = _NONE
    wanted: frozenset[int] = _NONE
    kept: frozenset[int] = _NONE
    suspect: frozenset[int] = _NONE
    taken: tuple[int, ...] = ()
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
    frames: str = ""


class TurnRow(msgspec.Struct, kw_only=True):
    """One open turn."""

    partition: int
    turn: str
    message: MailRow
    began_at: float
    recorded: int
    waiting: bool = False


class PromiseRow(msgspec.Struct, kw_only=True):
    """One promise and its owner."""

    tenant: str
    agent: str
    partition: int
    turn: str
    made: PromiseWrite
    made_at: float
    given_up: bool = False
    status: str = "pending"
    value: str | None = None
    settled_by: str | None = None
    settled_at: float | None = None

    @property
    def leaves_no_row(self) -> bool:
        return self.made.kind in (Kind.ASK, Kind.SLEEP)

    @property
    def waits_for_task(self) -> bool:
        is_to_leader = (self.made.target or "").split("/")[1:2] == ["task"]
        return self.made.kind == Kind.ASK and is_to_leader and not self.given_up


class LedgerRow(msgspec.Struct, kw_only=True):
    """One call of a tool, as it was written last; the epoch is that of the host that was to make it last."""

    agent: str
    turn: str
    epoch: int
    call: LedgerWrite


def note(message: MailRow, mark: Mark, now: float) -> None:
    """What a mark does to its message."""
    message.failures += mark.failed
    message.trials += mark.tried
    message.retry_at = None if mark.delay_s is None else now + mark.delay_s
    message.last_error = message.last_error if mark.error is None else mark.error


def check_turn(turn: TurnRecord) -> None:
    for text in (turn.body, turn.state, *(event.body for event in turn.task_events)):
        check_json(text)
    for write in turn.tasks:
        check_json(write.result)
        check_json(write.error)
    if turn.dead is not None:
        check_text(turn.dead.error)
        check_text(turn.dead.frames)
        check_uuid(turn.message_id)
        check_json(turn.header_json)
        check_json(turn.payload)
    for send in (*turn.sends, *(message for _, message in turn.accepts)):
        check_outgoing(send)


def check_dead(dead: DeadEvent) -> None:
    check_text(dead.error)
    check_json(dead.header)
    check_json(dead.payload)


def check_outgoing(message: Outgoing) -> None:
    check_json(message.header_json)
    check_json(message.payload)
    check_uuid(message.header.id)


def check_uuid(text: str) -> None:
    """What a uuid column takes."""
    try:
        UUID(text)
    except ValueError:
        raise InvalidData(f"{text!r} is no UUID.") from None


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

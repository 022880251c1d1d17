"""Control messages: what operators ask of an agent, carried out by its owner ahead of its mailbox."""

from __future__ import annotations

from pydantic import BaseModel, field_validator

from bus.errors import InvalidPayload
from bus.registry import message, read_json


@message("callboard.pause.v1")
class Pause(BaseModel):
    """Stop handling messages; they wait in the mailbox."""

    reason: str = ""


@message("callboard.resume.v1")
class Resume(BaseModel):
    """Go on handling messages."""


@message("callboard.destroy.v1")
class Destroy(BaseModel):
    """Delete the agent's state; its history stays, and a later message creates it anew. A turn that is open ends first,
    as with SkipTurn."""

    leave_done: bool = False


@message("callboard.withdraw.v1")
class Withdraw(BaseModel):
    """Take a message out of the mailbox, unless its turn has begun: the ask that sent it was refused."""

    id: str


@message("callboard.retry_dead_letter.v1")
class RetryDeadLetter(BaseModel):
    """Put a dead letter back at the end of the mailbox. One whose task has ended only by `force`, for it would count for
    nothing; one whose task is cancelled not at all, for no host would handle it."""

    id: int
    force: bool = False


@message("callboard.drop_dead_letter.v1")
class DropDeadLetter(BaseModel):
    """Delete a dead letter; the history keeps that it was dropped, and why."""

    id: int
    reason: str = ""


@message("callboard.skip_turn.v1")
class SkipTurn(BaseModel):
    """Give the open turn up, as its last failure would: its compensations run, its message becomes a dead letter, and the
    agent goes on. With `leave_done` nothing is undone: its handler does not run any more. `turn` is the one that is meant,
    where the agent may have gone on to another one; None is whichever is open."""

    reason: str = ""
    leave_done: bool = False
    turn: str | None = None


@message("callboard.edit_turn.v1")
class EditTurn(BaseModel):
    """Change what the open turn has recorded of a step or a call: its result, or, without a `value` (JSON text), that it
    was made at all. The record itself stays; what is said here comes after it. `turn` is as for SkipTurn."""

    key: str
    turn: str | None = None
    value: str | None = None
    reason: str = ""

    @field_validator("value")
    @classmethod
    def _is_json(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                read_json(value, "The value")
            except InvalidPayload as error:
                raise ValueError(error.message) from None
        return value

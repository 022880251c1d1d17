"""What a person is asked, and what they have decided."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal
from unicodedata import category

import msgspec
from pydantic import BaseModel

from actors import values
from bus.address import Address, parse_address
from bus.errors import AlreadySettled, CallboardError, InvalidMessage, NotEntitled, UnknownPromise
from bus.registry import message

if TYPE_CHECKING:
    from storage.standing import Standing

MAX_COMMENT = 1_000  # characters
_MOST_SHOWN = 5  # of the details that differ
_MOST_CHARACTERS = 60  # of a value that is shown
_REFUSALS: dict[str, type[CallboardError]] = {
    error.__name__: error for error in (AlreadySettled, InvalidMessage, NotEntitled, UnknownPromise)
}

OnTimeout = Literal["deny", "approve", "raise"]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be approved: the `details` of the promise. `digest` binds a decision to exactly this."""

    action: str
    details: msgspec.Raw
    digest: str
    approvers: tuple[str, ...] = ()

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    def differs_from(self, earlier: Question) -> str:
        """In which details, by their names and such values as a line can hold; empty when they have no names."""
        before, now = (msgspec.json.decode(asked.details) for asked in (earlier, self))
        if not (isinstance(before, dict) and isinstance(now, dict)):
            return ""
        texts = {name: (_text(before, name), _text(now, name)) for name in {**before, **now}}
        changed = [
            f"{name} ({_shown(was)}, now {_shown(is_)})" for name, (was, is_) in texts.items() if was != is_
        ]
        more = [f"{len(changed) - _MOST_SHOWN} more"] if len(changed) > _MOST_SHOWN else []
        return ", ".join(changed[:_MOST_SHOWN] + more)

    def agents(self, excluded: tuple[str, ...]) -> list[Address]:
        """The agents that may decide; raises InvalidMessage when all approvers are excluded."""
        if self.approvers and set(self.approvers) <= set(excluded):
            raise InvalidMessage(
                f"None of the approvers may decide on {self.action!r}: they ask for it themselves.",
                fix="Name somebody else.",
            )
        return [parse_address(name) for name in self.approvers if is_address(name) and name not in excluded]


@message("callboard.approval_requested.v1")
class ApprovalRequested(BaseModel):
    """You may decide on this: `ctx.decide(request.ref, True)`. Sent to the agents among an approval's approvers."""

    ref: str
    action: str
    details: Any = None
    digest: str
    until: float | None = None
    """Seconds since 1970, UTC; then nobody decides any more."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent decides."""

    approved: bool
    comment: str

    def __post_init__(self) -> None:
        if len(self.comment) > MAX_COMMENT:
            raise InvalidMessage(
                f"The comment has {len(self.comment)} characters; {MAX_COMMENT} is the limit.",
                fix="Explain the rest with ctx.explain.",
            )

    @property
    def status(self) -> str:
        return "approved" if self.approved else "denied"


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a decision did not count, as the journal keeps it."""

    type: str
    message: str
    fix: str
    fields: dict[str, Any]

    @classmethod
    def of(cls, error: CallboardError) -> Refusal:
        return cls(type=type(error).__name__, message=error.message, fix=error.fix, fields=error.fields)

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    def error(self, place: str) -> CallboardError:
        return _REFUSALS[self.type](self.message, fix=self.fix, place=place, **self.fields)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided, by whom and when (seconds since 1970, UTC).

    `by` is a person's name or an agent's address, None when the time was up and nobody had decided. `message` is the id
    of the message that the agent handled when it decided.
    """

    action: str
    approved: bool
    by: str | None
    at: float
    comment: str = ""
    message: str | None = None


class Comment(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands beside a decision: the words, and of an agent's the message that it handled."""

    comment: str = ""
    message: str | None = None

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    def stands(self, standing: Standing, status: str, by: str) -> bool:
        """Whether the promise was settled with just this."""
        if (standing.status, standing.settled_by) != (status, by):
            return False
        return msgspec.json.decode(standing.value or "null", type=Comment | None) == self


def question(action: str, details: Any, approvers: Sequence[str]) -> Question:
    """Raises InvalidPayload for details that JSON cannot carry, InvalidMessage for no action or an approver without a name,
    InvalidAddress for one that would be an agent."""
    if not action.strip():
        raise InvalidMessage("An approval says of what it is one.", fix="Give `action` some words.")
    if (why := not_approvers(approvers)) is not None:
        raise InvalidMessage(f"Nobody can be asked so: {why}.", fix="Give a list of names.")
    for name in filter(is_address, approvers):
        parse_address(name)
    text = bytes(details).decode() if isinstance(details, msgspec.Raw) else values.encode(details)
    digest = sha256(f"{values.encode(action)}\n{text}".encode()).hexdigest()
    return Question(
        action=action, details=msgspec.Raw(text.encode()), digest=digest, approvers=tuple(approvers)
    )


def not_approvers(approvers: Any) -> str | None:
    """What keeps this from being a list of the names of people and agents."""
    if isinstance(approvers, str):
        return f"`approvers` is the text {approvers!r}"
    if not isinstance(
        approvers, Collection
    ):  # an iterator would be empty once it was looked through, and then anybody may
        return f"`approvers` is of the type {type(approvers).__name__}"
    for name in approvers:
        if (why := _not_a_name(name)) is not None:
            return f"the approver {name!r} {why}"
    return None


def _not_a_name(name: Any) -> str | None:
    if not isinstance(name, str):
        return "is no text"
    if not name.strip():
        return "is empty"
    kinds = {category(character) for character in name}
    if "Cc" in kinds:
        return "has control characters"
    return "is not valid Unicode" if "Cs" in kinds else None


def _text(details: dict[str, Any], name: str) -> str | None:
    return values.encode(details[name]) if name in details else None


def _shown(text: str | None) -> str:
    if text is None:
        return "none"
    return text if len(text) <= _MOST_CHARACTERS else f"{len(text):,} characters"


def decision(
    action: str, status: str, value: bytes, by: str | None, at: float, on_timeout: OnTimeout
) -> Decision:
    """The decision that a settled approval stands for."""
    if status == "expired":
        return Decision(
            action=action, approved=on_timeout == "approve", by=None, at=at, comment="the time was up"
        )
    given = msgspec.json.decode(value, type=Comment | None) or Comment()
    name = None if by is None else by.removeprefix("external/")
    return Decision(
        action=action, approved=status == "approved", by=name, at=at, comment=given.comment, message=given.message
    )  # fmt: skip


def is_address(name: str) -> bool:
    """Whether an approver is an agent; a person's name has at most one slash."""
    return name.count("/") >= 2


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An approval that waits, as a domain's written policy sees it: `details` are JSON values, `task` is `domain/id`."""

    id: str
    address: str
    task: str
    action: str
    details: Any
    approvers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """What a written policy decides. `by` is its name and version: it stands where a person's name would."""

    approved: bool
    by: str
    comment: str = ""

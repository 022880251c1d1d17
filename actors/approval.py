"""What a person is asked, and what they have decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import msgspec

from actors import values
from bus.errors import InvalidMessage

OnTimeout = Literal["deny", "approve", "raise"]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be approved: the `details` of the promise. `digest` binds a decision to exactly this."""

    action: str
    details: msgspec.Raw
    digest: str
    approvers: tuple[str, ...] = ()

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided, by whom and when (seconds since 1970, UTC).

    `by` is None when the time was up and nobody had decided.
    """

    action: str
    approved: bool
    by: str | None
    at: float
    comment: str = ""


class _Value(msgspec.Struct, frozen=True):
    comment: str = ""


def question(action: str, details: Any, approvers: Sequence[str]) -> Question:
    """Raises InvalidPayload for details that JSON cannot carry, InvalidMessage for no action."""
    if not action.strip():
        raise InvalidMessage("An approval says of what it is one.", fix="Give `action` some words.")
    if isinstance(approvers, str) or not all(isinstance(name, str) and name for name in approvers):
        raise InvalidMessage(f"{approvers!r} are no approvers.", fix="Give a list of names.")
    text = bytes(details).decode() if isinstance(details, msgspec.Raw) else values.encode(details)
    digest = sha256(f"{values.encode(action)}\n{text}".encode()).hexdigest()
    return Question(
        action=action, details=msgspec.Raw(text.encode()), digest=digest, approvers=tuple(approvers)
    )


def decision(
    action: str, status: str, value: bytes, by: str | None, at: float, on_timeout: OnTimeout
) -> Decision:
    """The decision that a settled approval stands for."""
    if status == "expired":
        return Decision(
            action=action, approved=on_timeout == "approve", by=None, at=at, comment="the time was up"
        )
    given = msgspec.json.decode(value, type=_Value | None) or _Value()
    name = None if by is None else by.removeprefix("external/")
    return Decision(action=action, approved=status == "approved", by=name, at=at, comment=given.comment)


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

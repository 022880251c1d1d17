"""The ledger: one row for each call of a tool, which says who called what, why, and what is known of its outcome."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Effect(StrEnum):
    """What a call does to the world outside."""

    PURE = "pure"  # nothing: it may be made again
    IDEMPOTENT = "idempotent"  # the callee honours an idempotency key: several calls under one key act once
    AT_MOST_ONCE = "at_most_once"  # nobody may make it twice


class CallStatus(StrEnum):
    """What is known of a call's outcome."""

    STARTED = "started"  # about to be made, or under way; after a crash: unknown
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # it did nothing; an idempotent one may have, and keeps its key
    UNKNOWN = "unknown"  # it may have acted
    DENIED = "denied"  # a person has refused it, or nobody has allowed it in time


class LedgerWrite(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A call's row as it is now. `arguments` is JSON text without secrets; None for what is too large to be kept."""

    id: str
    key: str  # its place in the journal of its turn
    tool: str
    effect: Effect
    message: str  # the id of the message that is handled
    task: str | None
    digest: str  # SHA-256 of the arguments, in hexadecimal
    arguments: str | None
    status: CallStatus
    attempts: int
    error: str | None = None
    approval: str | None = None  # the promise that allowed it
    said_by: str | None = None  # the person who has said what it did, where it has not
    again_by: str | None = (
        None  # the person who has last said that it had not acted, and is to be made again; stays
    )


class CallVerdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known from now on of a call that has no outcome, or that nobody asks any more. It changes no other call.

    A call whose `id` cannot be read is found by its turn and its `key` there. `said_by` is the person who has said what it
    did.
    """

    id: str | None
    key: str
    status: CallStatus
    error: str | None = None
    said_by: str | None = None


class EarlierCall(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A call that was made for the same message in a turn before this one, which was given up.

    `value` is the JSON text of its recorded result; `blob` the digest under which that is stored.
    """

    id: str
    turn: str
    key: str
    tool: str
    digest: str
    effect: Effect
    status: CallStatus
    attempts: int
    epoch: int
    value: str | None = None
    blob: str | None = None

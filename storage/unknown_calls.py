"""Calls of tools of which nobody knows what they did: the question to a person about one, or the call alone where nobody
waits for the answer."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import msgspec

from bus.errors import AlreadySettled, UnknownPromise
from storage.boundary import translated
from storage.decisions import QUESTION, Waiting, find_promise, require_name, waiting_of
from storage.domains import Connection
from storage.id_part import CANDIDATES, IdPart, id_part, several
from storage.ledger import CallStatus
from storage.queries import query
from storage.standing import moment_text

_ANSWERED = "resolved"
_OPEN = "pending"


class LeftCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that its turn went on from, or ended with, without knowing what it did. `said_by` has said it since, and
    `said_at`, in seconds since 1970; `again_by` is who had an earlier attempt of it made again."""

    domain: str
    agent: str
    id: str
    tool: str
    said_by: str | None
    said_at: float | None
    again_by: str | None

    @property
    def address(self) -> str:
        return f"{self.domain}/{self.agent}"


async def find_unknown(db: Connection, id_: str, *, tenant: str) -> Waiting | LeftCall:
    """What somebody means who says what a call did, by as much of its own id, or of that of the question about it, as tells
    calls apart: the question, of several the last one, or the call where nobody waits for the answer. What it finds may be
    another promise, which is not for `ledger settle`.

    Raises AlreadySettled for a call alone of which it was said, and UnknownPromise, also where a call that was asked about
    before is in doubt again, and both are meant: what was said of the one, and is said once more since its answer was lost,
    would be taken for the other.
    """
    part = id_part(id_)
    questions, calls = ([], []) if part is None else await _meant(db, part, tenant)
    ids = sorted({row["call"] for row in questions} | {call.id for call in calls})
    if len(ids) > 1:
        raise UnknownPromise(several(id_, ids), fix="Give more of it.")
    if calls and (calls[0].said_by is None or not questions):
        return _still_left(calls[0], questions)
    if not questions:
        return await find_promise(db, id_, tenant=tenant, called=QUESTION)
    [asked] = questions
    if asked["status"] == _OPEN and asked["fits"] > 1:
        raise UnknownPromise(
            f"It was asked about that call before; what is asked now is {asked['id']}.", fix="Give that id."
        )
    return waiting_of(asked)


async def say(
    db: Connection, call: LeftCall, *, tenant: str, happened: bool, by: str, reason: str | None
) -> None:
    """Put down in the ledger what the call has done, who says so and how they know, once. Nothing is woken: a message of it
    that is retried by hand goes by what the ledger says.

    Raises AlreadySettled when somebody was first, or such a retry, and InvalidMessage for who has no name.
    """
    require_name(by)
    status = CallStatus.SUCCEEDED if happened else CallStatus.FAILED
    with translated():
        counts = await db.fetchval(
            query("settle_left_call"), call.domain, tenant, call.id, status, by, reason
        )
    if counts:
        return
    whole = id_part(call.id)
    assert whole is not None
    for now in (await _meant(db, whole, tenant))[1]:
        if now.said_by is not None:
            raise _said_before(now)
    raise AlreadySettled(
        f"What {call.tool} of {call.address} has done is looked into again: its message is handled anew.",
        fix="Look at it again: `callboard ledger --unknown`.", status=CallStatus.UNKNOWN, by=None, at=None,
    )  # fmt: skip


async def _meant(
    db: Connection, part: IdPart, tenant: str
) -> tuple[Sequence[asyncpg.Record], list[LeftCall]]:
    """The last question about each call that is meant, and the calls that nobody waits for."""
    with translated():
        questions = await db.fetch(query("find_question"), tenant, part.digits, part.is_end, CANDIDATES + 1)
        withdrawn = [row["call"] for row in questions if row["status"] not in (_OPEN, _ANSWERED)]
        left = await db.fetch(
            query("find_left_call"), tenant, part.digits, part.is_end, withdrawn, CANDIDATES + 1
        )
    return questions, [LeftCall(**dict(row)) for row in left]


def _still_left(call: LeftCall, questions: Sequence[asyncpg.Record]) -> LeftCall:
    """The call, of which nobody has said yet what it did; `questions` has the last one about it, if that is kept."""
    if call.said_by is not None:
        raise _said_before(call)
    for asked in questions if call.again_by is not None else ():
        if asked["status"] == _ANSWERED or asked["fits"] > 1:
            last = (
                "" if asked["status"] == _ANSWERED else f"Give the id of what was asked last: {asked['id']}."
            )
            raise UnknownPromise(
                f"{call.again_by} has had that call made again since it was asked about.", fix=last
            )
    return call


def _said_before(call: LeftCall) -> AlreadySettled:
    return AlreadySettled(
        f"What {call.tool} of {call.address} has done was said by {call.said_by} at {moment_text(call.said_at)}.",
        fix="Nothing was changed.", status=_ANSWERED, by=call.said_by, at=call.said_at,
    )  # fmt: skip

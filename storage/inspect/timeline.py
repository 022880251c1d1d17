"""What an agent did, turn by turn: what came, why, what it called and waited for, what it decided and sent.

Times are seconds since 1970, UTC. Kinds of calls are whatever the journal has.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec

from bus.address import Address, parse_address
from bus.envelope import Header, header_from_json
from bus.errors import BrokenChain, InvalidAddress
from storage.boundary import translated
from storage.chain import BODY
from storage.domains import Connection
from storage.inspect.history import LAST_VERSION, Transition, list_history
from storage.inspect.turns import OpenTurn, PromiseView, find_open_turn
from storage.queries import query

CALLS = 200  # of one turn that are read
_SENT, _VOID = "sent", "void"  # entries of a journal that are no calls


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded call. `status` and `by` are how a promise was settled, and by whom; `value` is JSON, cut when long.
    One that was `taken_back` is made anew, or was given another result.

    What retention has dropped of a journal is None.
    """

    number: int
    key: str
    kind: str
    name: str
    ok: bool
    began: float | None = None
    ended: float | None = None
    status: str | None = None
    by: str | None = None
    value: str | None = None
    taken_back: bool = False


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a turn has sent."""

    id: str
    to: str
    type: str
    at: float | None


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """The turn in which a message was sent: the sender's `version`, and what it handled, from whom."""

    version: int
    type: str
    sender: str


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One turn. An open one has no version, and has not `ended`; `pending` is what it waits for.

    `calls` are the first two hundred; `more_calls` counts the others.
    """

    address: str
    version: int | None
    journal: str | None
    decision: str
    lifecycle: str | None
    header: Header
    began: float
    ended: float | None
    cause: Cause | None = None
    failures: int = 0
    last_error: str | None = None
    notes: list[dict[str, Any]] = []
    calls: list[Call] = []
    more_calls: int = 0
    sends: list[Sent] = []
    pending: list[PromiseView] = []

    @property
    def domain(self) -> str:
        return self.address.partition("/")[0]


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """Turns in the order of their versions; what one of them sent stands once. `older` is the version below which there are
    more, or None; `dropped` the newest version that retention has dropped, at `dropped_at`."""

    address: str
    turns: list[Turn]
    older: int | None
    dropped: int | None = None
    dropped_at: datetime | None = None


async def agent_timeline(
    db: Connection, address: Address, *, tenant: str, last: int = 20, below: int = LAST_VERSION
) -> Timeline:
    """The last turns of an agent below a version; with the open one, unless a version is given."""
    rows = await list_history(db, address, tenant=tenant, below=below, limit=last)
    turns = [turn_of(str(address), row) for row in reversed(rows)]
    open_turn = await find_open_turn(db, address, tenant=tenant) if below == LAST_VERSION else None
    if open_turn is not None:
        turns.append(still_open(str(address), open_turn))
    turns = _each_sent_once(await with_calls(db, turns, tenant=tenant))
    turns = await with_causes(db, turns, tenant=tenant)
    with translated():
        anchor = await db.fetchrow(query("verify_anchor"), address.domain, tenant, address.agent)
    dropped, dropped_at = (anchor["version"], anchor["dropped_at"]) if anchor else (None, None)
    more = len(rows) == last and rows[-1].version > (dropped or 0) + 1
    return Timeline(
        address=str(address), turns=turns, older=rows[-1].version if more else None, dropped=dropped,
        dropped_at=dropped_at,
    )  # fmt: skip


def _each_sent_once(turns: Sequence[Turn]) -> list[Turn]:
    """A turn that was paused has what went out before in each of its versions: it is told in the first one shown."""
    told: set[str] = set()
    found = []
    for turn in turns:
        fresh = {sent.id: sent for sent in turn.sends if sent.id not in told}
        told |= fresh.keys()
        found.append(msgspec.structs.replace(turn, sends=list(fresh.values())))
    return found


def turn_of(address: str, row: Transition) -> Turn:
    """A turn as its transition has it; raises BrokenChain for what is none."""
    body = json.loads(row.body)
    with _as_written(address, row.version):
        header = body["message"]["header"]
    return made_turn(address, row.version, row.at.timestamp(), header, body)


def made_turn(address: str, version: int, committed: float, header: Any, body: Any) -> Turn:
    """A turn of what its transition's body says, without the payload and the state; raises BrokenChain."""
    with _as_written(address, version):
        calls = body.get("calls") or []
        return Turn(
            address=address, version=version, journal=body.get("turn"), decision=body["decision"],
            lifecycle=body["lifecycle"], header=header_from_json(json.dumps(header)), began=body.get("began") or body["at"],
            ended=body["at"] if body.get("turn") else max(committed, body["at"]), failures=body.get("failures") or 0,
            notes=body["notes"],
            calls=[
                Call(number=c["number"], key=c["key"], kind=c["kind"], name=c["name"], ok=c["ok"])
                for c in calls[:CALLS]
                if c["kind"] != _VOID
            ],
            more_calls=len(calls[CALLS:]),
            sends=[Sent(id=s["id"], to=s["to"], type=s["type"], at=made_at(s["id"])) for s in body["sends"]],
        )  # fmt: skip


@contextmanager
def _as_written(address: str, version: int) -> Iterator[None]:
    """What lacks a part of a transition was not written by a turn."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, msgspec.MsgspecError):
        raise BrokenChain(
            f"The history of {address} is broken: version {version} is no transition.",
            version=version, what=BODY, detail="is no transition",
        ) from None  # fmt: skip


async def open_calls(db: Connection, address: Address, turn: OpenTurn, *, tenant: str) -> list[Call]:
    """What an open turn has recorded and holds, of its first two hundred entries."""
    [shown] = await with_calls(db, [still_open(str(address), turn)], tenant=tenant)
    return [call for call in shown.calls if not call.taken_back]


def still_open(address: str, turn: OpenTurn) -> Turn:
    """A turn that has not ended."""
    return Turn(
        address=address, version=None, journal=turn.turn, decision="open", lifecycle=None, header=turn.header,
        began=turn.began_at, ended=None, failures=turn.failures, last_error=turn.last_error, pending=turn.pending,
    )  # fmt: skip


async def with_calls(db: Connection, turns: Sequence[Turn], *, tenant: str) -> list[Turn]:
    """The turns with what their journals have: times, results, and how what they waited for ended."""
    found: dict[str, list[Any]] = {}
    for domain in {turn.domain for turn in turns if turn.journal}:
        wanted = [uuid.UUID(t.journal) for t in turns if t.journal and t.domain == domain]
        with translated():
            for row in await db.fetch(query("timeline_calls"), domain, tenant, wanted, CALLS):
                found.setdefault(row["turn"], []).append(row)
    return [_with_journal(turn, found[turn.journal]) if turn.journal in found else turn for turn in turns]


def _with_journal(turn: Turn, rows: list[Any]) -> Turn:
    back = {row["name"]: row["number"] for row in rows if row["kind"] == _VOID}  # the last one of each key
    calls = {
        row["number"]: _call(row, taken_back=row["number"] < back.get(row["key"], 0))
        for row in rows
        if row["kind"] not in (_SENT, _VOID)
    }
    if turn.version is not None:  # a pause may have come before some of them
        known = [calls.get(call.number, call) for call in turn.calls]
        return msgspec.structs.replace(turn, calls=known)
    sends = [
        Sent(id=id_, to=to, type=type_, at=row["at"].timestamp())
        for row in rows
        if row["kind"] == _SENT
        for _, id_, to, type_ in json.loads(row["value"])
    ]
    more = max(rows[-1]["entries"] - len(rows), 0)
    return msgspec.structs.replace(turn, calls=list(calls.values()), more_calls=more, sends=sends)


def _call(row: Any, *, taken_back: bool) -> Call:
    at = row["at"].timestamp()
    began: float | None = at - row["took_ms"] / 1000
    ended = row["settled_at"] or at
    if row["promise"] is not None:
        began = made_at(row["promise"])
    value = f'"in blob storage: {row["blob"]}"' if row["blob"] else row["value"]
    return Call(
        number=row["number"], key=row["key"], kind=row["kind"], name=row["name"], ok=row["ok"], began=began, ended=ended,
        status=row["status"], by=row["by"], value=value, taken_back=taken_back,
    )  # fmt: skip


async def with_causes(db: Connection, turns: Sequence[Turn], *, tenant: str) -> list[Turn]:
    """The turns with those in which their messages were sent, as far as those have ended and are kept."""
    wanted = [
        (sender.domain, sender.agent, turn.header.id, turn.header.sent_at)
        for turn in turns
        if turn.cause is None and (sender := _agent(turn.header.sender)) is not None
    ]
    if not wanted:
        return list(turns)
    columns = [list(column) for column in zip(*wanted, strict=True)]
    with translated():
        rows = await db.fetch(query("timeline_causes"), tenant, *columns)
    causes = {r["id"]: Cause(version=r["version"], type=r["type"], sender=r["sender"]) for r in rows}
    return [msgspec.structs.replace(turn, cause=causes.get(turn.header.id, turn.cause)) for turn in turns]


def _agent(sender: str) -> Address | None:
    if sender.startswith("external/"):
        return None
    try:
        return parse_address(sender)
    except InvalidAddress:
        return None


def made_at(id_: str) -> float | None:
    """When an id of ours was made; None for one of another making."""
    try:
        number = uuid.UUID(id_)
    except ValueError:
        return None
    return (number.int >> 80) / 1000 if number.version == 7 else None

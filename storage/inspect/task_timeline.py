"""What happened for a task, wherever it did: the turns of all its agents as one tree."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from bus.address import parse_address
from storage.boundary import translated
from storage.domains import Connection
from storage.inspect.rows import in_index_order
from storage.inspect.timeline import Turn, made_turn, still_open, with_calls
from storage.inspect.turns import find_open_turn
from storage.queries import query

_COUNTED = 100_000
_TASKS = 10_000  # in one tree
_OPEN = 100  # of its turns that have not ended
_WAKE = "callboard.wake.v1"  # belongs to a turn that has begun, and makes none


@dataclass
class Branch:
    """A turn, and the turns of the messages that were sent in it."""

    turn: Turn
    children: list[Branch] = field(default_factory=list)


class Unhandled(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was sent and has had no turn yet."""

    id: str
    type: str
    to: str
    sent_by: str


class TaskTimeline(msgspec.Struct, frozen=True, kw_only=True):
    """The first `shown` turns of `total` (which stops counting at 100,000), and those that are open, as they began.

    A turn's `header.causation` is the `header.id` of the one that caused it. `unhandled` is known only when all turns
    are shown.
    """

    task: str
    turns: list[Turn]
    shown: int
    total: int
    unhandled: list[Unhandled]

    @property
    def left_out(self) -> int:
        return self.total - self.shown

    @property
    def is_total_known(self) -> bool:
        return self.total < _COUNTED


async def task_timeline(db: Connection, ref: str, *, tenant: str, limit: int = 200) -> TaskTimeline:
    """The tree of a task (`domain/id`) and of those that it has started: found by an index, however long the histories
    of its agents are."""
    with translated():
        refs = [row["ref"] for row in await db.fetch(query("inspect_task_tree"), tenant, ref, _TASKS)]
        async with in_index_order(db) as snapshot:
            rows = await snapshot.fetch(query("timeline_of_task"), tenant, refs, limit)
        total = len(rows)
        if total == limit:
            total = await db.fetchval(query("timeline_of_task_count"), tenant, refs, _COUNTED)
        places = await db.fetch(query("timeline_open_of_task"), tenant, refs, _OPEN)
    turns = [
        made_turn(
            row["address"], row["version"], row["at"].timestamp(), json.loads(row["header"]), json.loads(row["body"])
        )
        for row in rows
    ]  # fmt: skip
    for place in places:
        found = await find_open_turn(db, parse_address(place["address"]), tenant=tenant)
        if found is not None and found.header.task in refs:  # it may have ended meanwhile
            turns.append(still_open(place["address"], found))
    turns = await with_calls(db, turns, tenant=tenant)
    unhandled = _unhandled(turns) if total == len(rows) else []
    turns.sort(key=lambda turn: turn.began)
    return TaskTimeline(task=ref, turns=turns, shown=len(rows), total=total, unhandled=unhandled)


def tree_of(turns: Iterable[Turn]) -> list[Branch]:
    """The turns as a tree: each under the first one that handled the message which caused its own."""
    branches = [Branch(turn=turn) for turn in turns]
    handled: dict[str, Branch] = {}
    for branch in branches:
        handled.setdefault(branch.turn.header.id, branch)
    roots: list[Branch] = []
    for branch in branches:
        cause = handled.get(branch.turn.header.causation or "")
        (roots if cause is None or cause is branch else cause.children).append(branch)
    return roots


def _unhandled(turns: list[Turn]) -> list[Unhandled]:
    handled = {turn.header.id for turn in turns}
    return [
        Unhandled(id=sent.id, type=sent.type, to=sent.to, sent_by=turn.address)
        for turn in turns
        for sent in turn.sends
        if sent.id not in handled and sent.type != _WAKE
    ]

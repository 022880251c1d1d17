"""A batch of turns as the arrays that the group commit takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from bus.envelope import Outgoing
from bus.limits import SEEN_WINDOW
from storage.records import EventBatch, EventCursor, Fence, Mark, TurnRecord


def commit_arguments(fence: Fence, turns: Sequence[TurnRecord], marks: Sequence[Mark]) -> list[Any]:
    """The arguments of `commit_turns`, in its order. States and marks are folded: one row an agent or message."""
    versions_before: dict[tuple[str, str], int] = {}
    last: dict[tuple[str, str], int] = {}
    outgoing: list[tuple[int, Outgoing]] = []
    timers: list[Outgoing] = []
    has_rare = bool(marks)
    for place, turn in enumerate(turns, start=1):  # Postgres counts from 1
        key = (turn.tenant, turn.agent)
        if key not in last:
            versions_before[key] = turn.version - 1
        last[key] = place
        for send in turn.sends:
            if send.visible_at is None:
                outgoing.append((place, send))
            else:
                timers.append(send)
        if turn.dead or turn.mark or turn.undead or turn.tasks or turn.task_events:
            has_rare = True
    partitions = sorted({turn.partition for turn in turns} | {mark.partition for mark in marks})
    states = [turns[place - 1] for place in last.values()]
    rare = _rare(turns, fold_marks(turns, marks), timers) if has_rare or timers else None
    return [
        fence.domain, fence.epoch, partitions,
        _shortest([t.tenant for t in turns]), [t.partition for t in turns], [t.agent for t in turns],
        [t.seq for t in turns], [t.version for t in turns], [t.body for t in turns], [t.prev for t in turns],
        [t.hash for t in turns],
        list(last.values()), list(versions_before.values()), _shortest([s.schema_version for s in states]),
        _shortest([s.lifecycle for s in states]), [s.state for s in states],
        [place for place, _ in outgoing], _shortest([o.domain for _, o in outgoing]),
        [o.partition for _, o in outgoing], [o.agent for _, o in outgoing],
        _shortest([o.control for _, o in outgoing]), [o.header.id for _, o in outgoing],
        [o.header_json for _, o in outgoing], [o.payload for _, o in outgoing],
        rare,
    ]  # fmt: skip


def _shortest(values: list[Any]) -> list[Any]:
    """One element where all are the same: each element of an array costs the driver a third of a microsecond."""
    return values[:1] if values and values.count(values[0]) == len(values) else values


def event_arguments(fence: Fence, cursor: EventCursor, batch: EventBatch) -> list[Any]:
    """The arguments of `accept_events`, in its order."""
    messages = batch.messages
    dead = [
        {
            "tenant": d.tenant, "partition": d.partition, "agent": d.agent, "message": d.message, "reason": d.reason,
            "error": d.error, "failures": 0, "header": d.header, "payload": d.payload,
        }
        for d in batch.dead
    ]  # fmt: skip
    return [
        fence.domain, fence.epoch, cursor.incarnation, cursor.seq, cursor.at_ns, batch.keys, SEEN_WINDOW,
        [m.domain for m in messages], [m.tenant for m in messages], [m.partition for m in messages],
        [m.agent for m in messages], [m.control for m in messages], [m.header.id for m in messages],
        [m.header_json for m in messages], [m.payload for m in messages], json.dumps({"dead": dead}),
    ]  # fmt: skip


def fold_marks(turns: Sequence[TurnRecord], marks: Sequence[Mark]) -> list[Mark]:
    """One mark a message, counting all of its own, and none for a message that a turn of the batch consumes.

    A message can fail, be tried again and succeed while one commit is on its way.
    """
    consumed = {(turn.tenant, turn.agent, turn.seq) for turn in turns if turn.seq is not None}
    folded: dict[tuple[str, str, int | None], Mark] = {}
    for mark in (*marks, *(turn.mark for turn in turns if turn.mark is not None)):
        key = (mark.tenant, mark.agent, mark.seq)
        if key in consumed:
            continue
        earlier = folded.get(key)
        if earlier is not None:
            mark = msgspec.structs.replace(
                mark,
                failed=earlier.failed + mark.failed,
                tried=earlier.tried + mark.tried,
                error=earlier.error if mark.error is None else mark.error,
            )
        folded[key] = mark
    return list(folded.values())


def _rare(turns: Sequence[TurnRecord], marks: Sequence[Mark], timers: Sequence[Outgoing]) -> str:
    # An update takes any one of several rows for a task: only its last may be there.
    tasks = {(t.tenant, w.id): w for t in turns for w in t.tasks}
    return json.dumps(
        {
            "marks": [
                {
                    "tenant": m.tenant, "partition": m.partition, "agent": m.agent, "seq": m.seq,
                    "failed": m.failed, "tried": m.tried, "delay_s": m.delay_s, "error": m.error,
                }
                for m in marks
            ],
            "dead": [
                {
                    "tenant": t.tenant, "partition": t.partition, "agent": t.agent, "message": t.message_id,
                    "reason": t.dead.reason, "error": t.dead.error, "failures": t.dead.failures,
                    "header": t.header_json, "payload": t.payload,
                }
                for t in turns if t.dead is not None
            ],
            "undead": [{"tenant": t.tenant, "id": number} for t in turns for number in t.undead],
            "timers": [
                {
                    "domain": o.domain, "tenant": o.tenant, "partition": o.partition, "agent": o.agent,
                    "due_at": o.visible_at, "control": o.control, "id": o.header.id, "header": o.header_json, "payload": o.payload,
                }
                for o in timers
            ],
            "tasks": [
                {
                    "tenant": tenant, "id": w.id, "status": w.status, "assignee": w.assignee,
                    "progress": w.progress, "result": w.result, "error": w.error, "finished": w.finished,
                }
                for (tenant, _), w in tasks.items()
            ],
            "task_events": [
                {"tenant": t.tenant, "task": e.task, "number": e.number, "kind": e.kind, "body": e.body}
                for t in turns for e in t.task_events
            ],
        }
    )  # fmt: skip

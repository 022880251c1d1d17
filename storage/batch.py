"""A batch of turns as the arrays that the group commit takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from bus.envelope import Outgoing
from bus.limits import SEEN_WINDOW
from storage.journal import Does, Flush
from storage.journal_batch import journal_arguments, step_arguments
from storage.records import EventBatch, EventCursor, Fence, Mark, TurnRecord, Write


def commit_call(
    fence: Fence, writes: Sequence[Write], marks: Sequence[Mark], code: str
) -> tuple[str, list[Any]]:
    """The query that commits the batch, and its arguments; one column of its one row is `numbers`."""
    if len(writes) == 1 and not marks and (step := step_arguments(writes[0], fence)):
        return "commit_step", step
    journal = journal_arguments(writes, fence.domain, code)
    if not journal:
        return "commit_turns", commit_arguments(fence, writes, marks)
    if not marks and all(isinstance(write, Flush) and not write.sends for write in writes):
        return "commit_journal", [fence.domain, fence.epoch, _partitions(writes, marks), *journal]
    return "commit_turns_and_journal", [*commit_arguments(fence, writes, marks), *journal]


def commit_arguments(fence: Fence, writes: Sequence[Write], marks: Sequence[Mark]) -> list[Any]:
    """The arguments of `commit_turns`, in its order. States and marks are folded: one row an agent or message."""
    turns = [write for write in writes if isinstance(write, TurnRecord)]
    versions_before: dict[tuple[str, str], int] = {}
    last: dict[tuple[str, str], int] = {}
    outgoing: list[Outgoing] = []
    timers: list[Outgoing] = []
    for write in writes:
        for send in write.sends:
            (outgoing if send.visible_at is None else timers).append(send)
    has_rare = bool(marks)
    for place, turn in enumerate(turns, start=1):  # Postgres counts from 1
        key = (turn.tenant, turn.agent)
        if key not in last:
            versions_before[key] = turn.version - 1
        last[key] = place
        if (
            turn.dead
            or turn.mark
            or turn.undead
            or turn.tasks
            or turn.task_events
            or turn.cancels
            or turn.accepts
        ):
            has_rare = True
    states = [turns[place - 1] for place in last.values()]
    rare = _rare(turns, fold_marks(writes, marks), timers) if has_rare or timers else None
    return [
        fence.domain, fence.epoch, _partitions(writes, marks),
        _shortest([t.tenant for t in turns]), [t.partition for t in turns], [t.agent for t in turns],
        [t.seq for t in turns], [t.version for t in turns], [t.body for t in turns], [t.prev for t in turns],
        [t.hash for t in turns],
        list(last.values()), list(versions_before.values()), _shortest([s.schema_version for s in states]),
        _shortest([s.lifecycle for s in states]), [s.state for s in states],
        _shortest([o.tenant for o in outgoing]), _shortest([o.domain for o in outgoing]),
        [o.partition for o in outgoing], [o.agent for o in outgoing],
        _shortest([o.control for o in outgoing]), _all_or_none([o.settles for o in outgoing]),
        [o.header.id for o in outgoing], [o.header_json for o in outgoing], [o.payload for o in outgoing],
        rare, _all_or_none([t.task for t in turns]),
    ]  # fmt: skip


def _partitions(writes: Sequence[Write], marks: Sequence[Mark]) -> list[int]:
    return sorted({write.partition for write in writes} | {mark.partition for mark in marks})


def _shortest(values: list[Any]) -> list[Any]:
    """One element where all are the same: each element of an array costs the driver a third of a microsecond."""
    return values[:1] if values and values.count(values[0]) == len(values) else values


def _all_or_none(settles: list[str | None]) -> list[str | None]:
    """Never one for all: a second answer to the same promise would look like a message that settles nothing."""
    return settles if any(settles) else settles[:1]


def event_arguments(fence: Fence, cursor: EventCursor, batch: EventBatch) -> list[Any]:
    """The arguments of `accept_events`, in its order."""
    messages = batch.messages
    dead = [
        {
            "key": d.key, "tenant": d.tenant, "partition": d.partition, "agent": d.agent, "message": d.message,
            "reason": d.reason, "error": d.error, "failures": 0, "header": d.header, "payload": d.payload,
        }
        for d in batch.dead
    ]  # fmt: skip
    return [
        fence.domain, fence.epoch, cursor.incarnation, cursor.seq, cursor.at_ns, batch.keys, SEEN_WINDOW,
        [m.domain for m in messages], [m.tenant for m in messages], [m.partition for m in messages],
        [m.agent for m in messages], [m.control for m in messages], [m.header.id for m in messages],
        [m.header_json for m in messages], [m.payload for m in messages], json.dumps({"dead": dead}),
    ]  # fmt: skip


def fold_marks(writes: Sequence[Write], marks: Sequence[Mark]) -> list[Mark]:
    """One mark a message, counting all of its own, and none for a message that a turn of the batch consumes.

    A message can fail, be tried again and succeed while one commit is on its way. Or an operator does something to its
    turn, which stays open: the failure counts, and only one who has it go on at once takes its delay away.
    """
    turns = [write for write in writes if isinstance(write, TurnRecord)]
    opened = _turns_that(Does.OPEN, writes)
    consumed = {(turn.tenant, turn.agent, turn.seq) for turn in turns} | _turns_that(Does.END, turns)
    at_once = _turns_that(Does.RESUME, turns)
    folded: dict[tuple[str, str, int | None], Mark] = {}
    for mark in (*marks, *(turn.mark for turn in turns if turn.mark is not None)):
        key = (mark.tenant, mark.agent, mark.seq)
        if key in consumed:
            continue
        if key in opened:  # it is marked where it has moved to
            mark = msgspec.structs.replace(mark, open=True)
        if key in at_once:
            mark = msgspec.structs.replace(mark, delay_s=None)
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


def _turns_that(does: Does, writes: Sequence[Write]) -> set[tuple[str, str, int | None]]:
    """The messages of the open turns to which one of the writes does that."""
    return {
        (write.tenant, write.agent, write.journal.seq)
        for write in writes
        if write.journal is not None and write.journal.does is does
    }


def _rare(turns: Sequence[TurnRecord], marks: Sequence[Mark], timers: Sequence[Outgoing]) -> str:
    # An update takes any one of several rows for a task: only its last may be there.
    tasks = {(t.tenant, w.id): w for t in turns for w in t.tasks}
    pauses = {(t.tenant, p.task): p for t in turns for p in t.pauses}
    return json.dumps(
        {
            "marks": [
                {
                    "tenant": m.tenant, "partition": m.partition, "agent": m.agent, "seq": m.seq,
                    "failed": m.failed, "tried": m.tried, "delay_s": m.delay_s, "error": m.error,
                    "open": m.open,
                }
                for m in marks
            ],
            "dead": [
                {
                    "tenant": t.tenant, "partition": t.partition, "agent": t.agent, "message": t.message_id,
                    "reason": t.dead.reason, "error": t.dead.error, "failures": t.dead.failures,
                    "frames": t.dead.frames,
                    "header": t.header_json, "payload": t.payload,
                }
                for t in turns if t.dead is not None
            ],
            "accepts": [
                {
                    "key": key, "domain": o.domain, "tenant": o.tenant, "partition": o.partition, "agent": o.agent,
                    "id": o.header.id, "header": o.header_json, "payload": o.payload,
                }
                for t in turns for key, o in t.accepts
            ],
            "seen_s": SEEN_WINDOW.total_seconds(),
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
            "pauses": [{"tenant": tenant, **msgspec.structs.asdict(p)} for (tenant, _), p in pauses.items()],
            "new_tasks": [
                {"tenant": t.tenant, **msgspec.structs.asdict(n)} for t in turns for n in t.new_tasks
            ],
            "task_events": [
                {"tenant": t.tenant, "task": e.task, "number": e.number, "kind": e.kind, "body": e.body}
                for t in turns for e in t.task_events
            ],
            "cancels": [
                {"tenant": t.tenant, "task": c.task, "partition": t.partition, "why": c.why}
                for t in turns for c in t.cancels
            ],
        }
    )  # fmt: skip

"""The journals of a batch as the arrays that the group commit takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from bus.errors import StaleTurn
from storage.journal import Does
from storage.records import Fence, TurnRecord, Write

_NO_ENTRY = (None,) * 8


def journal_arguments(writes: Sequence[Write], domain: str, code: str) -> list[Any]:
    """What a batch with journals brings besides, in the order of `commit_journal`; empty when no write has one.

    A row is a flush with its entry, for most have one and nothing else; each further entry is a row of its own, which
    changes no turn.
    """
    journaled = [write for write in writes if write.journal is not None]
    if not journaled:
        return []
    rows: list[tuple[Any, ...]] = []
    for write, change in zip(journaled, fold_journals(journaled), strict=True):
        journal = write.journal
        assert journal is not None
        tenant, partition, agent = write.tenant, write.partition, write.agent
        seq, turn, began_at = journal.seq, journal.turn, journal.began_at
        does, recorded, adds, parks = change.does, change.recorded, change.adds, change.parks or None
        if not journal.entries:
            rows.append(
                (tenant, partition, agent, seq, turn, does, recorded, adds, parks, began_at, *_NO_ENTRY)
            )
        for e in journal.entries:
            rows.append(
                (
                    tenant, partition, agent, seq, turn, does, recorded, adds, parks, began_at,
                    e.number, e.key, e.kind, e.name, e.ok, e.value, e.blob, e.took_ms,
                )
            )  # fmt: skip
            does, recorded, adds, parks = Does.NONE, 0, 0, None
    (
        tenants, partitions, agents, seqs, turns, do, recordeds, addeds, parked, began,
        numbers, keys, kinds, names, oks, values, blobs, tooks,
    ) = zip(*rows, strict=True)  # fmt: skip
    ends, opens = do.count(Does.END), do.count(Does.OPEN)
    return [
        code, ends, opens, len(rows) - ends - opens - do.count(Does.NONE),
        _shortest(tenants), partitions if opens else None, agents, seqs if opens else None, turns,
        _shortest(do), recordeds, _shortest(addeds), _if_any(parked), began,
        _if_any(numbers), _if_any(keys), _shortest(kinds), _shortest(names), _shortest(oks), _if_any(values),
        _if_any(blobs), _if_any(tooks),
        *_consumed(journaled), _promises(journaled), *_locked(writes, journaled, domain), _calls(journaled),
    ]  # fmt: skip


def step_arguments(write: Write, fence: Fence) -> list[Any]:
    """The arguments of `commit_step` for a write that is one recorded call of a turn that goes on, and nothing else; empty
    for any other."""
    journal = write.journal
    if journal is None or isinstance(write, TurnRecord) or write.sends or len(journal.entries) != 1:
        return []
    if (
        journal.does is not Does.GO
        or journal.consumed
        or journal.promises
        or journal.done
        or journal.given_up
    ):
        return []
    if journal.calls or journal.verdicts:
        return []
    entry = journal.entries[0]
    return [
        fence.domain, fence.epoch, write.partition, write.tenant, write.agent, journal.turn, journal.recorded,
        journal.began_at, entry.number, entry.key, entry.kind, entry.name, entry.ok, entry.value, entry.blob,
        entry.took_ms,
    ]  # fmt: skip


class RowChange(msgspec.Struct, gc=False):
    """What the flushes of one turn in a batch do to its row together."""

    does: Does
    recorded: int
    adds: int
    parks: bool


_NO_CHANGE = RowChange(does=Does.NONE, recorded=0, adds=0, parks=False)


def fold_journals(writes: Sequence[Write]) -> list[RowChange]:
    """The changes of turns' rows, in the order of these writes, which all have a journal: of several flushes of one turn
    the first has them all. Raises StaleTurn when they do not follow each other: two runs of the turn have written them,
    or an operator has ended it while it ran.
    """
    changes: list[RowChange] = []
    first: dict[str, RowChange] = {}
    for write in writes:
        journal = write.journal
        assert journal is not None
        does = journal.does
        if does is Does.NONE:
            changes.append(_NO_CHANGE)
            continue
        change = RowChange(does, journal.recorded, journal.adds, does is Does.PARK)
        earlier = first.setdefault(journal.turn, change)
        if earlier is change:
            changes.append(change)
            continue
        if Does.END in (does, earlier.does):
            raise StaleTurn(f"A turn of {write.agent} has ended beside what goes on in it.")
        if does is Does.OPEN or journal.recorded != earlier.recorded + earlier.adds:
            raise StaleTurn(f"Two runs of a turn of {write.agent} have recorded the same.")
        earlier.adds += change.adds
        earlier.parks = change.parks
        if does is Does.RESUME and earlier.does is not Does.OPEN:
            earlier.does = does
        changes.append(_NO_CHANGE)
    return changes


def _shortest(column: tuple[Any, ...]) -> Sequence[Any] | None:
    """One element where all rows that have one have the same, and None where none has one: each element costs the driver
    a quarter of a microsecond."""
    distinct = {*column}
    distinct.discard(None)
    return column if len(distinct) > 1 else [*distinct] or None


def _if_any(column: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The column, or None where no row has any."""
    return None if column.count(None) == len(column) else column


def _consumed(journaled: Sequence[Write]) -> Sequence[Sequence[Any] | None]:
    """The tenants, partitions, agents and numbers of the wake-ups that leave their mailboxes."""
    rows = [
        (write.tenant, write.partition, write.agent, seq)
        for write in journaled
        if write.journal is not None
        for seq in write.journal.consumed
    ]
    return list(zip(*rows, strict=True)) or [None] * 4


def _promises(journaled: Sequence[Write]) -> str | None:
    """The promises that are made."""
    rows = [
        {
            "tenant": w.tenant, "id": p.id, "agent": w.agent, "partition": w.partition, "turn": w.journal.turn,
            "key": p.key, "kind": p.kind, "name": p.name, "target": p.target, "message": p.message,
            "gates": msgspec.to_builtins(p.gates) if p.gates else None, "due_at": p.due_at,
            "details": p.details,  # as text: people see it in the order in which it was written
        }
        for w in journaled if w.journal is not None for p in w.journal.promises
    ]  # fmt: skip
    return json.dumps(rows) if rows else None


def _locked(
    writes: Sequence[Write], journaled: Sequence[Write], domain: str
) -> Sequence[Sequence[Any] | None]:
    """The domains, tenants, agents and ids of the promises that are done, and of those whose branch has been given up (true)
    or is waited for again (false): the last two columns say so. And if there are such, of those that are settled."""
    rows: list[tuple[Any, ...]] = []
    given_up: dict[tuple[str, str, str], bool] = {}
    for write in journaled:
        journal = write.journal
        assert journal is not None
        rows += [(domain, write.tenant, write.agent, id_, True, None) for id_ in journal.done]
        for id_, is_given_up in journal.given_up:
            given_up[write.tenant, write.agent, id_] = is_given_up
    rows += [(domain, *promise, False, is_given_up) for promise, is_given_up in given_up.items()]
    if not rows:
        return [None] * 6
    rows += [
        (s.domain, s.tenant, s.agent, s.settles, False, None)
        for write in writes for s in write.sends if s.settles is not None
    ]  # fmt: skip
    *columns, changes = zip(*rows, strict=True)
    return [*columns, _if_any(changes)]


def _calls(journaled: Sequence[Write]) -> str | None:
    """The rows of the ledger, as `write_ledger` takes them."""
    rows = [
        {"tenant": w.tenant, "agent": w.agent, "turn": w.journal.turn, **msgspec.structs.asdict(call)}
        for w in journaled if w.journal is not None for call in (*w.journal.calls, *w.journal.verdicts)
    ]  # fmt: skip
    return json.dumps(rows) if rows else None

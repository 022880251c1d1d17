"""What must be true of turns that wait, at any moment: of their journals, and of what they have seen."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from hashlib import sha256
from typing import Any

from tests.faults.cluster import Cluster
from tests.faults.executions import by_place, read_executions

_ENTRIES = """
select j.agent, j.turn::text, j.number, j.key, j.kind, j.name, j.ok, j.value::text as value, j.blob,
       extract(epoch from j.at)::float8 as at, convert_from(b.bytes, 'UTF8') as text
from journal j left join blobs b on b.domain = j.domain and b.tenant = j.tenant and b.digest = j.blob
order by j.agent, j.turn, j.number
"""
_ENDED = """
select agent, body ->> 'turn' as turn, body -> 'calls' as calls from transitions
where body -> 'calls' is not null
"""
# A wake-up leaves in the commit that has its entry. (What a turn has abandoned may have been settled before its end was
# committed: that wake-up has no entry, and leaves with what its agent commits next.)
_LEFT_WAKES = """
select m.agent, m.payload ->> 'promise' as promise from mailbox m
where m.seq < 0 and m.header ->> 'type' = 'callboard.wake.v1' and exists (
  select from journal j where j.agent = m.agent and j.kind in ('ask', 'sleep', 'promise')
    and j.value ->> 'promise' = m.payload ->> 'promise' and j.value ->> 'status' <> 'abandoned')
"""
_SETTLED_AGAIN = """
select p.promise, p.count, p.by from (
  select promise, count(*) as count, array_agg(settled_by) as by from wakes group by promise) p
where p.count > 1
"""
# The row of a promise says what its turn was told. (One that the turn has abandoned may have been settled before its end was
# committed, and stays so.)
_TOLD_OTHERWISE = """
select j.agent, p.name, p.status, p.value::text as value, j.value::text as told
from promises p join journal j on j.turn = p.turn and j.key = p.key and j.agent = p.agent
where p.kind = 'promise' and j.kind = 'promise' and case j.value ->> 'status'
  when 'abandoned' then p.status = 'pending'
  else p.status <> 'pending'
    and (p.status <> j.value ->> 'status' or (p.value ->> 'type') is distinct from (j.value -> 'value' ->> 'type')
         or (p.value -> 'payload')::jsonb is distinct from (j.value -> 'value' -> 'payload')::jsonb) end
"""


async def journal_wrongs(cluster: Cluster) -> list[str]:
    """Entries that are there twice, histories that say otherwise than the journal, wake-ups that outlive their entry,
    promises that were settled twice, steps that were computed again, tokens that differ."""
    entries, ended, open_, states, found = await cluster.retried(_of_one_moment)
    found += _doubled(entries)
    found += _histories(entries, ended, open_)
    found += _tokens(entries, states)
    found += _computed_again(cluster, entries)
    return found


async def _of_one_moment(db: Any) -> tuple[list[Any], list[Any], set[str], list[Any], list[str]]:
    async with db.transaction(isolation="repeatable_read"):
        found = [
            f"{row['agent']}: the entry of promise {row['promise']} is committed, and its wake-up lies in the mailbox"
            for row in await db.fetch(_LEFT_WAKES)
        ]
        found += [
            f"promise {row['promise']} was settled {row['count']} times, by {row['by']}"
            for row in await db.fetch(_SETTLED_AGAIN)
        ]
        found += [
            f"{row['agent']}: promise {row['name']} is {row['status']} {row['value']}, and its turn was told {row['told']}"
            for row in await db.fetch(_TOLD_OTHERWISE)
        ]
        return (
            await db.fetch(_ENTRIES),
            await db.fetch(_ENDED),
            {row["turn"] for row in await db.fetch("select turn::text as turn from turns")},
            await db.fetch("select agent, state::text as state from agents where state is not null"),
            found,
        )


def _doubled(entries: list[Any]) -> list[str]:
    """A number, or a call's place, that a journal has twice; a failure that was taken back may be followed by a result."""
    found = []
    numbers = Counter((row["turn"], row["number"]) for row in entries)
    found += [
        f"the journal of {turn} has {n} entries {number}" for (turn, number), n in numbers.items() if n > 1
    ]
    filled: set[tuple[str, str]] = set()
    for row in entries:
        if row["kind"] == "void":
            filled.discard((row["turn"], row["name"]))
        elif (row["turn"], row["key"]) in filled:
            found.append(f"{row['agent']}: the journal of {row['turn']} has {row['kind']} {row['key']} twice")
        else:
            filled.add((row["turn"], row["key"]))
    return found


def _histories(entries: list[Any], ended: list[Any], open_: set[str]) -> list[str]:
    """The last transition of a turn has its whole journal, with digests of the values."""
    journals: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    agents = {}
    for row in entries:
        agents[row["turn"]] = row["agent"]
        if row["kind"] != "sent":
            digest = row["blob"] or sha256(row["value"].encode()).hexdigest()
            journals[row["turn"]].append(
                {
                    "number": row["number"],
                    "key": row["key"],
                    "kind": row["kind"],
                    "name": row["name"],
                    "ok": row["ok"],
                    "value": digest,
                }
            )
    told: dict[str, list[dict[str, Any]]] = {}
    for row in ended:
        calls = json.loads(row["calls"])
        for call in calls:
            del call["ms"]
        told[row["turn"]] = calls
    return [
        f"{agents.get(turn)}: the history of {turn} has the calls {told.get(turn)}, its journal {journals[turn]}"
        for turn in agents.keys() | told.keys()
        if turn not in open_ and told.get(turn) != journals[turn]
    ]


def _tokens(entries: list[Any], states: list[Any]) -> list[str]:
    """Each token that anybody has seen is the one that was given: by the journal for a step, else by who answered."""
    given = {_token(row) for row in entries if row["kind"] == "step" and row["ok"]}
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for row in states:
        state = json.loads(row["state"])
        given.update(state.get("gave", ()))
        for token in state.get("seen", ()):
            seen[token.partition("=")[0]].add(token)
    found = [f"seen with several values: {sorted(tokens)}" for tokens in seen.values() if len(tokens) > 1]
    for id_, tokens in seen.items():
        if "#" in id_ or id_.endswith("!"):
            found += [f"seen and never given: {token}" for token in tokens - given]
    return found


def _computed_again(cluster: Cluster, entries: list[Any]) -> list[str]:
    """Steps that a process has executed once more although it had recorded their results, or although they were on
    record when it began. (Others may be executed twice: their first result was lost with its process.)"""
    recorded = {
        token.partition("=")[0]: (token, row["at"])
        for row in entries
        if row["kind"] == "step" and row["ok"] and "=" in (token := _token(row))
    }
    found = []
    for process in read_executions(cluster.folder.executions):
        for place, tokens in by_place(process.tokens).items():
            token, at = recorded.get(place, ("", float("inf")))
            if at < process.began_at or token in tokens[:-1]:
                found.append(f"{place} was on record as {token}, and computed again: {tokens}")
    return found


def _token(row: Any) -> str:
    """The token that a step's entry has as its value."""
    value = json.loads(row["value"] if row["blob"] is None else row["text"])
    return value.rstrip(".") if isinstance(value, str) else ""

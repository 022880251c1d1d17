"""Compares the ends of all voyages with the model: in the database, and in the counts of the world outside."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from typing import Any

from tests.faults import judge
from tests.faults.cluster import Cluster
from tests.faults.harbour import TRIES, Harbour
from tests.faults.voyages import Leg, key_of, outcomes, sailor, undoing, voyage
from tests.faults.watched import Void


async def voyage_wrongs(cluster: Cluster, harbour: Harbour, seed: int, world: str) -> list[str]:
    """What is not as it must be; raises Void when something of what voyages are for has not happened in this run."""
    counts = await asyncio.to_thread(judge.counts, world)
    effects = _by_place(counts["effects"])
    seen: Counter[str] = Counter(harbour.tried)
    found = list(harbour.wrongs)
    states = {
        row["agent"]: json.loads(row["state"])["deeds"]
        for row in await cluster.sql(
            "select agent, state::text as state from agents where agent like 'sailor/%' and state is not null"
        )
    }
    dead = {
        row["agent"]: row["reason"]
        for row in await cluster.sql("select agent, reason from dead_letters where agent like 'sailor/%'")
    }
    rows = await cluster.sql(
        "select arguments->>'key' as key, case when error like 'given up:%' then 'given up' else status end as status"
        " from ledger where agent like 'sailor/%'"
    )
    calls = {row["key"]: row["status"] for row in rows}
    rows = await cluster.sql("select request_key, status from tasks where request_key like 'voyage-%'")
    tasks = {row["request_key"]: row["status"] for row in rows}
    for index in range(harbour.voyages):
        trip = voyage(seed, index)
        status = tasks.get(f"voyage-{index}")
        ends = "stuck" if any(leg.hopeless for leg in trip.legs) else "completed"
        if status != ends and not (status == "cancelled" and trip.cancelled_s is not None):
            found.append(f"voyage {index} is {status}, must be {ends}")
        seen[f"a voyage {status}"] += 1
        for number, leg in enumerate(trip.legs):
            agent = sailor(index, number)
            found += _leg_wrongs(
                agent, (index, number), leg, states.get(agent), dead.get(agent), status, effects, calls, seen
            )
    found += await _bells(cluster, harbour, seen)
    never = {*TRIES, *FIRES} - {what for what, times in seen.items() if times}
    if never and not found:
        raise Void(f"never happened in {harbour.voyages} voyages: {', '.join(sorted(never))}")
    cluster.note(f"{harbour.voyages} voyages: {dict(sorted(seen.items()))}")
    return found


FIRES = (
    "a voyage cancelled",
    "a voyage completed",
    "a voyage stuck",
    "verified done",
    "by_key done",
    "blindly done",
    "blindly unknown",
    "verified refused",
    "verified denied",
    "undone after a failure",
    "undone when cancelled",
    "a bell",
)


def _by_place(effects: dict[str, int]) -> dict[str, list[int]]:
    """How often each deed was done: once for each key that the callee was given."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for key, times in effects.items():
        if times:
            found[key.partition("/")[0]].append(times)
    return dict(found)


def _leg_wrongs(
    agent: str,
    at: tuple[int, int],
    leg: Leg,
    state: dict[str, str] | None,
    dead: str | None,
    status: str | None,
    effects: dict[str, list[int]],
    calls: dict[str, str],
    seen: Counter[str],
) -> list[str]:
    has_ended = bool(state)
    has_failed = dead is not None
    was_cancelled = status == "cancelled" and not has_ended and not has_failed
    if not was_cancelled and (has_ended, has_failed) != (not leg.hopeless, leg.hopeless):
        return [f"{agent}: has ended is {has_ended}, is a dead letter is {dead}, hopeless is {leg.hopeless}"]
    if has_failed and dead != "failed":
        return [f"{agent}: is a dead letter: {dead}"]
    found = []
    for n, deed in enumerate(leg.deeds):
        key = key_of(*at, n)
        done, undone = effects.get(key, []), effects.get(undoing(key), [])
        if len(done) > 1 or any(times > 1 for times in done):
            found.append(f"{agent}: {key} was done twice: {done}")
        if has_ended:
            told = (state or {}).get(key)
            seen[f"{deed.tool} {told}"] += 1
            if told not in outcomes(deed):
                found.append(f"{agent}: {key} is {told}, must be one of {sorted(outcomes(deed))}")
            if (told == "done" and not done) or (told in ("denied", "refused") and done):
                found.append(f"{agent}: {key} is {told}, and was done {len(done)} times")
            if undone:
                found.append(f"{agent}: {key} was undone, and its turn has not failed")
            continue
        possible = outcomes(deed)
        if has_failed and possible == {"done"} and not done:
            found.append(f"{agent}: {key} must have been done before its leg failed")
        if not possible & {"done", "unknown"} and (done or undone):
            found.append(f"{agent}: {key} must not have been done: {done}, {undone}")
        # Of a call whose host died in it, and whose task was cancelled then, nothing is on record to be undone.
        in_doubt = was_cancelled and calls.get(key) == "given up"
        if deed.undone and done and not undone and not in_doubt:
            found.append(f"{agent}: {key} was done and not undone, {dead or status}, call {calls.get(key)}")
        if undone and not deed.undone:
            found.append(f"{agent}: {key} was undone, and has nothing that undoes it")
        if undone:
            seen["undone after a failure" if has_failed else "undone when cancelled"] += 1
    return found


async def _bells(cluster: Cluster, harbour: Harbour, seen: Counter[str]) -> list[str]:
    """Each has rung for every minute since it was put back, once each."""
    found = []
    rows: list[Any] = await cluster.sql(
        "select agent, state::text as state from agents where agent like 'bell/%'"
    )
    states = {row["agent"].replace("bell/", "bell-"): json.loads(row["state"])["rang"] for row in rows}
    now = await cluster.value("select extract(epoch from date_trunc('minute', now()))::float8")
    for name, first in harbour.rang_from.items():
        # In order of time: it may have rung for the latest minutes before it was put back.
        rang = sorted(at for at in states.get(name, []) if at >= first)
        seen["a bell"] += 1
        if rang != [first + 60 * n for n in range(len(rang))] or not rang or rang[-1] < now - 60:
            found.append(f"{name} was put back to {first}, and has rung at {rang}")
    return found

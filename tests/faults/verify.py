"""Compares what is in the database at the end with the model, agent by agent."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from hashlib import sha256
from typing import Any

from storage.records import GENESIS
from tests.faults.cluster import Cluster
from tests.faults.journals import journal_wrongs
from tests.faults.programs import Expected, run_model, run_tasks

SHOWN = 12  # complaints shown of a red run; the first ones tell


async def complaints(cluster: Cluster, seed: int, agents: int, roots: int) -> list[str]:
    """Everything that is not as it must be at the end; empty when the run is green."""
    model, questions = run_model(seed, agents, roots)
    for agent, turns in cluster.extra_turns.items():
        model[agent].turns += turns
    found = await wrongs(cluster)
    found += await _left_over(cluster)
    found += await _tasks(cluster, seed, agents, roots)
    found += await _clerks(cluster, questions)
    dead = await _dead_letters(cluster)
    stored = await _agents(cluster)
    for agent in sorted(stored.keys() - model.keys()):
        found.append(f"{agent} exists, and the model does not know it")
    for agent, expected in sorted(model.items()):
        if agent in stored:
            found += [f"{agent}: {c}" for c in _compare(expected, stored[agent], dead.get(agent, []))]
        else:
            found.append(f"{agent} does not exist")
    return found


async def wrongs(cluster: Cluster) -> list[str]:
    """What must not be at any moment: messages of a pair out of order, twice or left out, writes of somebody who
    does not own what it writes, tasks that were assigned twice, broken histories."""
    found = await _intrusions(cluster) + await _mistimed(cluster)
    stored = await _agents(cluster)
    dead = await _dead_letters(cluster)  # after the states: what stands between two numbers is there by now
    for agent, row in sorted(stored.items()):
        for sender, numbers in _state(row).get("got", {}).items():
            given_up = {letter["nth"] for letter in dead.get(agent, []) if letter["sender"] == sender}
            missing = set(range(1, max(numbers))) - given_up - set(numbers)
            if len(set(numbers)) < len(numbers):
                found.append(f"{agent}: from {sender} twice: {numbers}")
            elif any(a > b for a, b in itertools.pairwise(numbers)):
                found.append(f"{agent}: from {sender} out of order: {numbers}")
            elif missing:
                found.append(f"{agent}: from {sender} left out: {sorted(missing)} of {numbers}")
    found += await journal_wrongs(cluster)
    return found + await _assigned_again(cluster) + await broken_chains(cluster)


def _compare(expected: Expected, row: Any, dead: list[dict[str, Any]]) -> list[str]:
    state = _state(row)
    got: dict[str, list[int]] = state.get("got", {})
    found = [
        f"{what} is {is_}, must be {must}"
        for what, is_, must in (
            ("turns", row["version"], expected.turns),
            ("count", state.get("count", 0), expected.count),
            ("total", state.get("total", 0), expected.total),
            ("timers", sorted(state.get("timers", [])), expected.timers),
            ("sent", state.get("sent", {}), dict(expected.sent)),
            ("handled", {s: len(n) for s, n in got.items()}, dict(expected.handled)),
            ("dead letters", sorted(d["number"] for d in dead), expected.dead),
        )
        if is_ != must
    ]
    given_up: defaultdict[str, list[int]] = defaultdict(list)
    for letter in dead:
        if letter["nth"]:
            given_up[letter["sender"]].append(letter["nth"])
        if letter["reason"] != "failed":
            found.append(f"step {letter['number']} is a dead letter: {letter['reason']}: {letter['error']}")
    for sender in got.keys() | given_up.keys():
        everything = sorted(got.get(sender, []) + given_up[sender])
        if everything != list(range(1, len(everything) + 1)):
            found.append(f"from {sender} not each once: {everything}")
    return found


async def _agents(cluster: Cluster) -> dict[str, Any]:
    rows = await cluster.sql(
        "select agent, version, state::text as state from agents where agent like 'walker/%'"
    )
    return {row["agent"]: row for row in rows}


def _state(row: Any) -> dict[str, Any]:
    return dict(json.loads(row["state"])) if row["state"] else {}


async def _left_over(cluster: Cluster) -> list[str]:
    return [
        f"{row['count']} rows left in {row['name']}"
        for row in await cluster.sql(
            "select 'mailbox' as name, count(*) from mailbox where agent not like 'bell/%' union all select 'timers', count(*) from timers"
            " union all select 'turns', count(*) from turns"
            " union all select 'promises', count(*) from promises where kind in ('ask', 'sleep') or status = 'pending'"
            " union all select 'dead_letters of others', count(*) from dead_letters where agent not like 'walker/%'"
            "   and agent not like 'sailor/%' and not (agent like 'clerk/%' and reason = 'expired')"
        )
        if row["count"]
    ]


async def _clerks(cluster: Cluster, questions: Counter[int]) -> list[str]:
    """Each question was handled once, or has expired in the mailbox."""
    expired = {
        row["agent"]: row["ids"]
        for row in await cluster.sql(
            "select agent, array_agg(payload ->> 'id') as ids from dead_letters"
            " where agent like 'clerk/%' and header ->> 'type' = 'chaos.question.v1' group by agent"
        )
    }
    rows = await cluster.sql("select agent, state::text as state from agents where agent like 'clerk/%'")
    handled = {row["agent"]: _state(row).get("asked", []) for row in rows}
    found = []
    for agent in sorted(handled.keys() | expired.keys() | {f"clerk/{clerk}" for clerk in questions}):
        ids = handled.get(agent, []) + expired.get(agent, [])
        expected = questions[int(agent.removeprefix("clerk/"))]
        if len(ids) != expected or len(set(ids)) != len(ids):
            found.append(
                f"{agent} has had {len(ids)} questions ({len(set(ids))} different), must be {expected}"
            )
    return found


async def _tasks(cluster: Cluster, seed: int, agents: int, roots: int) -> list[str]:
    """Tasks that are not as the model says, or not once; errands that ran not once; logs with a gap or doubled."""
    found = []
    model = {f"root-{index}": task for index, task in run_tasks(seed, agents, roots).items()}
    rows = await cluster.sql(
        "select t.id::text, t.request_key, t.status, t.result::text, a.version as errands,"
        " (select array_agg(e.kind order by e.number) from task_events e where e.task = t.id) as kinds,"
        " (select max(e.number) from task_events e where e.task = t.id) as last"
        " from tasks t left join agents a on a.agent = 'errand/' || t.id where t.request_key like 'root-%'"
    )
    for row in rows:
        expected = model.pop(row["request_key"], None)
        result = json.loads(row["result"]) if row["result"] is not None else None
        if expected is None:
            found.append(f"task {row['request_key']} exists, and the model does not know it")
        elif (row["status"], result) != expected:
            found.append(f"task {row['request_key']} is {row['status']} {result}, must be {expected}")
        kinds = row["kinds"]
        if row["errands"] != 1:
            found.append(f"the agent of task {row['request_key']} has made {row['errands']} turns")
        if row["last"] != len(kinds):
            found.append(f"the log of task {row['request_key']} ends with line {row['last']} of {len(kinds)}")
        if any(kinds.count(once) != 1 for once in ("submitted", "assigned", "split", row["status"])):
            found.append(f"the log of task {row['request_key']} says {kinds}")
    return found + [f"task {key} does not exist" for key in model]


async def _assigned_again(cluster: Cluster) -> list[str]:
    rows = await cluster.sql(
        "select agent, count(*) from transitions where agent like 'task/%'"
        " and body -> 'message' -> 'header' ->> 'type' = 'callboard.task_assigned.v1' group by 1 having count(*) > 1"
    )
    return [f"{row['agent']} was assigned {row['count']} times" for row in rows]


async def _intrusions(cluster: Cluster) -> list[str]:
    rows = await cluster.sql("select epoch, count(*) from intrusions group by epoch")
    return [f"epoch {row['epoch']} wrote {row['count']} transitions that it did not own" for row in rows]


async def _mistimed(cluster: Cluster) -> list[str]:
    rows = await cluster.sql("select what, agent, due_at, at from mistimed")
    return [f"{row['agent']}: {row['what']} at {row['at']}, and is due at {row['due_at']}" for row in rows]


async def _dead_letters(cluster: Cluster) -> dict[str, list[dict[str, Any]]]:
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in await cluster.sql(
        "select agent, reason, error, header::text, payload::text from dead_letters where agent like 'walker/%'"
    ):
        payload = json.loads(row["payload"])
        sender = json.loads(row["header"])["sender"].removeprefix("chaos/")
        found[row["agent"]].append(
            {**payload, "sender": sender, "reason": row["reason"], "error": row["error"]}
        )
    return dict(found)


async def broken_chains(cluster: Cluster) -> list[str]:
    """Agents whose history has a gap or does not hash to what its chain says."""
    found = []
    last: dict[str, tuple[int, bytes]] = {}
    history, stored = await cluster.retried(_history_and_heads)
    for row in history:
        agent = row["agent"]
        version, previous = last.get(agent, (0, GENESIS))
        if row["version"] != version + 1 or row["prev"] != previous:
            found.append(f"{agent}: version {row['version']} does not follow version {version}")
        if sha256(row["prev"] + row["body"].encode()).digest() != row["hash"]:
            found.append(f"{agent}: version {row['version']} does not hash to its chain")
        last[agent] = (row["version"], row["hash"])
    elsewhere = [row["agent"] for row in stored if last.get(row["agent"]) != (row["version"], row["hash"])]
    return found + [f"{agent}: the history ends elsewhere than its state" for agent in elsewhere]


async def _history_and_heads(db: Any) -> tuple[list[Any], list[Any]]:
    """Of one moment, since turns may go on."""
    async with db.transaction(isolation="repeatable_read"):
        return (
            await db.fetch(
                "select agent, version, body::text as body, prev, hash from transitions order by agent, version"
            ),
            await db.fetch("select agent, version, hash from agents"),
        )

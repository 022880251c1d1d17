"""`task ID --timeline`: the turns of all its agents as one tree."""

from __future__ import annotations

import pytest

from callboard.services import Endpoints
from storage.inspect import task_timeline, tree_of
from storage.inspect.timeline import made_turn
from tests.integration.cli import Cli, desk_at_work, note, until
from tests.integration.deployment import Deployment
from tests.integration.vigil_at_work import ORACLE, send, waits_for


async def test_a_task_is_shown_as_the_tree_of_its_turns(cli: Cli, vigil: Deployment) -> None:
    from vigil.agents import Errand, Speak

    task = await vigil.submit(Errand(number=3).model_dump())
    runner = f"vigil/runner/{task}"
    await waits_for(vigil, "ask", agent=f"runner/{task}")
    shown = await cli.json("task", task, "--timeline")
    [still_open] = [turn for turn in shown["turns"] if turn["version"] is None]
    assert (still_open["address"], still_open["pending"][0]["target"]) == (runner, ORACLE)
    text = await cli("task", task, "--timeline")
    assert "waits for an answer from vigil/oracle/main" in text
    assert "(open)" in text
    await send(vigil, ORACLE, Speak())
    await until(lambda: vigil.fetch("select from tasks where finished_at is not null"))
    await until(lambda: vigil.fetch("select from agents where agent = 'ledger/main'"))
    shown = await cli.json("task", task, "--timeline")
    by_message = {turn["header"]["id"]: turn for turn in shown["turns"]}
    causes = {
        (turn["address"], by_message[turn["header"]["causation"]]["address"])
        for turn in shown["turns"]
        if turn["header"].get("causation") in by_message
    }
    leader = f"vigil/task/{task}"
    assert {(runner, leader), (ORACLE, runner), ("vigil/ledger/main", runner), (leader, runner)} <= causes
    assert shown["unhandled"] == []
    assert shown["shown"] == shown["total"] == len(shown["turns"])
    text = await cli("task", task, "--timeline")
    lines = [line.split("▕")[0].rstrip() for line in text.splitlines()]
    assert f"└ runner/…{task[-6:]}  callboard.task.v1" in lines
    assert "  ├ oracle/main  vigil.question.v1" in lines
    assert any(line.startswith("  │ · ask Question oracle/main  → {") for line in lines)
    assert "  │ · step look_up  ✗ LookupError: there is no 3" in lines
    assert "━" in text
    assert await vigil.fetch("select from transitions where task is not null")
    assert (await cli.json("verify"))["intact"] is True  # each stands under the task that its body has


async def test_a_message_without_a_turn_is_named(cli: Cli, vigil: Deployment) -> None:
    from vigil.agents import Errand, Speak

    await cli("pause", "vigil/ledger/main")
    task = await vigil.submit(Errand(number=3).model_dump())
    await waits_for(vigil, "ask", agent=f"runner/{task}")
    await send(vigil, ORACLE, Speak())
    await until(lambda: vigil.fetch("select from tasks where finished_at is not null"))
    [message] = (await cli.json("task", task, "--timeline"))["unhandled"]
    assert (message["type"], message["to"]) == ("vigil.entry.v1", "vigil/ledger/main")
    assert "not handled yet: vigil.entry.v1 to vigil/ledger/main" in await cli("task", task, "--timeline")


async def test_a_long_task_is_cut_and_what_is_alike_is_drawn_as_one(
    cli: Cli, services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk_at_work(services, database, monkeypatch) as desk:
        task = await desk.submit({"lines": 1_000})
        await until(lambda: desk.fetch("select from tasks where status = 'running'"))
        await note(desk, task, *(f"n{n}" for n in range(30)))
        ref = f"desk/{task}"
        await until(
            lambda: desk.fetch("select from agents where agent = $1 and version = 31", f"clerk/{task}")
        )
        # Notes come from outside and are of no task; here they are.
        await desk.pool.execute("update transitions set task = $1 where agent = $2", ref, f"clerk/{task}")
        found = await task_timeline(desk.pool, ref, tenant="default", limit=10)
        assert (found.shown, len(found.turns)) == (10, 10)
        assert found.total >= 32
        assert found.unhandled == []
        text = await cli("task", task, "--timeline", "--limit", "10")
        assert f"the first 10 of {found.total} turns" in text
        assert "more of them: --limit" in cli.err
        text = await cli("task", task, "--timeline")
        assert "… 29 more clerk, together  desk.note.v1" in text
        assert "--limit" not in cli.err


async def test_the_turns_of_a_task_are_found_by_the_index(vigil: Deployment) -> None:
    """However many other turns there are."""
    await vigil.pool.execute(
        "insert into transitions (domain, tenant, agent, version, body, prev, hash, task)"
        " select 'vigil', 'default', 'runner/' || n % 100, n, '{}', '', '', 'vigil/' || n % 1000"
        " from generate_series(1, 20000) n"
    )
    await vigil.pool.execute("analyze transitions")
    plan = await vigil.fetch(
        "explain select domain, agent, version, at, body from transitions where tenant = 'default' and task = 'vigil/7'"
        " order by at, domain, agent, version limit 200"
    )
    text = "\n".join(line for (line,) in plan)
    [(month,)] = await vigil.fetch("select to_char(now(), 'YYYYMM')")
    assert f"transitions_{month}_tenant_task_at_idx" in text


def test_a_chain_longer_than_the_stack_is_a_tree_all_the_same(cli: Cli) -> None:
    from callboard.cli.bars import Scale
    from callboard.cli.task_timeline import Drawing

    turns = [
        made_turn(
            f"far/hopper/{n}", 1, float(n),
            {"id": f"m{n}", "type": "hop.v1", "sender": "x", "sent_at": float(n), "causation": f"m{n - 1}"},
            {"decision": "handled", "lifecycle": "running", "at": float(n), "notes": [], "sends": []},
        )
        for n in range(5_000)
    ]  # fmt: skip
    [root] = tree_of(turns)
    lines = list(Drawing(Scale(0, 5_000, 20), 60, 5_000.0, "far/0").lines([root]))
    assert len(lines) == 5_000
    assert all(len(line.plain) <= 100 for line in lines)

"""What people see of turns that wait, fail, or are paused."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.integration.cli import Cli, until
from tests.integration.deployment import Deployment
from tests.integration.vigil_at_work import GUARD, ORACLE, RUNNER, has_turn, send, waits_for


async def test_an_agent_whose_first_turn_waits_is_listed_and_shown(cli: Cli, vigil: Deployment) -> None:
    from vigil.agents import Errand, Speak

    await send(vigil, RUNNER, Errand(sleep_s=3600))
    promise = await waits_for(vigil, "ask")
    listed = {row["address"]: row for row in (await cli.json("agents"))["agents"]}
    row = listed[RUNNER]
    assert (row["lifecycle"], row["version"], row["turn"]) == ("created", 0, "waiting")
    assert (row["waits_for"], row["waits_on"], row["pending"]) == ("ask", ORACLE, 1)
    assert listed[ORACLE]["turn"] is None
    shown = await cli("agents")
    assert f"an answer from {ORACLE}" in shown
    assert "partition" in shown
    turn = (await cli.json("agent", RUNNER))["open_turn"]
    assert turn["header"]["type"] == "vigil.errand.v1"
    assert (turn["put_away"], turn["failures"]) == (True, 0)
    assert [(p["id"], p["kind"], p["target"], p["status"]) for p in turn["promises"]] == [
        (promise, "ask", ORACLE, "pending")
    ]
    text = await cli("agent", RUNNER)
    assert "vigil.errand.v1 from external/" in text
    assert f"waits for an answer from {ORACLE}" in text
    assert "put away, and holds no memory" in text
    assert "No message has ever reached" not in text
    assert (await cli.json("status"))["domains"][0]["open_turns"] == 1
    await send(vigil, ORACLE, Speak())
    await waits_for(vigil, "sleep")
    assert "  sleeps until " in await cli("agent", RUNNER)
    assert "until " in await cli("agents")


async def test_a_promise_is_named_with_the_id_that_resolves_it(cli: Cli, vigil: Deployment) -> None:
    from vigil.agents import Errand, Speak

    await send(vigil, RUNNER, Errand(permit=True))
    await waits_for(vigil, "ask")
    await send(vigil, ORACLE, Speak())
    promise = await waits_for(vigil, "promise")
    text = await cli("agent", RUNNER)
    assert "waits for promise permit" in text
    assert promise in text


async def test_a_turn_that_has_failed_says_of_what_and_when_it_is_tried_again(
    cli: Cli, vigil: Deployment
) -> None:
    from vigil.agents import Errand

    await send(vigil, RUNNER, Errand(fails=True))

    async def has_failed() -> Any:
        return await vigil.fetch("select from turns where failures = 1")

    await until(has_failed)
    text = await cli("agent", RUNNER)
    assert "failed 1×: ValueError: the errand cannot be done; tries again in" in text
    assert "failed 1×: ValueError" in await cli("agents")
    assert (await cli.json("agent", RUNNER))["open_turn"]["last_error"].startswith("ValueError")


async def test_a_handler_that_no_longer_does_what_it_did_is_shown_with_both_keys(
    cli: Cli, vigil: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vigil import agents

    await send(vigil, RUNNER, agents.Errand())
    await waits_for(vigil, "ask")
    monkeypatch.setattr(agents, "changed_code", True)
    await send(vigil, ORACLE, agents.Speak())
    await has_turn(vigil, RUNNER, 1)
    shown = await cli.json("agent", RUNNER)
    assert shown["lifecycle"] == "paused"
    assert (shown["paused"]["place"], shown["paused"]["called"], shown["paused"]["recorded"]) == (
        "#1",
        "step weight_of",
        "step price_of",
    )
    text = await cli("agent", RUNNER)
    for line in ("NonDeterministicHandler at #1", "the handler calls   step weight_of",
                 "the journal has     step price_of", f"callboard resume {RUNNER}"):  # fmt: skip
        assert line in text
    task = str(uuid.uuid4())
    await vigil.pool.execute(
        "insert into tasks (domain, tenant, id, status, goal, input, priority, assignee)"
        " values ('vigil', 'default', $1::uuid, 'running', 'x', 'null', 5, $2)",
        task,
        RUNNER,
    )
    unfit = f"{RUNNER} is paused: the handler does not fit its record; see `callboard agent {RUNNER}`"
    for command in (["task", task], ["status"]):
        assert unfit in " ".join((await cli(*command)).split())
        assert (await cli.json(*command))["paused"] == [{"address": RUNNER, "unfit": True}]
    await vigil.pool.execute("delete from tasks where id = $1::uuid", task)
    monkeypatch.setattr(agents, "changed_code", False)
    await cli("resume", RUNNER)
    await has_turn(vigil, RUNNER, 3)
    assert (await cli.json("agent", RUNNER))["state"] == {"answers": ["yes"]}


async def test_an_approval_whose_arguments_have_changed_is_shown_with_what_differs(
    cli: Cli, vigil: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vigil import agents

    await send(vigil, GUARD, agents.Opening(gate="north"))
    asked = await waits_for(vigil, "approval", agent="guard/a")
    monkeypatch.setattr(agents, "changed_code", True)
    await cli("approve", asked, "--as", "alice")
    await has_turn(vigil, GUARD, 1)
    shown = await cli.json("agent", GUARD)
    assert (shown["lifecycle"], shown["paused"]["differs"]) == ("paused", "minutes (5, now 10)")
    assert "    what differs        minutes (5, now 10)\n" in await cli("agent", GUARD)
    monkeypatch.setattr(agents, "changed_code", False)
    await cli("resume", GUARD)
    await has_turn(vigil, GUARD, 3)
    assert (await cli.json("agent", GUARD))["state"] == {"log": ["north is open, says alice"]}

"""`agent --timeline` and `agent --at`: what an agent did, in order, and what it was."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest

from bus.address import parse_address
from bus.errors import BrokenChain, UnknownVersion
from storage.inspect import agent_timeline, state_at
from tests.integration.cli import Cli, note, until
from tests.integration.deployment import Deployment
from tests.integration.vigil_at_work import ORACLE, RUNNER, has_turn, send, waits_for


async def test_a_timeline_has_calls_waits_decisions_and_causes_in_order(cli: Cli, vigil: Deployment) -> None:
    from vigil.agents import Errand, Speak

    await send(vigil, RUNNER, Errand(number=7, sleep_s=0.3))
    await waits_for(vigil, "ask")
    await send(vigil, ORACLE, Speak())
    await has_turn(vigil, RUNNER, 1)
    await send(vigil, RUNNER, Errand(number=8))
    await waits_for(vigil, "ask")
    first, still_open = (await cli.json("agent", RUNNER, "--timeline"))["turns"]
    assert [(c["kind"], c["name"], c["ok"]) for c in first["calls"]] == [
        ("step", "price_of", True), ("step", "look_up", False), ("ask", f"Question {ORACLE}", True), ("sleep", "sleep", True),
    ]  # fmt: skip
    began = [c["began"] for c in first["calls"]]
    assert began[2] < began[3]  # as their ids tell; steps are timed by their commit, which may come late
    assert all(c["ended"] >= c["began"] for c in first["calls"])
    assert first["began"] <= min(began[:2])
    assert first["calls"][-1]["ended"] <= first["ended"] + 0.05
    assert first["calls"][3]["ended"] - first["calls"][3]["began"] >= 0.29
    assert first["calls"][0]["value"] == "70"
    assert "there is no 7" in first["calls"][1]["value"]
    assert (first["calls"][2]["status"], first["calls"][2]["by"]) == ("resolved", ORACLE)
    assert first["notes"] == [{"decision": "looked it up in vain", "price": 70}]
    assert [s["to"] for s in first["sends"]] == [ORACLE, "vigil/ledger/main"]
    assert (still_open["version"], still_open["decision"], still_open["ended"]) == (None, "open", None)
    assert [p["target"] for p in still_open["pending"]] == [ORACLE]
    assert [s["to"] for s in still_open["sends"]] == [ORACLE]
    text = await cli("agent", RUNNER, "--timeline")
    for part in ("✓ handled  vigil.errand.v1", "step price_of", "→ 70", "✗ LookupError: there is no 7",
                 f"by {ORACLE}", "why    looked it up in vain  price=70", "sent   vigil.entry.v1 to vigil/ledger/main",
                 "… open  vigil.errand.v1", f"waits  an answer from {ORACLE}"):  # fmt: skip
        assert part in text
    entered = (await cli.json("agent", "vigil/ledger/main", "--timeline"))["turns"][0]
    assert entered["cause"]["version"] == 1
    assert entered["cause"]["type"] == "vigil.errand.v1"
    assert entered["cause"]["sender"].startswith("external/")
    assert f"from   {RUNNER}, version 1: it handled vigil.errand.v1 from external/" in await cli(
        "agent", "vigil/ledger/main", "--timeline"
    )


async def test_failures_and_pauses_are_in_the_timeline(cli: Cli, vigil: Deployment) -> None:
    from vigil.agents import Errand

    await send(vigil, RUNNER, Errand(fails=True))
    await until(lambda: vigil.fetch("select from turns where failures = 1"))
    await cli("pause", RUNNER, "--reason", "a look")
    text = await cli("agent", RUNNER, "--timeline")
    assert "failed 1×: ValueError: the errand cannot be done" in text
    assert "‖ paused  callboard.pause.v1" in text
    assert "why    pause  reason=a look" in text


async def test_a_timeline_pages_and_never_reads_all(cli: Cli, desk: Deployment) -> None:
    await note(desk, "a", *(f"n{n}" for n in range(50)))
    await until(lambda: desk.fetch("select from agents where version = 50"))
    page = await cli.json("agent", "desk/clerk/a", "--timeline")
    assert [turn["version"] for turn in page["turns"]] == list(range(31, 51))
    assert page["older"] == 31
    older = await cli.json("agent", "desk/clerk/a", "--timeline", "--before", "31", "--last", "40")
    assert [turn["version"] for turn in older["turns"]] == list(range(1, 31))
    assert older["older"] is None
    await cli("agent", "desk/clerk/a", "--timeline", "--last", "5")
    assert "--before 46" in cli.err
    assert "has had no turn yet" in await cli("agent", "desk/clerk/none", "--timeline")


async def test_a_cause_is_found_in_a_long_history(desk: Deployment) -> None:
    """The sender has had 5,000 turns since; the search goes by halves."""
    await note(desk, "a", "one")
    await until(lambda: desk.fetch("select from agents where version = 1"))
    await desk.pool.execute("alter table transitions disable trigger all")
    db = desk.pool
    [(message,)] = await desk.fetch("select body -> 'message' -> 'header' ->> 'id' from transitions")
    body = {"message": {"header": {"type": "desk.batch.v1", "sender": "external/test"}}, "sends": []}
    sent = {**body, "sends": [{"id": message, "to": "desk/clerk/a", "type": "desk.note.v1"}]}
    for low, high, given, ago in ((1, 3000, body, 60), (3001, 3001, sent, 0), (3002, 8000, body, -60)):
        await db.execute(
            "insert into transitions (domain, tenant, agent, version, at, body, prev, hash)"
            " select 'desk', 'default', 'reader/r', n, now() - make_interval(secs => $4), $3, '', ''"
            " from generate_series($1::int, $2::int) n",
            low, high, json.dumps(given, separators=(",", ":")), ago,
        )  # fmt: skip
    await db.execute(
        "update transitions set body = replace(body::text, body -> 'message' -> 'header' ->> 'sender', 'desk/reader/r')"
        "::json where agent = 'clerk/a'"
    )
    timeline = await agent_timeline(db, parse_address("desk/clerk/a"), tenant="default")
    cause = timeline.turns[0].cause
    assert cause is not None
    assert (cause.version, cause.type, cause.sender) == (3001, "desk.batch.v1", "external/test")


async def test_the_state_at_any_version_is_the_one_that_was_hashed(cli: Cli, desk: Deployment) -> None:
    texts = [f"{n} " + "x" * (300 if n % 3 else 30) for n in range(150)]  # above 4 KiB the history has deltas
    await note(desk, "a", *texts)
    await until(lambda: desk.fetch("select from agents where version = 150"))
    kinds = await desk.fetch(
        "select body -> 'delta' is not null from transitions where version in (60, 64, 65)"
    )
    assert sorted(kinds) == [(False,), (True,), (True,)]
    place = parse_address("desk/clerk/a")
    for version in (1, 2, 20, 63, 64, 65, 127, 128, 149, 150):
        past = await state_at(desk.pool, place, version, tenant="default")
        assert past.state is not None
        assert json.loads(past.state) == {"expected": -1, "notes": texts[:version]}
        assert sha256(past.state.encode()).hexdigest() == past.state_hash
        assert (past.version, past.newest) == (version, 150)
    [(state,)] = await desk.fetch("select state::text from agents")
    assert state == past.state
    shown = await cli.json("agent", "desk/clerk/a", "--at", "3")
    assert shown["state"]["notes"] == texts[:3]
    text = await cli("agent", "desk/clerk/a", "--at", "3")
    assert "version 3 of 150" in text
    assert f"✓ sha256 {shown['state_hash']} is the one in its history" in text
    for wrong in ("0", "151"):
        assert f"has no version {wrong}. It has versions up to 150." in await cli.error(
            "agent", "desk/clerk/a", "--at", wrong
        )
    assert "Give one of them" in await cli.error("agent", "desk/clerk/a", "--at", "3", "--timeline")


async def test_a_state_that_is_no_longer_kept_or_was_edited_is_never_made_up(desk: Deployment) -> None:
    await note(desk, "a", *(f"{n} " + "x" * 300 for n in range(70)))
    await until(lambda: desk.fetch("select from agents where version = 70"))
    place = parse_address("desk/clerk/a")
    await desk.pool.execute("delete from transitions where version < 40")  # as retention would
    with pytest.raises(UnknownVersion, match="no longer kept") as gone:
        await state_at(desk.pool, place, 50, tenant="default")
    assert gone.value.fix == "Ask for version 64 or a later one."
    with pytest.raises(UnknownVersion, match="no longer kept"):
        await state_at(desk.pool, place, 3, tenant="default")
    assert (await state_at(desk.pool, place, 66, tenant="default")).state
    await desk.pool.execute(
        "update transitions set body = replace(body::text, '65 xxx', '65 yyy')::json where version = 66"
    )
    with pytest.raises(BrokenChain) as broken:
        await state_at(desk.pool, place, 68, tenant="default")
    assert broken.value.version == 66

"""`turn retry`, `skip` and `edit` on a turn whose handler no longer does what it did."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from callboard.services import Endpoints
from storage import inspect, intake
from tests.integration.cli import Cli, until
from tests.integration.deployment import Deployment
from tests.integration.vigil_at_work import ORACLE, RUNNER, VIGIL, has_turn, send, vigil_at_work, waits_for


@pytest.fixture
async def parked(
    services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Deployment]:
    """A runner whose code has changed while its turn waited: it is paused, and the turn stays open."""
    async with vigil_at_work(services, database, monkeypatch) as vigil:
        from vigil import agents

        await send(vigil, RUNNER, agents.Errand())
        await waits_for(vigil, "ask")
        monkeypatch.setattr(agents, "changed_code", True)
        await send(vigil, ORACLE, agents.Speak())
        await has_turn(vigil, RUNNER, 1)
        yield vigil


async def test_a_step_that_the_new_code_does_not_make_is_forgotten(cli: Cli, parked: Deployment) -> None:
    assert "#1  step price_of" in await cli("agent", RUNNER, "--timeline")  # the key that it is edited by
    edited = await cli.json("turn", "edit", RUNNER, "#1", "--forget", "--reason", "weights now")
    assert (edited["wanted"], edited["done"]) == ("edited", True)
    assert "is running" in await cli("turn", "retry", RUNNER)

    async def is_done() -> bool:
        return bool((await cli.json("agent", RUNNER))["state"] == {"answers": ["yes"]})

    assert await until(is_done)
    shown = await cli("agent", RUNNER, "--timeline")
    assert "weight_of" in shown
    await cli("verify")  # the edit is part of the history: no digest is wrong


async def test_what_a_paused_turn_had_sent_is_told_once_and_times_go_on(
    cli: Cli, parked: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vigil import agents

    [paused, still_open] = (await cli.json("agent", RUNNER, "--timeline"))["turns"]
    assert [[s["to"] for s in turn["sends"]] for turn in (paused, still_open)] == [[ORACLE], []]
    monkeypatch.setattr(agents, "changed_code", False)
    await cli("turn", "retry", RUNNER)
    await has_turn(parked, RUNNER, 3)
    turns = (await cli.json("agent", RUNNER, "--timeline"))["turns"]
    assert [turn["decision"] for turn in turns] == ["paused", "resumed", "handled"]
    assert [[s["to"] for s in turn["sends"]] for turn in turns] == [[ORACLE], [], ["vigil/ledger/main"]]
    text = await cli("agent", RUNNER, "--timeline")
    heads = [line for line in text.splitlines() if "  vigil.errand.v1  " in line or "  ✓ resumed  " in line]
    shown = [head.split()[1] for head in heads]
    assert (len(shown), shown) == (3, sorted(shown))
    assert f" since {shown[0]} " in heads[2]


async def test_an_open_turn_is_shown_with_its_calls_by_their_keys(cli: Cli, parked: Deployment) -> None:
    """`look_up` has failed, and is no longer counted once it is to be made again."""
    shown = await cli.json("turn", "show", RUNNER)
    assert shown["recorded"] == 3
    assert [(c["key"], c["kind"], c["name"], c["ok"]) for c in shown["calls"]] == [
        ("#1", "step", "price_of", True),
        ("#2", "step", "look_up", False),
        ("#3", "ask", f"Question {ORACLE}", True),
    ]
    text = await cli("turn", "show", RUNNER)
    assert "3 calls recorded" in text
    assert re.search(r"#1 +step price_of +→ 10 *\n", text)
    assert re.search(r"#2 +step look_up +✗ LookupError: there is no 1 *\n", text)
    await cli("turn", "edit", RUNNER, "#2", "--forget", "--reason", "look again")
    shown = await cli.json("turn", "show", RUNNER)
    assert (shown["recorded"], [call["key"] for call in shown["calls"]]) == (2, ["#1", "#3"])


async def test_an_open_turn_is_shown_with_the_keys_of_what_it_waits_for(cli: Cli, vigil: Deployment) -> None:
    from vigil import agents

    await send(vigil, RUNNER, agents.Errand())
    await waits_for(vigil, "ask")
    text = await cli("turn", "show", RUNNER)
    assert "2 calls recorded" in text
    assert re.search(rf"#3 +ask Question {ORACLE} +waits, for \d+ m?s now *\n", text)
    waits = await cli.error("turn", "edit", RUNNER, "#3", "--forget", "--reason", "x")
    assert "'#3' is an ask, and cannot be edited." in waits


async def test_a_turn_that_is_skipped_becomes_a_dead_letter(cli: Cli, parked: Deployment) -> None:
    assert "is skipped" in await cli("turn", "skip", RUNNER, "--reason", "overtaken by events")
    (letter,) = (await cli.json("dead-letters"))["dead_letters"]
    assert letter["reason"] == "skipped"
    assert "overtaken by events" in letter["error"]
    shown = await cli.json("agent", RUNNER)
    assert shown["lifecycle"] == "running"
    assert await parked.fetch("select count(*) from turns where agent = 'runner/a'") == [(0,)]


async def test_what_a_skipped_turn_has_done_is_undone_and_named(
    cli: Cli, services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with vigil_at_work(services, database, monkeypatch) as vigil:
        from vigil import agents

        await send(vigil, RUNNER, agents.Errand(undoes=True))
        await waits_for(vigil, "ask")
        skipped = await cli.json("turn", "skip", RUNNER, "--reason", "x")
        assert (skipped["done"], skipped["compensations"]) == (True, ["forget_price"])
        assert await vigil.fetch("select name from journal where kind = 'undo'") == [("forget_price",)]
        shown = (await cli("agent", RUNNER, "--timeline")).splitlines()
        (waited,) = [line for line in shown if "ask Question" in line]
        assert waited.endswith("✗ abandoned")
        await cli("verify")

        await send(vigil, RUNNER, agents.Errand(undoes=True))
        await waits_for(vigil, "ask")
        monkeypatch.setattr(agents, "changed_code", True)
        refused = await cli.error("turn", "skip", RUNNER, "--reason", "x")
        assert "cannot be undone: its handler no longer comes to its compensations" in refused
        assert "is skipped" in await cli("turn", "skip", RUNNER, "--reason", "x", "--leave-done")
        letters = (await cli.json("dead-letters"))["dead_letters"]
        assert [letter["reason"] for letter in letters] == ["skipped", "skipped"]
        assert letters[1]["error"].endswith("; not undone, as was asked: forget_price")
        assert await vigil.fetch("select count(*) from turns where agent = 'runner/a'") == [(0,)]


@pytest.mark.parametrize(
    ("place", "name", "goes_on"),
    [(intake, "accept", False), (intake, "accept", True), (inspect, "read_open_journal", True)],
    ids=["ended", "the next one is open", "the next one was open before the look had ended"],
)
@pytest.mark.parametrize(
    "command", [("skip",), ("edit", "#1", "--value", "1")], ids=["skip", "edit"]
)  # fmt: skip
async def test_a_turn_that_has_ended_first_is_not_said_to_be_changed_and_no_other_one_is(
    cli: Cli, vigil: Deployment, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...],
    place: ModuleType, name: str, goes_on: bool,
) -> None:  # fmt: skip
    from vigil import agents

    look = getattr(place, name)

    async def ends() -> None:
        await send(vigil, ORACLE, agents.Speak())
        await has_turn(vigil, RUNNER, 1)
        if goes_on:
            await send(vigil, RUNNER, agents.Errand())
            await waits_for(vigil, "ask")

    loop = asyncio.get_running_loop()  # the command has one of its own

    async def look_and_be_late(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(place, name, look)
        found = await look(*given, **named) if name == "read_open_journal" else None
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ends(), loop))
        return found or await look(*given, **named)

    await send(vigil, RUNNER, agents.Errand())
    await waits_for(vigil, "ask")
    monkeypatch.setattr(place, name, look_and_be_late)
    said = await cli.error("turn", command[0], RUNNER, *command[1:], "--reason", "x")
    assert f"The open turn of {RUNNER} has gone on, and is not" in said
    assert (await cli.json("dead-letters"))["dead_letters"] == []
    assert await vigil.fetch("select count(*)::int from turns where agent = 'runner/a'") == [(int(goes_on),)]
    assert await vigil.fetch("select from journal where kind = 'void'") == []


async def test_a_turn_whose_record_cannot_be_read_is_skipped(cli: Cli, vigil: Deployment) -> None:
    from vigil import agents

    await send(vigil, RUNNER, agents.Errand(undoes=True))
    await waits_for(vigil, "ask")
    await until(lambda: vigil.fetch("select from turns where agent = 'runner/a' and waiting"))
    await vigil.pool.execute("update turns set header = '7' where agent = 'runner/a'")
    await vigil.pool.execute("update journal set value = '7' where agent = 'runner/a' and kind = 'sent'")
    await send(vigil, ORACLE, agents.Speak())
    await has_turn(vigil, RUNNER, 1)
    assert "cannot be read" in await cli("agent", RUNNER)
    refused = await cli.error("turn", "skip", RUNNER, "--reason", "x")
    assert "its record cannot be read" in refused
    assert "is skipped" in await cli("turn", "skip", RUNNER, "--reason", "x", "--leave-done")
    (letter,) = (await cli.json("dead-letters"))["dead_letters"]
    assert letter["error"].endswith("not undone, as was asked: forget_price")
    assert (await cli.json("agent", RUNNER))["lifecycle"] == "running"
    assert "✗ dead_letter  callboard.unreadable.v1" in await cli("agent", RUNNER, "--timeline")
    await cli("verify")


async def test_what_cannot_be_done_is_one_line(cli: Cli, parked: Deployment) -> None:
    no_such = await cli.error("turn", "edit", RUNNER, "#9", "--forget", "--reason", "x")
    assert "has no step or call at '#9'. `callboard turn show vigil/runner/a` names" in no_such
    recorded = await cli.error("turn", "edit", RUNNER, "#3", "--value", "1", "--reason", "x")
    assert "'#3' is an ask, and cannot be edited." in recorded
    for value in ("{", "NaN", '"\\ud800"', "[" * 100_000):
        assert "The value is not JSON" in await cli.error(
            "turn", "edit", RUNNER, "#1", "--value", value, "--reason", "x", code=2
        )
    nul = await cli.error("turn", "edit", RUNNER, "#1", "--value", '"\\u0000"', "--reason", "x", code=2)
    assert "NUL" in nul
    assert "has no open turn" in await cli.error("turn", "skip", "vigil/oracle/main", "--reason", "x")
    assert "has no open turn" in await cli.error("turn", "retry", "vigil/oracle/main")
    assert (await cli.json("agent", "vigil/oracle/main"))["mailbox"]["size"] == 0


async def test_a_turn_says_which_code_it_began_with(
    cli: Cli, services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from actors import incarnation

    async def unpacked(*_: object) -> Path:
        return VIGIL

    monkeypatch.setattr(incarnation, "fetch_code", unpacked)
    begun, newer = "1f" * 32, "2e" * 32
    async with vigil_at_work(services, database, monkeypatch, code=begun) as vigil:
        from vigil.agents import Errand

        await send(vigil, RUNNER, Errand())
        await waits_for(vigil, "ask")
        shown = await cli.json("turn", "show", RUNNER)
        assert (shown["code"], shown["code_now"]) == (begun, begun)
        assert "begun with code 1f1f1f1f1f1f, which the domain has now" in await cli("turn", "show", RUNNER)
        await vigil.forsake()  # nobody replaces the host
        await vigil.pool.execute("update domains set code = $1", newer)
        said = "begun with code 1f1f1f1f1f1f; the domain has 2e2e2e2e2e2e now"
        assert said in await cli("turn", "show", RUNNER)
        assert said in await cli("agent", RUNNER)
    assert "has no open turn" in await cli.error("turn", "show", ORACLE)

"""`approvals`, `approve`, `deny`, `promise resolve` and `ledger` on agents that wait for people."""

from __future__ import annotations

from typing import Any

import pytest

from bus.address import parse_address
from storage.intake import Incoming, accept
from tests.integration.cli import Cli, until
from tests.integration.deployment import Deployment
from tests.integration.vigil_at_work import GUARD, ORACLE, RUNNER, has_turn, send, waits_for


async def ask_to_open(vigil: Deployment, gate: str, kind: str = "approval") -> str:
    from vigil.agents import Opening

    await send(vigil, GUARD, Opening(gate=gate))
    return await waits_for(vigil, kind, agent="guard/a")


async def log_of(cli: Cli) -> list[str]:
    state: dict[str, Any] = (await cli.json("agent", GUARD))["state"]
    return list(state["log"])


async def test_a_person_sees_what_is_asked_and_allows_it(cli: Cli, vigil: Deployment) -> None:
    assert "Nothing waits for a decision" in await cli("approvals")
    id_ = await ask_to_open(vigil, "north")
    (asked,) = (await cli.json("approvals"))["approvals"]
    assert (asked["id"], asked["address"], asked["kind"], asked["by"]) == (id_, GUARD, "approval", None)
    assert asked["asked"]["action"] == "call open_gate"
    assert asked["asked"]["details"] == {"gate": "north", "minutes": 5}
    shown = await cli("approvals")
    assert all(words in shown for words in ("call open_gate", "north", GUARD, "alice, bob", id_))

    assert "mallory may not approve call open_gate of vigil/guard/a." in await cli.error(
        "approve", id_, "--as", "mallory"
    )
    assert "One of these may: alice, bob" in cli.err
    assert "has another digest" in await cli.error("approve", id_, "--as", "alice", "--digest", "0000")
    digest = asked["asked"]["digest"]
    decided = await cli.json(
        "approve",
        f"…{id_[-6:]}",
        "--as",
        "alice",
        "--comment",
        "for the fire brigade",
        "--digest",
        digest[:8],
    )
    assert (decided["status"], decided["by"], decided["address"]) == ("approved", "alice", GUARD)
    await has_turn(vigil, GUARD, 1)
    assert await log_of(cli) == ["north is open, says alice"]

    late = await cli.error("deny", id_, "--as", "bob", "--reason", "no")
    assert "Error: call open_gate of vigil/guard/a was approved by alice at " in late
    (settled,) = (await cli.json("approvals", "--settled"))["approvals"]
    assert (settled["by"], settled["decision"]) == ("alice", {"comment": "for the fire brigade"})
    (call,) = (await cli.json("ledger", "--agent", GUARD))["calls"]
    assert (call["tool"], call["status"], call["approval"]) == ("open_gate", "succeeded", id_)
    assert "There is no domain 'vigli'" in await cli.error("ledger", "--domain", "vigli")
    assert "There is no domain 'vigli'" in await cli.error("ledger", "--agent", "vigli/guard/a")
    assert call["arguments"] == {"gate": "north", "minutes": 5}


async def test_an_id_that_is_not_enough_is_refused_with_those_it_may_be(cli: Cli, vigil: Deployment) -> None:
    first = await ask_to_open(vigil, "north")
    await cli("deny", first[:13], "--as", "alice", "--reason", "no")
    await has_turn(vigil, GUARD, 1)
    second = await ask_to_open(vigil, "south")
    assert f"Several ids begin or end with {first[:4]}: {first}, {second}. Give" in await cli.error(
        "approve", first[:4], "--as", "alice"
    )


async def test_a_task_and_the_status_show_what_is_asked_with_the_commands_that_answer_it(
    cli: Cli, vigil: Deployment
) -> None:
    from vigil.agents import Errand, Opening, Speak

    task = await vigil.submit(Errand(permit=True).model_dump())
    gate = Incoming(to=parse_address(GUARD), message=Opening(gate="north"), task=task)
    await accept(vigil.pool, vigil.transport, [gate])
    id_ = await waits_for(vigil, "approval", agent="guard/a")
    [(runner,)] = await until(lambda: vigil.fetch("select agent from turns where agent like 'runner/%'"))
    await waits_for(vigil, "ask", agent=runner)
    await send(vigil, ORACLE, Speak())
    permit = await waits_for(vigil, "promise", agent=runner)
    for words in (("task", task), ("status",)):
        shown = await cli(*words)
        assert "waits for alice or bob: call open_gate: gate north, minutes 5\n" in shown
        assert f"  callboard approve {id_} --as alice\n" in shown
        assert f"waits for the promise permit, of vigil/{runner}\n" in shown
        assert f"  callboard promise resolve {permit} JSON\n" in shown
        asked = (await cli.json(*words))["asked"]
        assert [(each["id"], each["kind"]) for each in asked] == [(id_, "approval"), (permit, "promise")]
    await cli("promise", "resolve", permit, '"go"')
    await cli("deny", id_, "--as", "bob", "--reason", "no")
    assert await vigil.client.result(task, timeout_s=20)
    assert (await cli.json("task", task))["asked"] == (await cli.json("status"))["asked"] == []


async def test_a_person_refuses_and_it_is_not_done(cli: Cli, vigil: Deployment) -> None:
    id_ = await ask_to_open(vigil, "south")
    assert "Denied: call open_gate" in await cli("deny", id_, "--as", "bob", "--reason", "nobody is there")
    await has_turn(vigil, GUARD, 1)
    assert await log_of(cli) == ["open_gate was refused by bob: nobody is there."]
    (call,) = (await cli.json("ledger"))["calls"]
    assert (call["status"], call["attempts"]) == ("denied", 0)


async def test_words_that_an_agent_could_not_read_are_refused_and_its_host_goes_on(
    cli: Cli, vigil: Deployment
) -> None:
    id_ = await ask_to_open(vigil, "broken")
    latin = "caf\udce9"  # what a terminal that is not in UTF-8 gives
    for words in (["approve", id_, "--comment", latin], ["deny", id_, "--reason", latin]):
        assert "valid Unicode" in await cli.error(*words, "--as", "alice")
    await cli("approve", id_, "--as", "alice", "--comment", "café")
    question = await waits_for(vigil, "outcome", agent="guard/a")
    for result in ('"\\ud800"', "NaN", "[" * 3000 + "]" * 3000):
        said = await cli.error("ledger", "settle", question, "--happened", "--result", result, code=2)
        assert "The result is not JSON" in said
    await cli("ledger", "settle", question, "--happened", "--result", '"it stands open"')
    await has_turn(vigil, GUARD, 1)


async def test_of_two_decisions_at_once_one_wins_and_the_other_is_told(cli: Cli, vigil: Deployment) -> None:
    import asyncio

    from storage.decisions import find_promise, settle
    from storage.journal import Kind

    id_ = await ask_to_open(vigil, "north")
    promise = await find_promise(vigil.pool, id_, tenant="default")

    def decide(by: str, status: str) -> Any:
        return settle(
            vigil.pool, promise, tenant="default", status=status, value="null", by=by, kind=Kind.APPROVAL
        )

    outcomes = await asyncio.gather(
        *(decide(by, status) for by, status in [("alice", "approved"), ("bob", "denied")] * 5),
        return_exceptions=True,
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AlreadySettled"] * 9 + ["Owner"]
    (wakes,) = await vigil.fetch("select count(*) from promises where id = $1 and status <> 'pending'", id_)
    assert wakes == (1,)


async def test_an_approval_after_its_time_changes_nothing(cli: Cli, vigil: Deployment) -> None:
    id_ = await ask_to_open(vigil, "west")
    await vigil.pool.execute("update promises set due_at = now() where id = $1::uuid", id_)
    assert "The time for" in await cli.error("approve", id_, "--as", "alice") or " expired at " in cli.err
    await has_turn(vigil, GUARD, 1)
    assert "of vigil/guard/a expired at 20" in await cli.error("approve", id_, "--as", "alice")
    assert await log_of(cli) == ["open_gate was refused: nobody decided in time."]
    assert [call["status"] for call in (await cli.json("ledger"))["calls"]] == ["denied"]


async def test_a_person_says_what_a_call_has_done(cli: Cli, vigil: Deployment) -> None:
    id_ = await ask_to_open(vigil, "broken")
    await cli("approve", id_, "--as", "alice")
    question = await waits_for(vigil, "outcome", agent="guard/a")
    assert [call["status"] for call in (await cli.json("ledger", "--unknown"))["calls"]] == ["unknown"]
    shown = await cli("approvals")
    assert "Has the call of open_gate acted? Nobody knows." in shown
    assert "is of the kind outcome" in await cli.error("approve", question, "--as", "alice")
    assert "`callboard ledger settle` says" in await cli.error("promise", "resolve", question, '"it is open"')
    assert "The result is not JSON" in await cli.error(
        "ledger", "settle", question, "--happened", "--result", "{", code=2
    )
    said = await cli(
        "ledger", "settle", question, "--happened", "--result", '"it stands open"', "--as", "maria"
    )
    assert "open_gate has acted" in said
    await has_turn(vigil, GUARD, 1)
    assert await log_of(cli) == ["it stands open, says alice"]
    assert (await cli.json("ledger", "--unknown"))["calls"] == []
    assert [call["said_by"] for call in (await cli.json("ledger"))["calls"]] == ["maria"]
    assert "succeeded, says maria" in await cli("ledger")


async def test_a_call_is_settled_by_the_id_that_the_ledger_shows_and_once(
    cli: Cli, vigil: Deployment
) -> None:
    await cli("approve", await ask_to_open(vigil, "broken"), "--as", "alice")
    first = await waits_for(vigil, "outcome", agent="guard/a")
    (call,) = (await cli.json("ledger", "--unknown"))["calls"]
    assert (call["question"], call["again_by"]) == (first, None)
    shown = await cli("ledger", "--unknown")
    assert f"call {call['id']}: callboard ledger settle {first} --happened or --not-happened\n" in shown
    settle = "ledger", "settle", call["id"]
    assert "Give one of" in await cli.error(*settle, "--happened", "--not-happened", code=2)
    again = await cli(*settle, "--not-happened", "--as", "maria", "--reason", "its log is empty")
    assert "open_gate has not acted, and is made again" in again
    second = await waits_for(vigil, "outcome", agent="guard/a")
    assert second != first
    assert "unknown (2 tries), maria had it made again" in await cli("ledger", "--unknown")
    end = f"…{call['id'][-6:]}"
    for id_ in (call["id"], end):  # the same command once more, as after an answer that was lost
        refused = await cli.error("ledger", "settle", id_, "--not-happened", "--as", "maria")
        assert f"It was asked about that call before; what is asked now is {second}." in refused
    assert f"{GUARD} was resolved by maria at " in await cli.error("ledger", "settle", first, "--happened")
    await cli("ledger", "settle", second, "--happened", "--result", '"it stands open"', "--as", "bob")
    await has_turn(vigil, GUARD, 1)

    by_now = f"{GUARD} was resolved by bob at "
    for id_ in (call["id"], second, end):
        assert f"Error: open_gate of {by_now}" in await cli.error("ledger", "settle", id_, "--not-happened")
    (call,) = (await cli.json("ledger"))["calls"]
    assert (call["status"], call["said_by"], call["again_by"]) == ("succeeded", "bob", "maria")
    assert call["question"] is None
    shown = await cli("agent", GUARD, "--timeline")
    assert "has not acted, and is made again, says external/maria: its log is empty" in shown
    assert "its log is empty" in await cli("approvals", "--settled")


async def test_a_promise_is_resolved_from_the_command_line(cli: Cli, vigil: Deployment) -> None:
    from vigil.agents import Errand, Speak

    await send(vigil, RUNNER, Errand(permit=True))
    await waits_for(vigil, "ask")
    await send(vigil, ORACLE, Speak())
    permit = await waits_for(vigil, "promise")
    assert "Error: Invalid value: The value is not JSON: invalid character (byte 0)." in await cli.error(
        "promise", "resolve", permit, "yes", code=2
    )
    assert "`callboard promise resolve` resolves" in await cli.error("ledger", "settle", permit, "--happened")
    assert "Resolved: permit" in await cli("promise", "resolve", permit, '{"for": "a day"}')
    assert "permit of vigil/runner/a was resolved by" in await cli.error(
        "promise", "resolve", permit, '{"for": "a year"}'
    )
    await has_turn(vigil, RUNNER, 1)


@pytest.mark.parametrize("id_", ["0000", "no id", "01a1fcb6-e0a5-7242-87af-77dfabd381b6"])
async def test_an_unknown_promise_is_one_line(cli: Cli, vigil: Deployment, id_: str) -> None:
    assert f"There is no approval '{id_}'. `callboard approvals`" in await cli.error("approve", id_)
    assert "There is no approval" in await cli.error("deny", id_, "--reason", "x")
    assert f"There is no promise '{id_}'. `callboard agent ADDRESS`" in await cli.error(
        "promise", "resolve", id_
    )
    assert f"There is no question about a call {id_!r}. `callboard ledger --unknown`" in await cli.error(
        "ledger", "settle", id_, "--happened"
    )


async def test_a_promise_is_found_by_the_beginning_of_its_id(cli: Cli, vigil: Deployment) -> None:
    id_ = await ask_to_open(vigil, "north")

    async def is_decided() -> bool:
        return "Approved" in await cli("approve", id_[:20], "--as", "alice")

    assert await until(is_decided)


async def test_what_is_no_text_or_no_json_decides_nothing(cli: Cli, vigil: Deployment) -> None:
    """Postgres holds half a character in JSON, and no host could read it: the agent would never go on."""
    half = "\udcff"  # as the shell gives a byte that is no UTF-8
    id_ = await ask_to_open(vigil, "north")
    assert "cannot be written as JSON" in await cli.error("deny", id_, "--as", "alice", "--reason", half)
    assert "needs a name" in await cli.error("approve", id_, "--as", half)
    for value in ("NaN", '"\\ud800"', "[" * 100_000):
        assert "is not JSON" in await cli.error("promise", "resolve", id_, value, code=2)
        assert "is not JSON" in await cli.error(
            "ledger", "settle", id_, "--happened", "--result", value, code=2
        )
    await cli("approve", id_, "--as", "alice")
    await has_turn(vigil, GUARD, 1)
    assert await log_of(cli) == ["north is open, says alice"]

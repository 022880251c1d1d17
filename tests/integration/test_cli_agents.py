"""`agents`, `agent`, `pause`, `resume` and `dead-letters` on a domain at work."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from callboard.cli.asked import login_name
from storage.code import pack, put_code
from storage.inspect import list_dead_letters
from tests.integration.cli import DESK, Cli, note, until
from tests.integration.deployment import Deployment

TRICKY = "clerk/Zoë [red]\x1b[2J\u202e/7"


async def versions(desk: Deployment, key: str, version: int) -> None:
    """Wait until an agent has had so many turns."""

    async def is_there() -> bool:
        rows = await desk.fetch("select version from agents where agent = $1", f"clerk/{key}")
        return bool(rows) and rows[0][0] >= version

    await until(is_there)


async def test_agents_are_listed_by_address_in_pages(cli: Cli, desk: Deployment) -> None:
    for key in ("a", "b", "c"):
        await note(desk, key, "hello")
        await versions(desk, key, 1)
    listed = await cli.json("agents", "--limit", "2")
    assert [row["address"] for row in listed["agents"]] == ["desk/clerk/a", "desk/clerk/b"]
    assert listed["next"] == "desk/clerk/b"
    rest = await cli.json("agents", "--domain", "desk", "--after", listed["next"])
    assert [row["address"] for row in rest["agents"]] == ["desk/clerk/c"]
    assert rest["next"] is None
    assert "desk/clerk/a" in await cli("agents")
    assert "There is no domain 'other'" in await cli.error("agents", "--domain", "other")


async def test_a_command_that_is_offered_holds_a_key_as_one_word_of_the_shell(
    cli: Cli, desk: Deployment
) -> None:
    for key in ("it's; reboot #", "z"):
        await note(desk, key, "hello")
        await versions(desk, key, 1)
    await cli("agents", "--limit", "1")
    offered = shlex.split(cli.err.partition("--after ")[2])
    assert offered == ["desk/clerk/it's; reboot #"]
    assert "desk/clerk/z" in await cli("agents", "--after", *offered)


async def test_an_agent_is_shown_with_state_mailbox_and_verified_history(cli: Cli, desk: Deployment) -> None:
    await note(desk, "a", "first", "second")
    await versions(desk, "a", 2)
    shown = await cli.json("agent", "desk/clerk/a")
    assert shown["state"] == {"expected": -1, "notes": ["first", "second"]}
    assert shown["lifecycle"] == "running"
    assert shown["mailbox"] == {"size": 0, "head": []}
    chain = {"intact": True, "length": 2, "since": 1, "broken": None, "dropped": None, "dropped_at": None}
    assert shown["chain"] == chain
    assert [turn["version"] for turn in shown["history"]] == [2, 1]
    assert shown["history"][0]["body"]["notes"] == [{"decision": "noted", "number": 2}]
    assert shown["owner"]["host"]
    older = await cli.json("agent", "desk/clerk/a", "--before", "2", "--history", "5")
    assert [turn["version"] for turn in older["history"]] == [1]
    assert "chain of 2 transitions is intact" in await cli("agent", "desk/clerk/a")


async def test_an_agent_that_no_message_has_reached_exists_all_the_same(cli: Cli, desk: Deployment) -> None:
    shown = await cli.json("agent", "desk/clerk/nobody")
    assert (shown["lifecycle"], shown["version"], shown["state"]) == ("created", 0, None)
    said = await cli("agent", "desk/clerk/nobody")
    assert "No message has ever reached it." in said
    assert "created" not in said
    assert "There is no domain 'other'" in await cli.error("agent", "other/clerk/x")
    assert "has no agent kind 'clrek'" in await cli.error("agent", "desk/clrek/a")


async def test_of_an_agent_that_nothing_has_reached_those_are_named_whose_keys_begin_so(
    cli: Cli, desk: Deployment
) -> None:
    for key in ("187.1", "187.2", "188.1"):
        await note(desk, key, "first")
        await versions(desk, key, 1)
    said = await cli("agent", "desk/clerk/187")
    assert "ever reached it.\nAgents whose keys begin so: desk/clerk/187.1, desk/clerk/187.2\n" in said
    assert "begin so" not in await cli("agent", "desk/clerk/nobody")


async def test_an_edited_history_is_found(cli: Cli, desk: Deployment) -> None:
    await note(desk, "a", "first", "second")
    await versions(desk, "a", 2)
    await desk.pool.execute(
        "update transitions set body = replace(body::text, 'first', 'forged')::json where version = 1"
    )
    shown = await cli.json("agent", "desk/clerk/a", code=1)
    assert not shown["chain"]["intact"]
    assert "version 1" in shown["chain"]["broken"]
    assert "✗" in await cli("agent", "desk/clerk/a", code=1)
    assert "compare with a backup" in cli.err


@pytest.mark.parametrize("body", ["{}", "[]", '{"message": {"header": {}}, "notes": [1], "sends": [{}]}'])
async def test_what_an_edit_has_left_of_a_transition_is_shown_as_none(
    cli: Cli, desk: Deployment, body: str
) -> None:
    await note(desk, "a", "first", "second")
    await versions(desk, "a", 2)
    await desk.pool.execute("update transitions set body = $1::json where version = 1", body)
    shown = await cli("agent", "desk/clerk/a", code=1)
    assert "1  is no transition\n" in shown
    assert "✗ The history of desk/clerk/a is broken: version 1 does not hash" in shown
    assert "version 1 is no transition" in await cli.error("agent", "desk/clerk/a", "--timeline")


async def test_a_key_full_of_tricks_is_shown_harmlessly(cli: Cli, desk: Deployment) -> None:
    await note(desk, TRICKY.partition("/")[2], "\x1b]0;title\x07 [bold]x")
    await versions(desk, TRICKY.partition("/")[2], 1)
    for words in (["agents"], ["agent", f"desk/{TRICKY}"]):
        text = await cli(*words)
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[red]" in text
    shown = await cli.json("agent", f"desk/{TRICKY}")
    assert shown["address"] == f"desk/{TRICKY}"


async def test_a_paused_agent_keeps_its_messages_until_it_is_resumed(cli: Cli, desk: Deployment) -> None:
    await note(desk, "a", "first")
    await versions(desk, "a", 1)
    done = await cli.json("pause", "desk/clerk/a", "--reason", "a look")
    assert done["done"] is True
    await note(desk, "a", "second")
    shown = await cli.json("agent", "desk/clerk/a")
    assert (shown["lifecycle"], shown["mailbox"]["size"]) == ("paused", 1)
    assert shown["mailbox"]["head"][0]["header"]["type"] == "desk.note.v1"
    assert "1 waiting" in await cli("agent", "desk/clerk/a")
    assert "is running" in await cli("resume", "desk/clerk/a")
    await versions(desk, "a", 4)
    assert (await cli.json("agent", "desk/clerk/a"))["state"]["notes"] == ["first", "second"]
    assert "no agent kind 'ghost'" in await cli.error("pause", "desk/ghost/a")


async def test_who_pauses_an_agent_that_no_message_has_reached_is_told(cli: Cli, desk: Deployment) -> None:
    said = await cli.error("resume", "desk/clerk/nobody")
    assert "No message has ever reached desk/clerk/nobody. There is nothing to resume." in said
    assert (await cli.json("agent", "desk/clerk/nobody"))["lifecycle"] == "created"
    assert "is paused" in await cli("pause", "desk/clerk/nobody")
    assert "No message has ever reached desk/clerk/nobody: it is created paused." in cli.err
    assert (await cli.json("agent", "desk/clerk/nobody"))["lifecycle"] == "paused"
    assert "is running" in await cli("resume", "desk/clerk/nobody")
    assert "is running" in await cli("resume", "desk/clerk/nobody")  # again: nothing is left to do
    await cli("pause", "desk/clerk/nobody")
    assert "No message" not in cli.err


async def test_messages_that_wait_for_a_host_are_no_turns(cli: Cli, desk: Deployment) -> None:
    await desk.forsake()
    await desk.kill_hosts()
    await note(desk, "a", "hello")
    assert "No agent has had a turn yet." in await cli("agents")
    assert (await cli.json("agent", "desk/clerk/a"))["mailbox"]["size"] == 1


async def test_a_request_is_accepted_while_no_host_is_there(
    cli: Cli, desk: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callboard.cli.agents._CARRIED_OUT_S", 0.5)
    await note(desk, "a", "first")
    await versions(desk, "a", 1)
    await desk.forsake()
    await desk.kill_hosts()
    assert (await cli.json("pause", "desk/clerk/a"))["done"] is False
    await desk.coordinate()

    async def is_paused() -> bool:
        return bool((await cli.json("agent", "desk/clerk/a"))["lifecycle"] == "paused")

    await until(is_paused)


async def test_dead_letters_are_listed_shown_retried_and_dropped(cli: Cli, desk: Deployment) -> None:
    await note(desk, "a", "poison")
    (dead,) = await until(lambda: list_dead_letters(desk.pool, tenant="default"))
    listed = (await cli.json("dead-letters"))["dead_letters"]
    assert [(row["id"], row["address"], row["reason"]) for row in listed] == [
        (dead.id, "desk/clerk/a", "failed")
    ]
    assert "ValueError: cannot be read" in await cli("dead-letters", "--domain", "desk")
    assert (await cli.json("dead-letters", "show", str(dead.id)))["payload"]["text"] == "poison"
    text = await cli("dead-letters", "show", str(dead.id))
    assert "poison" in text
    assert re.search(r"\n  at desk/agents\.py:\d+ in \w+\n", text)
    assert [row["frames"] for row in listed] == [dead.frames.splitlines()] != [[]]
    assert (await cli.json("dead-letters", "retry", str(dead.id)))["done"] is True
    (again,) = await until(lambda: list_dead_letters(desk.pool, tenant="default"))
    assert again.id != dead.id
    assert (again.was, again.message) == (dead.id, dead.message)
    assert f"(retried, before it was {dead.id})" in await cli("dead-letters")
    assert f"It was dead letter {dead.id} before" in await cli("dead-letters", "show", str(again.id))
    shown = await cli("agent", "desk/clerk/a")
    assert f"desk.note.v1 (dead letter {dead.id} again) from" in shown
    assert (
        f'"id": {dead.id}, "found": true, "force": false, "refused": null, "message": "{dead.message}"'
        in shown
    )
    assert f"desk.note.v1 (dead letter {dead.id} again)" in await cli("agent", "desk/clerk/a", "--timeline")
    assert "is dropped" in await cli("dead-letters", "drop", str(again.id), "--reason", "of no use")
    assert await cli("dead-letters") == "No dead letters.\n"
    history = (await cli.json("agent", "desk/clerk/a"))["history"]
    dropped = history[0]["body"]["notes"][0]
    assert (dropped["reason"], dropped["message"], dropped["type"]) == (
        "of no use", dead.message, "desk.note.v1",
    )  # fmt: skip
    assert history[0]["body"]["message"]["header"]["sender"] == f"external/{login_name()}"
    assert "There is no dead letter 999" in await cli.error("dead-letters", "retry", "999")
    assert "no domain 'other'" in await cli.error("dead-letters", "--domain", "other")


async def test_a_dead_letter_of_a_kind_that_is_gone_can_be_dropped(cli: Cli, desk: Deployment) -> None:
    await note(desk, "a", "poison")
    (dead,) = await until(lambda: list_dead_letters(desk.pool, tenant="default"))
    await desk.pool.execute("update dead_letters set agent = 'ghost/a', partition = 0")
    assert "no agent kind 'ghost'" in await cli.error("dead-letters", "retry", str(dead.id))
    assert (await cli.json("dead-letters", "drop", str(dead.id)))["id"] == dead.id


async def test_an_agent_answers_queries_from_its_committed_state(cli: Cli, desk: Deployment) -> None:
    await note(desk, "a", "first", "second")
    await versions(desk, "a", 2)
    digest, bundle = pack(DESK)
    await put_code(desk.pool, "desk", digest, bundle)
    await desk.pool.execute("update domains set code = $1", digest)
    asked = ("query", "desk/clerk/a", "desk.how_many.v1")
    assert await cli.json(*asked) == {"notes": 2}
    assert json.loads(await cli(*asked, '{"text": "sec"}')) == {"notes": 1}
    assert await cli.json("query", "desk/clerk/unheard", "desk.how_many.v1") == {"notes": 0}
    rows = await desk.fetch("select version from agents where agent = 'clerk/a'")
    assert rows == [(2,)]
    assert "nobody knows" in await cli.error(*asked, '{"text": "?"}')
    assert "text" in await cli.error(*asked, '{"text": 1}')
    assert "desk.note.v1" in await cli.error(
        "query", "desk/clerk/a", "desk.note.v1", '{"task": "t", "number": 1, "text": ""}'
    )
    assert "desk.nothing.v1" in await cli.error("query", "desk/clerk/a", "desk.nothing.v1")
    assert "no agent kind 'clark'" in await cli.error("query", "desk/clark/a", "desk.how_many.v1")
    assert "There is no domain 'other'" in await cli.error("query", "other/clerk/a", "desk.how_many.v1")


async def test_a_dead_letter_that_was_undone_in_part_is_retried_by_force_alone(
    cli: Cli, desk: Deployment
) -> None:
    await note(desk, "a", "poison")
    (dead,) = await until(lambda: list_dead_letters(desk.pool, tenant="default"))
    await desk.pool.execute("update dead_letters set reason = 'not_undone'")
    refused = await cli.error("dead-letters", "retry", str(dead.id))
    assert "a part was undone and a part was not" in refused
    assert "--force retries it all the same." in refused
    assert (await cli.json("dead-letters", "retry", str(dead.id), "--force"))["done"] is True

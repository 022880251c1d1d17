"""`callboard ledger settle` on calls of which nobody knows what they did, and that nothing waits for any more."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from bus.errors import AlreadySettled
from storage.unknown_calls import LeftCall, find_unknown, say
from tests.integration.cli import Cli, until
from tests.integration.deployment import Deployment
from tests.integration.vigil_at_work import GUARD, has_turn, send, waits_for


async def ring_in_doubt(vigil: Deployment, *, insists: bool = False) -> None:
    from vigil.agents import Ringing

    await send(vigil, GUARD, Ringing(bell="silent", insists=insists))


async def the_call(cli: Cli, *words: str) -> dict[str, Any]:
    (call,) = (await cli.json("ledger", *words))["calls"]
    return dict(call)


async def dead_letter(vigil: Deployment) -> str:
    return str((await until(lambda: vigil.fetch("select id from dead_letters")))[0][0])


async def test_a_call_that_its_turn_went_on_from_is_settled_in_the_ledger_and_wakes_nothing(
    cli: Cli, vigil: Deployment
) -> None:
    await ring_in_doubt(vigil)
    await has_turn(vigil, GUARD, 1)
    id_ = (await the_call(cli, "--unknown"))["id"]
    shown = await cli("ledger", "--unknown")
    assert f"call {id_}: callboard ledger settle {id_} --happened or --not-happened\n" in shown
    assert "Nothing waits for the answer about 1 call with an error" in cli.err
    settle = "ledger", "settle", f"…{id_[-8:]}"
    refused = await cli.error(*settle, "--happened", "--result", '"rung"')
    assert "Nothing waits for what ring has returned. Leave out --result." in refused
    assert "needs a name" in await cli.error(*settle, "--happened", "--as", "\udcff")

    said = await cli(*settle, "--happened", "--as", "maria", "--reason", "the neighbours heard it")
    assert said == f"Noted: ring has acted. Nothing of {GUARD} has waited for it.\n"
    assert "No call's outcome is unknown." in await cli("ledger", "--unknown")
    assert "succeeded, says maria: the neighbours heard it" in " ".join((await cli("ledger")).split())
    call = await the_call(cli)
    assert (call["status"], call["error"]) == ("succeeded", None)
    assert (call["said_by"], call["reason"]) == ("maria", "the neighbours heard it")
    for again in (settle[2], id_):
        late = await cli.error("ledger", "settle", again, "--not-happened", "--as", "bob")
        assert f"Error: What ring of {GUARD} has done was said by maria at " in late
    assert await the_call(cli) == call
    assert await vigil.fetch("select from mailbox where agent = 'guard/a'") == []
    assert await vigil.fetch("select version::int from agents where agent = 'guard/a'") == [(1,)]


async def test_a_message_retried_by_hand_goes_by_what_was_said_of_its_call(
    cli: Cli, vigil: Deployment
) -> None:
    await ring_in_doubt(vigil, insists=True)
    letter = await dead_letter(vigil)
    first = (await the_call(cli, "--unknown"))["id"]
    await cli("ledger", "settle", first, "--not-happened", "--as", "maria")
    await cli("dead-letters", "retry", letter)
    await until(lambda: vigil.fetch("select from dead_letters where id <> $1", int(letter)))
    calls = {call["id"]: call for call in (await cli.json("ledger"))["calls"]}
    assert (calls[first]["status"], calls[first]["said_by"]) == ("failed", "maria")
    (again,) = (call for id_, call in calls.items() if id_ != first)
    assert (again["tool"], again["status"], again["said_by"]) == ("ring", "unknown", None)


async def test_a_question_that_was_withdrawn_leaves_its_call_to_be_settled_by_either_id(
    cli: Cli, vigil: Deployment
) -> None:
    from vigil.agents import Opening

    await send(vigil, GUARD, Opening(gate="broken"))
    await cli("approve", await waits_for(vigil, "approval", agent="guard/a"), "--as", "alice")
    first = await waits_for(vigil, "outcome", agent="guard/a")
    call = (await the_call(cli, "--unknown"))["id"]
    await cli("ledger", "settle", first, "--not-happened", "--as", "maria")
    second = await until(lambda: vigil.fetch(
        "select id::text from promises where kind = 'outcome' and status = 'pending'"
    ))  # fmt: skip
    await cli("turn", "skip", GUARD, "--reason", "the gate is gone")
    await dead_letter(vigil)
    assert (await the_call(cli, "--unknown"))["question"] is None
    # What was said of the first attempt, said once more since its answer was lost, is not taken for the second.
    refused = await cli.error("ledger", "settle", call, "--not-happened", "--as", "maria")
    assert "maria has had that call made again since it was asked about." in refused
    assert f"Give the id of what was asked last: {second[0][0]}." in refused
    assert "was resolved by maria at " in await cli.error("ledger", "settle", first, "--happened")
    said = await cli("ledger", "settle", second[0][0], "--not-happened", "--as", "bob")
    assert said == f"Noted: open_gate has not acted. Nothing of {GUARD} has waited for it.\n"
    settled = await the_call(cli)
    assert (settled["status"], settled["said_by"], settled["again_by"]) == ("failed", "bob", "maria")


async def test_of_several_who_say_it_at_once_one_counts_and_the_others_are_told_who(
    cli: Cli, vigil: Deployment
) -> None:
    await ring_in_doubt(vigil)
    await has_turn(vigil, GUARD, 1)
    left = await find_unknown(vigil.pool, (await the_call(cli))["id"], tenant="default")
    assert isinstance(left, LeftCall)
    said = await asyncio.gather(
        *(
            say(vigil.pool, left, tenant="default", happened=True, by=by, reason=None)
            for by in ("ada", "bob")
        ),
        return_exceptions=True,
    )
    [refused] = [each for each in said if each is not None]
    assert isinstance(refused, AlreadySettled)
    assert (await the_call(cli))["said_by"] == refused.by


async def test_an_end_that_several_calls_have_is_refused_with_their_ids(cli: Cli, vigil: Deployment) -> None:
    for count in (1, 2):
        await ring_in_doubt(vigil)
        await has_turn(vigil, GUARD, count)
    ids = sorted(call["id"] for call in (await cli.json("ledger", "--unknown"))["calls"])
    assert ids[0][:4] == ids[1][:4], "ids begin with the time"
    refused = await cli.error("ledger", "settle", ids[0][:4], "--happened")
    assert f"Several ids begin or end with {ids[0][:4]}: {ids[0]}, {ids[1]}. Give more of it." in refused


async def test_what_was_said_of_a_call_goes_when_a_retry_that_has_begun_before_makes_it_anew(
    cli: Cli, vigil: Deployment
) -> None:
    await ring_in_doubt(vigil)
    await has_turn(vigil, GUARD, 1)
    id_ = (await the_call(cli))["id"]
    await cli("ledger", "settle", id_, "--happened", "--as", "maria", "--reason", "the neighbours heard it")
    anew = {"status": "unknown", "error": None, "said_by": None}
    await vigil.fetch(
        "select write_ledger(domain, epoch, jsonb_build_array(to_jsonb(l) || $1::jsonb)) from ledger l",
        json.dumps(anew),
    )
    call = await the_call(cli)
    assert (call["status"], call["said_by"], call["reason"]) == ("unknown", None, None)
    late = await cli.error("ledger", "settle", id_, "--happened", "--as", "maria")
    assert f"There is no question about a call {id_!r}." in late

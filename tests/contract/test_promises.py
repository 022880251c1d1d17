"""Promises of open turns, in every store: each is settled once, by a reply, the clock or a person, and wakes its owner."""

from __future__ import annotations

import json

import pytest

from bus.envelope import new_id
from bus.errors import Fenced, StaleTurn
from storage.journal import Does, Kind
from storage.records import Share
from tests.contract.open_turns import AGENT, entry, flush, opened, page, promise, reply
from tests.contract.rig import DOMAIN, Rig, letter, turn


async def test_of_two_answers_that_alone_make_up_a_commit_the_first_is_delivered(rig: Rig) -> None:
    fence = await rig.host(0)
    waits_for = promise()
    await opened(rig, fence, promises=(waits_for,))
    other = await rig.accept(letter("order/2"))
    answers = (reply(waits_for.id, "1"), reply(waits_for.id, "2"))
    numbers = await rig.store.commit(fence, [turn(other, agent="order/2", sends=answers)], [])
    assert [number is None for number in numbers] == [False, True]
    assert len(await rig.mail(AGENT)) == 1


async def test_a_promise_that_was_settled_as_its_turn_ended_without_it_stays_settled(rig: Rig) -> None:
    """Whoever has settled it was told so. The history says what the turn knew."""
    fence = await rig.host(0)
    payment = promise(Kind.PROMISE)
    message = await opened(rig, fence, promises=(payment,))
    value = json.dumps({"promise": payment.id, "status": "abandoned", "at": 1.0})
    left = entry(1, key=payment.key, kind="promise", name=payment.name, value=value)
    ending = turn(
        None, journal=flush(message, Does.END, recorded=1, entries=(left,), done=(payment.id,)).journal
    )
    assert await rig.settle(payment.id, '{"a":1}')
    await rig.store.commit(fence, [ending], [])
    assert await rig.promises() == {payment.id: "resolved"}
    assert not await rig.settle(payment.id, '{"a":2}')
    assert len(await rig.mail(AGENT)) == 1  # for nobody


async def test_a_reply_settles_its_promise_once_and_wakes_its_owner(rig: Rig) -> None:
    fence = await rig.host(0)
    ask = promise(target="shop/oracle/1")
    message = await opened(rig, fence, promises=(ask,))
    a, b = [await rig.accept(letter("oracle/1")) for _ in range(2)]
    numbers = await rig.store.commit(
        fence,
        [
            turn(a, agent="oracle/1", sends=(letter("x/1"), reply(ask.id))),
        ],
        [],
    )
    wake = numbers[1]
    assert wake is not None
    assert wake < 0
    again = await rig.store.commit(fence, [turn(b, 2, agent="oracle/1", sends=(reply(ask.id),))], [])
    assert again == [None]
    assert [m.seq for m in await rig.mail(AGENT)] == [wake]
    await rig.store.commit(
        fence,
        [flush(message, Does.GO, recorded=1, entries=(entry(1),), consumed=(wake,), done=(ask.id,))],
        [],
    )
    assert await rig.mail(AGENT) == []
    assert await rig.promises() == {}


async def test_two_replies_in_one_commit_are_one(rig: Rig) -> None:
    fence = await rig.host(0)
    ask = promise()
    await opened(rig, fence, promises=(ask,))
    a = await rig.accept(letter("oracle/1"))
    numbers = await rig.store.commit(
        fence, [turn(a, agent="oracle/1", sends=(reply(ask.id), reply(ask.id), letter("x/1")))], []
    )
    assert [number is None for number in numbers] == [False, True, False]


async def test_a_wake_up_that_is_gone_cannot_be_consumed(rig: Rig) -> None:
    fence = await rig.host(0)
    message = await opened(rig, fence)
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [flush(message, Does.GO, consumed=(-5,))], [])


async def test_the_clock_settles_what_is_due(rig: Rig) -> None:
    fence = await rig.host(0)
    now = await rig.now()
    sleep = promise(Kind.SLEEP, due_at=now - 1, key="#1")
    ask = promise(Kind.ASK, due_at=now - 1, key="#2")
    later = promise(Kind.SLEEP, due_at=now + 60, key="#3")
    await opened(rig, fence, promises=(sleep, ask, later))
    with pytest.raises(Fenced):
        await rig.store.settle_due(fence, [0, 5], 10)
    assert len({at.agent for at in await rig.store.settle_due(fence, [0], 10)}) == 1
    wakes, _ = await rig.store.load_agent(
        DOMAIN, 0, "default", AGENT, Share(messages=9, size=9_999), control_only=True
    )
    found = {json.loads(w.payload)["promise"]: json.loads(w.payload)["status"] for w in wakes}
    assert found == {sleep.id: "resolved", ask.id: "expired"}
    assert all(w.seq < 0 and w.header.type == "callboard.wake.v1" for w in wakes)
    assert await rig.store.settle_due(fence, [0], 10) == []


async def test_a_promise_is_settled_from_outside_once_and_not_when_it_is_over(rig: Rig) -> None:
    fence = await rig.host(0)
    payment = promise(Kind.PROMISE, key="#1")
    over = promise(Kind.PROMISE, key="#2", due_at=await rig.now() - 1)
    await opened(rig, fence, promises=(payment, over))
    assert await rig.settle(payment.id, '{"a":1}')
    assert not await rig.settle(payment.id, '{"a":2}')
    assert not await rig.settle(over.id, "1")
    assert not await rig.settle(new_id(), "1")
    [wake] = await page(rig)
    assert json.loads(wake.payload)["value"] == {"a": 1}
    assert wake.header.sender == "external/test"


async def test_a_reply_whose_value_is_in_a_blob_settles_its_promise(rig: Rig) -> None:
    fence = await rig.host(0)
    ask = promise()
    await opened(rig, fence, promises=(ask,))
    a = await rig.accept(letter("oracle/1"))
    payload = json.dumps({"promise": ask.id, "status": "resolved", "by": "shop/oracle/1", "value": None})
    numbers = await rig.store.commit(
        fence, [turn(a, agent="oracle/1", sends=(letter(AGENT, payload, control=True, settles=ask.id),))], []
    )
    assert numbers != [None]
    assert await rig.promises() == {ask.id: "resolved"}


async def test_a_reply_to_somebody_else_settles_nothing(rig: Rig) -> None:
    fence = await rig.host(0)
    ask = promise()
    await opened(rig, fence, promises=(ask,))
    a = await rig.accept(letter("oracle/1"))
    wrong = letter(
        "order/2", json.dumps({"promise": ask.id, "status": "resolved"}), control=True, settles=ask.id
    )
    assert await rig.store.commit(fence, [turn(a, agent="oracle/1", sends=(wrong,))], []) == [None]
    assert await rig.promises() == {ask.id: "pending"}

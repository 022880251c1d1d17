"""Commits: a batch of turns is written whole, in order and to the byte, or not at all."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bus.errors import InvalidData, StaleTurn
from storage.chain import Transition, verify_chain
from storage.records import DeadLetter
from tests.contract.mail import given, mail_of
from tests.contract.rig import DOMAIN, Rig, letter, turn


async def test_a_commit_consumes_the_message_writes_state_and_history_and_sends(rig: Rig) -> None:
    fence = await rig.host(0, 1)
    [seq] = await given(rig)
    first, second = letter("order/2", '{"a": 1}', partition=1), letter("order/2", '{"a": 2}', partition=1)
    done = turn(seq, sends=(first, second))
    numbers = await rig.store.commit(fence, [done], [])
    assert await rig.mail("order/1") == []
    ([state], _) = await rig.store.load_states(DOMAIN, [("default", "order/1")])
    assert (state.version, state.state, state.lifecycle, state.hash) == (1, '{"n":1}', "running", done.hash)
    assert await rig.history("order/1") == [(1, done.body, done.prev, done.hash)]
    received = await mail_of(rig, "order/2", partition=1)
    assert [(e.seq, e.header, e.header_json, e.payload) for e in received] == [
        (numbers[0], first.header, first.header_json, '{"a": 1}'),
        (numbers[1], second.header, second.header_json, '{"a": 2}'),
    ]


async def test_several_turns_of_one_agent_commit_together(rig: Rig) -> None:
    fence = await rig.host(0)
    a, b, c = await given(rig, *["order/1"] * 3)
    one = turn(a, 1)
    two = turn(b, 2, prev=one.hash)
    three = turn(c, 3, prev=two.hash, state='{"n":3}')
    await rig.store.commit(fence, [one, two, three], [])
    ([state], _) = await rig.store.load_states(DOMAIN, [("default", "order/1")])
    assert (state.version, state.state) == (3, '{"n":3}')
    assert [version for version, *_ in await rig.history("order/1")] == [1, 2, 3]


async def test_later_sends_have_higher_numbers(rig: Rig) -> None:
    fence = await rig.host(0)
    a, b = await given(rig, "order/1", "order/2")
    early = await rig.store.commit(fence, [turn(a, sends=(letter("x/1"), letter("x/2"), letter("x/1")))], [])
    late = await rig.store.commit(fence, [turn(b, agent="order/2", sends=(letter("x/1"),))], [])
    numbers = [number for number in early + late if number is not None]
    assert numbers == sorted({*numbers})
    assert len(numbers) == 4
    assert min(numbers) > b


async def test_control_messages_come_first_in_the_order_they_were_sent(rig: Rig) -> None:
    fence = await rig.host(0)
    [seq] = await given(rig)
    sends = (
        letter("x/1", "1"),
        letter("x/1", "2", control=True),
        letter("x/1", "3"),
        letter("x/1", "4", control=True),
    )
    numbers = await rig.store.commit(fence, [turn(seq, sends=sends)], [])
    await rig.accept(letter("x/1", "5", control=True))
    found = await mail_of(rig, "x/1")
    assert [(e.payload, e.is_control) for e in found] == [
        ("2", True), ("4", True), ("5", True), ("1", False), ("3", False),
    ]  # fmt: skip
    by_payload = {e.payload: e.seq for e in found}
    assert numbers == [by_payload[payload] for payload in ("1", "2", "3", "4")]


@pytest.mark.parametrize("control", [True, False])
async def test_a_commit_returns_the_numbers_that_the_mailboxes_have(rig: Rig, control: bool) -> None:
    """Also where all are of one kind: the flag then travels once for all of them."""
    fence = await rig.host(0)
    [seq] = await given(rig)
    sends = tuple(letter("x/1", str(n), control=control) for n in range(3))
    numbers = await rig.store.commit(fence, [turn(seq, sends=sends)], [])
    assert [(e.payload, e.seq, e.is_control) for e in await mail_of(rig, "x/1")] == [
        (str(n), number, control) for n, number in enumerate(numbers)
    ]


async def test_a_timer_of_a_control_message_passes_the_queue_once_it_is_due(rig: Rig) -> None:
    fence = await rig.host(0)
    [seq, waiting] = await given(rig, "order/1", "x/1")
    due = await rig.now() - 1
    sends = (letter("x/1", '"plain"', due=due), letter("x/1", '"wake"', due=due, control=True))
    await rig.store.commit(fence, [turn(seq, sends=sends)], [])
    assert {at.agent for at in await rig.store.fire_timers(fence, [0], 10)} == {"x/1"}
    found = await mail_of(rig, "x/1")
    assert [e.payload for e in found] == ['"wake"', "{}", '"plain"']
    assert found[1].seq == waiting


async def test_a_destroyed_agent_keeps_its_version(rig: Rig) -> None:
    fence = await rig.host(0)
    a, b = await given(rig, "order/1", "order/1")
    await rig.store.commit(fence, [turn(a)], [])
    await rig.store.commit(fence, [turn(b, 2, state=None, lifecycle="destroyed")], [])
    ([state], _) = await rig.store.load_states(DOMAIN, [("default", "order/1")])
    assert (state.version, state.state, state.lifecycle) == (2, None, "destroyed")


async def test_a_message_is_consumed_once(rig: Rig) -> None:
    fence = await rig.host(0)
    [seq] = await given(rig)
    await rig.store.commit(fence, [turn(seq)], [])
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [turn(seq, 2)], [])
    assert len(await rig.history("order/1")) == 1


@pytest.mark.parametrize("version", [1, 3])
async def test_a_turn_from_another_version_of_the_state_writes_nothing(rig: Rig, version: int) -> None:
    fence = await rig.host(0)
    a, b = await given(rig, "order/1", "order/1")
    await rig.store.commit(fence, [turn(a)], [])
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [turn(b, version, sends=(letter("x/1"),))], [])
    assert (len(await rig.mail("order/1")), await rig.mail("x/1")) == (1, [])


async def test_one_stale_turn_takes_its_whole_batch_with_it(rig: Rig) -> None:
    fence = await rig.host(0)
    good, bad = await given(rig, "order/1", "order/2")
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [turn(good), turn(bad, 2, agent="order/2")], [])
    assert len(await rig.mail("order/1")) == 1
    assert await rig.store.load_states(DOMAIN, [("default", "order/1"), ("default", "order/2")]) == ([], 2)
    assert await rig.history("order/1") == []


async def test_history_is_stored_to_the_byte(rig: Rig) -> None:
    fence = await rig.host(0)
    numbers = await given(rig, *["order/1"] * 3)
    bodies = [
        '{"version":1,"state_hash":"","z":1.0,"a":1e2,"a":2}',
        '{"version":2,\t"text" : "\\u00e9 é \\/ 😀 \\u0001",  "n":123456789012345678901234567890}',
        '{"version":3,"state_hash":"","b":[ ],"c":{ }, "d":-0.0}\n',
    ]
    prev = bytes(32)
    for version, (seq, body) in enumerate(zip(numbers, bodies, strict=True), start=1):
        done = turn(seq, version, body=body, prev=prev, state=None)
        await rig.store.commit(fence, [done], [])
        prev = done.hash
    rows = await rig.history("order/1")
    assert [body for _, body, _, _ in rows] == bodies
    history = [Transition(version=v, body=b, prev=p, hash=h) for v, b, p, h in rows]
    ([newest], _) = await rig.store.load_states(DOMAIN, [("default", "order/1")])
    verify_chain("shop/order/1", history, newest)


@pytest.mark.parametrize(
    "bad",
    [
        {"state": '{"text":"\0"}'},
        {"state": '{"text":"\ud800"}'},
        {"state": '{"n":NaN}'},
        {"state": '{"n":1'},
        {"body": "not json"},
        {"body": '{"text":"\ud800"}'},
        {"sends": (letter("x/1", '{"n":Infinity}'),)},
        {"sends": (letter("x/1", "{'n':1}"),)},
        {"sends": (letter("x/1", '"\0"'),)},
        {"dead": DeadLetter(reason="failed", error="NUL \0", failures=1)},
        {"dead": DeadLetter(reason="failed", error="half \ud800", failures=1)},
    ],
    ids=lambda bad: "_".join(bad),
)
async def test_data_that_cannot_be_stored_is_refused_and_nothing_is_written(
    rig: Rig, bad: dict[str, Any]
) -> None:
    fence = await rig.host(0)
    good, evil = await given(rig, "order/1", "order/2")
    refused = msgspec.structs.replace(turn(evil, agent="order/2"), **bad)
    with pytest.raises(InvalidData):
        await rig.store.commit(fence, [turn(good), refused], [])
    assert len(await rig.mail("order/1")) == len(await rig.mail("order/2")) == 1
    await rig.store.commit(fence, [turn(good)], [])

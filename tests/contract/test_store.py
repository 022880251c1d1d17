"""What a host may rely on, of every store: the same tests over memory and over Postgres."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from bus.envelope import Envelope, new_id
from bus.errors import Fenced, InvalidData, InvalidPayload, StaleTurn, StorageUnavailable
from storage.chain import Transition, verify_chain
from storage.records import (
    DeadEvent,
    DeadLetter,
    EventBatch,
    EventCursor,
    Fence,
    MailPlace,
    Mark,
    NewTask,
    Share,
    TaskEvent,
    TaskWrite,
)
from tests.contract.rig import DOMAIN, Rig, letter, turn

MUCH = 1_000_000


def mark(seq: int, **more: Any) -> Mark:
    return Mark(tenant="default", partition=0, agent="order/1", seq=seq, **more)


async def given(rig: Rig, *agents: str, **more: Any) -> list[int]:
    """A message from outside for each agent."""
    numbers = [await rig.accept(letter(agent, **more)) for agent in agents or ("order/1",)]
    return [number for number in numbers if number is not None]


MOST = 10_000  # bytes of a message in these tests


def size_of(envelope: Envelope) -> int:
    return len(envelope.header_json.encode()) + len(envelope.payload.encode())


def _text(number: int, text: str) -> str:
    return f'{{"number": {number}, "text": "{text}"}}'


async def mail_of(rig: Rig, agent: str, *, partition: int = 0, messages: int = 10) -> list[Envelope]:
    share = Share(messages=messages, size=MUCH)
    found, _ = await rig.store.load_agent(DOMAIN, partition, "default", agent, share)
    return found


# -- commits -----------------------------------------------------------------------------------------


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


# -- the fence ---------------------------------------------------------------------------------------


async def test_an_ended_epoch_writes_nothing(rig: Rig) -> None:
    fence = await rig.host(0)
    [seq] = await given(rig)
    await rig.end(fence)
    with pytest.raises(Fenced):
        await rig.store.commit(fence, [turn(seq)], [])
    with pytest.raises(Fenced):
        await rig.store.commit(fence, [], [mark(seq, failed=1)])
    with pytest.raises(Fenced):
        await rig.store.fire_timers(fence, [0], 10)
    assert [m.failures for m in await rig.mail("order/1")] == [0]
    assert await rig.history("order/1") == []


async def test_a_batch_that_touches_one_partition_of_another_host_writes_nothing(rig: Rig) -> None:
    mine, other = await rig.host(0), await rig.host(1)
    [a], [b] = await given(rig), await given(rig, "order/2", partition=1)
    with pytest.raises(Fenced):
        await rig.store.commit(mine, [turn(a), turn(b, agent="order/2", partition=1)], [])
    assert len(await rig.mail("order/1")) == len(await rig.mail("order/2", 1)) == 1
    await rig.store.commit(other, [turn(b, agent="order/2", partition=1)], [])


async def test_an_epoch_that_never_was_writes_nothing(rig: Rig) -> None:
    [seq] = await given(rig)
    with pytest.raises(Fenced):
        await rig.store.commit(Fence(domain=DOMAIN, epoch=10_000), [turn(seq)], [])
    with pytest.raises(Fenced):
        await rig.store.read_ownership(Fence(domain=DOMAIN, epoch=10_000))


async def test_a_released_partition_is_fenced_at_once(rig: Rig) -> None:
    fence = await rig.host(0, 1)
    [seq] = await given(rig)
    await rig.store.release(fence, [0])
    with pytest.raises(Fenced):
        await rig.store.commit(fence, [turn(seq)], [])
    ownership = await rig.store.read_ownership(fence)
    assert (ownership.owned, ownership.wanted, ownership.ended) == (frozenset({1}), frozenset({0, 1}), False)
    await rig.end(fence)
    ownership = await rig.store.read_ownership(fence)
    assert (ownership.owned, ownership.ended, ownership.ended_why) == (frozenset(), True, "ended by a test")


# -- stale turns -------------------------------------------------------------------------------------


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


# -- marks -------------------------------------------------------------------------------------------


async def test_marks_count_and_the_newest_delay_and_error_stay(rig: Rig) -> None:
    fence = await rig.host(0)
    [seq] = await given(rig)
    await rig.store.commit(fence, [], [mark(seq, failed=1, delay_s=60.0, error="first")])
    [row] = await rig.mail("order/1")
    assert (row.failures, row.trials, row.last_error) == (1, 0, "first")
    assert 50 < (row.retry_in or 0) <= 60
    [envelope] = await mail_of(rig, "order/1")
    assert envelope.failures == 1
    assert envelope.retry_at == pytest.approx(await rig.now() + 60, abs=10)
    await rig.store.commit(fence, [], [mark(seq, tried=1)])
    assert await rig.mail("order/1") == [(seq, 1, 1, None, "first")]


async def test_several_marks_of_one_message_in_one_batch_all_count(rig: Rig) -> None:
    fence = await rig.host(0)
    [seq] = await given(rig)
    await rig.store.commit(
        fence, [], [mark(seq, tried=1), mark(seq, failed=1, error="a"), mark(seq, failed=1, error="b")]
    )
    assert await rig.mail("order/1") == [(seq, 2, 1, None, "b")]


async def test_a_message_may_fail_and_then_be_handled_in_one_batch(rig: Rig) -> None:
    fence = await rig.host(0)
    [seq] = await given(rig)
    await rig.store.commit(fence, [turn(seq)], [mark(seq, failed=1)])
    assert await rig.mail("order/1") == []


async def test_marking_a_message_that_is_gone_writes_nothing(rig: Rig) -> None:
    fence = await rig.host(0)
    a, b = await given(rig, "order/1", "order/1")
    await rig.store.commit(fence, [turn(a)], [])
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [turn(b, 2)], [mark(a, failed=1)])
    assert len(await rig.mail("order/1")) == 1


async def test_a_pausing_turn_leaves_its_message_with_a_mark(rig: Rig) -> None:
    fence = await rig.host(0)
    [seq] = await given(rig)
    await rig.store.commit(
        fence, [turn(None, lifecycle="paused", state=None, mark=mark(seq, failed=1, error="why"))], []
    )
    assert await rig.mail("order/1") == [(seq, 1, 0, None, "why")]
    ([state], _) = await rig.store.load_states(DOMAIN, [("default", "order/1")])
    assert state.lifecycle == "paused"


# -- dead letters ------------------------------------------------------------------------------------


async def test_a_dead_letter_goes_in_can_be_read_and_comes_out_once(rig: Rig) -> None:
    fence = await rig.host(0)
    a, b, c = await given(rig, *["order/1"] * 3)
    dead = DeadLetter(reason="failed", error="ValueError: ünfit", failures=3)
    given_up = msgspec.structs.replace(turn(a, dead=dead), header_json='{"h": 1}', payload='{"p":  2}')
    await rig.store.commit(fence, [given_up], [])
    [(number, *rest)] = await rig.dead_letters()
    assert rest == ["order/1", "failed", "ValueError: ünfit", 3]
    assert await rig.store.read_dead_letter(DOMAIN, "default", "order/1", number) == ('{"h": 1}', '{"p":  2}')
    assert await rig.store.read_dead_letter(DOMAIN, "other", "order/1", number) is None
    assert await rig.store.read_dead_letter(DOMAIN, "default", "order/2", number) is None
    await rig.store.commit(fence, [turn(b, 2, undead=(number,), sends=(letter(),))], [])
    assert await rig.dead_letters() == []
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [turn(c, 3, undead=(number,))], [])
    assert len(await rig.mail("order/1")) == 2


# -- timers ------------------------------------------------------------------------------------------


async def test_due_timers_become_messages_once_in_the_order_of_their_times(rig: Rig) -> None:
    fence = await rig.host(0)
    [seq] = await given(rig)
    now = await rig.now()
    sends = (
        letter("x/1", "3", due=now - 1), letter("x/1", "1", due=now - 3), letter("x/1", "9", due=now + 900),
        letter("x/1", "2", due=now - 2),
    )  # fmt: skip
    assert await rig.store.commit(fence, [turn(seq, sends=sends)], []) == []
    assert (await rig.mail("x/1"), await rig.timers()) == ([], 4)
    where = MailPlace(tenant="default", partition=0, agent="x/1")
    for limit, payloads in ((2, ["1", "2"]), (10, ["1", "2", "3"])):
        assert set(await rig.store.fire_timers(fence, [0], limit)) == {where}
        assert [envelope.payload for envelope in await mail_of(rig, "x/1")] == payloads
    assert (await rig.store.fire_timers(fence, [0], 10), await rig.timers()) == ([], 1)


async def test_a_timer_fires_once_however_many_look(rig: Rig) -> None:
    fence = await rig.host(0)
    [seq] = await given(rig)
    due = await rig.now() - 1
    sends = tuple(letter("x/1", str(n), due=due) for n in range(20))
    await rig.store.commit(fence, [turn(seq, sends=sends)], [])
    await asyncio.gather(*(rig.store.fire_timers(fence, [0], 20) for _ in range(4)))
    payloads = [envelope.payload for envelope in await mail_of(rig, "x/1", messages=50)]
    assert sorted(payloads, key=int) == [str(n) for n in range(20)]


async def test_only_the_owner_of_a_partition_fires_its_timers(rig: Rig) -> None:
    mine, other = await rig.host(0), await rig.host(1)
    [seq] = await given(rig)
    due = await rig.now() - 1
    await rig.store.commit(mine, [turn(seq, sends=(letter("x/1", due=due, partition=1),))], [])
    assert await rig.store.fire_timers(mine, [0], 10) == []
    with pytest.raises(Fenced):
        await rig.store.fire_timers(mine, [0, 1], 10)
    assert len(await rig.store.fire_timers(other, [1], 10)) == 1


# -- loading -----------------------------------------------------------------------------------------


async def load_all(
    rig: Rig, partition: int, agents: int, each: int, *, each_bytes: int = MUCH, page_bytes: int = MUCH
) -> tuple[list[Envelope], set[tuple[str, str]]]:
    found: list[Envelope] = []
    more: set[tuple[str, str]] = set()
    start: tuple[str, str] | None = ("", "")
    pages = 0
    while start is not None:
        page, page_more, start = await rig.store.load_partition(
            DOMAIN, partition, after=start, agents=agents, each=Share(messages=each, size=each_bytes),
            page_bytes=page_bytes,
        )  # fmt: skip
        assert sum(map(size_of, page)) < page_bytes + each_bytes + MOST
        found += page
        more |= page_more
        pages += 1
        assert pages < 100
    return found, more


@pytest.mark.parametrize("agents", [1, 2, 3, 100])
async def test_loading_pages_over_tenants_and_agents(rig: Rig, agents: int) -> None:
    expected = []
    for tenant in ("acme", "default", "zeta"):
        for agent in ("order/1", "order/10", "order/2", "order/é"):
            for n in range(2):
                seq = await rig.accept(letter(agent, str(n), tenant=tenant))
                expected.append((tenant, agent, seq))
        await rig.accept(letter("order/1", tenant=tenant, partition=1))
    found, _ = await load_all(rig, 0, agents, 10)
    assert [(e.tenant, e.agent, e.seq) for e in found] == expected


async def test_an_agent_with_more_than_its_share_is_named(rig: Rig) -> None:
    numbers = await given(rig, *["order/1"] * 5)
    await given(rig, *["order/2"] * 2)
    found, more = await load_all(rig, 0, 10, 3)
    assert [e.seq for e in found if e.agent == "order/1"] == numbers[:3]
    assert ("default", "order/1") in more
    assert ("default", "order/2") not in more
    assert [e.seq for e in await mail_of(rig, "order/1", messages=4)] == numbers[:4]


async def test_of_a_paused_agent_only_control_messages_are_loaded_with_its_partition(rig: Rig) -> None:
    fence = await rig.host(0)
    [seq, waiting, other] = await given(rig, "order/1", "order/1", "order/2")
    await rig.store.commit(fence, [turn(seq, lifecycle="paused")], [])
    assert [e.seq for e in (await load_all(rig, 0, 1, 10))[0]] == [other]
    assert [e.seq for e in await mail_of(rig, "order/1")] == [waiting]
    control = await rig.accept(letter("order/1", control=True))
    found, more = await load_all(rig, 0, 1, 10)
    assert ([e.seq for e in found], more) == ([control, other], set())
    own = await mail_of(rig, "order/1")
    assert [e.seq for e in own] == [control, waiting]


async def test_nothing_is_loaded_from_an_empty_partition(rig: Rig) -> None:
    empty = await rig.store.load_partition(
        DOMAIN, 7, after=("", ""), agents=10, each=Share(messages=10, size=MUCH), page_bytes=MUCH
    )
    assert empty == ([], set(), None)


async def test_a_share_of_bytes_ends_with_the_message_that_fills_it(rig: Rig) -> None:
    numbers = [await rig.accept(letter("order/1", _text(n, "é" * 500))) for n in range(6)]
    first = (await mail_of(rig, "order/1", messages=1))[0]
    for messages, size, expected in [
        (10, 1, 1), (10, size_of(first), 1), (10, size_of(first) + 1, 2), (10, 3 * size_of(first), 3), (2, MUCH, 2),
    ]:  # fmt: skip
        share = Share(messages=messages, size=size)
        found, more = await rig.store.load_agent(DOMAIN, 0, "default", "order/1", share)
        assert ([e.seq for e in found], more) == (numbers[:expected], True)
    found, more = await rig.store.load_agent(DOMAIN, 0, "default", "order/1", Share(messages=7, size=MUCH))
    assert ([e.seq for e in found], more) == (numbers, False)


async def test_of_mailboxes_read_at_once_each_reader_gets_its_own(rig: Rig) -> None:
    numbers = {f"order/{n}": await given(rig, *[f"order/{n}"] * n) for n in (1, 2, 3)}
    control = await rig.accept(letter("order/3", control=True))
    share = Share(messages=2, size=MUCH)
    read = [
        rig.store.load_agent(DOMAIN, 0, "default", agent, share, control_only=only)
        for agent, only in [("order/1", False), ("order/2", False), ("order/3", False), ("order/3", True)]
    ]
    found = [([(e.agent, e.seq) for e in mail], more) for mail, more in await asyncio.gather(*read)]
    assert found == [
        ([("order/1", numbers["order/1"][0])], False),
        ([("order/2", seq) for seq in numbers["order/2"]], True),
        ([("order/3", control), ("order/3", numbers["order/3"][0])], True),
        ([("order/3", control)], False),
    ]


async def test_pages_end_by_their_bytes_and_leave_nobody_out(rig: Rig) -> None:
    for agent in range(12):
        for n in range(3):
            await rig.accept(letter(f"order/{agent:02}", _text(n, "x" * 2_000)))
    found, more = await load_all(rig, 0, 100, 10, each_bytes=4_000, page_bytes=9_000)
    assert [e.agent for e in found] == [f"order/{agent:02}" for agent in range(12) for _ in range(2)]
    assert more == {("default", f"order/{agent:02}") for agent in range(12)}


@pytest.mark.parametrize("agents", [2, 100])
async def test_a_share_of_no_bytes_is_the_first_message_without_its_payload(rig: Rig, agents: int) -> None:
    fence = await rig.host(0)
    for agent in ("order/1", "order/2", "order/3"):
        await given(rig, agent, agent)
    first = await mail_of(rig, "order/1")
    await rig.store.commit(
        fence, [turn((await mail_of(rig, "order/3"))[0].seq, agent="order/3", lifecycle="paused")], []
    )
    found, more = await load_all(rig, 0, agents, 10, each_bytes=0)
    assert [(e.agent, e.payload) for e in found] == [("order/1", ""), ("order/2", "")]
    assert found[0] == msgspec.structs.replace(first[0], payload="")
    assert more == {("default", "order/1"), ("default", "order/2")}


async def test_only_the_control_messages_of_an_agent_can_be_loaded(rig: Rig) -> None:
    await given(rig, "order/1", "order/1")
    control = await rig.accept(letter("order/1", control=True))
    found, more = await rig.store.load_agent(
        DOMAIN, 0, "default", "order/1", Share(messages=2, size=MUCH), control_only=True
    )
    assert ([e.seq for e in found], more) == ([control], False)


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_the_heads_of_mailboxes_are_found_of_all_tenants_in_the_partitions_asked_for(
    rig: Rig, limit: int
) -> None:
    fence = await rig.host(0, 1, 3)
    expected = []
    for tenant in ("acme", "default"):
        for partition in (0, 1, 2, 3):
            for agent in ("order/1", "order/2"):
                [seq, _] = await given(rig, agent, agent, tenant=tenant, partition=partition)
                if partition != 2:
                    expected.append((tenant, partition, agent, seq))
    [seq, _] = await given(rig, "order/8", "order/8")
    [other, _] = await given(rig, "order/9", "order/9")
    pausing = [
        turn(seq, agent="order/8", lifecycle="paused"),
        turn(other, agent="order/9", lifecycle="paused"),
    ]
    await rig.store.commit(fence, pausing, [])
    control = await rig.accept(letter("order/9", control=True))
    assert control is not None
    expected.append(("default", 0, "order/9", control))
    found: list[tuple[str, int, str, int]] = []
    place: tuple[str, int, str] | None = ("", 0, "")
    looks = 0
    while place is not None:
        heads, place = await rig.store.mail_heads(DOMAIN, place, [3, 1, 0], limit)
        assert len(heads) <= limit
        found += [(head.tenant, head.partition, head.agent, head.seq) for head in heads]
        looks += 1
        assert looks < 50
    assert found == sorted(expected)


async def test_states_are_loaded_of_those_agents_that_have_one(rig: Rig) -> None:
    fence = await rig.host(0)
    [a], [b] = await given(rig), await given(rig, tenant="acme")
    await rig.store.commit(fence, [turn(a), turn(b, tenant="acme", state='{"n":2}')], [])
    keys = [("acme", "order/1"), ("default", "order/1"), ("default", "order/9")]
    found, _ = await rig.store.load_states(DOMAIN, keys)
    states = {(s.tenant, s.agent): s.state for s in found}
    assert states == {("acme", "order/1"): '{"n":2}', ("default", "order/1"): '{"n":1}'}


# -- blobs -------------------------------------------------------------------------------------------


async def test_a_blob_is_found_again_by_its_digest_within_its_tenant(rig: Rig) -> None:
    data = bytes(range(256)) * 8
    await rig.store.put_blob(DOMAIN, "acme", "d1", data)
    await rig.store.put_blob(DOMAIN, "acme", "d1", data)
    assert await rig.store.get_blob(DOMAIN, "acme", "d1") == data
    with pytest.raises(InvalidPayload, match="is not in storage"):
        await rig.store.get_blob(DOMAIN, "default", "d1")


# -- commits whose answer is lost --------------------------------------------------------------------


async def test_a_commit_whose_answer_was_lost_is_found_to_be_there(rig: Rig) -> None:
    fence = await rig.host(0)
    a, b = await given(rig, "order/1", "order/1")
    rig.lose_the_answer()
    lost = turn(a)
    with pytest.raises(StorageUnavailable):
        await rig.store.commit(fence, [lost], [])
    assert await rig.store.settle(fence, lost) is True
    await rig.store.commit(fence, [turn(b, 2)], [])


async def test_a_commit_whose_request_was_lost_is_found_to_be_missing(rig: Rig) -> None:
    fence = await rig.host(0)
    [seq] = await given(rig)
    rig.lose_the_request()
    with pytest.raises(StorageUnavailable):
        await rig.store.commit(fence, [turn(seq)], [])
    assert await rig.store.settle(fence, turn(seq)) is False
    await rig.store.commit(fence, [turn(seq)], [])


@pytest.mark.parametrize("later", [False, True])
async def test_a_commit_is_missing_where_another_turn_has_its_version(rig: Rig, later: bool) -> None:
    fence = await rig.host(0)
    a, b, c = await given(rig, "order/1", "order/1", "order/1")
    lost, other = turn(a), turn(b)
    await rig.store.commit(fence, [other], [])
    if later:
        await rig.store.commit(fence, [turn(c, 2, prev=other.hash)], [])
    assert await rig.store.settle(fence, lost) is False
    assert await rig.store.settle(fence, other) is True


async def test_a_host_that_has_lost_its_partition_settles_nothing(rig: Rig) -> None:
    fence = await rig.host(0)
    [seq] = await given(rig)
    await rig.store.release(fence, [0])
    with pytest.raises(Fenced):
        await rig.store.settle(fence, turn(seq))
    await rig.end(fence)
    with pytest.raises(Fenced):
        await rig.store.settle(fence, turn(seq))


# -- history -----------------------------------------------------------------------------------------


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


# -- data that cannot be stored ----------------------------------------------------------------------


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
    ids=str,
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


@pytest.mark.parametrize("error", ["NUL \0", "half \ud800"])
async def test_a_mark_whose_text_cannot_be_stored_is_refused(rig: Rig, error: str) -> None:
    fence = await rig.host(0)
    [seq] = await given(rig)
    with pytest.raises(InvalidData):
        await rig.store.commit(fence, [], [mark(seq, failed=1, error=error)])
    assert [m.failures for m in await rig.mail("order/1")] == [0]


# -- tasks -------------------------------------------------------------------------------------------


def task_write(task: str, status: str, *, finished: bool = False, result: str | None = None) -> TaskWrite:
    return TaskWrite(
        id=task, status=status, assignee="order/1", progress=0.5, result=result, error=None, finished=finished
    )


async def test_a_task_and_its_log_are_written_with_the_turn_and_the_last_write_counts(rig: Rig) -> None:
    fence = await rig.host(0)
    a, b = await given(rig, "order/1", "order/1")
    task = new_id()
    await rig.add_task(task)
    log = (
        TaskEvent(task=task, number=2, kind="begun", body='{"x": 1}'),
        TaskEvent(task=task, number=3, kind="done", body="{}"),
    )
    first = turn(a, tasks=(task_write(task, "running"),), task_events=log[:1])
    second = turn(
        b, 2, prev=first.hash, tasks=(task_write(task, "completed", finished=True, result='{"r":  1}'),),
        task_events=log[1:],
    )  # fmt: skip
    await rig.store.commit(fence, [first, second], [])
    assert await rig.task(task) == ("completed", '{"r":  1}', True)
    assert await rig.task_events(task) == [(2, "begun", '{"x": 1}'), (3, "done", "{}")]


async def test_a_task_that_another_one_has_started_begins_as_submitted_and_once(rig: Rig) -> None:
    fence = await rig.host(0)
    a, b = await given(rig, "order/1", "order/1")
    child = NewTask(
        id=new_id(), goal="g", input='{"x":  1}', priority=7, policy=None, deadline=9e9, parent="shop/1", root="shop/0",
    )  # fmt: skip
    line = TaskEvent(task=child.id, number=1, kind="submitted", body="{}")
    first = turn(a, new_tasks=(child,), task_events=(line,))
    await rig.store.commit(fence, [first], [])
    assert await rig.task(child.id) == ("submitted", None, False)
    assert await rig.task_events(child.id) == [(1, "submitted", "{}")]
    written = turn(b, 2, prev=first.hash, new_tasks=(child,), tasks=(task_write(child.id, "assigned"),),
                   task_events=(TaskEvent(task=child.id, number=2, kind="x", body="{}"),))  # fmt: skip
    await rig.store.commit(fence, [written], [])
    assert await rig.task(child.id) == ("assigned", None, False)


async def test_a_line_of_a_tasks_log_is_written_once(rig: Rig) -> None:
    fence = await rig.host(0)
    a, b = await given(rig, "order/1", "order/1")
    event = TaskEvent(task=new_id(), number=1, kind="begun", body="{}")
    await rig.store.commit(fence, [turn(a, task_events=(event,))], [])
    with pytest.raises(InvalidData):
        await rig.store.commit(fence, [turn(b, 2, task_events=(event,))], [])
    assert len(await rig.mail("order/1")) == 1


# -- from outside ------------------------------------------------------------------------------------


async def test_a_key_is_accepted_once_within_its_window(rig: Rig) -> None:
    assert await rig.accept(letter(), key="k") is not None
    assert await rig.accept(letter(), key="k") is None
    assert await rig.accept(letter(), key="other") is not None
    assert await rig.accept(letter(tenant="acme"), key="k") is not None
    assert await rig.accept(letter()) is not None
    assert await rig.accept(letter()) is not None
    assert len(await rig.mail("order/1")) == 4


async def test_a_key_is_accepted_again_when_its_window_has_passed(rig: Rig) -> None:
    assert await rig.accept(letter(), key="k", window_s=-60) is not None
    assert await rig.accept(letter(), key="k", window_s=60) is not None
    assert await rig.accept(letter(), key="k", window_s=60) is None


async def test_events_are_accepted_with_their_place_in_the_stream(rig: Rig) -> None:
    fence = await rig.host(0, 1)
    assert await rig.store.event_cursor(DOMAIN) is None
    a, b, again = letter("order/1"), letter("order/2", partition=1), letter("order/1")
    dead = DeadEvent(
        partition=0,
        agent="events/x",
        tenant="default",
        message=new_id(),
        reason="invalid_event",
        error="no",
        header='{"h":1}',
        payload="{}",
    )
    batch = EventBatch(keys=["e1", "e2", "e1"], messages=[a, b, again], dead=[dead])
    numbers = await rig.store.accept_events(
        fence, EventCursor(incarnation="monday", seq=3, at_ns=1_795_000_000_123_456_789), batch
    )
    assert sorted(numbers) == sorted([a.header.id, b.header.id])
    assert [m.seq for m in await rig.mail("order/1")] == [numbers[a.header.id]]
    assert [(agent, reason) for _, agent, reason, _, _ in await rig.dead_letters()] == [
        ("events/x", "invalid_event")
    ]
    assert await rig.store.event_cursor(DOMAIN) == EventCursor(
        incarnation="monday", seq=3, at_ns=1_795_000_000_123_456_789
    )
    with pytest.raises(StaleTurn):
        await rig.store.accept_events(
            fence, EventCursor(incarnation="monday", seq=3, at_ns=1_795_000_000_123_456_789), batch
        )
    assert len(await rig.dead_letters()) == 1
    none = EventBatch(keys=[], messages=[], dead=[])
    assert await rig.store.accept_events(fence, EventCursor(incarnation="tuesday", seq=1), none) == {}
    assert await rig.store.event_cursor(DOMAIN) == EventCursor(incarnation="tuesday", seq=1)


async def test_only_the_owner_of_the_first_partition_accepts_events(rig: Rig) -> None:
    fence = await rig.host(1)
    with pytest.raises(Fenced):
        await rig.store.accept_events(
            fence, EventCursor(incarnation="monday", seq=1), EventBatch(keys=[], messages=[], dead=[])
        )


# -- ownership ---------------------------------------------------------------------------------------


async def test_a_host_reads_what_it_owns_and_clears_what_it_has_tried(rig: Rig) -> None:
    fence = await rig.host(0, 2)
    await rig.store.ready(fence)
    await rig.store.clear_suspects(fence, [0])
    ownership = await rig.store.read_ownership(fence)
    assert (ownership.owned, ownership.suspect, ownership.draining) == (frozenset({0, 2}), frozenset(), False)


async def test_a_partition_that_is_given_back_before_its_trial_is_suspect_at_its_next_owner(rig: Rig) -> None:
    giver = await rig.host(0, 1, 2, suspect=(0, 1))
    await rig.store.release(giver, [1, 2])
    assert await rig.suspects() == {1}
    ownership = await rig.store.read_ownership(giver)
    assert (ownership.owned, ownership.suspect) == (frozenset({0}), frozenset({0}))
    await rig.store.clear_suspects(giver, [0])
    await rig.store.release(giver, [0])
    assert await rig.suspects() == {1}


async def test_a_host_whose_epoch_has_ended_makes_nothing_suspect(rig: Rig) -> None:
    giver = await rig.host(0, suspect=(0,))
    await rig.end(giver)
    await rig.store.release(giver, [0])
    assert await rig.suspects() == set()


async def test_states_are_read_until_a_page_is_full_and_no_agent_is_left_out(rig: Rig) -> None:
    fence = await rig.host(0)
    names = [f"order/{n}" for n in range(4)]
    keys = [("default", name) for name in ("nobody/1", *names, "nobody/2")]
    for name in names:
        seq = await rig.accept(letter(name))
        await rig.store.commit(fence, [turn(seq, agent=name, state='"' + "x" * 100 + '"')], [])
    found, looked = await rig.store.load_states(DOMAIN, keys, page_bytes=200)
    assert ([state.agent for state in found], looked) == (["order/0", "order/1"], 3)
    assert found[1].state == '"' + "x" * 100 + '"'
    found, looked = await rig.store.load_states(DOMAIN, keys[looked:], page_bytes=1)
    assert ([state.agent for state in found], looked) == (["order/2"], 1)
    found, looked = await rig.store.load_states(DOMAIN, keys[4:])
    assert ([state.agent for state in found], looked) == (["order/3"], 2)
    assert await rig.store.load_states(DOMAIN, keys[5:], page_bytes=1) == ([], 1)

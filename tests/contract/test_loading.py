"""Loading of mailboxes, states and blobs: in pages that leave nothing out and stay small."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from bus.envelope import Envelope
from bus.errors import InvalidPayload
from storage.records import Share
from tests.contract.mail import MUCH, given, mail_of
from tests.contract.rig import DOMAIN, Rig, letter, turn

MOST = 10_000  # bytes of a message in these tests


def size_of(envelope: Envelope) -> int:
    return len(envelope.header_json.encode()) + len(envelope.payload.encode())


def _text(number: int, text: str) -> str:
    return f'{{"number": {number}, "text": "{text}"}}'


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


async def test_a_blob_is_found_again_by_its_digest_within_its_tenant(rig: Rig) -> None:
    data = bytes(range(256)) * 8
    await rig.store.put_blob(DOMAIN, "acme", "d1", data)
    await rig.store.put_blob(DOMAIN, "acme", "d1", data)
    assert await rig.store.get_blob(DOMAIN, "acme", "d1") == data
    with pytest.raises(InvalidPayload, match="is not in storage"):
        await rig.store.get_blob(DOMAIN, "default", "d1")


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

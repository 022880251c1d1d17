"""Turns that wait, in every store: they leave the mailbox when they open, and what their hosts and operators write of them."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from bus.envelope import new_id
from bus.errors import Fenced, StaleTurn, StorageUnavailable
from storage.journal import Does, Flush, JournalWrite, Kind
from storage.records import Attempt, Mark, Share
from tests.contract.open_turns import AGENT, accepted, entry, flush, opened, page, promise, stored, turn_of
from tests.contract.rig import DOMAIN, Rig, letter, turn


async def test_a_turn_that_opens_leaves_the_mailbox_with_its_journal(rig: Rig) -> None:
    fence = await rig.host(0)
    message = await opened(rig, fence, entries=(entry(1), entry(2, ok=False, value='{"a":1}')))
    assert await rig.mail(AGENT) == []
    found = await stored(rig)
    assert (found.seq, found.turn) == message
    assert (found.payload, found.began_at, found.waiting) == ('{"n":1}', 12.25, False)
    assert [e.number for e in found.entries] == [1, 2]
    assert found.entries[1] == entry(2, ok=False, value='{"a":1}')
    ([envelope], _) = await rig.store.load_turns(DOMAIN, 0)
    assert (envelope.seq, envelope.open, envelope.agent) == (message[0], True, AGENT)
    ([state], _) = await rig.store.load_states(DOMAIN, [("default", AGENT)])
    assert (state.turn, state.version, state.state) == ("open", 0, None)


async def test_what_is_recorded_after_the_clock_was_set_back_is_found(rig: Rig) -> None:
    fence = await rig.host(0)
    began_at = time.time() + 24 * 3600
    message = await opened(rig, fence, entries=(entry(1),), began_at=began_at)
    goes_on = flush(message, Does.GO, entries=(entry(2),), recorded=1, began_at=began_at)
    await rig.store.commit(fence, [goes_on], [])
    assert [e.number for e in (await stored(rig)).entries] == [1, 2]


async def test_several_flushes_of_one_turn_may_be_in_one_commit(
    rig: Rig,
) -> None:
    fence = await rig.host(0)
    message = await accepted(rig)
    begins = [
        flush(message, Does.OPEN),
        flush(message, Does.GO, entries=(entry(1),)),
        flush(message, Does.GO, entries=(entry(2),), recorded=1),
        flush(message, Does.PARK, recorded=2),
    ]
    await rig.store.commit(fence, begins, [])
    assert await turn_of(rig) == "waiting"
    found = await stored(rig)
    assert ([e.number for e in found.entries], found.recorded) == ([1, 2], 3)
    goes_on = [
        flush(message, Does.RESUME, entries=(entry(3),), recorded=3),
        flush(message, Does.GO, promises=(promise(),), recorded=4),
    ]
    await rig.store.commit(fence, goes_on, [])
    assert (await turn_of(rig), (await stored(rig)).recorded) == ("open", 5)


@pytest.mark.parametrize("does", [Does.GO, Does.RESUME, Does.PARK, Does.END])
@pytest.mark.parametrize("behind", [1, -1])
async def test_what_was_written_by_a_run_that_does_not_know_all_that_is_recorded_is_refused(
    rig: Rig, does: Does, behind: int
) -> None:
    fence = await rig.host(0)
    message = await opened(rig, fence, entries=(entry(1),), promises=(promise(),))
    write = flush(message, does, entries=(entry(2),), recorded=2 - behind)
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [turn(None, journal=write.journal) if does is Does.END else write], [])
    found = await stored(rig)
    assert ([e.number for e in found.entries], found.recorded, found.waiting) == ([1], 2, False)


async def test_of_two_runs_that_flush_the_same_into_one_commit_neither_is_written(rig: Rig) -> None:
    fence = await rig.host(0)
    message = await opened(rig, fence)
    same = flush(message, Does.GO, entries=(entry(1),))
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [same, same], [])
    assert (await stored(rig)).entries == ()
    await rig.store.commit(fence, [same], [])
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [same], [])
    assert [e.number for e in (await stored(rig)).entries] == [1]


@pytest.mark.parametrize("puts_away_first", [False, True])
async def test_a_turn_is_not_put_away_by_a_run_of_it_beside_what_another_one_writes(
    rig: Rig, puts_away_first: bool
) -> None:
    fence = await rig.host(0)
    message = await opened(rig, fence, promises=(promise(),))
    goes_on = flush(message, Does.GO, recorded=1, entries=(entry(1),))
    writes = [goes_on, flush(message, Does.PARK, recorded=1)]
    first, second = reversed(writes) if puts_away_first else writes
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [first, second], [])
    await rig.store.commit(fence, [first], [])
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [second], [])
    assert await turn_of(rig) == ("waiting" if puts_away_first else "open")


async def test_what_an_operator_adds_to_a_turn_that_was_put_away_leaves_it_there(rig: Rig) -> None:
    fence = await rig.host(0)
    message = await opened(rig, fence)
    await rig.store.commit(fence, [flush(message, Does.PARK, entries=(entry(1),))], [])
    edit = flush(message, Does.GO, entries=(entry(2),), recorded=2).journal
    await rig.store.commit(fence, [turn(None, journal=edit)], [])
    assert (await turn_of(rig), (await stored(rig)).recorded) == ("waiting", 3)


async def test_a_turn_that_waits_is_not_loaded_and_its_agent_gets_only_what_passes_the_queue(
    rig: Rig,
) -> None:
    fence = await rig.host(0)
    message = await opened(rig, fence)
    later = await rig.accept(letter(AGENT))
    await rig.store.commit(fence, [flush(message, Does.PARK, entries=(entry(1),))], [])
    assert await turn_of(rig) == "waiting"
    assert await rig.store.load_turns(DOMAIN, 0) == ([], None)
    assert await page(rig) == []
    heads, _ = await rig.store.mail_heads(DOMAIN, ("", 0, ""), [0], 10)
    assert heads == []
    passing = await rig.accept(letter(AGENT, control=True))
    assert [e.seq for e in await page(rig)] == [passing]
    await rig.store.commit(fence, [flush(message, Does.RESUME, recorded=2)], [])
    assert await turn_of(rig) == "open"
    share = Share(messages=10, size=10_000)
    found, _ = await rig.store.load_agent(DOMAIN, 0, "default", AGENT, share)
    assert [(e.seq, e.open) for e in found] == [(message[0], True), (passing, False), (later, False)]


@pytest.mark.parametrize(("turns", "size"), [(2, 10_000), (100, 200), (100, 1)])
async def test_open_turns_are_read_page_by_page(rig: Rig, turns: int, size: int) -> None:
    fence = await rig.host(0)
    names = [f"order/{n}" for n in range(5)]
    for name in reversed(names):
        message = letter(name, '{"n":1}')
        seq = await rig.accept(message)
        assert seq is not None
        journal = JournalWrite(seq=seq, turn=message.header.id, does=Does.OPEN, began_at=1.0)
        write = Flush(tenant="default", partition=0, agent=name, journal=journal)
        await rig.store.commit(fence, [write], [])
    found, sizes = [], []
    place: tuple[str, str] | None = ("", "")
    while place is not None:
        page, place = await rig.store.load_turns(DOMAIN, 0, after=place, turns=turns, page_bytes=size)
        found += [(envelope.agent, envelope.payload, envelope.open) for envelope in page]
        sizes.append(len(page))
    assert found == [(name, '{"n":1}', True) for name in names]
    assert max(sizes) == (1 if size == 1 else 2)


async def test_a_turn_that_ends_leaves_its_journal_as_history_and_lets_its_promises_go(rig: Rig) -> None:
    fence = await rig.host(0)
    ask, payment = promise(), promise(Kind.PROMISE, key="#8")
    message = await opened(rig, fence, promises=(ask, payment))
    ids = {p.id: p.status for p in (await stored(rig)).promises}
    assert ids == {ask.id: "pending", payment.id: "pending"}
    ending = turn(
        None,
        journal=flush(message, Does.END, recorded=2, entries=(entry(1),), done=(ask.id, payment.id)).journal,
    )
    await rig.store.commit(fence, [ending], [])
    assert await rig.store.load_journal(DOMAIN, "default", AGENT) is None
    assert await rig.promises() == {payment.id: "abandoned"}
    ([state], _) = await rig.store.load_states(DOMAIN, [("default", AGENT)])
    assert (state.turn, state.version) == (None, 1)
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [turn(None, 2, journal=ending.journal)], [])


async def test_an_agents_next_turn_may_open_in_the_commit_in_which_one_ends(rig: Rig) -> None:
    fence = await rig.host(0)
    first = await opened(rig, fence)
    second = await accepted(rig)
    ends = turn(None, journal=flush(first, Does.END).journal)
    await rig.store.commit(fence, [ends, flush(second, Does.OPEN, entries=(entry(1),))], [])
    assert (await stored(rig)).seq == second[0]


async def test_nothing_goes_on_in_a_turn_in_the_commit_in_which_it_ends(rig: Rig) -> None:
    fence = await rig.host(0)
    message = await opened(rig, fence)
    ends = turn(None, journal=flush(message, Does.END).journal)
    goes_on = flush(message, Does.GO, entries=(entry(1),), sends=(letter("order/2"),))
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [ends, goes_on], [])
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [goes_on, ends], [])
    assert (await turn_of(rig), await rig.mail("order/2")) == ("open", [])


@pytest.mark.parametrize("does", [Does.GO, Does.RESUME, Does.PARK, Does.END])
async def test_nothing_is_written_to_a_turn_that_is_not_open(rig: Rig, does: Does) -> None:
    fence = await rig.host(0)
    message = await accepted(rig)
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [flush(message, does, entries=(entry(1),))], [])
    assert len(await rig.mail(AGENT)) == 1


async def test_a_message_that_is_gone_opens_no_turn(rig: Rig) -> None:
    fence = await rig.host(0)
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [flush((4_711, new_id()), Does.OPEN)], [])


async def test_only_the_owner_writes_to_a_journal(rig: Rig) -> None:
    stranger = await rig.host(1)
    message = await accepted(rig)
    with pytest.raises(Fenced):
        await rig.store.commit(stranger, [flush(message, Does.OPEN)], [])


async def test_a_failure_of_an_open_turn_is_marked_on_it(rig: Rig) -> None:
    fence = await rig.host(0)
    message = await opened(rig, fence)
    failed = Mark(
        tenant="default", partition=0, agent=AGENT, seq=message[0], failed=1, tried=1, delay_s=30.0, error="no",
        open=True,
    )  # fmt: skip
    await rig.store.commit(fence, [], [failed])
    ([envelope], _) = await rig.store.load_turns(DOMAIN, 0)
    assert (envelope.failures, envelope.trials) == (1, 1)
    assert envelope.retry_at == pytest.approx(await rig.now() + 30, abs=5)
    with pytest.raises(StaleTurn):
        await rig.store.commit(
            fence, [], [Mark(tenant="default", partition=0, agent="x/1", seq=1, open=True)]
        )


@pytest.mark.parametrize("lost", ["answer", "request"])
@pytest.mark.parametrize("what", ["opens", "entry", "promise"])
async def test_whether_a_flush_was_committed_is_found_by_looking(rig: Rig, lost: str, what: str) -> None:
    fence = await rig.host(0)
    message = await accepted(rig)
    write = flush(message, Does.OPEN)
    if what != "opens":
        await rig.store.commit(fence, [write], [])
        more: dict[str, Any] = {"entries": (entry(1),)} if what == "entry" else {"promises": (promise(),)}
        write = flush(message, Does.GO, **more)
    (rig.lose_the_answer if lost == "answer" else rig.lose_the_request)()
    with pytest.raises(StorageUnavailable):
        await rig.store.commit(fence, [write], [])
    assert await rig.store.settle(fence, write) is (lost == "answer")


async def test_a_failure_marked_in_the_commit_in_which_its_turn_opens_is_marked_on_the_turn(rig: Rig) -> None:
    fence = await rig.host(0)
    message = await accepted(rig)
    failed = Mark(tenant="default", partition=0, agent=AGENT, seq=message[0], failed=1, error="no")
    await rig.store.commit(fence, [flush(message, Does.OPEN, entries=(entry(1),))], [failed])
    ([envelope], _) = await rig.store.load_turns(DOMAIN, 0)
    assert envelope.failures == 1


async def test_a_turn_that_makes_progress_has_its_trials_and_its_next_try_forgotten(rig: Rig) -> None:
    fence = await rig.host(0)
    message = await opened(rig, fence)
    tried = Mark(tenant="default", partition=0, agent=AGENT, seq=message[0], tried=3, delay_s=60.0, open=True)
    await rig.store.commit(fence, [], [tried])
    before = await stored(rig)
    assert (before.trials, before.retry_at is None) == (3, False)
    await rig.store.commit(fence, [flush(message, Does.RESUME, entries=(entry(1),))], [])
    after = await stored(rig)
    assert (after.trials, after.retry_at) == (0, None)


@pytest.mark.parametrize("in_one_commit", [False, True])
async def test_a_turn_that_is_put_away_has_its_trials_forgotten(rig: Rig, in_one_commit: bool) -> None:
    fence = await rig.host(0)
    message = await accepted(rig)
    tried = Mark(tenant="default", partition=0, agent=AGENT, seq=message[0], tried=3)
    await rig.store.commit(fence, [], [tried])
    writes = [flush(message, Does.OPEN, entries=(entry(1),)), flush(message, Does.PARK, recorded=1)]
    for group in [writes] if in_one_commit else [[write] for write in writes]:
        await rig.store.commit(fence, group, [])
    found = await stored(rig)
    assert (found.waiting, found.trials) == (True, 0)


@pytest.mark.parametrize("tried", [1, 3])
@pytest.mark.parametrize("is_open", [False, True])
async def test_an_attempt_that_ends_with_a_hand_over_does_not_count(
    rig: Rig, tried: int, is_open: bool
) -> None:
    giver = await rig.host(0, suspect=(0,))
    message = await accepted(rig)
    if is_open:
        await rig.store.commit(giver, [flush(message, Does.OPEN)], [])
    attempt = Attempt(tenant="default", partition=0, agent=AGENT, seq=message[0])
    mark = Mark(tenant="default", partition=0, agent=AGENT, seq=message[0], tried=1, open=is_open)
    for _ in range(tried):
        await rig.store.commit(giver, [], [mark])
    await rig.store.release(giver, [0], [attempt])
    assert await trials_of(rig, is_open=is_open) == tried - 1
    other = msgspec.structs.replace(attempt, seq=message[0] + 1)
    await rig.store.release(giver, [0], [other])
    assert await trials_of(rig, is_open=is_open) == tried - 1
    await rig.end(giver)
    await rig.store.release(giver, [0], [attempt])
    assert await trials_of(rig, is_open=is_open) == tried - 1


async def trials_of(rig: Rig, *, is_open: bool) -> int:
    if is_open:
        found = await rig.store.load_journal(DOMAIN, "default", AGENT)
        assert found is not None
        return found.trials
    [mail] = await rig.mail(AGENT, 0)
    return mail.trials

"""Marks on messages that were tried or have failed, and the dead letters of those that were given up."""

from __future__ import annotations

import msgspec
import pytest

from bus.envelope import new_id
from bus.errors import InvalidData, StaleTurn
from storage.journal import Does, Flush, JournalWrite
from storage.records import GENESIS, BuriedMessage, DeadLetter, TaskWrite
from tests.contract.mail import given, mail_of, mark
from tests.contract.rig import DOMAIN, Rig, letter, turn


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


@pytest.mark.parametrize(("does", "retry_in"), [(Does.GO, 60.0), (Does.RESUME, None)])
async def test_a_failure_counts_beside_what_an_operator_does_to_its_turn_in_one_batch(
    rig: Rig, does: Does, retry_in: float | None
) -> None:
    """It was changed (`go`) or skipped (`resume`, which has it go on at once)."""
    fence = await rig.host(0)
    [seq] = await given(rig)
    asked = await rig.accept(letter(control=True))
    opens = JournalWrite(seq=seq, turn=new_id(), does=Does.OPEN)
    await rig.store.commit(fence, [Flush(tenant="default", partition=0, agent="order/1", journal=opens)], [])
    by_hand = turn(asked, journal=msgspec.structs.replace(opens, does=does))
    await rig.store.commit(fence, [by_hand], [mark(seq, failed=1, delay_s=60.0, error="no", open=True)])
    found = await rig.store.load_journal(DOMAIN, "default", "order/1")
    assert found is not None
    assert found.failures == 1
    due = None if found.retry_at is None else found.retry_at - await rig.now()
    assert due == (retry_in and pytest.approx(retry_in, abs=10))
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


@pytest.mark.parametrize("error", ["NUL \0", "half \ud800"])
async def test_a_mark_whose_text_cannot_be_stored_is_refused(rig: Rig, error: str) -> None:
    fence = await rig.host(0)
    [seq] = await given(rig)
    with pytest.raises(InvalidData):
        await rig.store.commit(fence, [], [mark(seq, failed=1, error=error)])
    assert [m.failures for m in await rig.mail("order/1")] == [0]


async def test_a_dead_letter_goes_in_can_be_read_and_comes_out_once(rig: Rig) -> None:
    fence = await rig.host(0)
    a, b, c = await given(rig, *["order/1"] * 3)
    dead = DeadLetter(
        reason="failed", error="ValueError: ünfit", failures=3, frames="/ä.py:3 in f\n/b.py:4 in g"
    )
    plain = letter().header_json
    given_up = msgspec.structs.replace(turn(a, dead=dead), header_json=plain, payload='{"p":  2}')
    await rig.store.commit(fence, [given_up], [])
    [(number, *rest)] = await rig.dead_letters()
    assert rest == ["order/1", "failed", "ValueError: ünfit", 3, dead.frames]
    found = await rig.store.read_dead_letter(DOMAIN, "default", "order/1", number)
    assert found == BuriedMessage(header_json=plain, payload='{"p":  2}', reason="failed")
    assert await rig.store.read_dead_letter(DOMAIN, "other", "order/1", number) is None
    assert await rig.store.read_dead_letter(DOMAIN, "default", "order/2", number) is None
    await rig.store.commit(fence, [turn(b, 2, undead=(number,), sends=(letter(),))], [])
    assert await rig.dead_letters() == []
    with pytest.raises(StaleTurn):
        await rig.store.commit(fence, [turn(c, 3, undead=(number,))], [])
    assert len(await rig.mail("order/1")) == 2


@pytest.mark.parametrize(
    ("status", "finished", "ended"),
    [
        ("running", False, None),
        ("stuck", False, None),
        ("cancelling", False, "cancelling"),
        ("failed", True, "failed"),
        (None, True, "forgotten"),
    ],
)
async def test_a_dead_letter_says_how_its_task_has_ended(
    rig: Rig, status: str | None, finished: bool, ended: str | None
) -> None:
    fence, task = await rig.host(0), new_id()
    a, b, c = await given(rig, *["order/1"] * 3)
    dead = DeadLetter(reason="failed", error="x", failures=1)
    prev = GENESIS
    for version, (seq, undoes) in enumerate(((a, False), (b, True)), start=1):
        header_json = letter(task=f"{DOMAIN}/{task}", undoes=undoes).header_json
        record = turn(seq, version, dead=dead, prev=prev)
        await rig.store.commit(fence, [msgspec.structs.replace(record, header_json=header_json)], [])
        prev = record.hash
    if status is not None:
        await rig.add_task(task)
        row = TaskWrite(
            id=task, status=status, assignee=None, progress=0.0, result=None, error=None, finished=finished
        )
        await rig.store.commit(fence, [turn(c, 3, prev=prev, tasks=(row,))], [])
    found = [
        await rig.store.read_dead_letter(DOMAIN, "default", "order/1", number)
        for number, *_ in sorted(await rig.dead_letters())
    ]
    # What undoes something outlives its task.
    assert [letter and letter.task_ended for letter in found] == [ended, None]

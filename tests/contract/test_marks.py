"""Marks on messages that were tried or have failed, and the dead letters of those that were given up."""

from __future__ import annotations

import msgspec
import pytest

from bus.errors import InvalidData, StaleTurn
from storage.records import DeadLetter
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

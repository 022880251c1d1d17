"""Schedules in every store: kept and fired under the fence of the first partition's owner, once each."""

from __future__ import annotations

import pytest

from bus.errors import Fenced
from storage.schedules import Firing, ScheduleRow
from tests.contract.rig import DOMAIN, Rig, letter


def row(name: str = "daily", **more: object) -> ScheduleRow:
    values = {"cron": "0 6 * * *", "timezone": "UTC", "recipient": "order/1", "catch_up": "none", **more}
    return ScheduleRow(name=name, **values)  # type: ignore[arg-type]


def firing(due: float, next_at: float, *keys: str) -> Firing:
    messages = [(key, letter("order/1", '{"n":1}')) for key in keys]
    return Firing(
        name="daily", due=due, next_at=next_at, tenant="default", partition=0, agent="order/1",
        payload='{"n":1}', messages=messages,
    )  # fmt: skip


async def test_what_is_kept_is_what_the_code_has_and_goes_on_where_it_was(rig: Rig) -> None:
    fence = await rig.host(0)
    assert (await rig.store.read_schedules(DOMAIN))[1] == []
    await rig.store.keep_schedules(fence, [row(next_at=1_000.0), row("other", next_at=2_000.0)])
    again = [row(next_at=5_000.0, recipient="order/2"), row("third", next_at=3_000.0)]
    await rig.store.keep_schedules(fence, again)
    now, rows = await rig.store.read_schedules(DOMAIN)
    assert now == pytest.approx(await rig.now(), abs=5)
    assert [(r.name, r.next_at, r.recipient) for r in rows] == [
        ("daily", 1_000.0, "order/2"), ("third", 3_000.0, "order/1"),
    ]  # fmt: skip
    await rig.store.keep_schedules(fence, [row(next_at=7_000.0, timezone="Europe/Berlin")])
    assert [r.next_at for r in (await rig.store.read_schedules(DOMAIN))[1]] == [7_000.0]
    await rig.store.keep_schedules(fence, [])
    assert (await rig.store.read_schedules(DOMAIN))[1] == []


async def test_what_is_due_is_sent_once_and_moves_on(rig: Rig) -> None:
    fence = await rig.host(0)
    await rig.store.keep_schedules(fence, [row(next_at=1_000.0)])
    later = float(int(await rig.now()) + 60)
    assert await rig.store.fire_schedule(fence, firing(1_000.0, later, "a", "b"))
    assert len(await rig.mail("order/1")) == 2
    assert not await rig.store.fire_schedule(fence, firing(1_000.0, later, "a", "b"))
    assert not await rig.store.fire_schedule(fence, firing(later, later + 60, "c")), "it is not due yet"
    assert len(await rig.mail("order/1")) == 2
    [found] = (await rig.store.read_schedules(DOMAIN))[1]
    assert (found.next_at, found.last_at is not None) == (later, True)


async def test_an_occurrence_that_was_sent_before_is_not_sent_again(rig: Rig) -> None:
    fence = await rig.host(0)
    for next_at in (1_000.0, 2_000.0):
        await rig.store.keep_schedules(fence, [])
        await rig.store.keep_schedules(fence, [row(next_at=next_at)])
        await rig.store.fire_schedule(fence, firing(next_at, 3_000.0, "daily at noon"))
    assert len(await rig.mail("order/1")) == 1


async def test_a_firing_without_messages_only_moves_on(rig: Rig) -> None:
    fence = await rig.host(0)
    await rig.store.keep_schedules(fence, [row(next_at=1_000.0)])
    assert not await rig.store.fire_schedule(fence, firing(1_000.0, 2_000.0))
    [found] = (await rig.store.read_schedules(DOMAIN))[1]
    assert (found.next_at, found.last_at) == (2_000.0, None)


async def test_only_the_owner_of_the_first_partition_keeps_them(rig: Rig) -> None:
    stranger = await rig.host(1)
    with pytest.raises(Fenced):
        await rig.store.keep_schedules(stranger, [row(next_at=1_000.0)])
    with pytest.raises(Fenced):
        await rig.store.fire_schedule(stranger, firing(1_000.0, 2_000.0, "a"))

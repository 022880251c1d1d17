"""The lease to replace hosts where the cluster is full."""

from __future__ import annotations

from typing import Any

import pytest

from coordinators import lease
from coordinators.lease import URGENT_FOR_S, Lease

NONE: Any = None


@pytest.fixture(autouse=True)
def having(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The domain that has the lease, if any, as Postgres would keep it."""
    has: list[str] = []
    urgent_ones: set[str] = set()

    async def settle(pool: object, domain: str, epoch: int, *, wants: bool, urgent: bool) -> str | None:
        urgent_ones.discard(domain)
        if urgent:
            urgent_ones.add(domain)
        if wants and (not has or (urgent and not urgent_ones & set(has))):
            has[:] = [domain]
        elif not wants and has == [domain]:
            has.clear()
        return has[0] if has else None

    monkeypatch.setattr(lease, "settle_lease", settle)
    return has


async def test_who_comes_second_makes_way_until_the_first_has_replaced_its_hosts() -> None:
    first, second = Lease(NONE, "first", 1), Lease(NONE, "second", 2)
    await first.settle(full=True, coming=True, replaces=True, serves=True)
    await second.settle(full=True, coming=True, replaces=True, serves=True)
    assert (first.is_mine, second.waits_for) == (True, "first")
    await first.settle(
        full=False, coming=True, replaces=True, serves=True
    )  # one of its hosts is being started
    await second.settle(full=False, coming=False, replaces=True, serves=True)
    assert (first.is_mine, second.waits_for) == (True, "first")
    await first.settle(
        full=True, coming=True, replaces=False, serves=True
    )  # the last of the older ones has gone
    await second.settle(full=False, coming=False, replaces=True, serves=True)
    assert (first.is_mine, second.is_mine, second.waits) == (False, True, False)


async def test_code_whose_hosts_never_start_lets_another_domain_have_it() -> None:
    first, second = Lease(NONE, "first", 1), Lease(NONE, "second", 2)
    await first.settle(full=True, coming=True, replaces=True, serves=True)
    await second.settle(full=True, coming=True, replaces=True, serves=True)
    await first.settle(
        full=False, coming=False, replaces=True, serves=True
    )  # they have ended, and the next start waits
    await second.settle(full=False, coming=False, replaces=True, serves=True)
    await first.settle(full=True, coming=True, replaces=True, serves=True)
    assert (first.waits_for, second.is_mine) == ("second", True)


async def test_a_domain_that_replaces_nothing_never_has_the_turn_and_makes_way() -> None:
    first, small = Lease(NONE, "first", 1), Lease(NONE, "small", 2)
    await small.settle(full=True, coming=True, replaces=False, serves=True)
    assert not small.is_mine
    await first.settle(full=True, coming=True, replaces=True, serves=True)
    await small.settle(full=True, coming=True, replaces=False, serves=True)
    assert (first.is_mine, small.waits_for) == (True, "first")
    await first.settle(full=False, coming=False, replaces=False, serves=True)
    await small.settle(full=False, coming=False, replaces=False, serves=True)
    assert not small.waits


async def test_a_domain_whose_hosts_have_room_asks_for_nothing(having: list[str]) -> None:
    roomy = Lease(NONE, "roomy", 1)
    await roomy.settle(full=False, coming=True, replaces=True, serves=True)
    assert (roomy.is_mine, roomy.waits, having) == (False, False, [])


async def test_who_has_no_host_waits_for_nobody_and_takes_it_until_it_has_one() -> None:
    first, bereft = Lease(NONE, "first", 1), Lease(NONE, "bereft", 2)
    await first.settle(full=True, coming=True, replaces=True, serves=True)
    await bereft.settle(full=True, coming=True, replaces=False, serves=True)  # it was to have another
    assert bereft.waits_for == "first"
    await bereft.settle(full=False, coming=False, replaces=False, serves=False)
    assert not bereft.waits
    await bereft.settle(full=True, coming=True, replaces=False, serves=False)
    await first.settle(
        full=False, coming=True, replaces=True, serves=True
    )  # even those that are being started
    assert (bereft.is_mine, first.waits_for) == (True, "bereft")
    await bereft.settle(full=False, coming=True, replaces=False, serves=False)  # it has got room
    await first.settle(full=False, coming=False, replaces=True, serves=True)
    assert (bereft.is_mine, first.waits_for) == (True, "bereft")
    await bereft.settle(full=False, coming=False, replaces=False, serves=True)
    await first.settle(full=False, coming=False, replaces=True, serves=True)
    assert (bereft.is_mine, first.is_mine, first.waits) == (False, True, False)


async def test_of_two_without_a_host_neither_waits_and_neither_takes_it_from_the_other() -> None:
    one, two, full = Lease(NONE, "one", 1), Lease(NONE, "two", 2), Lease(NONE, "full", 3)
    for _ in range(2):
        await one.settle(
            full=True, coming=True, replaces=True, serves=False
        )  # its last with older code has made room
        await two.settle(full=True, coming=True, replaces=False, serves=False)
        await full.settle(full=True, coming=True, replaces=True, serves=True)
        assert (one.is_mine, two.is_mine, one.waits, two.waits, full.waits) == (
            True,
            False,
            False,
            False,
            True,
        )
    await one.settle(full=False, coming=False, replaces=False, serves=True)
    await two.settle(full=True, coming=True, replaces=False, serves=False)
    assert two.is_mine


async def test_who_finds_no_room_all_the_same_stands_back_and_asks_again_after() -> None:
    now = 0.0
    first, bereft = Lease(NONE, "first", 1), Lease(NONE, "bereft", 2, lambda: now)
    await bereft.settle(full=True, coming=True, replaces=False, serves=False)
    now += URGENT_FOR_S
    for _ in range(2):
        await bereft.settle(full=True, coming=True, replaces=False, serves=False)
        await first.settle(full=True, coming=True, replaces=True, serves=True)
    assert (first.is_mine, bereft.waits_for) == (True, "first")
    now += URGENT_FOR_S
    await bereft.settle(full=False, coming=False, replaces=False, serves=False)
    assert bereft.waits_for == "first"
    await first.settle(full=False, coming=False, replaces=False, serves=True)
    for full in (False, False, True):
        await bereft.settle(full=full, coming=full, replaces=False, serves=False)
    assert bereft.is_mine

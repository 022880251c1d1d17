"""The lease to replace hosts where the cluster is full."""

from __future__ import annotations

from typing import Any

import pytest

from coordinators import lease
from coordinators.lease import Lease

NONE: Any = None


@pytest.fixture(autouse=True)
def having(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The domain that has the lease, if any, as Postgres would keep it."""
    has: list[str] = []

    async def settle(pool: object, domain: str, epoch: int, *, wants: bool) -> str | None:
        if wants and not has:
            has.append(domain)
        elif not wants and has == [domain]:
            has.clear()
        return has[0] if has else None

    monkeypatch.setattr(lease, "settle_lease", settle)
    return has


async def test_who_comes_second_makes_way_until_the_first_has_replaced_its_hosts() -> None:
    first, second = Lease(NONE, "first", 1), Lease(NONE, "second", 2)
    await first.settle(full=True, coming=True, replaces=True)
    await second.settle(full=True, coming=True, replaces=True)
    assert (first.is_mine, second.waits_for) == (True, "first")
    await first.settle(full=False, coming=True, replaces=True)  # one of its hosts is being started
    await second.settle(full=False, coming=False, replaces=True)
    assert (first.is_mine, second.waits_for) == (True, "first")
    await first.settle(full=True, coming=True, replaces=False)  # the last of the older ones has gone
    await second.settle(full=False, coming=False, replaces=True)
    assert (first.is_mine, second.is_mine, second.waits) == (False, True, False)


async def test_code_whose_hosts_never_start_lets_another_domain_have_it() -> None:
    first, second = Lease(NONE, "first", 1), Lease(NONE, "second", 2)
    await first.settle(full=True, coming=True, replaces=True)
    await second.settle(full=True, coming=True, replaces=True)
    await first.settle(full=False, coming=False, replaces=True)  # they have ended, and the next start waits
    await second.settle(full=False, coming=False, replaces=True)
    await first.settle(full=True, coming=True, replaces=True)
    assert (first.waits_for, second.is_mine) == ("second", True)


async def test_a_domain_that_replaces_nothing_never_has_the_turn_and_makes_way() -> None:
    first, small = Lease(NONE, "first", 1), Lease(NONE, "small", 2)
    await small.settle(full=True, coming=True, replaces=False)
    assert not small.is_mine
    await first.settle(full=True, coming=True, replaces=True)
    await small.settle(full=True, coming=True, replaces=False)
    assert (first.is_mine, small.waits_for) == (True, "first")
    await first.settle(full=False, coming=False, replaces=False)
    await small.settle(full=False, coming=False, replaces=False)
    assert not small.waits


async def test_a_domain_whose_hosts_have_room_asks_for_nothing(having: list[str]) -> None:
    roomy = Lease(NONE, "roomy", 1)
    await roomy.settle(full=False, coming=True, replaces=True)
    assert (roomy.is_mine, roomy.waits, having) == (False, False, [])

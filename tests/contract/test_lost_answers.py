"""Commits whose outcome is unknown: whether they are there is found out by looking."""

from __future__ import annotations

from typing import Any

import pytest

from bus.errors import Fenced, StorageUnavailable
from storage.journal import Does
from tests.contract.mail import given
from tests.contract.open_turns import accepted, entry, flush, promise
from tests.contract.rig import Rig, turn


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


@pytest.mark.parametrize(
    "more",
    [{"entries": (entry(1),)}, {"promises": (promise(),)}, {"does": Does.PARK}],
    ids=["entry", "promise", "park"],
)
async def test_what_a_turn_has_written_before_its_end_is_found_or_missing(
    rig: Rig, more: dict[str, Any]
) -> None:
    fence = await rig.host(0)
    message = await accepted(rig)
    begins, goes_on = flush(message, Does.OPEN), flush(message, **{"does": Does.GO, **more})
    for write in (begins, goes_on):
        rig.lose_the_request()
        with pytest.raises(StorageUnavailable):
            await rig.store.commit(fence, [write], [])
        assert await rig.store.settle(fence, write) is False
        rig.lose_the_answer()
        with pytest.raises(StorageUnavailable):
            await rig.store.commit(fence, [write], [])
        assert await rig.store.settle(fence, write) is True


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

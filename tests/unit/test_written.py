"""Several wait for one write; what becomes of one of them is nothing to the others."""

import asyncio

import pytest

from actors.written import Written


@pytest.mark.parametrize("committed", [True, False])
async def test_all_that_wait_hear_of_it_and_so_do_those_who_come_later(committed: bool) -> None:
    written = Written()
    waiting = [asyncio.create_task(written.known()) for _ in range(2)]
    await asyncio.sleep(0)
    written.settle(committed)
    assert [await waits for waits in waiting] == [committed, committed]
    assert await written.known() is committed


async def test_one_that_waits_may_be_cancelled() -> None:
    written = Written()
    gone, stays = (asyncio.create_task(written.known()) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    assert gone.cancelled()
    assert written.committed is None
    written.settle(True)
    assert await stays is True


async def test_what_is_to_be_done_then_is_done_at_once_and_once() -> None:
    written = Written()
    told: list[bool | None] = []
    written.then(lambda: told.append(written.committed))
    written.settle(False)
    written.settle(True)
    assert told == [False]
    assert written.committed is False

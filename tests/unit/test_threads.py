"""Synchronous code in threads: what never returns keeps its own, and no other's."""

from __future__ import annotations

import asyncio
import threading

from actors.threads import AT_ONCE, in_thread


async def test_what_never_returns_takes_nobody_elses_place_once_it_is_given_up() -> None:
    release = threading.Event()
    try:
        for _ in range(2):
            stuck = [asyncio.create_task(in_thread(release.wait)) for _ in range(AT_ONCE)]
            await asyncio.sleep(0)
            for task in stuck:
                task.cancel()
            await asyncio.wait(stuck)
        async with asyncio.timeout(10):
            assert await in_thread(str, 1) == "1"
    finally:
        release.set()


async def test_so_many_run_at_once_and_no_more() -> None:
    all_there = threading.Barrier(AT_ONCE)
    lock = threading.Lock()
    now = most = 0

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(now, most)
        all_there.wait(10)
        with lock:
            now -= 1

    await asyncio.gather(*(in_thread(work) for _ in range(3 * AT_ONCE)))
    assert most == AT_ONCE

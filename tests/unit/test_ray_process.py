"""The process that joins Ray carries several calls of a command at once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

from bus.errors import ServiceUnavailable
from callboard.ray_process import RayProcess

# Without Ray: `wait` is answered once `release` is called, and `end` ends the process as Ray's core would.
DRIVER = """
import os, sys, threading
from callboard.ray_driver import serve
released = threading.Event()
serve(sys.stdin.buffer, sys.stdout.buffer, {
    "wait": lambda word: released.wait() and word,
    "release": released.set,
    "end": lambda: os._exit(1),
})
"""


@pytest.fixture
async def process() -> AsyncIterator[RayProcess]:
    pipe = asyncio.subprocess.PIPE
    started = await asyncio.create_subprocess_exec(sys.executable, "-c", DRIVER, stdin=pipe, stdout=pipe)
    async with RayProcess(started) as process:
        yield process


async def test_each_call_gets_its_own_answer_in_whatever_order_they_end(process: RayProcess) -> None:
    async with asyncio.TaskGroup() as calls:
        first = calls.create_task(process.call("wait", word="first"))
        second = calls.create_task(process.call("wait", word="second"))
        await asyncio.sleep(0)  # both are asked before what releases them
        await process.call("release")
    assert (first.result(), second.result()) == ("first", "second")


async def test_a_call_that_is_given_up_keeps_its_answer_from_the_others(process: RayProcess) -> None:
    given_up = asyncio.create_task(process.call("wait", word="given up"))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait([given_up])
    await process.call("release")
    assert await process.call("wait", word="another") == "another"


async def test_all_who_wait_hear_that_it_has_ended(process: RayProcess) -> None:
    waiting = asyncio.create_task(process.call("wait", word="never"))
    with pytest.raises(ServiceUnavailable, match="Ray ended the process that was to end"):
        await process.call("end")
    with pytest.raises(ServiceUnavailable, match="Ray ended the process that was to wait"):
        await waiting
    with pytest.raises(ServiceUnavailable, match="Ray ended the process that was to release"):
        await process.call("release")

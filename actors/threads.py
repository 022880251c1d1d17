"""Synchronous code of authors, run in a thread so that it does not hold up the event loop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

AT_ONCE = 64  # as many as turns run at once by default; the others wait
_MOST = 1_024  # with those that nobody waits for any more: a thread cannot be ended, and may go on for ever

_threads = ThreadPoolExecutor(_MOST, "callboard")  # made as they are needed
_places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


async def in_thread(
    function: Callable[..., Any],
    *arguments: Any,
    must_end: Callable[[], bool] | None = None,
    timeout_s: float | None = None,
) -> Any:
    """What the function returns; its errors are raised here. When this is cancelled, the function goes on in its thread,
    and takes no other's place; where it `must_end`, it is waited for first. Its time begins once there is a thread for it:
    raises TimeoutError after that."""
    loop = asyncio.get_running_loop()
    places = _places.setdefault(loop, asyncio.Semaphore(AT_ONCE))
    call = partial(contextvars.copy_context().run, _called, function, arguments)
    async with places, asyncio.timeout(timeout_s):
        running = loop.run_in_executor(_threads, call)
        if must_end is None:
            return await running
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            if must_end():
                await asyncio.wait([running])
            raise


def _called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except StopIteration as error:  # no future can hold it: whoever waits for the thread would wait for ever
        raise RuntimeError("the function raised StopIteration") from error

"""Synchronous code of authors, run in a thread so that it does not hold up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns; its errors are raised here."""
    return await asyncio.to_thread(_called, function, arguments)


def _called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except StopIteration as error:  # no future can hold it: whoever waits for the thread would wait for ever
        raise RuntimeError("the function raised StopIteration") from error

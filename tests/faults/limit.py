"""Fault tests end within their limit by themselves: a plugin of pytest.

pytest-timeout leaves the event loop where it is, and with it what the test was doing: whatever async comes next in the same
process fails, or hangs. So a test that waits too long is ended in the loop, a little before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from functools import wraps
from typing import Any

import pytest

_LEFT_S = 10.0  # of the limit, for the fixtures to end what they have started

_BEGAN = pytest.StashKey[float]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_BEGAN] = time.monotonic()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    test = pyfuncitem.obj
    if not asyncio.iscoroutinefunction(test):
        return (yield)
    end = pyfuncitem.stash[_BEGAN] + _limit_s(pyfuncitem) - _LEFT_S

    @wraps(test)
    async def limited(**fixtures: Any) -> None:
        async with asyncio.timeout(end - time.monotonic()):
            await test(**fixtures)

    pyfuncitem.obj = limited
    try:
        return (yield)
    finally:
        pyfuncitem.obj = test


def _limit_s(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(item.config.getini("timeout") if marker is None else marker.args[0])

"""Unit tests cannot start Ray or a server: one that tries fails at once, with the place to move it to."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

_SERVERS = {"postgres", "initdb", "pg_ctl", "nats-server", "ray", "raylet", "gcs_server"}
_armed = False


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: it sees every program started and every connection made, whoever asks for it."""
    if not _armed:
        return
    if event == "subprocess.Popen":
        words = [os.path.basename(os.fsdecode(word)) for word in arguments[1]]
        if _SERVERS.intersection(words):
            raise RuntimeError(f"a unit test tried to start {words[0]}: move it to tests/integration")
    if event == "socket.connect":
        raise RuntimeError(f"a unit test tried to connect to {arguments[1]}: move it to tests/integration")


sys.addaudithook(_refuse)


@pytest.fixture(autouse=True)
def no_servers() -> Iterator[None]:
    global _armed
    _armed = True
    yield
    _armed = False


@pytest.fixture
def services() -> NoReturn:
    pytest.fail("unit tests have no services: move this test to tests/integration")


@pytest.fixture
def database() -> NoReturn:
    pytest.fail("unit tests have no database: move this test to tests/integration")


@pytest.fixture
def no_errands() -> None:
    """No worker has done anything yet, nor knows what to do."""
    from tests.unit.tasks.worker import fresh

    fresh()


@pytest.fixture
def no_trips() -> None:
    """Nobody has booked anything yet, nor knows what to do."""
    from tests.unit.trips import Clerk

    Clerk.programs.clear()
    Clerk.done = []


@pytest.fixture
def nothing_made() -> None:
    """No step or call of tests.unit.shopping has done anything yet."""
    from tests.unit.shopping import made

    made.clear()


@pytest.fixture
def no_work() -> None:
    """No worker of tests.unit.held_work has begun anything yet."""
    from tests.unit.held_work import Worker

    Worker.begun.clear()
    Worker.hold = asyncio.Event()


@pytest.fixture
def no_decisions() -> None:
    """No clerk of tests.unit.deciders has been given anything to do or to decide yet."""
    from tests.unit.deciders import Clerk

    Clerk.programs.clear()
    Clerk.done = []

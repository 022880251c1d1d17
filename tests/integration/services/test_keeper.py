"""What keeps the embedded services: killed ones come back by themselves, stopped ones never."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import urlsplit

import pytest
from asyncpg import ConnectionDoesNotExistError

from bus.errors import ServiceUnavailable
from callboard.services import (
    Keeper,
    check_nats,
    check_postgres_durable,
    ensure_services,
    find_instance,
    keep_services,
    keeping,
    lock,
    recorded_instance,
    stop_instance,
)
from callboard.services.home import Home
from callboard.services.instance import forget_instance
from callboard.services.services import restart_died
from callboard.settings import Settings
from tests.integration.services.servers import kill


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # of processes that tell nobody here
            await asyncio.sleep(0.02)


def pids(settings: Settings) -> tuple[int | None, int | None]:
    instance = find_instance(settings)
    return (instance.postgres_pid, instance.nats_pid) if instance is not None else (None, None)


def run_anew(settings: Settings, before: tuple[int | None, ...], killed: tuple[int, ...]) -> bool:
    now = pids(settings)
    new = all(now[which] not in (None, before[which]) for which in killed)
    return new and not lock.held(settings.home / "instance.lock")


async def test_killed_services_come_back_where_they_were(settings: Settings) -> None:
    began = datetime.now(UTC) - timedelta(seconds=1)  # the log has whole seconds
    endpoints = (await ensure_services(settings)).endpoints
    await keep_services(settings)
    for killed in ((1,), (0,), (0, 1)):
        before = pids(settings)
        for which in killed:
            kill(before[which])
        await until(partial(run_anew, settings, before, killed))
        await asyncio.gather(check_postgres_durable(endpoints.postgres_url), check_nats(endpoints.nats_url))
    keeper = Keeper(home=Home(settings.home))
    said = keeper.log.read_text()
    assert "NATS had died: started again in" in said
    assert "Postgres had died: started again in" in said
    assert set(keeper.revivals(began)) == {"Postgres", "NATS"}


async def test_who_is_stopped_is_not_kept_any_more(settings: Settings) -> None:
    await ensure_services(settings)
    await keep_services(settings)
    await keep_services(settings)  # a second command, which joins
    keeper = Keeper(home=Home(settings.home)).running()
    assert keeper is not None
    assert await stop_instance(settings)
    assert Keeper(home=Home(settings.home)).running() is None
    assert recorded_instance(settings) is None
    await keep_services(settings)
    assert Keeper(home=Home(settings.home)).running() is None


async def test_what_is_stopped_while_it_was_to_be_started_again_stays_stopped(settings: Settings) -> None:
    await ensure_services(settings)
    for pid in pids(settings):
        kill(pid)
    await until(lambda: pids(settings) == (None, None))
    instance = recorded_instance(settings)
    assert instance is not None
    assert instance.died == ["Postgres", "NATS"]
    async with lock.exclusive(settings.home / "instance.lock", timeout_s=10):
        restarting = asyncio.create_task(restart_died(settings))
        await asyncio.sleep(0)  # it waits for the lock now
        forget_instance(Home(settings.home))
    assert not await restarting
    assert pids(settings) == (None, None)


async def test_a_keeper_whose_instance_was_stopped_behind_its_back_ends(settings: Settings) -> None:
    await ensure_services(settings)
    await keep_services(settings)
    keeper = Keeper(home=Home(settings.home))
    pid = keeper.running()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    for server in pids(settings):
        kill(server)
    await until(lambda: pids(settings) == (None, None))
    forget_instance(Home(settings.home))
    os.kill(pid, signal.SIGCONT)
    await until(lambda: keeper.running() is None)
    assert pids(settings) == (None, None)


async def test_nats_comes_back_where_its_clients_look_for_it_or_not_at_all_and_keeps_nobody_else_away(
    settings: Settings,
) -> None:
    endpoints = (await ensure_services(settings)).endpoints
    for pid in pids(settings):
        kill(pid)
    await until(lambda: pids(settings) == (None, None))
    taken = socket.create_server(("127.0.0.1", urlsplit(endpoints.nats_url).port or 0))
    with taken, pytest.raises(ServiceUnavailable, match="its clients look for it there"):
        await restart_died(settings)
    await check_postgres_durable(endpoints.postgres_url)
    assert await restart_died(settings)
    instance = recorded_instance(settings)
    assert instance is not None
    assert (instance.died, instance.endpoints) == ([], endpoints)
    await check_nats(endpoints.nats_url)


async def test_whatever_ends_a_start_does_not_end_the_keeper(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ensure_services(settings)
    kill(pids(settings)[0])
    await until(lambda: pids(settings)[0] is None)
    said: list[str] = []

    async def dies_again(_: Settings) -> bool:
        raise ConnectionDoesNotExistError(
            "connection was closed in the middle of operation"
        )  # as it is checked

    async def pause(seconds: float) -> None:
        forget_instance(Home(settings.home))

    monkeypatch.setattr(keeping, "restart_died", dies_again)
    monkeypatch.setattr(keeping, "pause", pause)
    await keeping.keep(settings, said.append)
    assert said == [
        "Postgres died, and cannot be started: ConnectionDoesNotExistError: connection was closed in the middle of "
        "operation. It is tried again in 1 s."
    ]


async def test_what_cannot_be_started_is_tried_less_and_less_often_and_said(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ensure_services(settings)
    for pid in pids(settings):
        kill(pid)
    await until(lambda: pids(settings) == (None, None))
    pauses: list[float] = []
    said: list[str] = []

    async def refuse(_: Settings) -> bool:
        raise ServiceUnavailable("The disk is full.", fix="Free some.")

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 9:
            forget_instance(Home(settings.home))

    monkeypatch.setattr(keeping, "restart_died", refuse)
    monkeypatch.setattr(keeping, "pause", pause)
    await keeping.keep(settings, said.append)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert said[1] == (
        "Postgres and NATS died, and cannot be started: The disk is full. Free some. It is tried again in 2 s."
    )

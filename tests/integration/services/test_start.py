"""The embedded services are started, joined and stopped; external ones are used."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr

from callboard.services import Endpoints, check_nats, ensure_services, find_instance, program, stop_instance
from callboard.services.lock import held
from callboard.settings import Settings
from tests.integration.services.servers import fetchval, in_another_process


async def test_the_first_call_starts_the_second_joins_and_only_the_starter_stops(settings: Settings) -> None:
    assert find_instance(settings) is None
    first = await ensure_services(settings)
    second = await ensure_services(settings)
    assert first.started_here
    assert not second.started_here
    assert second.endpoints == first.endpoints

    await second.stop()
    assert await fetchval(first.endpoints.postgres_url, "SELECT 1") == 1

    instance = find_instance(settings)
    assert instance is not None
    assert instance.endpoints == first.endpoints
    await first.stop()
    assert find_instance(settings) is None
    assert not held(settings.home / "postgres.lock")
    assert not held(settings.home / "nats.lock")
    # Nothing was left to recover from.
    assert not (settings.home / "postgres" / "postmaster.pid").exists()
    await first.stop()


async def test_services_survive_the_command_that_started_them(settings: Settings) -> None:
    await in_another_process(settings.home, "print((await ensure_services(Settings())).started_here)")
    instance = find_instance(settings)
    assert instance is not None
    joined = await ensure_services(settings)
    assert not joined.started_here
    assert await stop_instance(settings)
    assert not await stop_instance(settings)
    assert find_instance(settings) is None


async def test_of_commands_that_start_at_once_one_starts_and_the_others_join(settings: Settings) -> None:
    starts = [
        in_another_process(settings.home, "print((await ensure_services(Settings())).started_here)")
        for _ in range(3)
    ]
    answers = await asyncio.gather(*starts)
    assert sorted(answers) == ["False", "False", "True"]


# What the start has made by then, in its home.
@pytest.mark.parametrize("made", ["", "instance.lock", "postgres.new", "postgres/postmaster.pid"])
async def test_a_command_that_is_ended_while_it_starts_services_leaves_none(
    settings: Settings, made: str
) -> None:
    starting = asyncio.create_task(ensure_services(settings))
    async with asyncio.timeout(30):
        while made and not (settings.home / made).exists():  # noqa: ASYNC110  (files tell nobody)
            await asyncio.sleep(0.001)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not held(settings.home / "postgres.lock")
    assert not held(settings.home / "nats.lock")
    async with await ensure_services(settings) as again:
        assert again.started_here


async def test_external_services_are_used_and_nothing_is_started(services: Endpoints, home: Path) -> None:
    settings = Settings(
        home=home, postgres_url=SecretStr(services.postgres_url), nats_url=SecretStr(services.nats_url)
    )
    found = await ensure_services(settings)
    assert not found.started_here
    assert not found.endpoints.embedded_postgres
    assert not found.endpoints.embedded_nats
    assert list(home.parent.iterdir()) == []


async def test_an_external_postgres_goes_with_an_embedded_nats(
    services: Endpoints, settings: Settings, home: Path
) -> None:
    mixed = Settings(home=home, postgres_url=SecretStr(services.postgres_url))
    found = await ensure_services(mixed)
    assert found.started_here
    assert found.endpoints.postgres_url == services.postgres_url
    assert not (home / "postgres").exists()
    await check_nats(found.endpoints.nats_url)


async def test_programs_out_of_the_accounts_reach_are_copied(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_executable", lambda account, path: False)
    await ensure_services(settings)
    instance = find_instance(settings)
    assert instance is not None
    for pid in (instance.postgres_pid, instance.nats_pid):
        assert Path(psutil.Process(pid).exe()).is_relative_to(settings.home / "software")


async def test_a_home_with_a_long_name_works(home: Path) -> None:
    settings = Settings(home=home.parent / ("long" * 30))
    async with await ensure_services(settings) as running:
        assert await fetchval(running.endpoints.postgres_url, "SELECT 1") == 1
        assert str(settings.home) not in running.endpoints.postgres_url


async def test_a_port_that_was_taken_meanwhile_is_replaced_by_another(settings: Settings) -> None:
    first = await ensure_services(settings)
    await first.stop()
    port = int(first.endpoints.nats_url.rsplit(":", 1)[1])
    with socket.create_server(("127.0.0.1", port)):
        again = await ensure_services(settings)
    assert again.endpoints.nats_url != first.endpoints.nats_url
    await check_nats(again.endpoints.nats_url)
    joined = await ensure_services(settings)
    assert (first.nats_was_at, again.nats_was_at, joined.nats_was_at) == (None, port, None)

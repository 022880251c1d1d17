"""The embedded services are killed, or die while they start: they come back with what they acknowledged."""

from __future__ import annotations

import asyncio
import os
import signal

import asyncpg
import nats
import psutil
import pytest
from nats.js.api import StorageType

from bus import faultpoints
from bus.errors import ServiceUnavailable
from callboard.services import checks, ensure_services, find_instance
from callboard.settings import Settings
from tests.integration.services.servers import ROOT, execute, fetchval, kill


async def test_a_killed_postgres_recovers_with_everything_it_acknowledged(settings: Settings) -> None:
    running = await ensure_services(settings)
    url = running.endpoints.postgres_url
    await execute(url, "CREATE TABLE acknowledged (n int)")
    instance = find_instance(settings)
    assert instance is not None
    enough, count = asyncio.Event(), 0

    async def write() -> None:
        nonlocal count
        connection = await asyncpg.connect(url)
        try:
            while True:
                await connection.execute("INSERT INTO acknowledged VALUES ($1)", count)
                count += 1
                if count == 200:
                    enough.set()
        finally:
            connection.terminate()

    writer = asyncio.create_task(write())
    await enough.wait()
    kill(instance.postgres_pid)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)):
        await writer

    again = await ensure_services(settings)
    assert again.started_here
    # Clients reconnect to where they were.
    assert again.endpoints == running.endpoints
    stored = await fetchval(url, "SELECT count(*) FROM acknowledged WHERE n < 1000000")
    # The one whose answer never came may be there or not.
    assert stored in (count, count + 1)


async def test_a_postgres_that_dies_while_it_is_checked_is_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await ensure_services(settings)
    instance = find_instance(settings)
    assert instance is not None

    def kill_all_of_it(_: str) -> None:
        server = psutil.Process(instance.postgres_pid)
        dying = [server, *server.children()]
        for process in dying:
            process.kill()
        psutil.wait_procs(dying, timeout=10)

    monkeypatch.setattr(faultpoints, "reached", kill_all_of_it)
    with pytest.raises(ServiceUnavailable, match="it went away while it was asked"):
        await checks.check_postgres_durable(running.endpoints.postgres_url)


async def test_a_killed_nats_comes_back_on_its_port_with_its_events(settings: Settings) -> None:
    running = await ensure_services(settings)
    client = await nats.connect(running.endpoints.nats_url, allow_reconnect=False)
    jetstream = client.jetstream()
    await jetstream.add_stream(name="KEPT", subjects=["kept.>"], storage=StorageType.FILE)
    await jetstream.publish("kept.one", b"event")
    await client.close()
    instance = find_instance(settings)
    assert instance is not None
    kill(instance.nats_pid)
    # At once: whether it is dead already or still dying must make no difference.
    again = await ensure_services(settings)
    assert again.started_here
    assert again.endpoints == running.endpoints
    client = await nats.connect(again.endpoints.nats_url)
    assert (await client.jetstream().stream_info("KEPT")).state.messages == 1
    await client.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGQUIT, signal.SIGINT])
async def test_services_found_while_they_are_dying_are_started_again(
    settings: Settings, how: signal.Signals
) -> None:
    first = await ensure_services(settings)
    for _ in range(3):
        instance = find_instance(settings)
        assert instance is not None
        for pid in (instance.postgres_pid, instance.nats_pid):
            assert pid is not None
            os.kill(pid, how)
        again = await ensure_services(settings)
        assert again.started_here
        assert again.endpoints == first.endpoints


async def test_a_half_made_data_folder_of_a_crashed_start_is_made_anew(settings: Settings) -> None:
    settings.home.mkdir()
    if ROOT:
        settings.home.chmod(0o711)
    (settings.home / "postgres.new").mkdir()
    (settings.home / "postgres.new" / "PG_VERSION").write_text("18\n")
    await ensure_services(settings)
    assert not (settings.home / "postgres.new").exists()


async def test_a_stale_pid_that_now_is_another_programs_does_not_stop_the_start(settings: Settings) -> None:
    await (await ensure_services(settings)).stop()
    stale = settings.home / "postgres" / "postmaster.pid"
    stale.write_text(f"{os.getpid()}\n{settings.home}/postgres\n1\n5432\n/tmp\n\n  1 1\nready   \n")
    running = await ensure_services(settings)
    assert await fetchval(running.endpoints.postgres_url, "SELECT 1") == 1

"""Services that cannot be used: unsafe, unreachable, or wrongly addressed; no password is shown."""

from __future__ import annotations

import asyncio
import sys
import traceback
from pathlib import Path

import pytest

from bus.errors import ServiceUnavailable, ServiceUnsafe
from callboard.services import Endpoints, check_nats, check_postgres_durable, ensure_services, find_instance
from callboard.settings import Settings
from tests.integration.services.servers import closed_port, execute, until_it_says


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
async def test_an_unsafe_postgres_is_refused(settings: Settings, setting: str) -> None:
    running = await ensure_services(settings)
    url = running.endpoints.postgres_url
    await check_postgres_durable(url)
    await execute(url, f"ALTER SYSTEM SET {setting} = off")
    await running.stop()
    with pytest.raises(ServiceUnsafe, match=f"{setting}=off"):
        await ensure_services(settings)
    # It was started to be asked, and is not left running.
    assert find_instance(settings) is None


async def test_a_database_that_is_unsafe_for_its_own_sessions_is_refused(database: str) -> None:
    name = database.split("/")[3].split("?")[0]
    await execute(database, f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    with pytest.raises(ServiceUnsafe, match="synchronous_commit=off"):
        await check_postgres_durable(database)


SECRET = "hunter2-very-secret"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://ada:{secret}@127.0.0.1:{port}/callboard", "refused"),
        ("postgresql://ada:{secret}@no-such-host.invalid/callboard", "cannot be used"),
        ("postgresql://ada:{secret}@127.0.0.1:notaport/callboard", "an unreadable URL"),
        ("postgresql://ada:{secret}@127.0.0.1:99999/callboard", "an unreadable URL"),
        ("postgresql://127.0.0.1:{port}/callboard?user=ada&password={secret}", "refused"),
    ],
)
async def test_a_wrong_postgres_address_is_one_line_without_the_password(url: str, words: str) -> None:
    url = url.format(secret=SECRET, port=closed_port())
    with pytest.raises(ServiceUnavailable, match=words) as caught:
        await check_postgres_durable(url)
    _assert_clear(caught.value, "CALLBOARD_POSTGRES_URL")


async def test_a_wrong_password_is_not_shown(services: Endpoints) -> None:
    password = services.postgres_url.split(":")[2].split("@")[0]
    with pytest.raises(ServiceUnavailable, match="refused the user or password") as caught:
        await check_postgres_durable(services.postgres_url.replace(password, SECRET))
    _assert_clear(caught.value, "CALLBOARD_POSTGRES_URL")

    password = services.nats_url.split(":")[2].split("@")[0]
    with pytest.raises(ServiceUnavailable, match="refused the user or password") as caught:
        await check_nats(services.nats_url.replace(password, SECRET))
    _assert_clear(caught.value, "CALLBOARD_NATS_URL")


async def test_what_is_not_postgres_is_not_taken_for_a_host_that_is_missing(services: Endpoints) -> None:
    at = services.nats_url.rpartition("@")[2]
    with pytest.raises(ServiceUnavailable, match="what answers there is not Postgres") as caught:
        await check_postgres_durable(f"postgresql://ada:{SECRET}@{at}/callboard")
    _assert_clear(caught.value, "CALLBOARD_POSTGRES_URL")


@pytest.mark.parametrize(
    "url", ["nats://ada:{secret}@127.0.0.1:{port}", "nats://ada:{secret}@no-such-host.invalid:4222"]
)
async def test_a_wrong_nats_address_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(ServiceUnavailable, match="NATS at ada@") as caught:
        await check_nats(url.format(secret=SECRET, port=closed_port()))
    _assert_clear(caught.value, "CALLBOARD_NATS_URL")


@pytest.mark.parametrize("port", ["99999", "abc"])
async def test_a_nats_address_that_cannot_be_read_is_one_line_without_the_password(port: str) -> None:
    with pytest.raises(ServiceUnavailable, match="the URL cannot be read") as caught:
        await check_nats(f"nats://ada:{SECRET}@127.0.0.1:{port}")
    _assert_clear(caught.value, "CALLBOARD_NATS_URL")


async def test_a_nats_without_jetstream_is_refused() -> None:
    port = closed_port()
    server = await asyncio.create_subprocess_exec(
        *(Path(sys.executable).parent / "nats-server", "-a", "127.0.0.1", "-p", str(port)),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await until_it_says(server, b"Server is ready")
        with pytest.raises(ServiceUnavailable, match="has no JetStream"):
            await check_nats(f"nats://127.0.0.1:{port}")
    finally:
        server.terminate()
        await server.communicate()


def _assert_clear(error: ServiceUnavailable, variable: str) -> None:
    assert variable in error.fix
    assert "\n" not in str(error)
    # Not in the traceback either, with all its causes.
    assert SECRET not in "".join(traceback.format_exception(error))


async def test_an_embedded_service_is_mended_by_up_and_one_of_ones_own_by_its_variable(
    tmp_path: Path,
) -> None:
    nobody = f"postgresql://me:secret@/x?host={tmp_path}"
    for check, url, variable in (
        (check_postgres_durable, nobody, "CALLBOARD_POSTGRES_URL"),
        (check_nats, f"nats://127.0.0.1:{closed_port()}", "CALLBOARD_NATS_URL"),
    ):
        with pytest.raises(ServiceUnavailable) as own:
            await check(url, embedded=True)
        assert own.value.fix == "`callboard up` starts it again."
        with pytest.raises(ServiceUnavailable) as external:
            await check(url)
        assert variable in str(external.value.fix)

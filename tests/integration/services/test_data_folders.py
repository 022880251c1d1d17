"""Data folders that cannot be used: held by others, corrupt, too old."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil

import pytest

from bus.errors import DataFolderError
from callboard.doctor import FAIL, GOOD, WARN, Finding, examine_data_folder
from callboard.services import client_program, ensure_services, find_instance
from callboard.services.account import service_account
from callboard.settings import Settings
from tests.integration.services.servers import kill, until_it_says


async def test_a_data_folder_locked_by_another_process_is_refused(settings: Settings) -> None:
    await (await ensure_services(settings)).stop()
    for name in ("postgres", "nats"):
        with (settings.home / f"{name}.lock").open("w+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"{os.getpid()}\n")
            file.flush()
            with pytest.raises(
                DataFolderError, match=rf"{name} is held by process {os.getpid()} \("
            ) as caught:
                await ensure_services(settings)
            assert caught.value.fix
        # What could be started beside it was stopped again.
        assert find_instance(settings) is None


async def test_a_data_folder_held_by_a_postgres_started_by_hand_is_refused(settings: Settings) -> None:
    await (await ensure_services(settings)).stop()
    data = settings.home / "postgres"
    options = service_account(data).spawn_options()
    foreign = await asyncio.create_subprocess_exec(
        *(client_program("postgres"), "-D", data),
        *("-c", f"unix_socket_directories={settings.home}/run"),
        *("-c", "listen_addresses="),  # the port of its own choice may be another one's
        stderr=asyncio.subprocess.PIPE,
        **options,
    )
    try:
        await until_it_says(foreign, b"ready to accept connections")
        with pytest.raises(DataFolderError, match=f"held by process {foreign.pid} .*did not start"):
            await ensure_services(settings)
        assert foreign.returncode is None
    finally:
        foreign.terminate()
        await foreign.communicate()
    await ensure_services(settings)


@pytest.mark.parametrize("damage", ["global/pg_control", "PG_VERSION", "its content", "base"])
async def test_a_corrupt_postgres_folder_is_refused_in_postgress_own_words(
    settings: Settings, damage: str
) -> None:
    await (await ensure_services(settings)).stop()
    damaged = settings.home / "postgres" / damage
    if damage == "global/pg_control":
        damaged.write_bytes(b"\0" * 8192)
        words, seen = "FATAL: .*(incompatible|incorrect checksum)", "checksum does not match"
    elif damage == "PG_VERSION":
        damaged.unlink()
        words = seen = "no PG_VERSION file"
    elif damage == "its content":
        (settings.home / "postgres" / "PG_VERSION").write_bytes(b"\xff\0garbage")
        words = seen = "its PG_VERSION names no version"
    else:
        shutil.rmtree(damaged)
        words, seen = r'"base/\d+" is missing', "base/1/PG_VERSION is missing"
    finding = examine_data_folder(settings)[0]
    assert (finding.check, finding.status) == ("data", FAIL)
    assert seen in finding.detail
    assert "callboard restore" in finding.mend
    with pytest.raises(DataFolderError, match=words) as caught:
        await ensure_services(settings)
    assert "callboard restore" in caught.value.fix
    assert "\n" not in str(caught.value)
    assert find_instance(settings) is None


async def test_the_doctor_says_of_a_data_folder_what_the_next_start_will_find(settings: Settings) -> None:
    def data() -> Finding:
        return examine_data_folder(settings)[0]

    assert (data().status, "none yet" in data().detail) == (GOOD, True)
    services = await ensure_services(settings)
    await services.stop()
    assert [finding.status for finding in examine_data_folder(settings)] == [GOOD, GOOD]
    assert "was shut down cleanly" in data().detail
    folder = settings.home / "postgres"
    first = next((folder / "pg_wal").glob("0*"))
    first.rename(folder / "elsewhere")
    assert (data().status, f"pg_wal/{first.name} is missing" in data().detail) == (FAIL, True)
    (folder / "elsewhere").rename(first)
    stream = settings.home / "nats" / "jetstream" / "$G" / "streams" / "EVENTS"
    stream.mkdir(parents=True)
    (stream / "meta.inf").write_bytes(b"\0")
    assert [finding.status for finding in examine_data_folder(settings)] == [GOOD, FAIL]
    folder.rename(settings.home / "elsewhere")
    assert (data().status, "makes an empty database" in data().detail) == (WARN, True)


async def test_the_doctor_says_that_a_data_folder_will_be_recovered(settings: Settings) -> None:
    async with await ensure_services(settings):
        instance = find_instance(settings)
        assert instance is not None
        kill(instance.postgres_pid)
        finding = examine_data_folder(settings)[0]
    assert (finding.status, "the next start recovers it" in finding.detail) == (GOOD, True)


async def test_a_data_folder_of_another_major_version_is_refused(settings: Settings) -> None:
    await (await ensure_services(settings)).stop()
    (settings.home / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(DataFolderError, match="made by Postgres 17, and this is Postgres 18"):
        await ensure_services(settings)


async def test_a_corrupt_nats_folder_is_refused_in_its_own_words(settings: Settings) -> None:
    await (await ensure_services(settings)).stop()
    shutil.rmtree(settings.home / "nats" / "jetstream")
    (settings.home / "nats" / "jetstream").write_text("not a folder")
    assert [finding.status for finding in examine_data_folder(settings)] == [GOOD, FAIL]
    with pytest.raises(DataFolderError, match=r"NATS cannot start on .*: .*(directory|JetStream)"):
        await ensure_services(settings)
    assert find_instance(settings) is None


async def test_lost_credentials_are_a_clear_error(settings: Settings) -> None:
    await (await ensure_services(settings)).stop()
    (settings.home / "credentials.json").write_text("{")
    finding = examine_data_folder(settings)[0]
    assert (finding.status, "credentials.json cannot be read" in finding.detail) == (FAIL, True)
    with pytest.raises(DataFolderError, match=r"credentials\.json cannot be read"):
        await ensure_services(settings)

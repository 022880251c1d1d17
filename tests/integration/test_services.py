"""The embedded services, for real: started, joined, killed, recovered, refused, stopped."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pwd
import shutil
import signal
import socket
import stat
import sys
import traceback
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import nats
import psutil
import pytest
from nats.js.api import StorageType
from pydantic import SecretStr

from bus.errors import DataFolderError, ServiceUnavailable, ServiceUnsafe
from callboard.services import (
    Endpoints,
    check_nats,
    check_postgres_durable,
    client_program,
    ensure_services,
    find_instance,
    program,
    stop_instance,
)
from callboard.services.account import service_account
from callboard.services.lock import held
from callboard.settings import Settings

ROOT = os.geteuid() == 0


@pytest.fixture
async def settings(home: Path) -> AsyncIterator[Settings]:
    """Settings for services of this test's own, which are stopped at its end whatever happened."""
    settings = Settings(home=home)
    yield settings
    await stop_instance(settings)


async def fetchval(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


# --- start, join, stop ---


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
    await _in_another_process(settings.home, "print((await ensure_services(Settings())).started_here)")
    instance = find_instance(settings)
    assert instance is not None
    joined = await ensure_services(settings)
    assert not joined.started_here
    assert await stop_instance(settings)
    assert not await stop_instance(settings)
    assert find_instance(settings) is None


async def test_of_commands_that_start_at_once_one_starts_and_the_others_join(settings: Settings) -> None:
    starts = [
        _in_another_process(settings.home, "print((await ensure_services(Settings())).started_here)")
        for _ in range(3)
    ]
    answers = await asyncio.gather(*starts)
    assert sorted(answers) == ["False", "False", "True"]


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.2, 0.6])
async def test_a_command_that_is_ended_while_it_starts_services_leaves_none(
    settings: Settings, after_s: float
) -> None:
    starting = asyncio.create_task(ensure_services(settings))
    await asyncio.wait([starting], timeout=after_s)  # anywhere: its lock, initdb, a server on its way
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


# --- who can reach them ---


async def test_nothing_listens_beyond_loopback(settings: Settings) -> None:
    await ensure_services(settings)
    instance = find_instance(settings)
    assert instance is not None
    postmaster = psutil.Process(instance.postgres_pid)
    for process in (postmaster, *postmaster.children(recursive=True)):
        assert process.net_connections("inet") == []
    listening = psutil.Process(instance.nats_pid).net_connections("inet")
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
    assert sum(c.status == psutil.CONN_LISTEN for c in listening) == 1


async def test_only_the_generated_passwords_let_anyone_in(settings: Settings) -> None:
    running = await ensure_services(settings)
    url = running.endpoints.postgres_url
    password = url.split(":")[2].split("@")[0]
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(url.replace(password, "wrong"))
    rules = (settings.home / "postgres" / "pg_hba.conf").read_text().splitlines()
    methods = {rule.split()[-1] for rule in rules if rule.strip() and not rule.startswith("#")}
    assert methods == {"scram-sha-256"}
    anonymous = running.endpoints.nats_url.split("@")[1]
    with pytest.raises(ServiceUnavailable, match="refused the user or password"):
        await check_nats(f"nats://{anonymous}")


async def test_secrets_are_in_private_files_only(settings: Settings) -> None:
    running = await ensure_services(settings)
    password = running.endpoints.postgres_url.split(":")[2].split("@")[0]
    nats_password = running.endpoints.nats_url.split(":")[2].split("@")[0]
    for path in settings.home.iterdir():
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) != 0o600:
            text = path.read_text()
            assert password not in text
            assert nats_password not in text
    for name in ("credentials.json", "instance.json"):
        found = (settings.home / name).stat()
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert found.st_uid == os.geteuid()
    # Nor does anything show them to `ps`.
    for pid in psutil.pids():
        try:
            arguments = " ".join(psutil.Process(pid).cmdline())
        except psutil.Error:
            continue
        assert password not in arguments
        assert nats_password not in arguments
    assert password not in repr(running)


@pytest.mark.skipif(not ROOT, reason="only root switches accounts")
async def test_as_root_the_servers_run_without_its_rights(settings: Settings) -> None:
    await ensure_services(settings)
    instance = find_instance(settings)
    assert instance is not None
    for pid in (instance.postgres_pid, instance.nats_pid):
        process = psutil.Process(pid)
        assert 0 not in process.uids()
        assert 0 not in process.gids()
        assert _groups(process) == []


@pytest.mark.skipif(not ROOT, reason="only root switches accounts")
async def test_as_root_a_home_that_the_account_cannot_reach_is_refused(home: Path) -> None:
    private = home.parent / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(DataFolderError, match=f"cannot pass through {private} "):
        await ensure_services(Settings(home=private / "home"))
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


async def test_no_existing_folders_mode_is_touched(settings: Settings) -> None:
    before = [(path, path.stat().st_mode) for path in settings.home.parents]
    await ensure_services(settings)
    assert [(path, path.stat().st_mode) for path in settings.home.parents] == before


@pytest.mark.skipif(not ROOT, reason="an ordinary user's run of the whole suite is this test")
async def test_an_ordinary_user_runs_services_of_their_own(home: Path) -> None:
    user = pwd.getpwnam("nobody")
    if service_account(home).first_blocked([client_program("postgres")]):
        pytest.skip("this checkout lies in a folder of root's own, where no other user can run its programs")
    folder = home.parent / "ada"
    folder.mkdir(mode=0o700)
    os.chown(folder, user.pw_uid, user.pw_gid)
    # The first round, as root, loads every module: the interpreter may lie where only root can read.
    script = f"""
        async with await ensure_services(Settings(home=Path({str(home)!r}))):
            pass
        os.setgroups([]); os.setgid({user.pw_gid}); os.setuid({user.pw_uid})
        os.environ["HOME"] = {str(folder)!r}
        settings = load_settings()
        async with await ensure_services(settings):
            instance = find_instance(settings)
            print(settings.home, os.stat(f"/proc/{{instance.postgres_pid}}").st_uid, flush=True)
        assert find_instance(settings) is None
    """
    answer = await _in_another_process(None, script)
    assert answer == f"{folder}/.local/share/callboard {user.pw_uid}"


async def test_another_users_home_is_refused(settings: Settings) -> None:
    if not ROOT:
        pytest.skip("needs a folder of another user's, which only root can make")
    settings.home.mkdir()
    os.chown(settings.home, 12345, 12345)
    with pytest.raises(DataFolderError, match="belongs to another user"):
        await ensure_services(settings)
    os.chown(settings.home, 0, 0)


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


# --- crashes ---


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


# --- what is refused ---


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
        stderr=asyncio.subprocess.PIPE,
        **options,
    )
    try:
        await _until_it_says(foreign, b"ready to accept connections")
        with pytest.raises(DataFolderError, match=f"held by process {foreign.pid} .*did not start"):
            await ensure_services(settings)
        assert foreign.returncode is None
    finally:
        foreign.terminate()
        await foreign.communicate()
    await ensure_services(settings)


@pytest.mark.parametrize("damage", ["global/pg_control", "PG_VERSION", "base"])
async def test_a_corrupt_postgres_folder_is_refused_in_postgress_own_words(
    settings: Settings, damage: str
) -> None:
    await (await ensure_services(settings)).stop()
    damaged = settings.home / "postgres" / damage
    if damage == "global/pg_control":
        damaged.write_bytes(b"\0" * 8192)
        words = "FATAL: .*(incompatible|incorrect checksum)"
    elif damage == "PG_VERSION":
        damaged.unlink()
        words = "no PG_VERSION file"
    else:
        shutil.rmtree(damaged)
        words = r'"base/\d+" is missing'
    with pytest.raises(DataFolderError, match=words) as caught:
        await ensure_services(settings)
    assert "callboard restore" in caught.value.fix
    assert "\n" not in str(caught.value)
    assert find_instance(settings) is None


async def test_a_data_folder_of_another_major_version_is_refused(settings: Settings) -> None:
    await (await ensure_services(settings)).stop()
    (settings.home / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(DataFolderError, match="made by Postgres 17, and this is Postgres 18"):
        await ensure_services(settings)


async def test_a_corrupt_nats_folder_is_refused_in_its_own_words(settings: Settings) -> None:
    await (await ensure_services(settings)).stop()
    shutil.rmtree(settings.home / "nats" / "jetstream")
    (settings.home / "nats" / "jetstream").write_text("not a folder")
    with pytest.raises(DataFolderError, match=r"NATS cannot start on .*: .*(directory|JetStream)"):
        await ensure_services(settings)
    assert find_instance(settings) is None


async def test_lost_credentials_are_a_clear_error(settings: Settings) -> None:
    await (await ensure_services(settings)).stop()
    (settings.home / "credentials.json").write_text("{")
    with pytest.raises(DataFolderError, match=r"credentials\.json cannot be read"):
        await ensure_services(settings)


async def test_a_port_that_was_taken_meanwhile_is_replaced_by_another(settings: Settings) -> None:
    first = await ensure_services(settings)
    await first.stop()
    port = int(first.endpoints.nats_url.rsplit(":", 1)[1])
    with socket.create_server(("127.0.0.1", port)):
        again = await ensure_services(settings)
    assert again.endpoints.nats_url != first.endpoints.nats_url
    await check_nats(again.endpoints.nats_url)


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
    url = url.format(secret=SECRET, port=_closed_port())
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


@pytest.mark.parametrize(
    "url", ["nats://ada:{secret}@127.0.0.1:{port}", "nats://ada:{secret}@no-such-host.invalid:4222"]
)
async def test_a_wrong_nats_address_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(ServiceUnavailable, match="NATS at ada@") as caught:
        await check_nats(url.format(secret=SECRET, port=_closed_port()))
    _assert_clear(caught.value, "CALLBOARD_NATS_URL")


@pytest.mark.parametrize("port", ["99999", "abc"])
async def test_a_nats_address_that_cannot_be_read_is_one_line_without_the_password(port: str) -> None:
    with pytest.raises(ServiceUnavailable, match="the URL cannot be read") as caught:
        await check_nats(f"nats://ada:{SECRET}@127.0.0.1:{port}")
    _assert_clear(caught.value, "CALLBOARD_NATS_URL")


async def test_a_nats_without_jetstream_is_refused() -> None:
    port = _closed_port()
    server = await asyncio.create_subprocess_exec(
        *(Path(sys.executable).parent / "nats-server", "-a", "127.0.0.1", "-p", str(port)),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await _until_it_says(server, b"Server is ready")
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


async def _until_it_says(process: asyncio.subprocess.Process, words: bytes) -> None:
    assert process.stderr is not None
    while words not in (line := await process.stderr.readline()):
        assert line, f"it ended without saying {words!r}"


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _groups(process: psutil.Process) -> list[int]:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("Groups:"):
            return [int(word) for word in line.split()[1:]]
    raise AssertionError("no groups in /proc")


async def _in_another_process(home: Path | None, body: str) -> str:
    """Run the body of an async function in a new interpreter; what it printed."""
    lines = [line for line in body.splitlines() if line.strip()]
    margin = len(lines[0]) - len(lines[0].lstrip())
    indented = "\n".join("    " + line[margin:] for line in lines)
    script = (
        "import asyncio, os\nfrom pathlib import Path\nfrom callboard.services import *\n"
        f"from callboard.settings import Settings, load_settings\nasync def main():\n{indented}\n"
        "asyncio.run(main())\n"
    )
    environment = dict(os.environ) | ({"CALLBOARD_HOME": str(home)} if home else {})
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()
    return output.decode().strip()

"""Who can reach the embedded services: nobody but who has the generated passwords, and as whom they run."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import asyncpg
import psutil
import pytest

from bus.errors import DataFolderError, ServiceUnavailable
from callboard.services import check_nats, client_program, ensure_services, find_instance
from callboard.services.account import service_account
from callboard.settings import Settings
from tests.integration.services.servers import ROOT, in_another_process


async def test_nothing_listens_beyond_loopback(running: Settings) -> None:
    instance = find_instance(running)
    assert instance is not None
    postmaster = psutil.Process(instance.postgres_pid)
    for process in (postmaster, *postmaster.children(recursive=True)):
        assert process.net_connections("inet") == []
    listening = psutil.Process(instance.nats_pid).net_connections("inet")
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
    assert sum(c.status == psutil.CONN_LISTEN for c in listening) == 1


async def test_only_the_generated_passwords_let_anyone_in(running: Settings) -> None:
    found = find_instance(running)
    assert found is not None
    url = found.endpoints.postgres_url
    password = url.split(":")[2].split("@")[0]
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(url.replace(password, "wrong"))
    rules = (running.home / "postgres" / "pg_hba.conf").read_text().splitlines()
    methods = {rule.split()[-1] for rule in rules if rule.strip() and not rule.startswith("#")}
    assert methods == {"scram-sha-256"}
    anonymous = found.endpoints.nats_url.split("@")[1]
    with pytest.raises(ServiceUnavailable, match="refused the user or password"):
        await check_nats(f"nats://{anonymous}")


async def test_secrets_are_in_private_files_only(running: Settings) -> None:
    services = await ensure_services(running)
    password = services.endpoints.postgres_url.split(":")[2].split("@")[0]
    nats_password = services.endpoints.nats_url.split(":")[2].split("@")[0]
    for path in running.home.iterdir():
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) != 0o600:
            text = path.read_text()
            assert password not in text
            assert nats_password not in text
    for name in ("credentials.json", "instance.json"):
        found = (running.home / name).stat()
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
    assert password not in repr(services)


@pytest.mark.skipif(not ROOT, reason="only root switches accounts")
async def test_as_root_the_servers_run_without_its_rights(running: Settings) -> None:
    instance = find_instance(running)
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


@pytest.mark.skipif(not ROOT, reason="only root switches accounts")
async def test_a_containers_root_finds_and_stops_its_servers(home: Path) -> None:
    """It may not see what processes of another account have open: Docker gives it no CAP_SYS_PTRACE."""
    script = """
        settings = load_settings()
        async with await ensure_services(settings):
            async with await ensure_services(settings):
                print(find_instance(settings) is not None, flush=True)
        print(find_instance(settings) is None)
    """
    answer = await in_another_process(home, script, through=("setpriv", "--bounding-set=-sys_ptrace"))
    assert answer == "True\nTrue"


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
    answer = await in_another_process(None, script)
    assert answer == f"{folder}/.local/share/callboard {user.pw_uid}"


async def test_another_users_home_is_refused(settings: Settings) -> None:
    if not ROOT:
        pytest.skip("needs a folder of another user's, which only root can make")
    settings.home.mkdir()
    os.chown(settings.home, 12345, 12345)
    with pytest.raises(DataFolderError, match="belongs to another user"):
        await ensure_services(settings)
    os.chown(settings.home, 0, 0)


def _groups(process: psutil.Process) -> list[int]:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("Groups:"):
            return [int(word) for word in line.split()[1:]]
    raise AssertionError("no groups in /proc")

"""Ray's head on this machine: what a start that was cut short leaves, and who ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bus.errors import ServiceUnavailable
from callboard import ray_head
from callboard.ray_head import RayHead


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RayHead:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return RayHead(folder=tmp_path / "ray")


def stand_in(folder: Path, ready: Path) -> subprocess.Popen[bytes]:
    """A process that was given Ray's folder as the head is, and one of its session that was not."""
    child = [sys.executable, "-c", "import time; time.sleep(60)"]
    code = f"import subprocess, time; subprocess.Popen({child!r}); open({str(ready)!r}, 'w'); time.sleep(60)"
    return subprocess.Popen([sys.executable, "-c", code, f"--temp-dir={folder}"], start_new_session=True)


async def test_a_head_that_was_not_recorded_is_ended(head: RayHead, tmp_path: Path) -> None:
    ours = stand_in(head._temp, tmp_path / "ours")
    other = stand_in(tmp_path / f"{head._private.name}0", tmp_path / "other")
    try:
        while not ((tmp_path / "ours").exists() and (tmp_path / "other").exists()):
            assert ours.poll() is other.poll() is None
        assert head.running() is None
        assert head.unrecorded() == ours.pid
        assert await head.stop()
        assert head.unrecorded() is None
        assert ours.poll() is not None
        assert other.poll() is None
        assert not await head.stop()
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()


async def test_one_that_is_ended_before_it_has_any_logs_is_ended_all_the_same(
    head: RayHead, tmp_path: Path
) -> None:
    session = head._temp / "session_1"
    session.mkdir(parents=True)
    (head._temp / "session_latest").symlink_to(session)
    ours = stand_in(head._temp, tmp_path / "ours")
    try:
        assert await head.stop()
        assert not head._private.exists()
    finally:
        ours.kill()
        ours.wait()


async def test_a_process_of_somebody_else_is_no_head_of_ours(
    head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    us = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: us + 1)
    theirs = stand_in(head._temp, tmp_path / "theirs")
    try:
        while not (tmp_path / "theirs").exists():
            assert theirs.poll() is None
        assert head.unrecorded() is None
        assert not await head.stop()
        assert theirs.poll() is None
    finally:
        os.killpg(theirs.pid, signal.SIGKILL)
        theirs.wait()


def test_a_link_in_the_place_of_rays_folder_is_not_followed(head: RayHead, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    head._private.symlink_to(tmp_path / "precious")
    with pytest.raises(ServiceUnavailable, match="belongs to somebody else"):
        head._launch()
    assert not list((tmp_path / "precious").iterdir())


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The options of each head that was to be started; none is."""
    found: list[dict[str, str]] = []

    def refuse(command: list[str], **_: object) -> None:
        found.append(dict(word.partition("=")[::2] for word in command))
        raise OSError("no Ray here")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    return found


def test_a_head_takes_no_fixed_port_that_another_users_ray_may_have(
    head: RayHead, launched: list[dict[str, str]]
) -> None:
    with pytest.raises(OSError, match="no Ray here"):
        head._launch()
    ports = [int(launched[0][f"--{name}"]) for name in ("dashboard-port", "ray-client-server-port")]
    assert len(set(ports)) == 2
    assert 10001 not in ports  # Ray's default: where another user has it, the head ends as it starts
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("", port))


@pytest.mark.parametrize("there", [False, True], ids=["new", "as Ray left it"])
def test_nobody_else_comes_to_what_ray_opens_to_all(
    head: RayHead, launched: list[dict[str, str]], there: bool
) -> None:
    """Its sessions' folders are everybody's (0777): whoever may rename in them has the cluster's address and code."""
    if there:
        head._private.mkdir()
        head._private.chmod(0o777)
    with pytest.raises(OSError, match="no Ray here"):
        head._launch()
    given = Path(launched[0]["--temp-dir"])
    assert given.is_dir()
    assert given.parent == head._private
    assert stat.S_IMODE(head._private.stat().st_mode) == 0o700


HEAD = """
import os, subprocess, sys, time
print("\x1b[36mall is well\x1b[39m", flush=True)
child = subprocess.Popen(["sleep", "60"])
time.sleep(60)
"""


@pytest.fixture
def started(head: RayHead, monkeypatch: pytest.MonkeyPatch) -> Iterator[psutil.Process]:
    """A head that never gets an address: the process that it cannot do without."""
    monkeypatch.setattr(ray_head, "_VITAL", ("sleep",))
    with head._log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", HEAD, f"--temp-dir={head._temp}"],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    head._pid_file.write_text(f"{process.pid} {psutil.Process(process.pid).create_time()}")
    try:
        while not (children := psutil.Process(process.pid).children()) or children[0].name() != "sleep":
            assert process.poll() is None
        yield children[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def test_a_head_whose_process_dies_as_it_starts_is_told_of_at_once_with_its_last_words(
    head: RayHead, started: psutil.Process
) -> None:
    """Ray itself would wait half a minute and more for it, and then say that a file is missing."""
    starting = asyncio.create_task(head.start())
    started.kill()
    async with asyncio.timeout(10):
        with pytest.raises(
            ServiceUnavailable, match=r"sleep first. The last it said: all is well\."
        ) as failed:
            await starting
    assert str(head._log) in (failed.value.fix or "")
    assert head.running() is None


async def test_what_a_dying_process_has_said_is_better_than_what_the_head_has(
    head: RayHead, started: psutil.Process
) -> None:
    logs = head._temp / "session_1" / "logs"
    logs.mkdir(parents=True)
    (head._temp / "session_latest").symlink_to(logs.parent)
    (logs / "sleep.out").write_text("the port is in use\n\n")
    started.kill()
    async with asyncio.timeout(10):
        with pytest.raises(ServiceUnavailable, match=r"The last it said: the port is in use\."):
            await head.start()


async def test_who_joins_a_head_that_ends_is_told_so_and_not_that_its_address_is_wrong(
    head: RayHead, started: psutil.Process
) -> None:
    async def join() -> None:
        await asyncio.Event().wait()

    async def fail() -> None:
        raise ServiceUnavailable("Ray cannot be joined.", fix="Check RAY_ADDRESS.")

    async def succeed() -> int:
        return 7

    with pytest.raises(ServiceUnavailable, match="cannot be joined"):
        await head.while_running(fail())
    started.kill()
    for work in (join, fail):
        async with asyncio.timeout(10):
            with pytest.raises(ServiceUnavailable, match="has ended, sleep first"):
                await head.while_running(work())
    assert await head.while_running(succeed()) == 7


async def test_a_head_that_was_stopped_has_not_died(head: RayHead, tmp_path: Path) -> None:
    ours = stand_in(head._temp, tmp_path / "ours")
    head._pid_file.write_text(f"{ours.pid} {psutil.Process(ours.pid).create_time()}")
    try:
        assert await head.require_alive()
        os.killpg(ours.pid, signal.SIGKILL)
        ours.wait()
        with pytest.raises(ServiceUnavailable, match="has ended, ray start first"):
            await head.require_alive()
        await head.stop()
        assert not await head.require_alive()
    finally:
        ours.kill()
        ours.wait()


def test_what_its_processes_make_for_the_moment_is_in_the_folder_that_goes_with_it(
    head: RayHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, str] = {}

    def refuse(*_: object, env: dict[str, str], **__: object) -> None:
        given.update(env)
        raise OSError("no Ray here")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setenv("TMPDIR", str(head.folder))
    with pytest.raises(OSError, match="no Ray here"):
        head._launch()
    scratch = Path(given["TMPDIR"])
    assert scratch.is_dir()
    assert scratch.parent == head._private
    # The longest of multiprocessing's there beside Ray's own, which is the one that fills the 107 bytes.
    ours = f"{scratch}/pymp-12345678/listener-12345678"
    rays = f"{head._temp}/session_2026-11-22_08-05-07_468335_16125/sockets/dash_MetricsHead"
    assert len(ours) < len(rays)


async def test_the_folder_of_a_head_that_ended_by_itself_goes_and_its_logs_stay(head: RayHead) -> None:
    logs = head._temp / "session_1" / "logs"
    logs.mkdir(parents=True)
    (logs / "gcs_server.err").write_text("no memory")
    (head._temp / "session_latest").symlink_to(head._temp / "session_1")
    assert not await head.stop()
    assert not head._private.exists()
    assert (head._kept_logs / "gcs_server.err").read_text() == "no memory"

"""A server is ended by the number in its lock file, which may mean another process by now, or here."""

from __future__ import annotations

import asyncio
import fcntl
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bus.errors import DataFolderError
from callboard.services import process

SLEEPS = (sys.executable, "-c", "import time; time.sleep(600)")


@pytest.fixture
def lock_path(tmp_path: Path) -> Path:
    return tmp_path / "nats.lock"


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEPS) as started:
        yield started
        started.kill()


async def stop(lock_path: Path) -> None:
    await process.stop("NATS", lock_path=lock_path, how=signal.SIGTERM, timeout_s=5)


def _refuse(process: psutil.Process) -> None:
    """As to a container's root, of what another account's process has open."""
    raise psutil.AccessDenied(process.pid)


@pytest.mark.parametrize("may_look", [True, False], ids=["seen", "as root without CAP_SYS_PTRACE"])
async def test_a_process_that_has_the_number_and_not_the_lock_is_left_alone(
    lock_path: Path, bystander: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, may_look: bool
) -> None:
    if not may_look:
        monkeypatch.setattr(psutil.Process, "open_files", _refuse)
    monkeypatch.setattr(process, "CHILDREN_S", 0.2)
    with lock_path.open("w") as held:  # as by a server in another container that shares the folder
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write(f"{bystander.pid}\n")
        held.flush()
        with pytest.raises(DataFolderError, match="by a process that cannot be seen"):
            await stop(lock_path)
    assert bystander.poll() is None


@pytest.mark.parametrize("may_look", [True, False], ids=["seen", "as root without CAP_SYS_PTRACE"])
async def test_the_process_that_has_the_lock_is_ended(
    lock_path: Path, monkeypatch: pytest.MonkeyPatch, may_look: bool
) -> None:
    if not may_look:
        monkeypatch.setattr(psutil.Process, "open_files", _refuse)
    with lock_path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        server = await asyncio.create_subprocess_exec(*SLEEPS, pass_fds=[held.fileno()])
        held.write(f"{server.pid}\n")
    await stop(lock_path)
    assert await server.wait() == -signal.SIGTERM

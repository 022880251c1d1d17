"""Hosts as plain processes that outlive the coordinator which started them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from coordinators.gone import Process, has_ended
from tests.faults.folder import Folder

REPOSITORY = Path(__file__).resolve().parents[2]


def spawn(module: str, folder: Folder, name: str) -> subprocess.Popen[bytes]:
    """Start `python -m MODULE FOLDER NAME` in a session of its own, its output going to its log."""
    with folder.log(name).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", module, str(folder.path), name],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def command_line(pid: int) -> list[str]:
    """The words of a process's command; none for one that is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


class ProcessLauncher:
    """Implements coordinators.launcher.Launcher."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    async def start(self, domain: str, host: str) -> RunningHost:
        child = spawn("tests.faults.host_process", self._folder, host)
        return RunningHost(child.pid, child)

    async def attach(self, domain: str, host: str, pid: int) -> RunningHost | None:
        return RunningHost(pid) if host in command_line(pid) else None

    async def is_gone(self, process: Process) -> bool:
        return has_ended(process.pid, process.born)


class RunningHost:
    """Implements coordinators.launcher.HostProcess, for a child or for somebody else's."""

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self._child = child
        self._handle = os.pidfd_open(pid)  # readable once the process has ended

    async def ended(self) -> None:
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(self._handle, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(self._handle)
        os.close(self._handle)
        if self._child is not None:
            self._child.wait()

    async def kill(self) -> None:
        signal.pidfd_send_signal(self._handle, signal.SIGKILL)

"""A machine with nothing on it but the system, as far as a folder and an empty environment make one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]


class Machine:
    """Runs shell commands with a home folder of its own, as Ray's cluster launcher does over ssh."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self.home = home
        self.environment = {
            "HOME": str(home),
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "RAY_TMPDIR": str(home),  # another Ray of this real machine keeps its own /tmp/ray
        }

    def __call__(self, command: str, **environment: str) -> str:
        """Run one command; returns what it said."""
        ran = subprocess.run(
            ["bash", "--login", "-c", command],
            env=self.environment | environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}"
        return ran.stdout

    def processes(self) -> list[psutil.Process]:
        """Those that were started on this machine, whatever title they have taken since."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("RAY_TMPDIR") == str(self.home):
                    found.append(process)
        return found

    def shut_down(self) -> None:
        """Kill what runs. (`ray stop` would end every Ray of the real machine.)"""
        found = self.processes()
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, 10)


def reachable(folder: Path) -> Path:
    """As root, the embedded services' own account must pass through."""
    if os.geteuid() == 0:
        folder.chmod(0o711)
    return folder

"""The program as a user starts it, on a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

PROGRAM = Path(sys.executable).with_name("callboard")


class Program:
    def __init__(self, home: Path, *, cwd: Path | None = None, **environment: str) -> None:
        self.environment = {**os.environ, "CALLBOARD_HOME": str(home), **environment}
        self.home = home
        self.cwd = cwd

    def __call__(self, *words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        ran = subprocess.run(
            [PROGRAM, *words],
            env=self.environment,
            cwd=self.cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert ran.returncode == code, ran.stderr
        return ran

    def survivors(self) -> list[str]:
        """Processes that were started for this home and still run."""
        return [
            " ".join(process.info["cmdline"])
            for process in psutil.process_iter(["cmdline"])
            if str(self.home) in " ".join(process.info["cmdline"] or ())
        ]

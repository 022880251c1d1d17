"""The program as a user starts it, on a home of its own."""

from __future__ import annotations

import os
import signal
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

    def shell(self, script: str, *, cwd: Path) -> str:
        """What a script prints, with the programs of this environment on its path."""
        path = f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"
        ran = subprocess.run(
            ["bash", "-e", "-c", script],
            env=self.environment | {"PATH": path},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def start(
        self, *words: str | Path, stdin: int = subprocess.DEVNULL, **environment: str
    ) -> subprocess.Popen[str]:
        """One that goes on while the test does other things, in a session of its own."""
        return subprocess.Popen(
            [PROGRAM, *words],
            env=self.environment | environment,
            cwd=self.cwd,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A test run that was started in a shell's background ignores SIGINT, and its children would, too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def survivors(self) -> list[str]:
        """Processes that were started for this home and still run."""
        return [
            " ".join(process.info["cmdline"])
            for process in psutil.process_iter(["cmdline"])
            if str(self.home) in " ".join(process.info["cmdline"] or ())
        ]


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """What it has said on standard error, up to the line with this word."""
    assert process.stderr is not None
    said = ""
    while word not in said:
        line = process.stderr.readline()
        assert line, f"it has ended without {word!r}: {said}"
        said += line
    return said

"""The folder that a fault run's processes share: what they are told, what they log, who they are."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

_FIRED = re.compile(r"^fault fired: (\S+)", re.MULTILINE)
_DROPPED = re.compile(r"^fault fired: dropped (\d+)", re.MULTILINE)


class Folder:
    """Paths below one temporary folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self, config: dict[str, Any]) -> None:
        for name in ("logs", "pids", "orders", "executions"):
            (self.path / name).mkdir(parents=True)
        file = self.path / "config.json"
        file.touch(mode=0o600)  # it holds the services' passwords
        file.write_text(json.dumps(config))

    def config(self) -> dict[str, Any]:
        return dict(json.loads((self.path / "config.json").read_text()))

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    @property
    def executions(self) -> Path:
        return self.path / "executions"

    def orders(self, pid: int) -> Path:
        return self.path / "orders" / str(pid)

    def listens(self, pid: int) -> bool:
        """Whether the process can be given orders; before, the signal would end it."""
        return self.orders(pid).exists()

    def note_listening(self) -> None:
        """Called by each process for itself."""
        self.orders(os.getpid()).write_text("{}")

    def order(self, pid: int, **orders: Any) -> None:
        """Tell a process what to do from now on."""
        written = self.orders(pid).with_suffix(".new")
        written.write_text(json.dumps(orders))
        written.replace(self.orders(pid))  # it may be reading those of before
        os.kill(pid, signal.SIGUSR1)

    def note_process(self) -> None:
        """Called by each process for itself."""
        (self.path / "pids" / str(os.getpid())).touch()

    def is_ours(self, pid: int) -> bool:
        """Whether the pid is (still) that of a process of this run."""
        try:
            return os.fsencode(self.path) in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def end_processes(self) -> None:
        """Kill every process of this run that is still there."""
        for entry in (self.path / "pids").iterdir():
            pid = int(entry.name)
            if self.is_ours(pid):
                os.kill(pid, signal.SIGKILL)

    def make_all_tell(self) -> None:
        """Have every process log where its tasks stand: for whoever has to find out why a run stands still."""
        for entry in (self.path / "pids").iterdir():
            pid = int(entry.name)
            if self.is_ours(pid) and self.listens(pid):
                os.kill(pid, signal.SIGUSR2)

    def fired(self) -> list[str]:
        """The named faults that fired in the processes of this run."""
        return self._logged(_FIRED)

    def dropped(self) -> int:
        """How many deliveries of NATS were dropped in this run."""
        return sum(map(int, self._logged(_DROPPED)))

    def _logged(self, pattern: re.Pattern[str]) -> list[str]:
        logs = sorted((self.path / "logs").iterdir())
        return [found for log in logs for found in pattern.findall(log.read_text(errors="replace"))]

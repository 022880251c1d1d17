"""The keeper as its starters see it: a process of its own, which `keeping.py` is the program of (decision 53)."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from . import process
from .account import Account
from .home import Home

PROGRAM = "callboard.services.keeping"
STOP_TIMEOUT_S = 10.0
REVIVED = " had died: started again"  # what it logs after the names of services
_LOOKED_AT = (
    64 * 1024
)  # bytes of its log, from the end: a start that fails again and again writes a line a minute


@dataclass(frozen=True, kw_only=True)
class Keeper:
    """The keeper of the instance below one `Home`."""

    home: Home

    @property
    def lock_path(self) -> Path:
        return self.home / "keeper.lock"

    @property
    def log(self) -> Path:
        return self.home / "keeper.log"

    def running(self) -> int | None:
        """Its pid, or None."""
        return process.running(self.lock_path)

    def revivals(self, since: datetime) -> dict[str, list[datetime]]:
        """When it has started which service again, as its log has it, oldest first."""
        found: dict[str, list[datetime]] = {}
        for line in self._last_lines():
            start, revived, _ = line.partition(REVIVED)
            if not revived:
                continue
            with suppress(ValueError, TypeError):  # the rest of a line, or one that the disk had no room for
                day, time, *names = start.split(" ")
                at = datetime.fromisoformat(f"{day} {time}")
                for name in ("Postgres", "NATS"):
                    if name in names and at >= since:
                        found.setdefault(name, []).append(at)
        return found

    def _last_lines(self) -> list[str]:
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LOOKED_AT))
                return file.read().decode(errors="replace").splitlines()
        except OSError:
            return []

    async def start(self) -> bool:
        """Start it; False if it was running already. Raises `DataFolderError`."""
        if await process.settled(self.lock_path) is not None:
            return False
        await process.launch(
            [sys.executable, "-P", "-m", PROGRAM, self.home.path],
            # It starts the servers, and so needs the rights of whoever starts it.
            account=Account(name=str(os.geteuid()), uid=os.geteuid(), gid=os.getegid(), switched=False),
            lock_path=self.lock_path,
            log=self.log,
            environment=os.environ,
        )
        await process.settled(self.lock_path)  # its pid is known from here on
        return True

    async def stop(self) -> None:
        """End it, whatever it does; under `instance.lock` it starts nothing."""
        await process.stop(
            "The keeper", lock_path=self.lock_path, how=signal.SIGTERM, timeout_s=STOP_TIMEOUT_S
        )

"""The process that beats for a host, so that a handler that holds the interpreter is not taken for a dead host.

It beats while the host's process is there and not stopped; what it says of the host it reads from their shared page.
It knows the host's settings from the first line of its standard input, and ends when that is closed. It stays small:
whatever this module imports, every host pays for once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from typing import Any

import asyncpg
import psutil

from actors.blocker import blocker, read_stacks
from actors.pulse import Pulse
from bus.errors import CallboardError
from storage.boundary import translated
from storage.connect import connect
from storage.queries import query

_logger = logging.getLogger("callboard.heartbeat")

BEAT_EVERY_S = 0.25
BLOCKED_AFTER_S = 1.0  # an event loop that is this late is reported with the code that holds it
CUT_OFF_AFTER_S = 10.0  # a host that has not reached Postgres for so long stops by itself
_APPLICATION = "callboard-heartbeat"
_DUMPED_WITHIN_S = 0.2
_DUMP_LOOKS = 10


class Beating:
    """Beats for one host. `run` returns why the host has to end, or when the host is gone."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._url: str = settings["url"]
        self._row: tuple[str, int] = settings["domain"], settings["epoch"]
        self._loop_thread: int = settings["loop_thread"]
        self._ask: int | None = settings["ask"]  # the signal at which the host writes its stacks
        self._stacks: int = settings["stacks"]
        self._pulse = Pulse(settings["pulse"])
        self._host = psutil.Process(settings["pid"])
        self._blocked: tuple[float, str] = 0.0, ""  # the tick since when, and by what

    async def run(self) -> str | None:
        connection: asyncpg.Connection[Any] | None = None
        reached = time.monotonic()
        while os.getppid() == self._host.pid:
            try:
                if self._is_stopped():
                    reached = time.monotonic()
                else:
                    if connection is None or connection.is_closed():
                        connection = await connect(self._url, application=_APPLICATION)
                        with translated():
                            await connection.execute("set synchronous_commit = off")
                    if not await self._beat(connection):
                        return "its epoch was ended by the coordinator"
                    reached = time.monotonic()
            except CallboardError as error:
                if connection is not None:
                    connection.terminate()
                    connection = None
                if time.monotonic() - reached > CUT_OFF_AFTER_S:
                    return f"Postgres has not answered for {CUT_OFF_AFTER_S:.0f} s ({type(error).__name__})"
            await asyncio.sleep(BEAT_EVERY_S)
        return None

    def _is_stopped(self) -> bool:
        """Whether the host's process stands still (SIGSTOP, a debugger): it must not look alive."""
        try:
            return self._host.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
        except psutil.Error:
            return True

    async def _beat(self, connection: asyncpg.Connection[Any]) -> bool:
        ticked = self._pulse.ticked
        lag = max(0.0, time.monotonic() - ticked - BEAT_EVERY_S / 2)
        blocked_by = await self._blocked_by(ticked) if lag > BLOCKED_AFTER_S else None
        vitals = self._pulse.vitals
        with translated():
            row = await connection.fetchrow(
                query("beat"),
                *self._row,
                lag * 1000,
                blocked_by,
                vitals.backlog,
                vitals.agents,
                vitals.turns,
                self._host.memory_info().rss,
                timeout=5.0,
            )
        assert row is not None
        tell(f"offset {row['now'] - time.monotonic()!r}")  # one clock for all processes of a machine
        return bool(row["live"])

    async def _blocked_by(self, ticked: float) -> str:
        if self._blocked[0] != ticked:
            watched_ago = time.monotonic() - self._pulse.watched
            # The host's own thread names whatever lets it run. Where it cannot run either, the interpreter is held.
            held = watched_ago > BLOCKED_AFTER_S
            where = await self._look_inside() if held else self._pulse.blocker
            if not where:
                return "unknown code"
            self._blocked = ticked, where
            if held:
                _logger.warning(
                    "the whole host is blocked by %s, which holds Python's interpreter lock", where
                )
        return self._blocked[1]

    async def _look_inside(self) -> str:
        """Have the host's process write its stacks, which takes no interpreter, and read them."""
        if self._ask is None or os.getppid() != self._host.pid:
            return ""
        os.ftruncate(self._stacks, 0)
        os.lseek(self._stacks, 0, os.SEEK_SET)
        self._host.send_signal(self._ask)
        size = 0
        for _ in range(_DUMP_LOOKS):
            await asyncio.sleep(_DUMPED_WITHIN_S / _DUMP_LOOKS)
            before, size = size, os.fstat(self._stacks).st_size
            if size and size == before:
                break
        stacks = read_stacks(os.pread(self._stacks, size, 0).decode(errors="replace"))
        return blocker(stacks, self._loop_thread) if stacks else ""


def tell(line: str) -> None:
    """Tell the host; it reads when it can, and what does not fit meanwhile is not worth keeping."""
    with contextlib.suppress(BlockingIOError):
        os.write(sys.stdout.fileno(), f"{line}\n".encode())


async def _main(settings: dict[str, Any]) -> None:
    # The host holds the other end until it ends, however it ends.
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), lambda: os._exit(0))
    why = await Beating(settings).run()
    if why is not None:
        os.set_blocking(sys.stdout.fileno(), True)
        tell(f"end {why}")


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the host decides when it ends
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.set_blocking(sys.stdout.fileno(), False)
    asyncio.run(_main(json.loads(sys.stdin.readline())))

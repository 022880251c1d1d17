"""A host's sign of life, from a thread of its own: a blocked event loop is reported, not mistaken for death."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import asyncpg
import psutil

from bus.errors import StorageUnavailable
from storage.boundary import translated
from storage.connect import connect
from storage.queries import query
from storage.records import Fence

_logger = logging.getLogger("callboard.heartbeat")

BEAT_EVERY_S = 0.25
BLOCKED_AFTER_S = 1.0  # an event loop that is this late is reported with the code that holds it
CUT_OFF_AFTER_S = 10.0  # a host that has not reached Postgres for so long stops by itself
_APPLICATION = "callboard-heartbeat"


@dataclass(slots=True)
class Vitals:
    """What a host says of itself."""

    backlog: int = 0
    agents: int = 0
    turns: int = 0


class Heartbeat:
    """Beats into Postgres; calls back into the host's loop with database time, or when the end has come."""

    def __init__(
        self,
        url: str,
        fence: Fence,
        vitals: Callable[[], Vitals],
        on_time: Callable[[float], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._url = url
        self._fence = fence
        self._vitals = vitals
        self._on_time = on_time
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._ticked = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="heartbeat", daemon=True)
        self._process = psutil.Process()
        self._blocked = False

    def start(self) -> None:
        self._tick()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _tick(self) -> None:
        self._ticked = time.monotonic()
        if not self._stop.is_set():
            self._loop.call_later(BEAT_EVERY_S / 2, self._tick)

    def _main(self) -> None:
        asyncio.run(self._beat_for_ever())

    async def _beat_for_ever(self) -> None:
        connection: asyncpg.Connection | None = None
        reached = time.monotonic()
        while not self._stop.is_set():
            try:
                if connection is None or connection.is_closed():
                    connection = await connect(self._url, application=_APPLICATION)
                    with translated():
                        await connection.execute("set synchronous_commit = off")
                if not await self._beat(connection):
                    self._end("its epoch was ended by the coordinator")
                    break
                reached = time.monotonic()
            except (StorageUnavailable, asyncpg.PostgresError, OSError) as error:
                connection = None
                if time.monotonic() - reached > CUT_OFF_AFTER_S:
                    self._end(
                        f"Postgres has not answered for {CUT_OFF_AFTER_S:.0f} s ({type(error).__name__})"
                    )
                    break
            await asyncio.sleep(BEAT_EVERY_S)
        if connection is not None:
            connection.terminate()

    async def _beat(self, connection: asyncpg.Connection) -> bool:
        lag = max(0.0, time.monotonic() - self._ticked - BEAT_EVERY_S / 2)
        vitals = self._vitals()
        with translated():
            row = await connection.fetchrow(
                query("beat"),
                self._fence.domain,
                self._fence.epoch,
                lag * 1000,
                self._blocker() if lag > BLOCKED_AFTER_S else None,
                vitals.backlog,
                vitals.agents,
                vitals.turns,
                self._process.memory_info().rss,
                timeout=5.0,
            )
        if lag <= BLOCKED_AFTER_S:
            self._blocked = False
        assert row is not None
        self._call(self._on_time, row["now"])
        return bool(row["live"])

    def _blocker(self) -> str:
        """The innermost line of an author's code that holds the event loop, or of ours."""
        frame = sys._current_frames().get(self._loop_thread)
        stack = traceback.extract_stack(frame)
        entered = [i for i, f in enumerate(stack) if f.name == "_call" and f.filename.endswith("turn.py")]
        line = stack[min(entered[-1] + 1, len(stack) - 1)] if entered else stack[-1]
        where = f"{line.name} ({line.filename.rsplit('/', 1)[-1]}:{line.lineno})"
        if not self._blocked:
            self._blocked = True
            _logger.warning("the event loop is blocked by %s; run it in a thread", where)
        return where

    def _end(self, why: str) -> None:
        self._call(self._on_end, why)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

"""A command line run in this process, beside a deployment in this event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bus.address import parse_address
from callboard.cli.main import invoke
from callboard.services import Endpoints
from storage.intake import Incoming, accept
from tests.integration.deployment import Deployment

DESK = Path(__file__).parent / "desk"


class Cli:
    """Runs commands; `out`, `err` and `code` are what the last one left."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self.out = self.err = ""
        self.code = 0

    async def __call__(self, *words: str, code: int = 0) -> str:
        """Run a command, expect its exit code and return its standard output."""
        self._capture.readouterr()
        # In a thread, since a command brings its own event loop.
        self.code = await asyncio.to_thread(invoke, words)
        self.out, self.err = self._capture.readouterr()
        assert self.code == code, self.err
        return self.out

    def discard(self) -> str:
        """What was written to standard error since the last command."""
        return self._capture.readouterr().err

    async def json(self, *words: str, code: int = 0) -> Any:
        """The same with --json: standard output is one JSON document and nothing else."""
        return json.loads(await self(*words, "--json", code=code))

    async def error(self, *words: str, code: int = 1) -> str:
        """A command that fails: nothing on standard output, and its error is one line."""
        assert await self(*words, code=code) == ""
        lines = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


@asynccontextmanager
async def desk_at_work(
    services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Deployment]:
    """The desk with a host that owns all of it, which the commands take for external services."""
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", database)
    monkeypatch.setenv("CALLBOARD_NATS_URL", services.nats_url)
    async with Deployment.open(DESK, database, services.nats_url) as desk:
        await desk.coordinate()

        async def is_ready() -> bool:
            return bool(
                await desk.pool.fetchval("select exists (select from hosts where ready_at is not null)")
            )

        await until(
            is_ready
        )  # one that is ended while it connects leaves the drivers' sockets to the collector
        yield desk


async def note(desk: Deployment, key: str, *texts: str) -> None:
    """Send notes to the clerk of that key."""
    from desk.agents import Note

    messages = [
        Incoming(to=parse_address(f"desk/clerk/{key}"), message=Note(task=key, number=n, text=text))
        for n, text in enumerate(texts, 1)
    ]
    await accept(desk.pool, desk.transport, messages)


async def until(condition: Callable[[], Any], *, timeout_s: float = 20.0) -> Any:
    """Wait for a condition, a coroutine function, to give something true, and return it."""
    async with asyncio.timeout(timeout_s):
        while not (found := await condition()):  # noqa: ASYNC110  # it happens in Postgres, not in this loop
            await asyncio.sleep(0.02)
        return found

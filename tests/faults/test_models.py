"""`kill -9` of a host while its agent waits for models, and between their answers: nothing is paid for twice."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Send

from actors.incarnation import HostSettings
from bus.address import Address
from callboard.services import Endpoints
from storage.intake import Incoming, accept
from tests.integration.deployment import Deployment
from tests.integration.gateway import LOCAL_KEY, Front, Stage
from tests.integration.upstreams import Played, completion, reply

HERE = Path(__file__).parent
QUESTIONS = 2


class ProcessHost:
    """Implements coordinators.launcher.HostProcess."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ended(self) -> None:
        await self.process.wait()

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


class ProcessLauncher:
    """Implements coordinators.launcher.Launcher: hosts are processes that can be killed."""

    def __init__(self, services: Endpoints, postgres_url: str, models: Path) -> None:
        self._services = services
        self._postgres_url = postgres_url
        self._models = models
        self.hosts: dict[str, Any] = {}

    async def start(self, domain: str, host: str) -> ProcessHost:
        settings = HostSettings(
            domain=domain,
            host=host,
            postgres_url=self._postgres_url,
            nats_url=self._services.nats_url,
            models=str(self._models),
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.faults.model_host", json.dumps(asdict(settings)), cwd=HERE.parents[1]
        )
        self.hosts[host] = ProcessHost(process)
        return ProcessHost(process)

    async def attach(self, domain: str, host: str, pid: int) -> ProcessHost | None:
        return self.hosts.get(host)

    async def kill(self) -> None:
        """The host that runs now."""
        [host] = [host for host in self.hosts.values() if host.process.returncode is None]
        await host.kill()


class Upstream:
    """Answers the n-th question once it is let go; counts what it was asked."""

    def __init__(self, played: Played) -> None:
        self.played = played
        self.asked: asyncio.Queue[str] = asyncio.Queue()
        self.answers: asyncio.Queue[None] = asyncio.Queue()
        played.put_on(self._answer)

    async def _answer(self, played: Played, receive: Receive, send: Send) -> None:
        question = played.asked[-1].body["messages"][0]["content"]
        self.asked.put_nowait(question)
        await self.answers.get()
        await reply(completion())(played, receive, send)

    @property
    def questions(self) -> list[str]:
        return [asked.body["messages"][0]["content"] for asked in self.played.asked]


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    async with Stage.set() as stage, stage.front(times="answer_s: 60") as front:
        yield front


@pytest.fixture
async def thinker(
    front: Front, database: str, services: Endpoints, tmp_path: Path
) -> AsyncIterator[Deployment]:
    port = int(front.url.rstrip("/").rpartition(":")[2].partition("/")[0])
    (tmp_path / "gateway.json").write_text(json.dumps({"port": port}))
    (tmp_path / "gateway.key").write_text(LOCAL_KEY)
    (tmp_path / "gateway.key").chmod(0o600)
    async with Deployment.open(HERE / "thinker", database, services.nats_url) as deployment:
        launcher: Any = ProcessLauncher(services, database, tmp_path)
        deployment.launcher = launcher
        await deployment.coordinate()
        yield deployment


async def recorded(thinker: Deployment) -> int:
    """Answers on record."""
    return int((await thinker.fetch("select count(*) from journal where kind = 'model'"))[0][0])


async def test_a_host_killed_during_and_between_its_calls_of_models_repeats_no_completed_one(
    thinker: Deployment, front: Front
) -> None:
    from thinker.agents import Riddle

    upstream = Upstream(front.openai)
    riddle = Incoming(to=Address("thinker", "thinker", "a"), message=Riddle(questions=QUESTIONS))
    async with asyncio.timeout(60):
        await accept(thinker.pool, thinker.transport, [riddle])
        for number in range(QUESTIONS):
            assert await upstream.asked.get() == f"question {number}"
            await thinker.launcher.kill()  # type: ignore[attr-defined]
            upstream.answers.put_nowait(None)  # completed, and nobody there to hear it
            while await recorded(thinker) <= number:  # noqa: ASYNC110  # rows in Postgres, changed by others
                await asyncio.sleep(0.02)
        while not (found := await thinker.fetch("select state::text from agents")):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert json.loads(found[0][0]) == {"answers": ["Hello"] * QUESTIONS}
    assert upstream.questions == [f"question {number}" for number in range(QUESTIONS)]
    assert await thinker.fetch("select count(*) from turns") == [(0,)]
    epochs = await thinker.fetch("select count(*) from hosts")
    assert epochs[0][0] == QUESTIONS + 1
    [history] = await thinker.fetch("select body::text from transitions")
    kinds = [call["kind"] for call in json.loads(history[0])["calls"]]
    assert (kinds.count("model"), kinds.count("charge")) == (QUESTIONS, QUESTIONS)

"""A process that freezes (SIGSTOP) inside a transaction holds nobody up for long (G10)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from callboard.services import Endpoints
from coordinators.tasks.assign import TaskAssigner
from storage.connect import connect, create_pool
from storage.placement import claim_coordinator
from tests.integration.cli import DESK
from tests.integration.deployment import Deployment

REPOSITORY = Path(__file__).parents[2]
SOON_S = 5.0  # the frozen session is ended after one second


@pytest.fixture
async def desk(services: Endpoints, database: str) -> AsyncIterator[Deployment]:
    async with Deployment.open(DESK, database, services.nats_url) as desk:
        yield desk


@contextmanager
def frozen(what: str, point: str, *urls: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has stopped at a named point of its work."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.frozen_process", what, "desk", *urls],
        cwd=REPOSITORY,
        env={**os.environ, "CALLBOARD_FAULTS": f"{point}=stop@1"},
        stderr=subprocess.PIPE,
    )
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), process.stderr.read() if process.stderr else ""
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


async def test_a_coordinator_frozen_while_it_assigns_tasks_does_not_hold_up_its_successor(
    desk: Deployment, services: Endpoints, database: str
) -> None:
    task = await desk.submit({"text": "x"})
    with frozen("assign", "assign.before_commit", database, services.nats_url) as old:
        async with asyncio.timeout(SOON_S):
            epoch = await claim_coordinator(desk.pool, "desk", "successor")
            await TaskAssigner(desk.pool, desk.transport, "desk", epoch).assign_waiting()
        assert await desk.fetch("select status from tasks") == [("assigned",)]
        old.send_signal(signal.SIGCONT)
        _, errors = await asyncio.to_thread(old.communicate)
    assert b"StorageUnavailable" in errors
    assert await desk.fetch("select agent from mailbox") == [(f"task/{task}",)]


async def test_a_retention_frozen_with_the_history_locked_does_not_stop_commits(
    desk: Deployment, services: Endpoints, database: str
) -> None:
    next_month = await desk.pool.fetchval("select to_char(now() + interval '1 month', 'YYYYMM')")
    await desk.pool.execute(f"drop table transitions_{next_month}")
    with frozen("retain", "retention.before_commit", database, services.nats_url):
        async with asyncio.timeout(SOON_S):
            await desk.pool.execute("insert into transitions select * from transitions limit 0")


async def test_both_ends_of_a_connection_ask_after_a_silence_whether_the_other_is_there(
    database: str,
) -> None:
    db = await connect(database, application="test")
    given = await db.fetch(
        "select name from pg_settings where source = 'client' and name ~ '^(tcp|idle)_' order by 1"
    )
    await db.close()
    assert [row["name"] for row in given] == [
        "idle_in_transaction_session_timeout", "tcp_keepalives_count", "tcp_keepalives_idle",
        "tcp_keepalives_interval", "tcp_user_timeout",
    ]  # fmt: skip
    async with over_tcp(database) as url:
        pool = await create_pool(url, application="test", size=1)
        pooled: Any  # asyncpg names no public way to the socket
        async with pool.acquire() as pooled:
            await pooled.fetch("select 1")
            end = pooled._transport.get_extra_info("socket")
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 25_000
        await pool.close()


@asynccontextmanager
async def over_tcp(url: str) -> AsyncIterator[str]:
    """The URL of the same database through a port of this machine."""
    place = parse_qs(urlsplit(url).query)

    async def forward(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        path = f"{place['host'][0]}/.s.PGSQL.{place['port'][0]}"
        server, to_server = await asyncio.open_unix_connection(path)

        async def copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                to.write(data)
            to.close()

        await asyncio.gather(copy(client, to_server), copy(server, to_client))

    async with await asyncio.start_server(forward, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        parts = urlsplit(url)
        who = parts.netloc.rpartition("@")[0]
        yield f"postgresql://{who}@127.0.0.1:{port}{parts.path}"

"""What tests of the services do to Postgres and NATS, and to the processes around them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import asyncpg

ROOT = os.geteuid() == 0


async def fetchval(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def until_it_says(process: asyncio.subprocess.Process, words: bytes) -> None:
    assert process.stderr is not None
    while words not in (line := await process.stderr.readline()):
        assert line, f"it ended without saying {words!r}"


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def in_another_process(home: Path | None, body: str, *, through: Sequence[str] = ()) -> str:
    """Run the body of an async function in a new interpreter, which another program may start; what it printed."""
    lines = [line for line in body.splitlines() if line.strip()]
    margin = len(lines[0]) - len(lines[0].lstrip())
    indented = "\n".join("    " + line[margin:] for line in lines)
    script = (
        "import asyncio, os\nfrom pathlib import Path\nfrom callboard.services import *\n"
        f"from callboard.settings import Settings, load_settings\nasync def main():\n{indented}\n"
        "asyncio.run(main())\n"
    )
    environment = dict(os.environ) | ({"CALLBOARD_HOME": str(home)} if home else {})
    child = await asyncio.create_subprocess_exec(
        *through,
        sys.executable,
        "-c",
        script,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()
    return output.decode().strip()

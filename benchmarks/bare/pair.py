"""Start the two processes at the same moment and collect what they report."""

import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from benchmarks.bare.records import Orders, Report

R = TypeVar("R")


async def run_pair(orders: list[Orders]) -> list[Report]:
    """The pair that makes hops."""
    return await run_processes("benchmarks.bare.process", orders, Report)


async def run_processes(
    module: str,
    orders: list[Orders],
    report: type[R],
    before: Callable[[], Awaitable[None]] | None = None,
) -> list[R]:
    """One process of the module for each of the orders, all started at once, after `before` has been awaited.

    Raises RuntimeError if a process ends without its report; none is left behind.
    """
    processes = [
        await create_subprocess_exec(sys.executable, "-m", module, stdin=PIPE, stdout=PIPE) for _ in orders
    ]
    try:
        for process, order in zip(processes, orders, strict=True):
            _tell(process, msgspec.json.encode(order))
        for process in processes:
            await _hear(process)
        if before is not None:
            await before()
        for process in processes:
            _tell(process, b"go")
        reports = [msgspec.json.decode(await _hear(process), type=report) for process in processes]
        for process in processes:
            await process.wait()
        return reports
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _tell(process: Process, line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line + b"\n")


async def _hear(process: Process) -> bytes:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line.endswith(b"\n"):
        raise RuntimeError(f"a process of the bare loop ended early (status {process.returncode})")
    return line

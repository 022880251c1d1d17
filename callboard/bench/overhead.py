"""What the model gateway adds to a request: the same chats, of an upstream that answers at once, directly and through it.

Both in one run, pass by pass: directly, through the gateway, directly again; of the two direct ones the faster counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable

import httpx2
import msgspec

from bus.errors import ServiceUnavailable
from callboard.bench.own_gateway import client_at, own_gateway, quantile

_WARM_UP = 50
_MODELS = """\
upstreams:
  played: {{type: openai_compatible, base_url: "http://127.0.0.1:{port}/v1", retries: 0}}
models:
  measured: {{targets: [{{upstream: played, model: played}}]}}
cache: {{bytes: 0}}
"""
_BODY = msgspec.json.encode(
    {
        "model": "measured",
        "messages": [{"role": "user", "content": "Is this an attack? " * 20}],
        "max_tokens": 50,
    }
)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """`requests` in each pass, from so many clients at once."""

    requests: int = 1000
    concurrency: tuple[int, ...] = (1, 8, 32)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The times are of a request; `added` is the gateway's without the upstream's own."""

    concurrency: int
    direct_p50_ms: float
    direct_p99_ms: float
    gateway_p50_ms: float
    gateway_p99_ms: float
    added_p50_ms: float
    added_p99_ms: float
    gateway_per_s: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    requests: int
    runs: list[Run]


class Pass(msgspec.Struct, frozen=True, kw_only=True):
    seconds: float
    times_s: list[float]


async def measure(load: Load, progress: Callable[[str], None]) -> Report:
    """Raises ServiceUnavailable."""
    async with (
        played_upstream() as port,
        client_at(f"http://127.0.0.1:{port}/v1", "none") as direct,
        own_gateway(_MODELS.format(port=port), progress) as gateway,
    ):
        for client in (direct, gateway):
            await ask_all(client, _WARM_UP, 8)
        runs = []
        for clients in load.concurrency:
            progress(
                f"{load.requests:,} requests, {clients} at once: directly, through the gateway, directly"
            )
            before = await ask_all(direct, load.requests, clients)
            through = await ask_all(gateway, load.requests, clients)
            after = await ask_all(direct, load.requests, clients)
            runs.append(run(clients, min(before, after, key=lambda one: one.seconds), through))
        return Report(requests=load.requests, runs=runs)


def run(clients: int, direct: Pass, through: Pass) -> Run:
    figures = {
        f"{way}_p{percent}_ms": round(1000 * quantile(one.times_s, percent), 2)
        for way, one in (("direct", direct), ("gateway", through))
        for percent in (50, 99)
    }
    return Run(
        concurrency=clients,
        **figures,
        added_p50_ms=round(figures["gateway_p50_ms"] - figures["direct_p50_ms"], 2),
        added_p99_ms=round(figures["gateway_p99_ms"] - figures["direct_p99_ms"], 2),
        gateway_per_s=round(len(through.times_s) / through.seconds, 1),
    )


async def ask_all(client: httpx2.AsyncClient, requests: int, clients: int) -> Pass:
    """Raises ServiceUnavailable for an answer that is none."""
    waiting = iter(range(requests))
    times: list[float] = []

    async def one() -> None:
        for _ in waiting:
            began = time.perf_counter()
            try:
                answer = await client.post("chat/completions", content=_BODY)
            except httpx2.HTTPError as error:
                raise ServiceUnavailable(f"The gateway does not answer: {error}.") from None
            times.append(time.perf_counter() - began)
            if answer.status_code != 200 or b'"Hello"' not in answer.content:
                raise ServiceUnavailable(f"The answer is {answer.status_code}: {answer.text[:200]}.")

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    return Pass(seconds=time.perf_counter() - began, times_s=times)


@contextlib.asynccontextmanager
async def played_upstream() -> AsyncIterator[int]:
    """Its port."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "callboard.bench.played_upstream"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        if not line:
            raise ServiceUnavailable("The played upstream does not start.", fix="See its words above.")
        yield int(line)
    finally:
        process.stdin.close()  # it ends with it
        await process.wait()

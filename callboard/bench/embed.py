"""Embeddings a second through the gateway's HTTP endpoint, beside a bare loop of `encode` on the same texts and device, and
beside the floor of that device.

All in one run, one after the other: the bare loop before and after, and the faster of the two counts. A Callboard of its
own is started for it, in a folder that is removed afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Self

import httpx2
import msgspec
import psutil

from bus.errors import ServiceUnavailable
from callboard.bench.bare_encode import Asked
from callboard.bench.gpu import require_gpu
from callboard.bench.own_gateway import own_gateway, quantile

_WARM_UP = 64  # texts
_MODELS = """\
upstreams:
  here: {{type: local, retries: 0, answer_s: 300, embedding: {{device: {device}, dtype: {dtype}, truncate: true, always: 1}}}}
models:
  measured: {{serves: embeddings, targets: [{{upstream: here, model: "{model}"}}]}}
cache: {{bytes: 0}}
"""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """`each` texts in a request, from so many clients at once, for each of `concurrency`."""

    texts: Sequence[str]
    model: str
    device: str
    dtype: str = "auto"
    each: int = 1
    concurrency: tuple[int, ...] = (1, 8, 32)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The times are of a request. `ratio`: to the bare loop; `of_floor`: to what the device could do at most."""

    concurrency: int
    texts_per_s: float
    tokens_per_s: float
    ratio: float
    of_floor: float
    p50_ms: float
    p99_ms: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`dtype` is what was asked for of the gateway's model."""

    device: str
    dtype: str
    model: str
    texts: int
    texts_a_request: int
    mean_tokens: float
    bare_texts_per_s: float
    floor_texts_per_s: float
    runs: list[Run]
    replica_mib: int
    processors: int


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One pass over the texts."""

    seconds: float
    tokens: int
    times_s: list[float]


class Bare:
    """The process of the bare loop."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls, model: str, device: str) -> AsyncIterator[Self]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "callboard.bench.bare_encode", model, device),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield cls(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def encode(self, texts: Sequence[str]) -> float:
        """Seconds. Raises ServiceUnavailable."""
        return await self._seconds(Asked(texts=list(texts)))

    async def floor(self, texts: Sequence[str], dtype: str) -> float:
        """The seconds that no program can do without. Raises ServiceUnavailable."""
        return await self._seconds(Asked(texts=list(texts), floor_in=dtype))

    async def _seconds(self, asked: Asked) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(msgspec.json.encode(asked) + b"\n")
            await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            last = (await self._process.stderr.read()).decode(errors="replace").strip().splitlines()[-1:]
            raise ServiceUnavailable(
                f"The bare loop has ended: {' '.join(last)}.",
                fix="It needs the packages of `pip install 'callboard[models]'` (`make models`).",
            )
        return float(line)


async def measure(load: Load, progress: Callable[[str], None]) -> Report:
    """Raises ServiceUnavailable."""
    await asyncio.to_thread(require_gpu, load.device)
    models = _MODELS.format(device=load.device, dtype=load.dtype, model=load.model)
    async with Bare.started(load.model, load.device) as bare, own_gateway(models, progress) as client:
        progress("loading the model, twice")
        await asyncio.gather(ask(client, load.texts[:1]), bare.encode(load.texts[:_WARM_UP]))
        await over_http(client, load.texts[:_WARM_UP], load.each, 8)
        progress(f"{len(load.texts):,} texts in a bare loop")
        seconds = await bare.encode(load.texts)
        passes = {}
        for clients in load.concurrency:
            progress(f"{len(load.texts):,} texts over HTTP, {clients} at once")
            passes[clients] = await over_http(client, load.texts, load.each, clients)
        progress("the bare loop once more")
        seconds = min(seconds, await bare.encode(load.texts))
        progress(f"how fast the {'GPU' if load.device == 'cuda' else 'processor'} multiplies matrices")
        floor = await bare.floor(load.texts, load.dtype)
        return report(load, seconds, floor, passes, _replica_mib())


def report(
    load: Load, bare_s: float, floor_s: float, passes: dict[int, Measured], replica_mib: int
) -> Report:
    count = len(load.texts)
    return Report(
        device=load.device,
        dtype=load.dtype,
        model=load.model,
        texts=count,
        texts_a_request=load.each,
        mean_tokens=round(next(iter(passes.values())).tokens / count, 1),
        bare_texts_per_s=round(count / bare_s, 1),
        floor_texts_per_s=round(count / floor_s, 1),
        runs=[
            Run(
                concurrency=clients,
                texts_per_s=round(count / one.seconds, 1),
                tokens_per_s=round(one.tokens / one.seconds, 1),
                ratio=round(bare_s / one.seconds, 3),
                of_floor=round(floor_s / one.seconds, 3),
                p50_ms=round(1000 * quantile(one.times_s, 50), 1),
                p99_ms=round(1000 * quantile(one.times_s, 99), 1),
            )
            for clients, one in passes.items()
        ],
        replica_mib=replica_mib,
        processors=os.cpu_count() or 1,
    )


async def over_http(client: httpx2.AsyncClient, texts: Sequence[str], each: int, clients: int) -> Measured:
    """Each text once. Raises ServiceUnavailable."""
    waiting = iter([texts[at : at + each] for at in range(0, len(texts), each)])
    times: list[float] = []
    tokens = 0

    async def one() -> None:
        nonlocal tokens
        for some in waiting:
            began = time.perf_counter()
            found = await ask(client, some)
            times.append(time.perf_counter() - began)
            tokens += found

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    return Measured(seconds=time.perf_counter() - began, tokens=tokens, times_s=times)


async def ask(client: httpx2.AsyncClient, texts: Sequence[str]) -> int:
    """The tokens of the texts, once their vectors are there. Raises ServiceUnavailable."""
    body = {"model": "measured", "input": list(texts), "encoding_format": "base64"}
    try:
        answer = await client.post("embeddings", content=msgspec.json.encode(body))
        found = msgspec.json.decode(answer.content)
    except (httpx2.HTTPError, msgspec.DecodeError) as error:
        raise ServiceUnavailable(f"The gateway does not answer: {error}.") from None
    if answer.status_code != 200:
        raise ServiceUnavailable(found["error"]["message"], fix="")
    if len(found["data"]) != len(texts):
        raise ServiceUnavailable(f"{len(found['data'])} vectors came for {len(texts)} texts.")
    return int(found["usage"]["total_tokens"])


def _replica_mib() -> int:
    """What the process of the model holds; 0 where it runs elsewhere."""
    for process in psutil.process_iter(["cmdline", "memory_info"]):
        if any("embeddings-here-" in word for word in process.info["cmdline"] or ()):
            return int(process.info["memory_info"].rss // 2**20)
    return 0

"""A Callboard of a benchmark's own, with its gateway, in a folder that is removed afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from statistics import quantiles

import httpx2

from actors.model_gateway import GatewayAddress
from callboard.gateway import LocalGateway
from callboard.runtime import running_cluster
from callboard.settings import load_settings

COLD_S = 300.0  # to the first answer: libraries, and a model that may have to be downloaded


@contextlib.asynccontextmanager
async def own_gateway(models: str, progress: Callable[[str], None]) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of it; `models` is the text of its models.yaml. Raises ServiceUnavailable."""
    with tempfile.TemporaryDirectory(prefix="callboard-bench-", dir="/var/tmp") as folder:
        await asyncio.to_thread(os.chmod, folder, 0o711)  # as root, the servers' own account passes through
        path = Path(folder) / "models.yaml"
        path.write_text(models)
        # Serve is only in a Ray of our own.
        own = {"home": Path(folder) / "home", "models": path, "ray_address": None}
        settings = load_settings().model_copy(update=own)
        async with running_cluster(settings, gateway=LocalGateway(settings), progress=progress) as cluster:
            assert cluster.gateway is not None
            async with client_of(await cluster.gateway) as client:
                yield client


def client_of(address: GatewayAddress) -> httpx2.AsyncClient:
    return client_at(address.base_url, address.key)


def client_at(base_url: str, key: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url=base_url,
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
        timeout=COLD_S,
        trust_env=False,
        limits=httpx2.Limits(max_connections=1024),
    )


def quantile(times: list[float], percent: int) -> float:
    return quantiles(times, n=100, method="inclusive")[percent - 1] if len(times) > 1 else times[0]

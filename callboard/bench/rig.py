"""The deployment that a benchmark has for itself, and how it gives work to it and waits for its end."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import yaml

from bus.errors import ServiceUnavailable
from callboard.cluster import Cluster
from callboard.runtime import running_cluster
from callboard.settings import load_settings
from storage.boundary import translated
from storage.inspect import HostView, list_hosts
from storage.intake import Incoming, accept
from storage.queries import query

WARM_UP_LOG_MB = 512  # as in benchmarks/limit.py, so that both are measured alike
LOOK_EVERY_S = 0.1
STALLED_S = 30.0
_COUNT_EVERY_S = 1.0
_ACCEPT_AT_ONCE = 1_000


class Rig:
    """A cluster that runs one of the benchmarks' domains. `ready_s` is what its start took."""

    def __init__(self, cluster: Cluster, domain: str, ready_s: float) -> None:
        self.cluster = cluster
        self.domain = domain
        self.ready_s = ready_s

    async def now(self) -> Any:
        """The database's time."""
        with translated():
            return await self.cluster.postgres.fetchval("select clock_timestamp()")

    async def hosts(self) -> list[HostView]:
        return [host for host in await list_hosts(self.cluster.postgres) if host.domain == self.domain]

    async def count(self, counted: str) -> int:
        """The rows that the named query counts for the domain."""
        with translated():
            return int(await self.cluster.postgres.fetchval(query(counted), self.domain))

    async def give(self, messages: Sequence[Incoming]) -> None:
        for at in range(0, len(messages), _ACCEPT_AT_ONCE):
            await accept(self.cluster.postgres, self.cluster.transport, messages[at : at + _ACCEPT_AT_ONCE])

    async def finished(self, counted: str, expected: int, *, turns: int) -> None:
        """Wait until the named query counts so many rows, which is when the hosts have had so many turns.

        Raises ServiceUnavailable when they make no progress.
        """
        rows, had, progressed, looked = -1, -1, time.monotonic(), 0.0
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            # The hosts' own counts are cheap. To count the rows of a long history takes a share of the machine.
            before, had = had, sum(host.turns for host in await self.hosts())
            if had > before:
                progressed = time.monotonic()
            if had >= turns or time.monotonic() - max(progressed, looked) > _COUNT_EVERY_S:
                looked, counted_before = time.monotonic(), rows
                rows = await self.count(counted)
                if rows >= expected:
                    return
                if rows > counted_before:
                    progressed = looked
            if time.monotonic() - progressed > STALLED_S:
                raise ServiceUnavailable(
                    f"The hosts made no progress for {STALLED_S:.0f} s.", fix="Look at `callboard doctor`."
                )


@asynccontextmanager
async def rig(domain: str, hosts: int, progress: Callable[[str], None]) -> AsyncIterator[Rig]:
    """A deployment of its own, in a folder that is removed afterwards, with the domain of `<domain>_domain` ready.

    Where CALLBOARD_POSTGRES_URL, CALLBOARD_NATS_URL or RAY_ADDRESS are set, those servers are used.
    """
    with tempfile.TemporaryDirectory(prefix="callboard-bench-", dir="/var/tmp") as folder:
        await asyncio.to_thread(os.chmod, folder, 0o711)  # as root, the servers' own account passes through
        domain_dir = await asyncio.to_thread(_domain_folder, Path(folder), domain, hosts)
        settings = load_settings().model_copy(update={"home": Path(folder) / "home"})
        began = time.monotonic()
        async with running_cluster(settings, progress=progress) as cluster:
            await cluster.add_domain(domain_dir)
            await cluster.ready(domain)
            ready_s = time.monotonic() - began
            progress("warming up")
            if cluster.endpoints.embedded_postgres:
                await warm_up_log(cluster)
            yield Rig(cluster, domain, ready_s)


async def warm_up_log(cluster: Cluster) -> None:
    """Bring a new server to the state of one in service, which writes to log segments that it has already."""
    with translated():
        await cluster.postgres.execute(query("bench_fill_log"), WARM_UP_LOG_MB)
        await cluster.postgres.execute("checkpoint")


def _domain_folder(folder: Path, domain: str, hosts: int) -> Path:
    made = folder / f"{domain}_domain"
    with as_file(files("callboard.bench").joinpath(f"{domain}_domain")) as packaged:
        shutil.copytree(packaged, made, ignore=shutil.ignore_patterns("__pycache__"))
    path = made / "domain.yaml"
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    spec["hosts"] = {"min": hosts, "max": hosts}
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return made

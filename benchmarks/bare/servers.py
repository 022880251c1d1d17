"""The servers that a measurement has for itself: given ones, or embedded ones in a folder that is removed afterwards."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from callboard.services import Endpoints, ensure_services, find_instance
from callboard.settings import Settings, load_settings


@asynccontextmanager
async def servers(**given: str | None) -> AsyncIterator[tuple[Endpoints, dict[str, int]]]:
    """Their addresses, and the process ids of those that were started here. `given` are `postgres_url`, `nats_url`."""
    chosen = {name: url for name, url in given.items() if url is not None}
    with tempfile.TemporaryDirectory(prefix="callboard-limit-", dir="/var/tmp") as home:
        os.chmod(home, 0o711)  # Started by root, the servers run under an account that must pass through.
        settings = Settings.model_validate({**load_settings().model_dump(), **chosen, "home": Path(home)})
        async with await ensure_services(settings) as services:
            instance = find_instance(settings)
            pids = {"postgres": instance.postgres_pid, "nats": instance.nats_pid} if instance else {}
            yield services.endpoints, {name: pid for name, pid in pids.items() if pid is not None}

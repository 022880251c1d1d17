"""Services of the fault tests' own, since they are killed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from callboard.services import Services, ensure_services
from callboard.settings import Settings


@pytest.fixture(scope="session")
def faults_home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="callboard-faults-", dir="/var/tmp"))
    if os.geteuid() == 0:
        folder.chmod(0o711)  # the servers' account must reach what lies in it
    yield folder / "home"
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
async def own_services(faults_home: Path) -> AsyncIterator[Services]:
    """Postgres and NATS that a test may kill, as long as it starts them again."""
    async with await ensure_services(Settings(home=faults_home)) as running:
        yield running

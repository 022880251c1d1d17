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
from tests.faults.chronicle import Chronicle
from tests.faults.limit import pytest_pyfunc_call, pytest_runtest_setup  # noqa: F401  (hooks, of these tests only)
from tests.faults.told import CHRONICLE


@pytest.fixture(scope="session")
def faults_home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="callboard-faults-", dir="/var/tmp"))
    if os.geteuid() == 0:
        folder.chmod(0o711)  # the servers' account must reach what lies in it
    yield folder / "home"
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
async def faults_services(faults_home: Path) -> AsyncIterator[Services]:
    async with await ensure_services(Settings(home=faults_home)) as running:
        yield running


@pytest.fixture
async def own_services(faults_services: Services) -> Services:
    """Postgres and NATS that a test may kill. A test that fails may leave them dead: they run again for the next."""
    for server in faults_services.started:
        await server.start()
    return faults_services


@pytest.fixture
def chronicle(request: pytest.FixtureRequest) -> Chronicle:
    """What this test tells the summary at the end."""
    chronicle = Chronicle()
    request.node.stash[CHRONICLE] = chronicle
    return chronicle

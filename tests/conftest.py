"""What every kind of test shares: the event loop, and real services where a test asks for them."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import hypothesis
import pytest

from callboard.services import Endpoints, ensure_services
from callboard.settings import Settings
from storage.migrate import migrate

ACCEPTANCE = Path(__file__).parent / "acceptance"

# How long one example takes is the machine's affair, and a loaded one's is no fault.
hypothesis.settings.register_profile("callboard", deadline=None)
hypothesis.settings.load_profile("callboard")

# A developer's own services must neither be used nor be harmed by the tests.
for variable in (
    "POSTGRES_URL",
    "NATS_URL",
    "RAY_ADDRESS",
    "HOME",
    "TENANT",
    "MODELS",
    "EVENTS_BYTES",
    "EVENTS_PER_NAME",
    "EVENTS_KEPT_S",
):
    os.environ.pop(f"CALLBOARD_{variable}", None)
os.environ.pop("RAY_ADDRESS", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that share a running Ray come last: what it does at rest would slow all others down."""
    items.sort(key=lambda item: ACCEPTANCE in item.path.parents)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Every async test and fixture runs on asyncio."""
    return "asyncio"


# What the databases of a whole run take, and as much again.
_ROOM_IN_MEMORY = 4 * 1024**3


def _memory() -> Path | None:
    """A file system in memory with room for servers, and from which programs may be started."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return None
    found = os.statvfs(folder)
    fits = found.f_bavail * found.f_frsize >= _ROOM_IN_MEMORY
    return folder if fits and not found.f_flag & os.ST_NOEXEC else None


def make_home() -> Path:
    """A folder for a CALLBOARD_HOME, which the servers' account can reach when the tests run as root.

    Not pytest's `tmp_path`: its parents are root's alone, and its length is too much for a Unix socket. In memory
    where there is room: a database for each test, synced to disk, takes as long as the test. No test pulls the plug of
    a machine, and the processes that tests kill find everything there again; `tests/faults/` stays on the disk.
    """
    folder = Path(tempfile.mkdtemp(prefix="callboard-test-", dir=_memory()))
    if os.geteuid() == 0:
        folder.chmod(0o711)
    return folder


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of this test's own for a CALLBOARD_HOME."""
    folder = make_home()
    yield folder / "home"
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
async def services() -> AsyncIterator[Endpoints]:
    """Real, embedded Postgres and NATS, shared by the whole run. A test that stops them makes its own."""
    folder = make_home()
    async with await ensure_services(Settings(home=folder / "home")) as running:
        yield running.endpoints
    shutil.rmtree(folder)


@asynccontextmanager
async def _database_of_its_own(services: Endpoints, template: str) -> AsyncIterator[str]:
    name = f"test_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(services.postgres_url)
    try:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        yield url_of(services, name)
        # FORCE, because a failing test leaves its connections open.
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await connection.close()


def url_of(services: Endpoints, database: str) -> str:
    return services.postgres_url.replace("@/callboard?", f"@/{database}?")


@pytest.fixture(scope="session")
async def migrated(services: Endpoints) -> str:
    """The name of a database with the schema. Hundreds of tests copy it, which takes half the time of the migrations."""
    connection = await asyncpg.connect(services.postgres_url)
    await connection.execute("CREATE DATABASE migrated")
    await connection.close()
    await migrate(url_of(services, "migrated"))
    return "migrated"


@pytest.fixture
async def database(services: Endpoints, migrated: str) -> AsyncIterator[str]:
    """The URL of a database of this test's own, with the schema and nothing in it."""
    async with _database_of_its_own(services, migrated) as url:
        yield url


@pytest.fixture
async def empty_database(services: Endpoints) -> AsyncIterator[str]:
    """The URL of a database of this test's own, without a schema."""
    async with _database_of_its_own(services, "template1") as url:
        yield url

"""What every kind of test shares: the event loop, and real services where a test asks for them."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import hypothesis
import pytest

from callboard.services import Endpoints, ensure_services
from callboard.settings import Settings
from storage.migrate import migrate

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

# Here, since pytest reads no other conftest.py where its workers do the tests.
pytest_plugins = ["tests.faults.told"]

ACCEPTANCE = Path(__file__).parent / "acceptance"
# What these test is one process's own; everything else starts servers and hosts, and measures how long they take.
IN_ONE_PROCESS = ("tests/unit/", "tests/contract/")

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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Of several workers one runs all tests that start processes, one after the other, and the others run the rest
    beside it."""
    from xdist.scheduler import LoadScopeScheduling

    class Apart(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(IN_ONE_PROCESS) else "processes"

    return Apart(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that share a running Ray come last, those that add the gateway to it after all others: what these do at
    rest would slow the rest down."""
    items.sort(
        key=lambda item: (
            ACCEPTANCE in item.path.parents,
            "program" in getattr(item, "fixturenames", ()),
            item.path.name.startswith("test_gateway") and ACCEPTANCE in item.path.parents,
        )
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A worker's report comes to pytest in UTF-8, and what a test logs may have half characters."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


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


def url_of(services: Endpoints, database: str) -> str:
    return services.postgres_url.replace("@/callboard?", f"@/{database}?")


class Databases:
    """Copies of a database with the schema, one for each test: the next one is made, and the one before is dropped, while
    a test runs."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        self._left: list[str] = []
        self._next = asyncio.create_task(self._make())

    async def take(self) -> str:
        name = await self._next
        self._next = asyncio.create_task(self._make())
        return name

    def leave(self, name: str) -> None:
        self._left.append(name)

    async def _make(self) -> str:
        while self._left:
            await drop(self._connection, self._left.pop())
        name = f"test_{secrets.token_hex(6)}"
        await self._connection.execute(f'CREATE DATABASE "{name}" TEMPLATE migrated')
        return name

    async def close(self) -> None:
        await self._next


async def drop(connection: asyncpg.Connection[Any], database: str) -> None:
    # FORCE, because a failing test leaves its connections open.
    await connection.execute(f'DROP DATABASE "{database}" WITH (FORCE)')


@pytest.fixture(scope="session")
async def databases(services: Endpoints) -> AsyncIterator[Databases]:
    connection = await asyncpg.connect(services.postgres_url)
    try:
        await connection.execute("CREATE DATABASE migrated")
        await migrate(url_of(services, "migrated"))
        databases = Databases(connection)
        yield databases
        await databases.close()
    finally:
        await connection.close()


@pytest.fixture
async def database(services: Endpoints, databases: Databases) -> AsyncIterator[str]:
    """The URL of a database of this test's own, with the schema and nothing in it."""
    name = await databases.take()
    yield url_of(services, name)
    databases.leave(name)


@pytest.fixture
async def empty_database(services: Endpoints) -> AsyncIterator[str]:
    """The URL of a database of this test's own, without a schema."""
    name = f"test_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(services.postgres_url)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
        yield url_of(services, name)
        await drop(connection, name)
    finally:
        await connection.close()

"""The running instance: what `up` or `run` started, found by every other command.

`instance.json` says where the services are, until they are stopped; whether they still live, the locks say.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bus.errors import DataFolderError

from . import process
from .home import Home, write_private

if TYPE_CHECKING:
    from callboard.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """Where the services are. The URLs carry passwords: neither is shown in `repr`."""

    postgres_url: str = field(repr=False)
    nats_url: str = field(repr=False)
    embedded_postgres: bool
    embedded_nats: bool


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A running instance."""

    home: Home
    endpoints: Endpoints
    started_at: float
    postgres_pid: int | None
    nats_pid: int | None

    @property
    def died(self) -> list[str]:
        """The names of the embedded services that nobody has stopped, and that do not run."""
        postgres = self.endpoints.embedded_postgres and self.postgres_pid is None
        nats = self.endpoints.embedded_nats and self.nats_pid is None
        return ["Postgres"] * postgres + ["NATS"] * nats


def find_instance(settings: Settings) -> Instance | None:
    """The instance in this `CALLBOARD_HOME`, or None when none runs.

    An instance whose embedded services have all died is none. Raises `DataFolderError` when the record
    belongs to another user or cannot be read.
    """
    return read_instance(Home(settings.home))


def recorded_instance(settings: Settings) -> Instance | None:
    """The instance that was started and not stopped, though all of its services may have died. None without embedded ones.

    Raises as `find_instance`.
    """
    return read_record(Home(settings.home)) if external_endpoints(settings) is None else None


def is_recorded(home: Home) -> bool:
    """Whether an instance was started there and not stopped."""
    return (home / "instance.json").exists()


def running_endpoints(settings: Settings) -> Endpoints | None:
    """Where the services are, if both are external or an instance runs. Raises `DataFolderError`."""
    if (external := external_endpoints(settings)) is not None:
        return external
    instance = find_instance(settings)
    return instance.endpoints if instance is not None else None


def external_endpoints(settings: Settings) -> Endpoints | None:
    """Where the services are, if both are external."""
    if settings.postgres_url is None or settings.nats_url is None:
        return None
    return Endpoints(
        postgres_url=settings.postgres_url.get_secret_value(),
        nats_url=settings.nats_url.get_secret_value(),
        embedded_postgres=False,
        embedded_nats=False,
    )


def read_instance(home: Home) -> Instance | None:
    """The instance, or None when none runs: all of its embedded services are dead, or it was stopped."""
    instance = read_record(home)
    if instance is None:
        return None
    embedded = instance.endpoints.embedded_postgres or instance.endpoints.embedded_nats
    dead = embedded and instance.postgres_pid is None and instance.nats_pid is None
    return None if dead else instance


def read_record(home: Home) -> Instance | None:
    """The instance that was started and not stopped, dead or alive. Raises as `find_instance`."""
    path = home / "instance.json"
    try:
        found = json.loads(path.read_text())
        endpoints = Endpoints(**found["endpoints"])
        started_at = float(found["started_at"])
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise DataFolderError(
            f"The instance in {home.path} belongs to another user.",
            fix="Run as that user, or set CALLBOARD_HOME to a folder of your own.",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataFolderError(
            f"{path} cannot be read.", fix="Remove it; it is made anew at the next start."
        ) from error
    postgres_pid = process.running(home / "postgres.lock") if endpoints.embedded_postgres else None
    nats_pid = process.running(home / "nats.lock") if endpoints.embedded_nats else None
    return Instance(
        home=home,
        endpoints=endpoints,
        started_at=started_at,
        postgres_pid=postgres_pid,
        nats_pid=nats_pid,
    )


def write_instance(home: Home, endpoints: Endpoints) -> None:
    """Record where the services are now; a living instance keeps the time of its start."""
    before = read_instance(home)
    record = {"endpoints": vars(endpoints), "started_at": before.started_at if before else time.time()}
    write_private(home / "instance.json", json.dumps(record, indent=1))


def forget_instance(home: Home) -> None:
    """Remove the record."""
    (home / "instance.json").unlink(missing_ok=True)

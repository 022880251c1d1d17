"""The data folder while nothing runs in it: what the next start will find there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bus.errors import CallboardError
from callboard.doctor.finding import Finding, fail, good, warn
from callboard.services import Home
from callboard.services.data_folder import check_nats_data, check_postgres_data

if TYPE_CHECKING:
    from callboard.settings import Settings


def examine_data_folder(settings: Settings) -> list[Finding]:
    """Nothing is started, and nothing changed. Says nothing of services that are somebody else's."""
    home = Home(settings.home)
    found = []
    if settings.postgres_url is None:
        found.append(_found("data", lambda: _postgres(home)))
    if settings.nats_url is None:
        found.append(_found("events", lambda: _nats(home)))
    return found


def _found(check: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except CallboardError as error:
        return fail(check, error.message, error.fix)
    except OSError as error:
        return fail(
            check,
            f"{error.filename} cannot be read: {error.strerror}",
            "Run as the user whose folder it is, or restore it from a backup.",
        )


def _postgres(home: Home) -> Finding:
    data, log = home / "postgres", home / "postgres.log"
    if not home.exists() or not data.exists() or (data.is_dir() and not any(data.iterdir())):
        if home.exists() and (home / "credentials.json").exists():
            return warn(
                "data",
                f"there are passwords, but no data in {data}: the next start makes an empty database",
                "If there was one, put the folder back, or `callboard restore` a backup.",
            )
        return good("data", f"none yet: the first start makes it in {home.path}")
    home.credentials()
    if check_postgres_data(data, log):
        return good("data", f"{data} was shut down cleanly, and can be started on")
    return good("data", f"{data} was not shut down cleanly: the next start recovers it")


def _nats(home: Home) -> Finding:
    data = home / "nats"
    if not (data / "jetstream").exists():
        return good("events", "none yet: NATS keeps them from the first start on")
    check_nats_data(data, data / "nats.log")
    return good("events", "NATS does not run: only its streams' descriptions were looked at, and can be read")

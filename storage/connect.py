"""Connections to Postgres, each with the settings that its work needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from bus.errors import SettingsError
from storage.boundary import translated

SCHEMA = "callboard"
CONNECT_TIMEOUT_S = 10.0
STATEMENT_TIMEOUT_MS = 30_000  # bounds how long a drawn sequence number can stay uncommitted

# Hosts look rows up by their keys, thousands of times a second. Statistics lag behind tables that fill and empty
# so fast, and a plan with a scan or a hash over them costs a hundredfold: hosts get plans by key alone.
_BY_KEY = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}


def host_application(domain: str, epoch: int) -> str:
    """The application_name of all connections of one incarnation; a takeover ends them by it."""
    return f"callboard-host {epoch} {domain}"[
        :63
    ]  # Postgres cuts it there: the epoch must not be what is lost


async def connect(url: str, *, application: str, by_key: bool = False) -> asyncpg.Connection[Any]:
    """One connection with our schema on its search path; raises StorageUnavailable or SettingsError."""
    with _connecting():
        return await asyncpg.connect(
            url,
            timeout=CONNECT_TIMEOUT_S,
            server_settings=_settings(application, by_key),
            command_timeout=60.0,
        )


async def create_pool(
    url: str, *, application: str, size: int = 4, by_key: bool = False
) -> asyncpg.Pool[Any]:
    """A pool for reads and for the control plane; raises StorageUnavailable or SettingsError."""
    with _connecting():
        pool = await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=size,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=60.0,
            server_settings=_settings(application, by_key),
        )
        assert pool is not None
        return pool


@contextmanager
def _connecting() -> Iterator[None]:
    """`translated`, and a URL that cannot be read: the driver's words would quote it, password and all."""
    with translated():
        try:
            yield
        except (asyncpg.ClientConfigurationError, ValueError):
            raise SettingsError(
                "The Postgres URL cannot be read.",
                fix="Write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE.",
            ) from None


def _settings(application: str, by_key: bool) -> dict[str, str]:
    return {
        "application_name": application,
        "search_path": SCHEMA,
        "statement_timeout": str(STATEMENT_TIMEOUT_MS),
        "timezone": "UTC",
        "jit": "off",
        **(_BY_KEY if by_key else {}),
    }

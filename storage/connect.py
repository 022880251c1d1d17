"""Connections to Postgres, each with the settings that its work needs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import md5
from typing import Any

import asyncpg

from bus.errors import SettingsError
from storage.boundary import translated

SCHEMA = "callboard"
_APPLICATION_BYTES = 63  # of a connection's name Postgres keeps so many
CONNECT_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 60.0
_CLOSED_WITHIN_S = 2.0
STATEMENT_TIMEOUT_MS = 30_000  # bounds how long a drawn sequence number can stay uncommitted
# A process that freezes inside a transaction keeps its locks for so long. Nobody waits for anything but Postgres
# inside one; whoever locks what every commit needs sets less (FROZEN_AFTER_MS).
IDLE_IN_TRANSACTION_MS = 10_000
FROZEN_AFTER_MS = 1_000

# When a machine or the network between is gone, nobody says so: the system asks after a silence, and gives up. On
# Postgres' side that ends what the lost session holds; on ours it ends the wait for an answer.
_ASK_AFTER_S = 10
_ASK_EVERY_S = 5
_ASKS = 3
_UNANSWERED_MS = 25_000

# Hosts look rows up by their keys, thousands of times a second. Statistics lag behind tables that fill and empty
# so fast, and a plan with a scan or a hash over them costs a hundredfold: hosts get plans by key alone.
_BY_KEY = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}


def coordinator_application(name: str) -> str:
    """The name that the connections of a coordinator carry: that of `master`, or of a domain's."""
    if name == "master":
        return "callboard-master"
    if len(application := f"callboard-coordinator {name}") <= _APPLICATION_BYTES:
        return application
    return f"callboard-coordinator {md5(name.encode(), usedforsecurity=False).hexdigest()}"


def host_application(domain: str, epoch: int) -> str:
    """The application_name of all connections of one incarnation; a takeover ends them by it."""
    return f"callboard-host {epoch} {domain}"[:_APPLICATION_BYTES]  # the epoch must not be what is lost


async def connect(
    url: str, *, application: str, by_key: bool = False, unhurried: bool = False
) -> asyncpg.Connection[Any]:
    """One connection with our schema on its search path; raises StorageUnavailable or SettingsError.

    `unhurried`: a statement may take as long as it takes, on either side.
    """
    settings = _settings(application, by_key)
    if unhurried:
        settings["statement_timeout"] = "0"
    with _connecting():
        connection = await asyncpg.connect(
            url,
            timeout=CONNECT_TIMEOUT_S,
            server_settings=settings,
            command_timeout=None if unhurried else COMMAND_TIMEOUT_S,
        )
        await _ask_after_silence(connection)
        return connection


async def close_pool(pool: asyncpg.Pool[Any]) -> None:
    """Close it once what is being given back has been; connections that do not answer are cut."""
    with suppress(Exception):
        async with asyncio.timeout(_CLOSED_WITHIN_S):
            await pool.close()
    pool.terminate()


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
            command_timeout=COMMAND_TIMEOUT_S,
            server_settings=_settings(application, by_key),
            init=_ask_after_silence,
            reset=_nothing_to_reset if by_key else None,
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
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
        "tcp_keepalives_idle": str(_ASK_AFTER_S),
        "tcp_keepalives_interval": str(_ASK_EVERY_S),
        "tcp_keepalives_count": str(_ASKS),
        "tcp_user_timeout": str(_UNANSWERED_MS),
        "timezone": "UTC",
        "jit": "off",
        **(_BY_KEY if by_key else {}),
    }


async def _nothing_to_reset(connection: Any) -> None:
    """Hosts' reads leave nothing behind in their session, and the driver rolls an open transaction back by itself: its
    further statement would be a round trip more for each read."""


async def _ask_after_silence(connection: Any) -> None:
    """The same on our side of a TCP connection; asyncpg leaves the system's two hours."""
    end = connection._transport.get_extra_info("socket")
    if end is None or end.family not in (socket.AF_INET, socket.AF_INET6):
        return
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _ASK_AFTER_S),
        ("TCP_KEEPINTVL", _ASK_EVERY_S),
        ("TCP_KEEPCNT", _ASKS),
        ("TCP_USER_TIMEOUT", _UNANSWERED_MS),
    ):
        if hasattr(socket, option):  # not every system has all of them
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

"""Whether a service can be trusted with messages: reachable, and durable.

Used on embedded and external services alike, at every start. No error shows a password.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import parse_qs, urlsplit

import asyncpg

from bus import faultpoints
from bus.errors import ServiceUnavailable, ServiceUnsafe

if TYPE_CHECKING:
    # Generic only in the stubs.
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

# Seconds; an int because nats-py says so.
CONNECT_TIMEOUT_S = 10

# What mends an embedded service.
UP = "`callboard up` starts it again."

# What Postgres may be set to without losing an acknowledged commit when the machine stops. Every value
# of synchronous_commit but `off` waits for the local disk; they differ in what they ask of standbys.
_SAFE = {
    "fsync": {"on"},
    "full_page_writes": {"on"},
    "synchronous_commit": {"on", "local", "remote_write", "remote_apply"},
}


async def check_postgres_durable(where: str | Connection, *, embedded: bool = False) -> None:
    """Check that a Postgres answers and loses nothing that it has acknowledged.

    `where` is a URL, of our own one if it is `embedded`, or a connection whose session is then the one that is checked.
    Raises `ServiceUnavailable`, or `ServiceUnsafe` naming each unsafe setting.
    """
    if isinstance(where, str):
        connection = await connect_postgres(where, embedded=embedded)
        try:
            await _check_settings(connection)
        except BaseException as error:
            connection.terminate()  # a polite end fails while a statement is under way, and hides why
            if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | OSError):
                reason = "it went away while it was asked"
                raise _unavailable("Postgres", redacted(where), reason, "Try again in a moment.") from error
            raise
        await connection.close(timeout=CONNECT_TIMEOUT_S)
    else:
        await _check_settings(where)


async def _check_settings(connection: Connection) -> None:
    faultpoints.reached("start.checks_postgres")
    rows = await connection.fetch("SELECT name, setting FROM pg_settings WHERE name = ANY($1)", [*_SAFE])
    unsafe = sorted(f"{name}={value}" for name, value in rows if value not in _SAFE[name])
    if unsafe:
        raise ServiceUnsafe(
            f"Postgres may lose what it has acknowledged: {', '.join(unsafe)}.",
            fix="Set fsync, synchronous_commit and full_page_writes to on (ALTER SYSTEM SET ...; "
            "SELECT pg_reload_conf();), also for the role and the database.",
            settings=unsafe,
        )


async def connect_postgres(url: str, *, embedded: bool = False) -> Connection:
    """A connection, or `ServiceUnavailable` saying what is wrong with the address or the server."""
    place, mend = redacted(url), UP if embedded else _mend("CALLBOARD_POSTGRES_URL")
    try:
        return await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise _unavailable("Postgres", place, "it refused the user or password", mend) from error
    except asyncpg.CannotConnectNowError as error:
        raise _unavailable("Postgres", place, str(error).splitlines()[0], "Try again in a moment.") from error
    except asyncpg.PostgresError as error:
        # The server's own words: they name a user or a database, never a password.
        raise _unavailable("Postgres", place, str(error).splitlines()[0], mend) from error
    except TimeoutError as error:
        raise _unavailable("Postgres", place, f"no answer within {CONNECT_TIMEOUT_S} s", mend) from error
    except OSError as error:
        raise _unavailable("Postgres", place, _postgres_reason(error), mend) from error
    except (asyncpg.InterfaceError, ValueError, OverflowError):
        # Without the driver's words and without its cause: they may quote the URL.
        raise _unavailable("Postgres", place, "the URL cannot be read", mend) from None


def _postgres_reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "no such host"
    text = str(error)
    # asyncio's own text repeats the address, with the errno beside it; of a host with several addresses it is all there is.
    found = re.search(r"\[Errno (\d+)\]", text)
    if number := error.errno or (int(found[1]) if found else 0):
        return os.strerror(number).lower()
    if "rejected SSL" in text:  # the driver's word for any first byte that it does not know, and for a no
        return "what answers there is not Postgres, or has not the TLS that was asked for"
    return "it broke the connection off"


async def check_nats(url: str, *, embedded: bool = False) -> None:
    """Check that a NATS, our own one if it is `embedded`, answers, lets us in and has JetStream on.

    Raises `ServiceUnavailable`.
    """
    # Imported here, because the driver brings an HTTP client along: 0.3 s that `callboard status` saves.
    import nats.errors
    import nats.js.errors
    from nats.aio.client import Client

    place = ", ".join(redacted(part) for part in url.split(","))
    heard: list[Exception] = []

    async def remember(error: Exception) -> None:
        heard.append(error)

    client = Client()
    try:
        await client.connect(
            [part.strip() for part in url.split(",")],
            allow_reconnect=False,
            # Each server is tried twice, at once: 0 would mean for ever, and the defaults take minutes.
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=CONNECT_TIMEOUT_S,
            error_cb=remember,
        )
        await client.jetstream(timeout=CONNECT_TIMEOUT_S).account_info()
    except nats.js.errors.Error as error:
        raise ServiceUnavailable(
            f"NATS at {place} has no JetStream for this account.",
            fix="Start it with -js, or enable JetStream in its configuration and for the account.",
        ) from error
    except (nats.errors.Error, OSError, ValueError, TimeoutError) as error:
        # Without its cause: the driver may quote the URL.
        mend = UP if embedded else _mend("CALLBOARD_NATS_URL")
        raise _unavailable("NATS", place, _nats_reason([*heard, error]), mend) from None
    finally:
        # Also after a refused login, which leaves the driver's socket open; the driver asserts that it has one.
        with contextlib.suppress(AssertionError):
            await client.close()


def _nats_reason(errors: list[Exception]) -> str:
    import nats.errors

    for error in errors:
        if isinstance(error, nats.errors.AuthorizationError) or "authorization" in str(error).lower():
            return "it refused the user or password"
        if isinstance(error, ValueError) or "connect url" in str(error).lower():
            return "the URL cannot be read"
    if any(isinstance(error, asyncio.TimeoutError) for error in errors):
        return f"no answer within {CONNECT_TIMEOUT_S} s"
    return "connection refused or no such host"


def _unavailable(name: str, place: str, reason: str, mend: str) -> ServiceUnavailable:
    return ServiceUnavailable(f"{name} at {place} cannot be used: {reason}.", fix=mend)


def _mend(variable: str) -> str:
    return f"Check that it runs and that {variable} is right, or unset {variable} for the embedded one."


def redacted(url: str) -> str:
    """The address without what may be secret: `user@host:port/database`."""
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname or parse_qs(parts.query).get("host", ["localhost"])[0]
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an unreadable URL"
    if (
        "@" in f"{parts.path}{parts.query}{parts.fragment}"
    ):  # what looks like a path is the rest of a password
        return "an unreadable URL"
    user = f"{parts.username}@" if parts.username and parts.password is not None else ""
    return f"{user}{host}{port}{parts.path if parts.path != '/' else ''}"

"""A URL that cannot be read is refused without its words, which hold a password."""

from __future__ import annotations

import socket

import asyncpg
import pytest

from bus.errors import ServiceUnavailable, SettingsError
from bus.nats import NatsTransport
from callboard.services import check_postgres_durable
from storage.connect import connect, create_pool


@pytest.mark.parametrize("url", ["postgresql://me:s3cret@host:notaport/db", "nonsense://me:s3cret@host/db"])
async def test_a_postgres_url_that_cannot_be_read_is_not_quoted(url: str) -> None:
    for attempt in (connect(url, application="test"), create_pool(url, application="test")):
        with pytest.raises(SettingsError) as refused:
            await attempt
        assert "s3cret" not in str(refused.value)
        assert refused.value.__cause__ is None


async def test_a_nats_url_that_cannot_be_read_is_not_quoted() -> None:
    with pytest.raises(SettingsError) as refused:
        await NatsTransport.connect("nats://me:s3cret@host:notaport", name="test")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "no such host"),
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"), "connection refused"),
        (  # as asyncio says it of a host with several addresses
            OSError(
                "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), [Errno 111] Connect call failed ('127.0.0.1', 1)"
            ),
            "connection refused",
        ),
        (
            ConnectionError('PostgreSQL server at "db:1" rejected SSL upgrade'),
            "what answers there is not Postgres, or has not the TLS that was asked for",
        ),
        (ConnectionError("unexpected connection_lost() call"), "it broke the connection off"),
    ],
)
async def test_a_connection_that_failed_is_told_by_what_has_happened(
    monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    async def connect(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(asyncpg, "connect", connect)
    with pytest.raises(ServiceUnavailable) as refused:
        await check_postgres_durable("postgresql://me:s3cret@db:1/x")
    assert str(refused.value).startswith(f"Postgres at me@db:1/x cannot be used: {words}. ")

"""A URL that cannot be read is refused without its words, which hold a password."""

from __future__ import annotations

import pytest

from bus.errors import SettingsError
from bus.nats import NatsTransport
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

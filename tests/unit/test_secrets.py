"""The services' URLs carry passwords: no record, no error and no line for people shows one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import callboard
from actors.incarnation import HostSettings
from bus.errors import SettingsError
from bus.nats import NatsTransport
from callboard.services import Endpoints
from callboard.services.checks import redacted

REPOSITORY = Path(callboard.__file__).parents[1]
ROOMS = ("bus", "storage", "actors", "coordinators", "pipelines", "serve", "callboard")
POSTGRES, NATS = "postgresql://me:s3cret@host:5432/db", "nats://me:s3cret@host:4222"


@pytest.mark.parametrize(
    "record",
    [
        HostSettings(domain="d", host="h", postgres_url=POSTGRES, nats_url=NATS),
        Endpoints(postgres_url=POSTGRES, nats_url=NATS, embedded_postgres=True, embedded_nats=True),
    ],
)
def test_a_record_with_urls_does_not_show_them(record: object) -> None:
    assert "s3cret" not in repr(record)


def test_no_record_of_any_room_shows_a_url() -> None:
    shown = []
    for path in (path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")):
        for record in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(record, ast.ClassDef):
                shown += [f"{path.name}: {record.name}.{name}" for name in _shown_urls(record)]
    assert shown == []


def _shown_urls(record: ast.ClassDef) -> list[str]:
    return [
        field.target.id
        for field in record.body
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and field.target.id.endswith(("url", "password", "dsn"))
        and "SecretStr" not in ast.unparse(field.annotation)
        and (field.value is None or "repr=False" not in ast.unparse(field.value))
    ]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (POSTGRES, "me@host:5432/db"),
        ("postgresql:///db?host=/run/here&password=s3cret", "/run/here/db"),
        ("nats://s3cret@host:4222", "host:4222"),  # a token
        ("postgresql://me:s3cret/more@host/db", "an unreadable URL"),
        ("postgresql://me:53/s3cret@host/db", "an unreadable URL"),
        ("postgresql://me:53?s3cret@host/db", "an unreadable URL"),
        ("postgresql://me:53#s3cret@host/db", "an unreadable URL"),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert redacted(url) == shown


async def test_none_of_several_nats_urls_is_quoted() -> None:
    with pytest.raises(SettingsError) as refused:
        await NatsTransport.connect("nats://host:4222, nats://me:s3cret/x@host:4223", name="test")
    assert "s3cret" not in str(refused.value)
    assert refused.value.__cause__ is None

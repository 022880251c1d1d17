"""Which Callboard this is, as hosts and coordinators register it."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bus.errors import SchemaMismatch
from storage.boundary import translated
from storage.migrate import migrations
from storage.queries import query


@cache
def release() -> str:
    """The version of the installed distribution."""
    try:
        return version("callboard")
    except PackageNotFoundError:  # from a bare checkout
        return "unreleased"


def is_newer_than(other: str) -> bool:
    """Whether this release follows the other; never where one of them has no number."""
    return _numbers(release()) > _numbers(other) > ()


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


@cache
def schema() -> int:
    """The newest migration that this release knows: what its statements are written for."""
    return migrations()[-1].number


async def require_own_schema(db: Any) -> None:
    """Raise SchemaMismatch unless the database has been migrated to what this release knows, and no further."""
    with translated():
        found = await db.fetchval(query("schema_number"))
    if found != schema():
        raise SchemaMismatch(
            f"The database is at migration {found}; Callboard {release()} is written for {schema()}."
        )

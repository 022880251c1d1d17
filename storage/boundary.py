"""The one place where the driver's errors become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from bus.errors import (
    CallboardError,
    Fenced,
    InvalidData,
    RowLocked,
    SchemaMismatch,
    StaleTurn,
    StorageError,
    StorageUnavailable,
)

_FENCED = "CB001"
_STALE = "CB002"
_LOCK_NOT_AVAILABLE = "55P03"
_OF_ANOTHER_SCHEMA = ("42883", "42P01", "42703")  # no such function (with those arguments), table or column


@contextmanager
def translated() -> Iterator[None]:
    """Raise our error for whatever asyncpg raises inside.

    Everything that is neither our own signal nor a data error is StorageUnavailable: its outcome is unknown,
    and whoever wrote must look before writing again.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        raise translate(error) from error
    except (TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError) as error:
        raise StorageUnavailable(f"The connection to Postgres failed: {_line(error)}.") from error


def translate(error: asyncpg.PostgresError) -> CallboardError:
    state = error.sqlstate or ""
    text = _line(error)
    if state == _FENCED:
        return Fenced(f"Ownership was lost: {text}.")
    if state == _STALE:
        return StaleTurn(f"A turn is out of date: {text}.")
    if state[:2] in ("22", "23", "54"):  # 54: past a limit, as a key too long for its index
        return InvalidData(
            f"Postgres refused the data: {text}.", fix="Send text that JSON in Postgres can hold."
        )
    if state in _OF_ANOTHER_SCHEMA:
        return SchemaMismatch(f"The database's schema is not that of this release: {text}.")
    if state == _LOCK_NOT_AVAILABLE:
        return RowLocked(f"Postgres could not carry it out: {text}.")
    if state[:2] in ("08", "40", "53", "55", "57", "58", "XX", "25"):
        return StorageUnavailable(f"Postgres could not carry it out: {text}.")
    return StorageError(f"Postgres: {text} (SQLSTATE {state}).", fix="Run `callboard doctor`.")


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__).rstrip(".")

"""Postgres holds a domain's code once, however often the domain is registered with it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from storage.code import pack, put_code
from storage.connect import close_pool, create_pool


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool[Any]]:
    pool = await create_pool(database, application="callboard-test")
    yield pool
    await close_pool(pool)


@pytest.fixture
def code(tmp_path: Path) -> tuple[str, bytes]:
    """Too much for the row itself, so that Postgres keeps it apart, in pieces."""
    (tmp_path / "prices.bin").write_bytes(random.Random(1).randbytes(100_000))
    return pack(tmp_path)


async def row(pool: asyncpg.Pool[Any]) -> tuple[Any, ...]:
    """When the only row is said to be added, where it lies and which transaction wrote it: each version lies elsewhere."""
    (row,) = await pool.fetch("select added_at, ctid, xmin from domain_code")
    return tuple(row)


async def pieces(pool: asyncpg.Pool[Any]) -> list[asyncpg.Record]:
    name = await pool.fetchval(
        "select reltoastrelid::regclass::text from pg_class where relname = 'domain_code'"
    )
    return list(await pool.fetch(f"select ctid, xmin, chunk_id from {name}"))  # noqa: S608


async def test_unchanged_code_is_not_written_again(pool: asyncpg.Pool[Any], code: tuple[str, bytes]) -> None:
    await put_code(pool, "desk", *code)
    before = await row(pool), await pieces(pool)
    await put_code(pool, "desk", *code)
    assert (await row(pool), await pieces(pool)) == before
    assert len(before[1]) > 1


async def test_code_that_retention_could_soon_take_is_new_again_and_its_bundle_not_written_again(
    pool: asyncpg.Pool[Any], code: tuple[str, bytes]
) -> None:
    await put_code(pool, "desk", *code)
    await pool.execute("update domain_code set added_at = now() - interval '2 hours'")
    before = await row(pool), await pieces(pool)
    await put_code(pool, "desk", *code)
    assert (await row(pool))[0] > before[0][0]
    assert await pieces(pool) == before[1]


async def test_a_damaged_bundle_is_whole_again(pool: asyncpg.Pool[Any], code: tuple[str, bytes]) -> None:
    digest, bundle = code
    await put_code(pool, "desk", digest, bundle[:-1] + b"x")
    await put_code(pool, "desk", digest, bundle)
    assert await pool.fetchval("select bundle from domain_code") == bundle

"""Backup and restore, in pg_dump's own format: one file, one consistent moment.

Passwords go through the environment, never through a command line that every user of the machine can read.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import msgspec

from bus.errors import StorageError
from callboard.services.checks import connect_postgres
from callboard.services.program import client_program
from storage.boundary import translated
from storage.connect import SCHEMA
from storage.migrate import migrate, migrations

_CHUNK = 256 * 1024
_MAGIC = b"PGDMP"
_HEAD_LINES = 40
_NEWER_SETTING = b"SET transaction_timeout = 0;\n"
_LEAVING_S = 2


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that was written."""

    file: str
    bytes: int


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore brought back. `open_turns` are those that wait or were at work, `calls` the ledger's, `unknown` those
    of them of which nobody knows what they did; `hosts_ended` are incarnations that the backup held as living."""

    file: str
    agents: int
    transitions: int
    waiting: int
    open_turns: int
    calls: int
    unknown: int
    hosts_ended: int
    migrations: list[str]


async def back_up(url: str, file: Path, *, force: bool = False) -> Backup:
    """Write a backup of a database that may be in use; the file appears when it is complete.

    Raises StorageError when it exists already or cannot be written, another backup writes it, or pg_dump fails.
    """
    partial, handle = _create(file, force)
    try:
        await _dump(url, partial, handle)
        os.fsync(handle)
        size = os.fstat(handle).st_size
        os.replace(partial, file)
    except BaseException as error:
        os.unlink(partial)
        if isinstance(error, OSError):
            raise _unwritable(file, error) from None
        raise
    finally:
        os.close(handle)
    return Backup(file=str(file), bytes=size)


def _create(file: Path, force: bool) -> tuple[Path, int]:
    """The file beside it that is written to, locked: another backup would write into the midst of this one."""
    try:
        if file.is_dir():
            raise StorageError(f"{file} is a folder.", fix="Name a file in it.")
        if file.exists() and not force:
            raise StorageError(f"{file} exists already.", fix="Name another file, or give --force.")
        partial = file.with_name(file.name + ".partial")
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _unwritable(file, error) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(handle), os.stat(partial)):
            raise FileNotFoundError  # the one that has just ended has given it its name
        os.fchmod(handle, 0o600)
        os.ftruncate(handle, 0)
    except (BlockingIOError, FileNotFoundError):
        os.close(handle)
        raise StorageError(
            f"Another backup is being written to {file}.", fix="Wait for it, or name another file."
        ) from None
    except OSError as error:
        os.close(handle)
        raise _unwritable(file, error) from None
    return partial, handle


def _unwritable(file: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{file} cannot be written: {error.strerror or error}.",
        fix="Name a file in a folder you may write to.",
    )


async def _dump(url: str, file: Path, lock: int) -> None:
    """The lock is pg_dump's as well, which goes on writing should this process be killed."""
    place, environment = without_password(url)
    process = await asyncio.create_subprocess_exec(
        client_program("pg_dump"), "--format=custom", f"--schema={SCHEMA}", "--no-owner", "--no-privileges",
        "--no-unlogged-table-data", f"--file={file}", f"--dbname={place}",
        env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        pass_fds=(lock,),
    )  # fmt: skip
    _, complaint = await _to_end(process)
    if process.returncode:
        raise StorageError(
            f"The backup failed: {_last(complaint)}.", fix="Check the database: `callboard doctor`."
        )


async def restore(url: str, file: Path, *, force: bool = False) -> Restored:
    """Fill a database from a backup, all or nothing, and fence off whoever wrote to it before.

    Refuses a database in use, and one that holds a Callboard already, unless `force` replaces that one. In
    the same transaction every incarnation of hosts and coordinators is ended and the epochs jump ahead: a
    process that has survived the old database can commit nothing in the new one.
    """
    await asyncio.to_thread(_check_file, file)
    replace = await _check_target(url, force)
    place, environment = without_password(url)
    reader = await asyncio.create_subprocess_exec(
        client_program("pg_restore"), "--no-owner", "--no-privileges", "--file=-", str(file),
        env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    writer = await asyncio.create_subprocess_exec(
        client_program("psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file=-", f"--dbname={place}",
        env=environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await _pour(reader, writer, replace)
    finally:
        for process in (reader, writer):
            if process.returncode is None:
                process.kill()
                await process.wait()
    applied = await migrate(url)
    return await _report(url, file, applied)


async def _pour(
    reader: asyncio.subprocess.Process, writer: asyncio.subprocess.Process, replace: bool
) -> None:
    """Send the backup's SQL through psql in one transaction, which ends with the fencing or not at all."""
    assert reader.stdout is not None
    assert reader.stderr is not None
    assert writer.stdin is not None
    assert writer.stderr is not None
    reader_says = asyncio.create_task(reader.stderr.read())
    writer_says = asyncio.create_task(writer.stderr.read())
    begin = "begin;\nset client_min_messages = warning;\n"
    try:
        writer.stdin.write(begin.encode())
        if replace:
            writer.stdin.write(f"drop schema if exists {SCHEMA} cascade;\n".encode())
        writer.stdin.write(await without_newer_settings(reader.stdout))
        while chunk := await reader.stdout.read(_CHUNK):
            writer.stdin.write(chunk)
            await writer.stdin.drain()
        if await reader.wait() == 0:
            # Only a backup that was read to its end is committed; a broken one leaves the transaction open.
            newest = max(migration.number for migration in migrations())
            end = files("callboard").joinpath("fence_restored.sql").read_text(encoding="utf-8")
            writer.stdin.write(end.replace(":newest", str(newest)).encode() + b"\ncommit;\n")
        writer.stdin.close()
        await writer.stdin.wait_closed()
    except (BrokenPipeError, ConnectionResetError):
        reader.kill()
    await writer.wait()
    await reader.wait()
    read_complaint, write_complaint = await reader_says, await writer_says
    if writer.returncode or reader.returncode:
        complaint = write_complaint if writer.returncode else read_complaint
        raise StorageError(
            f"The restore failed, and nothing was changed: {_first_error(complaint)}.",
            fix="Check the file, and that this release is not older than the backup.",
        )


async def without_newer_settings(sql: asyncio.StreamReader) -> bytes:
    """The lines before the first statement, but for the setting that Postgres 16 lacks: it would refuse them all."""
    kept = []
    for _ in range(_HEAD_LINES):
        line = await sql.readline()
        if line != _NEWER_SETTING:
            kept.append(line)
        if line.startswith(b"CREATE ") or not line:
            break
    return b"".join(kept)


def _check_file(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_MAGIC))
    except OSError as error:
        raise StorageError(
            f"{file} cannot be read: {error.strerror}.", fix="Name a file that `callboard backup` made."
        ) from None
    if start != _MAGIC:
        raise StorageError(
            f"{file} is not a backup in pg_dump's custom format.",
            fix="Name a file that `callboard backup` made.",
        )


async def _check_target(url: str, force: bool) -> bool:
    """Whether there is a schema to be replaced: one without a domain in it, or any with `force`."""
    connection = await connect_postgres(url)
    try:
        with translated():
            used = await _is_used(connection)
            exists = await connection.fetchval(
                "select exists (select from pg_namespace where nspname = $1)", SCHEMA
            )
            table = await connection.fetchval("select to_regclass($1) is not null", f"{SCHEMA}.domains")
            filled = table and await connection.fetchval("select exists (select from callboard.domains)")
    finally:
        await connection.close(timeout=5)
    if used:
        raise StorageError(
            "Hosts or coordinators are at work in this database.", fix="Stop them first: `callboard down`."
        )
    if filled and not force:
        raise StorageError(
            "The database is not empty: it holds a Callboard already.",
            fix="Restore into an empty one, or replace everything in it with --force.",
        )
    return bool(exists)


async def _is_used(connection: Any) -> bool:
    """Whether hosts or coordinators are connected; those that are just leaving get a moment."""
    for _ in range(_LEAVING_S * 10):
        used = await connection.fetchval(
            "select exists (select from pg_stat_activity where datname = current_database()"
            " and application_name ~ '^callboard-(host|coordinator|master|heartbeat)')"
        )
        if not used:
            return False
        await asyncio.sleep(0.1)
    return True


async def _report(url: str, file: Path, applied: list[str]) -> Restored:
    connection = await connect_postgres(url)
    try:
        with translated():
            row = await connection.fetchrow(
                "select (select count(*) from callboard.agents) as agents,"
                " (select count(*) from callboard.transitions) as transitions,"
                " (select count(*) from callboard.mailbox) as waiting,"
                " (select count(*) from callboard.turns) as open_turns,"
                " (select count(*) from callboard.ledger) as calls,"
                " (select count(*) from callboard.ledger where status in ('started', 'unknown')) as unknown,"
                " (select count(*) from callboard.hosts where ended_why = 'the database was restored') as hosts_ended"
            )
    finally:
        await connection.close(timeout=5)
    assert row is not None
    return Restored(file=str(file), migrations=applied, **dict(row))


def without_password(url: str) -> tuple[str, dict[str, str]]:
    """The URL without its password, and an environment that has it."""
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    password = unquote(parts.password) if parts.password is not None else dict(options).get("password")
    account, at, host = parts.netloc.rpartition("@")
    netloc = f"{account.partition(':')[0]}{at}{host}"
    query = urlencode([option for option in options if option[0] != "password"], safe="/")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    if password is not None:
        environment["PGPASSWORD"] = password
    return urlunsplit(parts._replace(netloc=netloc, query=query)), environment


async def _to_end(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    try:
        return await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _last(complaint: bytes) -> str:
    lines = complaint.decode(errors="replace").strip().splitlines()
    return lines[-1].rstrip(".") if lines else "it gave no reason"


def _first_error(complaint: bytes) -> str:
    lines = complaint.decode(errors="replace").strip().splitlines()
    found = [line for line in lines if "ERROR" in line or "error" in line] or lines
    return found[0].rstrip(".") if found else "it gave no reason"

"""The file that a backup is written to."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from bus.errors import StorageError
from callboard import backup
from callboard.backup import back_up


def put(file: Path, text: str) -> None:
    with file.open("a") as opened:
        opened.write(text)


async def write(url: str, file: Path, lock: int) -> None:
    put(file, f"the data of {url}")


async def test_of_two_backups_into_one_file_the_second_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, goes_on, has_begun = tmp_path / "a.backup", asyncio.Event(), asyncio.Event()

    async def slowly(url: str, partial: Path, lock: int) -> None:
        put(partial, "half")
        has_begun.set()
        await goes_on.wait()
        put(partial, " and half")

    monkeypatch.setattr(backup, "_dump", slowly)
    first = asyncio.create_task(back_up("one", file))
    await has_begun.wait()
    with pytest.raises(StorageError, match="Another backup is being written"):
        async with asyncio.timeout(5):
            await back_up("two", file, force=True)
    goes_on.set()
    assert (await first).bytes == 13
    assert file.read_text() == "half and half"
    assert os.listdir(tmp_path) == [file.name]


async def test_what_a_killed_backup_left_is_written_anew_and_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.backup"
    left = tmp_path / "a.backup.partial"
    left.write_text("x" * 100)
    left.chmod(0o644)
    monkeypatch.setattr(backup, "_dump", write)
    await back_up("one", file)
    assert file.read_text() == "the data of one"
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == [file.name]


async def test_a_link_in_its_place_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "precious"
    other.write_text("precious")
    (tmp_path / "a.backup.partial").symlink_to(other)
    monkeypatch.setattr(backup, "_dump", write)
    with pytest.raises(StorageError, match="cannot be written"):
        await back_up("one", tmp_path / "a.backup")
    assert other.read_text() == "precious"


@pytest.mark.parametrize("name", [".", "..", "/", "folder"])
async def test_a_folder_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="is a folder"):
        await back_up("one", Path(name), force=True)
    assert os.listdir(tmp_path) == ["folder"]


async def test_a_name_that_no_file_can_have_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written: File name too long"):
        await back_up("one", tmp_path / ("x" * 300))


async def test_a_postgres_16_is_not_told_what_it_does_not_know() -> None:
    head = "--\n-- PostgreSQL database dump\n\nSET lock_timeout = 0;\n{}SET row_security = off;\n\nCREATE SCHEMA callboard;\n"
    sql = asyncio.StreamReader()
    sql.feed_data(head.format("SET transaction_timeout = 0;\n").encode() + b"the data")
    sql.feed_eof()
    assert await backup.without_newer_settings(sql) == head.format("").encode()
    assert await sql.read() == b"the data"

"""The data folder's own files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bus.errors import DataFolderError
from callboard.runtime import stop_cluster
from callboard.services.account import Account
from callboard.services.home import Home, write_private
from callboard.settings import Settings


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_private(tmp_path / "credentials.json", "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_private(tmp_path / "credentials.json", "new")
    assert os.listdir(tmp_path) == ["credentials.json"]
    assert (tmp_path / "credentials.json").read_text() == "old"


def test_a_folder_whose_maker_was_killed_is_given_to_its_account_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = Account(name="other", uid=os.getuid() + 1, gid=os.getgid(), switched=True)
    (tmp_path / "nats").mkdir(mode=0o700)  # and no more
    given = []
    monkeypatch.setattr(os, "chown", lambda path, uid, gid, **how: given.append((path, uid)))
    assert Home(tmp_path).make_folder("nats", account) == tmp_path / "nats"
    assert given == [(tmp_path / "nats", account.uid)]


async def test_a_folder_that_may_not_be_looked_at_is_said_by_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    settings = Settings(home=tmp_path)
    monkeypatch.setattr(Path, "is_dir", refuse)  # not by its mode: root may look at everything
    with pytest.raises(DataFolderError, match=f"{tmp_path} belongs to another user"):
        await stop_cluster(settings)


def test_the_folder_of_the_secrets_is_there_for_its_owner_only_and_one_that_was_there_is_left(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path / "home")
    for _ in range(2):
        home.create()
        assert (home / "secrets").stat().st_mode & 0o777 == 0o700
    (home / "secrets").chmod(0o750)
    home.create()
    assert (home / "secrets").stat().st_mode & 0o777 == 0o750

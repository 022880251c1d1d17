"""The gateway's key: made once, its owner's alone, never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.model_gateway import read_key
from bus.errors import DataFolderError
from serve.gateway import GatewaySettings
from serve.gateway.key import make_key, same


def test_it_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "gateway.key"
    key = make_key(path)
    assert (path.stat().st_mode & 0o777, len(key) > 40) == (0o600, True)
    assert make_key(path) == read_key(path) == key
    assert list(tmp_path.iterdir()) == [path]
    assert make_key(tmp_path / "other.key") != key


def test_one_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gateway.key"
    key = make_key(path)
    path.chmod(0o640)
    with pytest.raises(DataFolderError, match="can be read by others") as caught:
        make_key(path)
    assert key not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"short", "ключ-ключ-ключ".encode()])
def test_one_that_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "gateway.key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(DataFolderError):
        read_key(path)


def test_one_that_is_missing_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(DataFolderError, match="`callboard up` makes one"):
        read_key(tmp_path / "gateway.key")
    with pytest.raises(DataFolderError, match="cannot be made"):
        make_key(tmp_path / "nowhere" / "gateway.key")


def test_keys_are_compared_whole() -> None:
    assert same("cb-1", "cb-1")
    assert not any(same(given, "cb-1") for given in ("", "cb-", "cb-11", "CB-1", "\udcff"))


def test_settings_do_not_show_it() -> None:
    assert "s3cret" not in repr(GatewaySettings(key="s3cret"))

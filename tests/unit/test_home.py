"""The data folder's own files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from callboard.services.home import write_private


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

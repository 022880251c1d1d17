"""The gateway's key: generated once, in a file that only its owner can read."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from actors.model_gateway import read_key
from bus.errors import DataFolderError

PREFIX = "cb-"


def make_key(path: Path) -> str:
    """The key in that file, made if there is none. Raises DataFolderError."""
    try:
        if not path.exists():
            handle, made = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
            with os.fdopen(handle, "w") as file:
                file.write(PREFIX + secrets.token_urlsafe(32))
            with contextlib.suppress(FileExistsError):  # of two that start at once, both use the key of one
                os.link(made, path)
            Path(made).unlink()
    except OSError as error:
        raise DataFolderError(f"The gateway's key {path} cannot be made: {error.strerror}.") from error
    return read_key(path)


def same(given: str, key: str) -> bool:
    """Without telling by the time it takes how much of it is right."""
    return secrets.compare_digest(given.encode("utf-8", "surrogateescape"), key.encode())

"""Domains' code unpacked on this machine, below the user's own cache folder (`XDG_CACHE_HOME` or `~/.cache`).

    callboard/code/DIGEST/     one domain's files; the digest is that of their contents

Whoever can write here runs code as this user, so the folders are the user's own, 0700, and looked at before each
use: never a folder that all users share. A process locks what it imports from for as long as it lives; what no
process has locked, and others have outlived, is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from bus.errors import DataFolderError, StorageError

KEPT = 8  # unpacked digests that no process uses; to unpack one again costs one read from Postgres
_TRIES = 5
_ABANDONED_S = 3600.0  # an unpacking takes seconds; one this old was cut off
_SKIPPED = {"__pycache__", "node_modules"}

_logger = logging.getLogger("callboard.code")

# A process imports from what it has locked until it ends, so nothing is ever unlocked.
_locked: set[tuple[int, int]] = set()


def files_of(folder: Path) -> list[Path]:
    """The files that belong to the code, in the order of their names: those that are packed, and that the digest counts.

    Hidden files, whatever lies in hidden folders, and caches do not: secrets (`.env`), editors' and tools' own.
    """
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = filter(_belongs, folders)
        found.extend(Path(parent, name) for name in filter(_belongs, names))
    return sorted(path for path in found if path.is_file())


def _belongs(name: str) -> bool:
    return not name.startswith(".") and name not in _SKIPPED


def contents_of(folder: Path, files: list[Path]) -> Iterator[tuple[str, bytes]]:
    """The name (relative to the folder, with `/`) and the content of each."""
    for path in files:
        yield path.relative_to(folder).as_posix(), path.read_bytes()


class ContentDigest:
    """The digest (sha256, hex) of files in the order of their names, whatever an archive makes of them."""

    def __init__(self) -> None:
        self._hash = sha256()

    def add(self, name: str, content: bytes) -> None:
        for part in (name.encode(), content):
            self._hash.update(len(part).to_bytes(8, "big"))
            self._hash.update(part)

    def hex(self) -> str:
        return self._hash.hexdigest()


def digest_of(folder: Path) -> str:
    digest = ContentDigest()
    for name, content in contents_of(folder, files_of(folder)):
        digest.add(name, content)
    return digest.hex()


class CodeCache:
    """Blocking, since it reads and hashes files: call it from a thread."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @classmethod
    def open(cls) -> CodeCache:
        """The cache of this user, made if it is missing.

        Raises DataFolderError when it cannot be made, or when others could write into it.
        """
        root = _cache_home() / "callboard" / "code"
        try:
            root.parent.parent.mkdir(parents=True, exist_ok=True)
            for folder in (root.parent, root):
                with contextlib.suppress(FileExistsError):
                    folder.mkdir(mode=0o700)
                _require_private(folder)
        except OSError as error:
            raise DataFolderError(
                f"The code of domains cannot be unpacked below {root}: {error.strerror}.",
                fix="Set XDG_CACHE_HOME to a folder that you may write to.",
            ) from error
        return cls(root)

    def find(self, digest: str) -> Path | None:
        """The folder with exactly these contents, locked from now on; None when it is missing or damaged."""
        folder = self._root / digest
        if not _lock(folder):
            return None
        _require_private(folder)
        if digest_of(folder) != digest:
            _logger.warning("%s is not what was unpacked there, and is unpacked again", folder)
            return None
        os.utime(folder)
        return folder

    def add(self, digest: str, bundle: bytes) -> Path:
        """Unpack a bundle; return its folder, locked from now on.

        Raises StorageError when the bundle does not hold what the digest says.
        """
        unpacked = Path(tempfile.mkdtemp(prefix=".new-", dir=self._root))
        try:
            with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
                archive.extractall(unpacked)
            damaged = digest_of(unpacked) != digest
        except zipfile.BadZipFile:
            damaged = True
        if damaged:
            shutil.rmtree(unpacked)
            raise StorageError(
                f"The code {digest[:12]}... in Postgres is not what its digest says.",
                fix="`callboard up DOMAIN_DIR` stores the domain's code again.",
            )
        folder = self._root / digest
        for _ in range(_TRIES):
            with contextlib.suppress(OSError):  # not empty: a damaged one, or another process was faster
                unpacked.rename(folder)
            found = self.find(digest)
            if found is not None:
                shutil.rmtree(unpacked, ignore_errors=True)
                self._prune()
                return found
            self._put_away(folder)
        shutil.rmtree(unpacked, ignore_errors=True)
        raise DataFolderError(f"{folder} is changed by somebody else.", fix=f"Remove {folder}.")

    def _prune(self) -> None:
        """Remove what no process uses, but for the newest few, and what cut-off unpackings have left."""
        entries = sorted(self._root.iterdir(), key=_used_at, reverse=True)
        for entry in [entry for entry in entries if not entry.name.startswith(".")][KEPT:]:
            with _alone(entry) as alone:
                if alone:
                    self._put_away(entry)
        for entry in entries:
            if entry.name.startswith(".") and time.time() - _used_at(entry) > _ABANDONED_S:
                shutil.rmtree(entry, ignore_errors=True)

    def _put_away(self, folder: Path) -> None:
        """Remove a folder in one step as others see it."""
        away = Path(tempfile.mkdtemp(prefix=".old-", dir=self._root))
        with contextlib.suppress(OSError):  # another process was faster
            folder.rename(away / folder.name)
        shutil.rmtree(away, ignore_errors=True)


def _cache_home() -> Path:
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return named if named.is_absolute() else Path.home() / ".cache"  # the standard's words: else ignore it


def _require_private(folder: Path) -> None:
    """Raise DataFolderError unless it is a folder, no link, and nobody but its owner, this user, may enter it."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        complaint = "is not a folder"
    elif found.st_uid != os.geteuid():
        complaint = f"belongs to another user (uid {found.st_uid})"
    elif found.st_mode & 0o077:
        complaint = f"can be entered by others (mode {stat.S_IMODE(found.st_mode):o})"
    else:
        return
    raise DataFolderError(
        f"{folder} {complaint}: code that others could change is not run.",
        fix=f"Remove {folder}, or set XDG_CACHE_HOME to a folder of your own.",
    )


def _lock(folder: Path) -> bool:
    """Keep a folder from being removed for as long as this process lives; False when there is none."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DataFolderError(
            f"{folder} cannot be read: {error.strerror}.", fix=f"Remove {folder}."
        ) from error
    with contextlib.suppress(OSError):  # a file system that knows no locks: then nothing is removed there
        fcntl.flock(handle, fcntl.LOCK_SH)
    identity = _identity(os.fstat(handle))
    if identity in _locked:
        os.close(handle)
        return True
    try:
        there = _identity(folder.lstat()) == identity
    except FileNotFoundError:
        there = False
    if there:
        _locked.add(identity)
    else:  # it was put away meanwhile
        os.close(handle)
    return there


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether no process uses the folder, and none will as long as this lasts."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _used_at(folder: Path) -> float:
    try:
        return folder.lstat().st_mtime
    except FileNotFoundError:
        return 0.0

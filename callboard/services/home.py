"""The data folder of the embedded services, `CALLBOARD_HOME`.

    credentials.json   generated passwords, mode 0600
    instance.json      what runs now, mode 0600 (its URLs carry the passwords)
    instance.lock      held while services are started or stopped
    start.lock  users.lock  temporary     who uses the instance, and whether it ends with them: see users.py
    postgres/ .conf .lock .log     nats/ .conf .lock .log .port
    secrets/           of tools and of models' upstreams, written by hand, mode 0700
    keeper.lock .log   who starts them again, and what it did: see keeping.py
    run/               the Unix socket
    software/          copies of the programs, only where the account could not reach them

Only the folders `postgres/`, `nats/` and `run/` belong to the account the servers run under; everything
else stays with whoever started them, so that a server that was broken into can rewrite nothing that root
reads or writes later.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bus.errors import DataFolderError

from .account import Account


@dataclass(frozen=True)
class Home:
    """Paths below `CALLBOARD_HOME`, and the few operations on the folder as a whole."""

    path: Path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def create(self) -> None:
        """Make the folder, and `secrets` in it, if they are missing. No existing folder's mode is changed.

        Raises `DataFolderError` when it cannot be made, or belongs to somebody else.
        """
        # Root's servers run under another account, which must pass through; nobody may list it.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        try:
            for folder in reversed([self.path, *self.path.parents]):
                if not folder.exists():
                    folder.mkdir(exist_ok=True)
                    # Said again because the umask may have narrowed it.
                    folder.chmod(mode if folder == self.path else 0o755)
            self.require_own()
            if not os.path.lexists(self / "secrets"):
                (self / "secrets").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise DataFolderError(
                f"The data folder {self.path} cannot be made: {error.strerror}.",
                fix="Set CALLBOARD_HOME to a folder that you may write to.",
            ) from error

    def require_own(self) -> None:
        """Raise `DataFolderError` for a folder that is there, and somebody else's."""
        try:
            owner = self.path.stat().st_uid
            writable = self.path.is_dir() and os.access(self.path, os.W_OK | os.X_OK)
        except FileNotFoundError:
            return
        except OSError as error:
            raise DataFolderError(
                f"The data folder {self.path} cannot be looked at: {error.strerror}.",
                fix="Set CALLBOARD_HOME to a folder that you may write to.",
            ) from error
        if not writable or owner != os.geteuid():
            raise DataFolderError(
                f"The data folder {self.path} belongs to another user (uid {owner}) or is not writable.",
                fix="Run as that user, or set CALLBOARD_HOME to a folder of your own.",
            )

    def exists(self) -> bool:
        """Raises `DataFolderError` where we may not look."""
        try:
            return self.path.is_dir()
        except PermissionError as error:
            raise DataFolderError(
                f"The data folder {self.path} belongs to another user.",
                fix="Run as that user, or set CALLBOARD_HOME to a folder of your own.",
            ) from error

    def make_folder(self, name: str, account: Account) -> Path:
        """A folder of the account's own, mode 0700."""
        folder = self.path / name
        if not folder.is_dir():
            folder.mkdir(mode=0o700)
        if folder.stat().st_uid == os.geteuid():  # also one whose maker was killed before it gave it away
            account.own(folder)
        return folder

    def check_reachable(self, account: Account) -> None:
        """Raise `DataFolderError` if the account cannot reach this folder."""
        blocked = (
            account.first_blocked([*reversed(self.path.parents), self.path]) if account.switched else None
        )
        if blocked is not None:
            raise DataFolderError(
                f"The embedded services run as the user {account.name}, who cannot pass through {blocked} "
                f"to reach the data folder {self.path}.",
                fix="Set CALLBOARD_HOME to a folder that every user can reach, such as /var/lib/callboard.",
            )

    def make_credentials(self) -> None:
        """Generate the passwords, once; under the instance's lock and before anything is started."""
        path = self / "credentials.json"
        if not path.exists():
            # A leading letter: nats-server would read "12e4..." in a variable as a number.
            made = {name: "c" + secrets.token_hex(24) for name in ("postgres", "nats")}
            write_private(path, json.dumps(made))

    def credentials(self) -> Mapping[str, str]:
        """The generated passwords, by service. Raises `DataFolderError` when they are lost."""
        path = self / "credentials.json"
        try:
            found = json.loads(path.read_text())
            return {"postgres": str(found["postgres"]), "nats": str(found["nats"])}
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise DataFolderError(
                f"{path} cannot be read: {type(error).__name__}.",
                fix="Restore it from a backup of the data folder; the data cannot be opened without it.",
            ) from error


def write_private(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Replace a file in one step, with its content on disk before its name."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)  # a full disk would fill up with them, one for each try
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a new name in the folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

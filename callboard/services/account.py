"""The operating-system account that embedded servers run under.

Postgres refuses to run as root, and no server needs root's rights; so root starts them under an
unprivileged account, switched to in the child before anything of the server's is executed.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACCOUNT = "callboard"

# Ends with the first path that the account cannot pass through, on standard output. Asking the kernel
# under that account counts access lists and mount options too, which a look at mode bits would miss.
_PROBE = 'for path; do [ -x "$path" ] || { printf %s "$path"; exit 1; }; done'


@dataclass(frozen=True, kw_only=True)
class Account:
    """Who owns a server's process and data; `switched` when that is not who we are."""

    name: str
    uid: int
    gid: int
    switched: bool

    def spawn_options(self) -> dict[str, Any]:
        """The `subprocess` arguments that make a child run under this account."""
        if not self.switched:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give a file or folder that we have just made to this account."""
        if self.switched:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def first_blocked(self, paths: Sequence[Path]) -> Path | None:
        """The first of these folders or programs that the account cannot enter or execute."""
        done = subprocess.run(
            ["/bin/sh", "-c", _PROBE, "sh", *map(str, paths)],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **self.spawn_options(),
        )
        return Path(done.stdout) if done.returncode else None


def service_account(data: Path) -> Account:
    """The account for a server whose data is (or will be) in `data`.

    Ourselves, unless we are root. As root: the owner of data that exists already, so that a later start
    does not depend on how the first one found its account; else a system account of our own; else, where
    none can be made (no `useradd`, a read-only /etc), `nobody`. It must be in the password database:
    initdb looks its name up.
    """
    uid = os.geteuid()
    if uid != 0:
        return Account(name=str(uid), uid=uid, gid=os.getegid(), switched=False)
    entry = _owner(data) or _lookup(ACCOUNT) or _create() or _lookup("nobody")
    if entry is None:
        # A system without even `nobody` cannot run a server safely as root.
        raise LookupError("neither the account `callboard` nor `nobody` exists")
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid, switched=True)


def _owner(data: Path) -> pwd.struct_passwd | None:
    try:
        uid = data.stat().st_uid
        return pwd.getpwuid(uid) if uid != 0 else None
    except (FileNotFoundError, KeyError):
        return None


def _lookup(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _create() -> pwd.struct_passwd | None:
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is None:
        return None
    command = [useradd, "--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/bin/false"]
    subprocess.run([*command, ACCOUNT], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return _lookup(ACCOUNT)

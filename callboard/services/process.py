"""Start and stop a server process that outlives the command that started it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from bus.errors import DataFolderError, ServiceUnavailable

from . import lock
from .account import Account

# A log is begun anew at a start once it is longer than this; the last one is kept beside it.
LOG_BYTES = 8 * 1024 * 1024

# The children of a killed server notice its death and end by themselves; one may be in a long write.
CHILDREN_S = 10.0

# The server becomes a grandchild: the shell between us ends at once and init adopts the server, so no
# zombie waits for us. Standard input brings the lock (descriptor 0, kept as 3); the server's own process
# writes its pid into the lock file before it becomes the server, so a held lock always names its holder.
_LAUNCH = """
exec 3<&0
/bin/sh -c 'echo $$ >&3; exec "$@" </dev/null' sh "$@" &
"""

# Whether one of a process's open files is this one.
_LOOK = 'for file in /proc/"$1"/fd/*; do [ "$file" -ef "$2" ] && exit 0; done; exit 1'


async def launch(
    command: Sequence[str | Path],
    *,
    account: Account,
    lock_path: Path,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Start a server under `account`, holding `lock_path`, writing to `log`; do not wait until it is ready.

    Raises `DataFolderError` if another process holds the lock.
    """
    # The wait is for lookers, who hold it for an instant.
    handle = await lock.acquire(lock_path, timeout_s=1)
    if handle is None:
        raise held_by_another(lock_path)
    try:
        await asyncio.to_thread(_spawn, command, account, handle, log, environment or {})
    finally:
        os.close(handle)


def _spawn(
    command: Sequence[str | Path], account: Account, handle: int, log: Path, environment: Mapping[str, str]
) -> None:
    os.ftruncate(handle, 0)
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_name(log.name + ".1"))
    with open(log, "ab", opener=_private) as output:
        subprocess.run(
            ["/bin/sh", "-c", _LAUNCH, "sh", *map(str, command)],
            cwd="/",
            # Nothing inherited: PGPORT and its like would silently change what the server does.
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", **environment},
            stdin=handle,
            stdout=output,
            stderr=output,
            umask=0o077,
            # Its own session: Ctrl-C in the starter's terminal is not meant for the server.
            start_new_session=True,
            check=True,
            **account.spawn_options(),
        )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


async def stop(name: str, *, lock_path: Path, how: signal.Signals, timeout_s: float) -> None:
    """Ask the server that holds `lock_path` to end, and wait until its last process has.

    Raises `ServiceUnavailable` if it has not within `timeout_s`, and what `settled` raises.
    """
    pid = await settled(lock_path)
    if pid is None:
        return
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise held_by_another(lock_path) from error
    if not await lock.wait_free(lock_path, timeout_s=timeout_s):
        raise ServiceUnavailable(
            f"{name} (process {pid}) did not stop within {timeout_s:.0f} s.",
            fix="Try again; if it still does not, end the process by hand.",
        )


async def settled(lock_path: Path) -> int | None:
    """The pid of the living server that holds the lock, or None once no process of a dead one is left.

    Raises `DataFolderError` when the lock stays held and its holder cannot be seen: it may live in another
    container that shares the folder.
    """
    deadline = asyncio.get_running_loop().time() + CHILDREN_S
    while lock.held(lock_path):
        pid = lock.holder_of(lock_path)
        if pid is not None and _has_open(pid, lock_path):
            return pid
        if asyncio.get_running_loop().time() >= deadline:
            raise held_by_another(lock_path)
        await asyncio.sleep(lock.POLL_S)
    return None


def running(lock_path: Path) -> int | None:
    """The pid of the server that holds the lock, or None."""
    return lock.holder_of(lock_path) if lock.held(lock_path) else None


def held_by_another(lock_path: Path) -> DataFolderError:
    """The error for a data folder that a process other than our server holds."""
    pid = lock.holder_of(lock_path)
    seen = pid is not None and _has_open(pid, lock_path)
    return foreign_holder(lock_path.with_suffix(""), pid if seen else None)


def foreign_holder(folder: Path, pid: int | None) -> DataFolderError:
    """The error for a data folder held by a process that Callboard did not start."""
    who = "a process that cannot be seen from here" if pid is None else f"process {pid} ({_command_of(pid)})"
    return DataFolderError(
        f"The data folder {folder} is held by {who}, which Callboard did not start.",
        fix="Stop that process, or set CALLBOARD_HOME to another folder.",
        pid=pid,
    )


def _has_open(pid: int, path: Path) -> bool:
    """Whether it is that process: the number may be another container's, or have been given away again."""
    try:
        wanted = path.stat()
        process = psutil.Process(pid)
        try:
            return any(_is_file(opened.path, wanted) for opened in process.open_files())
        except psutil.AccessDenied:
            return _says_it_has_open(process, path)
    except (psutil.Error, FileNotFoundError):
        return False


def _says_it_has_open(process: psutil.Process, path: Path) -> bool:
    """The same, asked under the process's own account: as root without CAP_SYS_PTRACE, which containers have by default,
    we may end our server, and not look at its files."""
    uid, gid = process.uids().real, process.gids().real
    own = Account(name=str(uid), uid=uid, gid=gid, switched=os.geteuid() == 0)
    done: subprocess.CompletedProcess[bytes] = subprocess.run(
        ["/bin/sh", "-c", _LOOK, "sh", str(process.pid), str(path)],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        **own.spawn_options(),
    )
    return done.returncode == 0


def _is_file(path: str, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), wanted)
    except OSError:
        return False  # removed, or in a folder that we may not see


def _command_of(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "name unknown"

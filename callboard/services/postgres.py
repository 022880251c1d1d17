"""The embedded Postgres: made, started, recovered and stopped with the wheel's programs.

A start-up of our own, because the wheel's uses `trust` and, as root, opens parent folders to everyone:
SCRAM with a generated password, a Unix socket in a folder that only the owner can enter, no TCP port.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import asyncpg
import psutil

from bus.errors import DataFolderError, ServiceUnavailable

from . import lock, process
from .account import Account
from .data_folder import corrupt, require_version
from .home import Home, sync_folder, write_private
from .program import postgres_programs

USER = DATABASE = "callboard"

# The port is only a part of the socket's name; no TCP port is opened.
PORT = 5432

# The address of a Unix socket holds at most 107 bytes on Linux and 103 on macOS.
SOCKET_PATH_BYTES = 103

# Replaying a full write-ahead log after a crash takes seconds; this is for a very slow disk.
START_TIMEOUT_S = 180.0

# A fast shutdown writes out what is dirty in shared_buffers.
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class EmbeddedPostgres:
    """The Postgres whose data lies below one `Home`."""

    home: Home
    account: Account

    @property
    def data(self) -> Path:
        return self.home / "postgres"

    @property
    def lock_path(self) -> Path:
        return self.home / "postgres.lock"

    @property
    def log(self) -> Path:
        return self.home / "postgres.log"

    @property
    def socket_folder(self) -> Path:
        """Below the home, or, where that name is too long for a socket, a folder of our own in /tmp.

        Always the same for one home, so that a URL stays valid across restarts.
        """
        inside = self.home / "run"
        if len(os.fsencode(inside / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_BYTES:
            return inside
        digest = hashlib.sha256(os.fsencode(self.home.path)).hexdigest()[:12]
        return Path("/tmp") / f"callboard-{self.account.uid}-{digest}"

    def url(self, database: str = DATABASE) -> str:
        password = self.home.credentials()["postgres"]
        host = quote(str(self.socket_folder), safe="/")
        return f"postgresql://{USER}:{password}@/{database}?host={host}&port={PORT}"

    def running(self) -> int | None:
        """The postmaster's pid, or None."""
        return process.running(self.lock_path)

    async def start(self) -> bool:
        """Bring it to where it answers; False if it was running already.

        Raises `DataFolderError` or `ServiceUnavailable`.
        """
        while True:
            if self._status() == "stopping":
                await lock.wait_free(self.lock_path, timeout_s=STOP_TIMEOUT_S)
            pid = await process.settled(self.lock_path)
            if pid is None:
                await self._launch()
            elif not _is_postgres(pid):
                raise process.held_by_another(self.lock_path)
            try:
                await self._wait_until_ready()
                await self._make_database()
                return pid is None
            except BaseException:
                if pid is None:
                    await self.stop()
                    raise
                if await process.settled(self.lock_path) is not None:
                    raise
                # What we found was about to end, and now has: start it.

    async def stop(self) -> None:
        """A clean shutdown: sessions are ended, everything is written out."""
        # SIGINT is Postgres's "fast" mode.
        await process.stop("Postgres", lock_path=self.lock_path, how=signal.SIGINT, timeout_s=STOP_TIMEOUT_S)
        if self.socket_folder.parent != self.home.path:
            with suppress(OSError):
                self.socket_folder.rmdir()

    async def _launch(self) -> None:
        programs = await asyncio.to_thread(postgres_programs, self.home, self.account)
        if not self.data.is_dir() or not any(self.data.iterdir()):
            await asyncio.to_thread(self._initialize, programs)
        require_version(self.data, self.log)
        self._clear_stale_files()
        self._make_socket_folder()
        config = self.home / "postgres.conf"
        # Not secret, and read by the server's account, which cannot read our private files.
        write_private(config, files(__package__).joinpath("postgres.conf").read_text(), mode=0o644)
        await process.launch(
            [
                programs / "postgres",
                *("-D", self.data),
                *("-c", f"config_file={config}"),
                *("-c", f"unix_socket_directories={self.socket_folder}"),
                *("-p", str(PORT)),
            ],
            account=self.account,
            lock_path=self.lock_path,
            log=self.log,
        )

    def _initialize(self, programs: Path) -> None:
        """Make the data folder. It gets its name only when complete: a crash leaves nothing half made."""
        unfinished = self.home / "postgres.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        self.home.make_folder(unfinished.name, self.account)
        with tempfile.NamedTemporaryFile("w", dir=self.home.path) as password_file:
            password_file.write(self.home.credentials()["postgres"])
            password_file.flush()
            self.account.own(Path(password_file.name))
            done = subprocess.run(
                [
                    programs / "initdb",
                    *("-D", unfinished),
                    *("-U", USER),
                    *("--auth", "scram-sha-256"),
                    *("--pwfile", password_file.name),
                    *("--encoding", "UTF8"),
                    # Built in: its order never changes with the system's libraries, which would
                    # silently corrupt indexes on text.
                    *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"),
                    # Without the "how to start it" lines.
                    "--no-instructions",
                ],
                cwd="/",
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                umask=0o077,
                **self.account.spawn_options(),
            )
        if done.returncode:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise DataFolderError(
                f"Postgres could not make its data folder {self.data}: {_last_complaint(done.stderr)}",
                fix="Check the disk's free space and the folder's permissions.",
            )
        unfinished.rename(self.data)
        sync_folder(self.home.path)

    def _clear_stale_files(self) -> None:
        """Remove what a killed server left behind, unless a server that is not ours is alive there.

        Postgres itself goes by the pid alone, and would refuse to start when that has since been given to
        some other program (after a reboot) or belongs to a process that nobody has reaped (in a container).
        Our lock is free, so no process of a server that we started is left.
        """
        pid = self._postmaster_pid()
        if pid is not None and _is_postgres(pid):
            raise process.foreign_holder(self.data, pid)
        for path in (
            self.data / "postmaster.pid",
            self.socket_folder / f".s.PGSQL.{PORT}",
            self.socket_folder / f".s.PGSQL.{PORT}.lock",
        ):
            path.unlink(missing_ok=True)

    def _make_socket_folder(self) -> None:
        folder = self.socket_folder
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            self.account.own(folder)
        # In /tmp somebody else could have made it first; they must not get to play Postgres.
        found = folder.lstat()
        if (
            not folder.is_dir()
            or folder.is_symlink()
            or found.st_uid != self.account.uid
            or found.st_mode & 0o077
        ):
            raise DataFolderError(
                f"The socket folder {folder} is not a private folder of the user {self.account.name}.",
                fix=f"Remove {folder}, or set CALLBOARD_HOME to a shorter path.",
            )

    async def _wait_until_ready(self) -> None:
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while self._status() != "ready":
            # The log is read after the lock was seen free, when the server has written its last line.
            if not lock.held(self.lock_path):
                raise self._corrupt(_last_complaint(_tail(self.log)))
            if asyncio.get_running_loop().time() >= deadline:
                raise ServiceUnavailable(
                    f"Postgres is not ready after {START_TIMEOUT_S:.0f} s: "
                    f"{_last_complaint(_tail(self.log))}",
                    fix=f"Look at {self.log}, and try again: a recovery goes on from where it was.",
                )
            await asyncio.sleep(lock.POLL_S)

    async def _make_database(self) -> None:
        """Make Callboard's database if it is missing, and so prove that the server lets us in."""
        try:
            try:
                connection = await asyncpg.connect(self.url())
            except asyncpg.InvalidCatalogNameError:
                # Missing, or registered but damaged; making it tells the two apart.
                connection = await asyncpg.connect(self.url("postgres"))
                await connection.execute(f'CREATE DATABASE "{DATABASE}"')
            await connection.close(timeout=10)
        except asyncpg.InvalidAuthorizationSpecificationError as error:
            raise DataFolderError(
                f"The password in {self.home / 'credentials.json'} is not that of {self.data}.",
                fix="Restore that file from a backup of the data folder.",
            ) from error
        except asyncpg.PostgresError as error:
            raise self._corrupt(" ".join(str(error).split())) from error
        except OSError as error:
            raise ServiceUnavailable(
                f"Postgres does not answer on its socket in {self.socket_folder}: {error.strerror}.",
                fix=f"Look at {self.log}, and try again.",
            ) from error

    def _status(self) -> str | None:
        """What the postmaster says of itself: starting, ready, stopping."""
        lines = self._postmaster_lines()
        return lines[7].strip() if len(lines) > 7 else None

    def _postmaster_pid(self) -> int | None:
        lines = self._postmaster_lines()
        return abs(int(lines[0])) if lines and lines[0].strip().lstrip("-").isdigit() else None

    def _postmaster_lines(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text(errors="replace").splitlines()
        except OSError:
            return []

    def _corrupt(self, reason: str) -> DataFolderError:
        return corrupt(self.data, self.log, reason)


def _is_postgres(pid: int) -> bool:
    try:
        found = psutil.Process(pid)
        return found.status() != psutil.STATUS_ZOMBIE and found.name() == "postgres"
    except psutil.NoSuchProcess:
        return False


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16_384))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _last_complaint(text: str) -> str:
    """The last line in which the server says what is wrong, without its time and pid; else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    complaints = [line for line in lines if re.search(r"PANIC:|FATAL:|error:", line)]
    last = (complaints or lines or ["it wrote nothing to its log"])[-1]
    return re.sub(r"^\S+ \S+ \S+ \[\d+\] ", "", last)

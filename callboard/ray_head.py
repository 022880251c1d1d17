"""Ray's head on this machine, when no address of a running Ray is given: started, joined and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import psutil

from bus.errors import ServiceUnavailable
from callboard.services import lock
from callboard.services.home import write_private

T = TypeVar("T")

_logger = logging.getLogger("callboard.ray")

START_TIMEOUT_S = 120.0
LOCK_TIMEOUT_S = 60.0  # another command is starting or stopping it
STOP_TIMEOUT_S = 1.5  # Ray's own processes take long to say goodbye, and keep nothing that is ours
_LOOK_EVERY_S = 0.1
_HEAD, _VITAL = "ray start", ("gcs_server", "raylet")
_MOST_WORDS = 300  # letters of a log's line
_FAREWELL = (
    "Remaining processes will be killed",
    "-----",
)  # of a head that has told before which one has ended
_BESIDE = re.compile(r"\x1b\[[0-9;]*m|^[\d-]{10} [\d:,]+\s+[A-Z]+ \S+ -- ")
OBJECT_STORE_BYTES = 128 * 1024 * 1024  # agents pass nothing through it


@dataclass(kw_only=True)
class RayHead:
    """One local head. Token authentication is on, since Ray's own ports listen on every interface."""

    folder: Path
    object_store_bytes: int = OBJECT_STORE_BYTES
    environment: Mapping[str, str] = field(default_factory=dict)  # in place of what is said below
    _launched: int | None = field(default=None, init=False, repr=False)

    @property
    def started_here(self) -> bool:
        """Whether the head was started by this object, and is not one that came after it."""
        return self._launched is not None and self.running() in (None, self._launched)

    @property
    def _private(self) -> Path:
        """Ours alone. Ray lets everybody write into its own folders (0777), where its address and our code lie."""
        digest = sha256(str(self.folder).encode()).hexdigest()[:8]
        return Path(tempfile.gettempdir()) / f"callboard-{os.getuid()}-{digest}"

    @property
    def _temp(self) -> Path:
        """Ray's session folder: short, since Ray puts Unix sockets below it, whose paths have 107 bytes."""
        return self._private / "r"

    @property
    def _scratch(self) -> Path:
        """Where its processes put what they make for the moment. Their sockets' paths there are shorter than Ray's own."""
        return self._private / "t"

    @property
    def token_path(self) -> Path:
        return self.folder / "auth_token"

    def authenticate(self) -> None:
        """Make this process use the cluster's token; call it before Ray is imported."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if not self.token_path.exists():
            made = self.folder / f"auth_token.{os.getpid()}"
            write_private(made, secrets.token_hex(32))
            with contextlib.suppress(FileExistsError):  # of two that start at once, both use the token of one
                os.link(made, self.token_path)
            made.unlink()
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(self.token_path)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

    def running(self) -> int | None:
        """The pid of the head that was started here, if it lives."""
        try:
            pid, started = self._pid_file.read_text().split()
            process = psutil.Process(int(pid))
            alive = (
                abs(process.create_time() - float(started)) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
            )
            return process.pid if alive else None
        except (OSError, ValueError, psutil.Error):
            return None

    def unrecorded(self) -> int | None:
        """The pid of a head of ours whose starter was killed before it could be recorded, if one lives."""
        if self.running() is not None:
            return None
        leaders = [process.pid for process in _of_sessions(_sessions_below(self._private))]
        return min(leaders, default=None)

    def address(self) -> str | None:
        """`host:port` of the running head."""
        path = self._temp / "ray_current_cluster"
        if self.running() is None or not path.exists():
            return None
        return path.read_text().strip() or None

    def dashboard(self) -> str | None:
        """The dashboard's URL, as the head has logged it."""
        return f"http://127.0.0.1:{self._port_file.read_text()}" if self._port_file.exists() else None

    async def start(self) -> str:
        """Start the head unless it runs; return its address. Raises ServiceUnavailable."""
        self.authenticate()
        async with self._lock():
            if self.running() is None:
                await self._end()  # one whose starter was killed before it could be recorded
                self._launch()
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                return await self.while_running(self._appears())
        except TimeoutError:
            failure = self._failure(f"was not ready within {START_TIMEOUT_S:.0f} s", _HEAD)
        except ServiceUnavailable as error:
            failure = error
        await self.stop()
        raise failure

    async def while_running(self, work: Coroutine[Any, Any, T]) -> T:
        """What it returns. Raises ServiceUnavailable as soon as the head has ended, for which Ray itself would wait up to
        minutes, and which it would call a wrong address."""
        task = asyncio.create_task(work)
        try:
            while not task.done():
                await asyncio.wait((task,), timeout=_LOOK_EVERY_S)
                failed = not task.done() or task.exception() is not None
                if failed and (ended := self._ended()) is not None:
                    raise self._failure(f"has ended, {ended} first", ended)
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def require_alive(self) -> bool:
        """False once it was stopped; who is just stopping it is waited for. Raises ServiceUnavailable when it has died."""
        if self._ended() is None:
            return True
        async with self._lock():
            if not self._pid_file.exists():
                return False
            if (ended := self._ended()) is not None:
                raise self._failure(f"has ended, {ended} first", ended)
        return True

    async def stop(self) -> bool:
        """Stop the head and every process below it, recorded or not; False when there was none."""
        if not self.folder.is_dir():
            return False
        async with self._lock():
            return await self._end()

    async def _appears(self) -> str:
        while (address := self.address()) is None:  # noqa: ASYNC110  # in a file of Ray's
            await asyncio.sleep(_LOOK_EVERY_S)
        return address

    def _ended(self) -> str | None:
        """Which process of it has ended; None while it is well. Without these two it waits, and then ends too."""
        pid = self.running()
        if pid is None:
            return _HEAD
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(pid).children():
                if child.name() in _VITAL and child.status() == psutil.STATUS_ZOMBIE:
                    return child.name()
        return None

    def _failure(self, what: str, whose: str) -> ServiceUnavailable:
        logs = self._temp / "session_latest" / "logs"
        places = (logs / f"{whose}.err", logs / f"{whose}.out", self._log)
        words = next(filter(None, map(_last_words, places)), "nothing")
        return ServiceUnavailable(
            f"Ray's head {what}. The last it said: {words}.",
            fix=f"Read {self._log}, and what its processes have said in {self._kept_logs}; free memory or ports.",
        )

    def _lock(self) -> AbstractAsyncContextManager[None]:
        """Of two commands that start it at once, one would be forgotten; a stop would forget a later start."""
        return lock.exclusive(self.folder / "head.lock", timeout_s=LOCK_TIMEOUT_S)

    async def _end(self) -> bool:
        recorded = self.running()
        sessions = set() if recorded is None else {recorded}
        how, found = "terminate", False
        # Processes that are just being started are not seen at first, and outlive who started them.
        while processes := _of_sessions(sessions := sessions | _sessions_below(self._private)):
            found = True
            for process in processes:
                _signal(process, how)
            await asyncio.to_thread(psutil.wait_procs, processes, STOP_TIMEOUT_S)
            how = "kill"
        self._pid_file.unlink(missing_ok=True)
        if self._has_folder():  # also of a head that ended by itself
            await asyncio.to_thread(_keep_logs, self._temp, self._kept_logs)
            await asyncio.to_thread(shutil.rmtree, self._private, ignore_errors=True)
        return found

    def _launch(self) -> None:
        private, temp = self._private, self._temp
        private.mkdir(mode=0o700, exist_ok=True)
        if not self._has_folder():
            raise ServiceUnavailable(f"{private} belongs to somebody else.", fix="Remove it, or set TMPDIR.")
        private.chmod(0o700)
        for folder in (temp, self._scratch):
            folder.mkdir(exist_ok=True)
        (temp / "ray_current_cluster").unlink(missing_ok=True)
        port, client_port = _free_ports()
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("ray")),
                    "start",
                    "--head",
                    "--block",
                    "--port=0",
                    "--node-ip-address=127.0.0.1",
                    f"--temp-dir={temp}",
                    "--include-dashboard=true",
                    "--dashboard-host=127.0.0.1",
                    f"--dashboard-port={port}",
                    # Nobody uses it; on its default, 10001, which another user's Ray may have, the head would end.
                    f"--ray-client-server-port={client_port}",
                    f"--num-cpus={os.cpu_count() or 1}",
                    f"--object-store-memory={self.object_store_bytes}",
                    "--disable-usage-stats",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.folder,
                env={
                    # Ray's workers would give way to every other process of the machine; ours are services.
                    "RAY_worker_niceness": "0",
                    # Serve would kill a proxy that a busy machine lets import Ray for more than three times 5 s.
                    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
                    # What Serve runs of ours does its long work in threads; more of them, one loop each, cost requests (decision 45).
                    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
                    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
                    **self.environment,
                    **os.environ,
                    # Its dashboard and torch leave sockets and caches there; with the folder they go.
                    "TMPDIR": str(self._scratch),
                    # Ray would start a spare worker for each core with the first command; ours are actors.
                    "RAY_prestart_worker_first_driver": "0",
                },
            )
        self._launched = process.pid
        self._port_file.write_text(str(port))
        self._pid_file.write_text(f"{process.pid} {psutil.Process(process.pid).create_time()}")

    def _has_folder(self) -> bool:
        """Whether Ray's folder is there, and ours: a link would be somebody's who wants Ray's files elsewhere."""
        try:
            found = self._private.lstat()
        except FileNotFoundError:
            return False
        return found.st_uid == os.getuid() and stat.S_ISDIR(found.st_mode)

    @property
    def _pid_file(self) -> Path:
        return self.folder / "head.pid"

    @property
    def _port_file(self) -> Path:
        return self.folder / "dashboard.port"

    @property
    def _log(self) -> Path:
        return self.folder / "head.log"

    @property
    def _kept_logs(self) -> Path:
        return self.folder / "last-logs"


def _of_sessions(sessions: set[int]) -> list[psutil.Process]:
    """The living processes of the sessions that heads have begun: all that they have started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _sessions_below(temp: Path) -> set[int]:
    """The sessions of our Ray's processes that were given this folder as an option, or one below it.

    Anybody can give it to a process of theirs, which we could not end.
    """
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            for word in process.cmdline() if process.uids().real == os.getuid() else ():
                option, _, value = word.partition("=")
                if option.startswith("--") and value and Path(value).is_relative_to(temp):
                    found.add(os.getsid(process.pid))
    return found - {os.getsid(0)}


def _signal(process: psutil.Process, how: str) -> None:
    try:
        getattr(process, how)()
    except psutil.Error as error:
        _logger.debug("process %d: %s", process.pid, error)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:  # both held, so that they are two
        one.bind(("", 0))
        other.bind(("", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])


def _keep_logs(temp: Path, kept: Path) -> None:
    """Move the logs of the session that has ended into our own folder."""
    logs = (temp / "session_latest").resolve() / "logs"
    if logs.exists():  # one that is ended as it starts may have none yet
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(logs, kept)


def _last_words(log: Path) -> str:
    """The last line that says something, without colours, time and place."""
    with contextlib.suppress(OSError):
        for line in reversed(log.read_text(errors="replace").splitlines()):
            said = _BESIDE.sub("", line).strip().rstrip(".")
            if said and not said.startswith(_FAREWELL):
                return said[:_MOST_WORDS]
    return ""

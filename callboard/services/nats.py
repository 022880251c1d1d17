"""The embedded NATS with JetStream: started and stopped with the wheel's program, on loopback only."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import psutil

from bus.errors import DataFolderError, ServiceUnavailable

from . import lock, process
from .account import Account
from .home import Home, write_private
from .program import nats_program

USER = "callboard"
HOST = "127.0.0.1"

# JetStream reads its store back before it listens.
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0

# Somebody may take a port between our look and the server's; more than a few times is no accident.
ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class EmbeddedNats:
    """The NATS server whose data lies below one `Home`."""

    home: Home
    account: Account
    keeps_port: bool = False
    """Whether it is started at the port of last time or not at all: clients look for it there for as long as they live."""

    @property
    def data(self) -> Path:
        return self.home / "nats"

    @property
    def lock_path(self) -> Path:
        return self.home / "nats.lock"

    @property
    def log(self) -> Path:
        return self.data / "nats.log"

    @property
    def port_path(self) -> Path:
        return self.home / "nats.port"

    def url(self) -> str:
        password = self.home.credentials()["nats"]
        return f"nats://{USER}:{password}@{HOST}:{self.port()}"

    def running(self) -> int | None:
        """The server's pid, or None."""
        return process.running(self.lock_path)

    async def start(self) -> bool:
        """Bring it to where it answers; False if it was running already.

        Raises `DataFolderError` or `ServiceUnavailable`.
        """
        for attempt in range(1, ATTEMPTS + 1):
            pid = await process.settled(self.lock_path)
            if pid is None:
                self._choose_port()
                await self._launch()
            elif not _is_nats(pid):
                raise process.held_by_another(self.lock_path)
            try:
                await self._wait_until_ready()
                return pid is None
            except _PortTaken:
                if attempt == ATTEMPTS:
                    raise
            except BaseException:
                if pid is None:
                    await self.stop()
                    raise
                if await process.settled(self.lock_path) is not None or attempt == ATTEMPTS:
                    raise
                # What we found was about to end, and now has: start it.
        raise AssertionError("unreachable")

    async def stop(self) -> None:
        """A clean shutdown: clients are told, JetStream is written out."""
        await process.stop("NATS", lock_path=self.lock_path, how=signal.SIGTERM, timeout_s=STOP_TIMEOUT_S)

    async def _launch(self) -> None:
        program = await asyncio.to_thread(nats_program, self.home, self.account)
        self.home.make_folder(self.data.name, self.account)
        config = self.home / "nats.conf"
        template = files(__package__).joinpath("nats.conf").read_text()
        values = {"port": str(self.port()), "store": str(self.data), "log": str(self.log)}
        text = re.sub(r"\{(port|store|log)\}", lambda found: _escaped(values[found[1]]), template)
        # Holds no secret, and is read by the server's account.
        write_private(config, text, mode=0o644)
        await process.launch(
            [program, "--config", config],
            account=self.account,
            lock_path=self.lock_path,
            # What it says before it has read its configuration.
            log=self.home / "nats.start.log",
            environment={"CALLBOARD_NATS_PASSWORD": self.home.credentials()["nats"]},
        )

    def _choose_port(self) -> None:
        """The port of last time, so that clients find the restarted server; another if that is taken, unless it keeps that."""
        with suppress(OSError, ValueError):
            if _is_free(self.port()):
                return
            if self.keeps_port:
                raise ServiceUnavailable(
                    f"Another program has taken NATS's port {self.port()}, and its clients look for it there.",
                    fix="End that program; `callboard down` and `callboard up` take another port.",
                )
        write_private(self.port_path, f"{_free_port()}\n")

    def port(self) -> int:
        """Where it was started last. Raises OSError or ValueError where none is on record."""
        return int(self.port_path.read_text())

    async def _wait_until_ready(self) -> None:
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while True:
            with suppress(OSError, ValueError, TimeoutError):
                async with asyncio.timeout(1):
                    if await _greeting_has_jetstream(self.port()):
                        return
            if not lock.held(self.lock_path):
                raise self._failed()
            if asyncio.get_running_loop().time() >= deadline:
                raise ServiceUnavailable(
                    f"NATS is not ready after {START_TIMEOUT_S:.0f} s.", fix=f"Look at {self.log}."
                )
            await asyncio.sleep(lock.POLL_S)

    def _failed(self) -> Exception:
        reason = self._last_complaint()
        if "address already in use" in reason:
            return _PortTaken(f"NATS found its port taken {ATTEMPTS} times.", fix="Try again.")
        return DataFolderError(
            f"NATS cannot start on {self.data}: {reason.rstrip('.')}.",
            fix=f"See {self.log}. Events that were not yet in a mailbox are in {self.data}/jetstream; "
            "if it is damaged, move it away.",
        )

    def _last_complaint(self) -> str:
        lines: list[str] = []
        for log in (self.home / "nats.start.log", self.log):
            with suppress(OSError):
                lines += log.read_text(errors="replace")[-16_384:].splitlines()
        complaints = [line for line in lines if "[FTL]" in line or line.startswith("nats-server:")]
        last = (complaints or lines or ["it wrote nothing to its log"])[-1]
        return re.sub(r"^\[\d+\] \S+ \S+ ", "", last)


class _PortTaken(ServiceUnavailable):
    """Between our look and the server's, another program took the port."""


async def _greeting_has_jetstream(port: int) -> bool:
    """Whether what listens there greets as a NATS server with JetStream on."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        line = await reader.readline()
        return line.startswith(b"INFO ") and json.loads(line[5:]).get("jetstream") is True
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _is_nats(pid: int) -> bool:
    try:
        return psutil.Process(pid).name() == "nats-server"
    except psutil.NoSuchProcess:
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As nats-server does: a port with connections of the last server in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')

"""The guard of the unit tests does guard."""

import socket
import subprocess
from pathlib import Path

import pytest

from callboard.services import ensure_services
from callboard.settings import Settings


def test_starting_a_server_fails_at_once() -> None:
    with pytest.raises(RuntimeError, match="move it to tests/integration"):
        subprocess.run(["/nowhere/postgres", "-D", "data"], check=True)


def test_connecting_fails_at_once() -> None:
    with socket.socket() as probe, pytest.raises(RuntimeError, match="move it to tests/integration"):
        probe.connect(("127.0.0.1", 1))


async def test_ensuring_services_fails_at_once(home: Path) -> None:
    with pytest.raises(RuntimeError, match="move it to tests/integration"):
        await ensure_services(Settings(home=home))

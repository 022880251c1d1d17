"""cluster.yaml, as far as one machine can carry it out."""

from __future__ import annotations

import re
import socket
from typing import Any

import yaml

from tests.acceptance.machine import ROOT

FILE = ROOT / "cluster.yaml"
PORT, CLIENT_PORT = "6379", "10001"


def config() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


def start_command(which: str, *, port: int, client_port: int) -> str:
    """How the head or a worker is started, with free ports, and without the autoscaler, which would look for the
    workers' machines."""
    stop, start = config()[f"{which}_start_ray_commands"]
    assert stop.endswith("ray stop")  # never carried out here: it ends every Ray of the machine
    start = start.replace(f"={PORT}", f"={port}").replace(f":{PORT}", f":{port}")
    start = start.replace(f"={CLIENT_PORT}", f"={client_port}")
    return re.sub(r"--autoscaling-config=\S+", "", start)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

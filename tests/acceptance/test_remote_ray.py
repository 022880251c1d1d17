"""Callboard in a Ray, a Postgres and a NATS that it has not started, used by two clients that share nothing else.

Ray is started by cluster.yaml's own commands on an empty machine, with token authentication; Postgres gives us a
database of our own and a role without privileges.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from callboard.services import ensure_services, stop_instance
from callboard.settings import Settings
from tests.acceptance.cluster_yaml import free_port, start_command
from tests.acceptance.machine import ROOT, Machine, reachable
from tests.acceptance.program import Program
from tests.unit.secops.triage_run import EXAMPLE, SAMPLE, comparable, reference

pytestmark = pytest.mark.timeout(180)


class Elsewhere(NamedTuple):
    """What somebody else runs; `environment` is what a client is told of it."""

    machine: Machine
    postgres_url: str
    environment: dict[str, str]
    ray_client: str


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    folder = reachable(Path(tempfile.mkdtemp(prefix="cb-", dir="/tmp")))
    settings = Settings(home=folder / "services")
    machine = Machine(folder / "m")
    (machine.home / "callboard").symlink_to(ROOT)
    try:
        postgres_url, nats_url = asyncio.run(_services(settings))
        port, client_port = free_port(), free_port()
        machine("~/callboard/.venv/bin/ray get-auth-token --generate")
        machine(
            start_command("head", port=port, client_port=client_port),
            SECOPS_BLOCKLIST=str(machine.home / "blocklist.nft"),  # the hosts' own setting
        )
        environment = {
            "CALLBOARD_POSTGRES_URL": postgres_url,
            "CALLBOARD_NATS_URL": nats_url,
            "RAY_ADDRESS": f"127.0.0.1:{port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(machine.home / ".ray" / "auth_token"),
        }
        yield Elsewhere(machine, postgres_url, environment, f"ray://127.0.0.1:{client_port}")
    finally:
        machine.shut_down()
        asyncio.run(stop_instance(settings))
        shutil.rmtree(folder)


async def _services(settings: Settings) -> tuple[str, str]:
    services = await ensure_services(settings)
    administrator = services.endpoints.postgres_url
    db = await asyncpg.connect(administrator)
    try:
        await db.execute("create role app login password 'a word'")
        await db.execute("create database app owner app")
    finally:
        await db.close()
    _, _, place = administrator.partition("@/callboard?")
    return f"postgresql://app:a%20word@/app?{place}", services.endpoints.nats_url


def client(elsewhere: Elsewhere, folder: Path, **environment: str) -> Program:
    """A user with a home and a working directory of their own."""
    folder.mkdir()
    return Program(folder / "home", cwd=folder, **(elsewhere.environment | environment))


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "0" * 64}, "it refuses the token"),
        pytest.param({"RAY_AUTH_TOKEN_PATH": "/none"}, "file cannot be opened", marks=pytest.mark.long),
    ],
)
def test_a_ray_that_lets_nobody_in_without_its_token_says_so_in_one_line(
    elsewhere: Elsewhere, tmp_path: Path, environment: dict[str, str], why: str
) -> None:
    stranger = client(elsewhere, tmp_path / "stranger", **environment)
    said = stranger("up", "--detach", code=3).stderr.splitlines()
    assert said[-1].startswith("Error: Ray at 127.0.0.1:"), said
    assert why in said[-1]
    assert "RAY_AUTH_MODE=token" in said[-1]
    assert "Traceback" not in "".join(said)


def test_two_clients_share_a_callboard_in_a_ray_of_somebody_else(
    elsewhere: Elsewhere, tmp_path: Path
) -> None:
    one = client(elsewhere, tmp_path / "one")
    other = client(elsewhere, tmp_path / "other", RAY_ADDRESS=elsewhere.ray_client)
    ray_runs = {process.pid for process in elsewhere.machine.processes()}

    assert json.loads(one("up", "--detach", "--json").stdout)["joined"] is False
    report = json.loads(other("run", EXAMPLE, "--input", SAMPLE, "--approve", "policy", "--json").stdout)
    assert comparable(report) == reference(SAMPLE)
    assert (elsewhere.machine.home / "blocklist.nft").exists()

    shown = json.loads(one("status", "--json").stdout)
    assert shown["services"]["ray"].endswith("(external)")
    assert shown["services"]["postgres"].startswith("app@")
    [domain] = shown["domains"]
    assert (domain["domain"], domain["unowned"]) == ("secops", [])  # the run has joined, and stopped nothing
    [task] = json.loads(one("tasks", "--json").stdout)["tasks"]
    assert task["status"] == "completed"
    assert json.loads(one("agents", "--json").stdout)
    assert json.loads(one("doctor", "--json").stdout)["healthy"] is True

    assert json.loads(one("down", "--json").stdout) == {"stopped": True}
    assert json.loads(one("status", "--json", code=1).stdout)["running"] is False
    assert json.loads(one("doctor", "--json").stdout)["healthy"] is True
    assert ray_runs <= {process.pid for process in elsewhere.machine.processes()}
    assert asyncio.run(_endings(elsewhere.postgres_url)) == {"stopped"}


async def _endings(postgres_url: str) -> set[str]:
    """Why the hosts have ended; an abrupt end would leave suspect partitions."""
    db = await asyncpg.connect(postgres_url)
    try:
        return {row[0] for row in await db.fetch("select ended_why from callboard.hosts")}
    finally:
        await db.close()

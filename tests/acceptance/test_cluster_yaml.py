"""cluster.yaml does on an empty machine what it promises; its head says what cannot be tested without machines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.cluster_yaml import CLIENT_PORT, FILE, PORT, config, free_port, start_command
from tests.acceptance.machine import ROOT, Machine

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def machine() -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="cb-", dir="/tmp"))
    machine = Machine(folder / "m")
    yield machine
    machine.shut_down()
    shutil.rmtree(folder)


def test_rays_own_schema_accepts_it() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config()))


def test_head_and_workers_agree_on_ports_and_on_the_token() -> None:
    _, head = config()["head_start_ray_commands"]
    _, worker = config()["worker_start_ray_commands"]
    assert f"--port={PORT} " in head
    assert f"--address=$RAY_HEAD_IP:{PORT} " in worker
    assert f"--ray-client-server-port={CLIENT_PORT} " in head
    assert f"RAY_ADDRESS=ray://{config()['provider']['head_ip']}:{CLIENT_PORT}" in FILE.read_text("utf-8")
    assert all("RAY_AUTH_MODE=token" in command for command in (head, worker))


def test_the_setup_commands_install_callboard_on_an_empty_machine(machine: Machine) -> None:
    _mount(machine)
    # The interpreter and the downloads of this machine, so that the test needs no network of its own.
    given = {"PYTHON": str(Path(sys.executable).resolve())}
    if cache := _uv_cache():
        given["UV_CACHE_DIR"] = cache
    for command in config()["setup_commands"]:
        machine(command, **given)
    assert (machine.home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    assert (machine.home / ".callboard.env").stat().st_mode & 0o777 == 0o600
    installed = machine(
        "~/callboard/.venv/bin/callboard version && ~/callboard/.venv/bin/python -c "
        "'import callboard; print(callboard.__file__)'"
    )
    assert "not installed" not in installed
    assert installed.splitlines()[-1] == str(machine.home / "callboard" / "callboard" / "__init__.py")


@pytest.mark.long
def test_a_worker_joins_the_head_that_has_the_same_token(machine: Machine) -> None:
    (machine.home / "callboard").symlink_to(ROOT)
    port = free_port()
    machine("~/callboard/.venv/bin/ray get-auth-token --generate")
    machine(start_command("head", port=port, client_port=free_port()))
    # On the head's own machine: a Ray client would not find its way there, so test_remote_ray.py has no worker.
    machine(start_command("worker", port=port, client_port=0), RAY_HEAD_IP="127.0.0.1")
    found = machine(
        "RAY_AUTH_MODE=token ~/callboard/.venv/bin/python -c 'import ray, sys; ray.init(sys.argv[1]);"
        f' print(sum(node["Alive"] for node in ray.nodes()))\' 127.0.0.1:{port}'
    )
    assert found.splitlines()[-1] == "2"


def _mount(machine: Machine) -> None:
    """What `file_mounts` brings: the checkout without what is excluded, the token, the services' URLs."""
    excluded = shutil.ignore_patterns(*(name.removeprefix("**/") for name in config()["rsync_exclude"]))
    shutil.copytree(ROOT, machine.home / "callboard", ignore=excluded, symlinks=True)
    (machine.home / ".ray").mkdir()
    for path in (machine.home / ".ray" / "auth_token", machine.home / ".callboard.env"):
        path.touch(mode=0o644)
    mounted = {Path(to).relative_to("~") for to in config()["file_mounts"]}
    assert all((machine.home / path).exists() for path in mounted)


def _uv_cache() -> str | None:
    """Where uv keeps its downloads for the user who runs the tests, if there is a uv."""
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    if not os.path.exists(uv):
        return None
    found = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None

"""Servers that are killed under a running Callboard: the work goes on without anybody's command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from callboard.runtime import ray_head
from callboard.services import find_instance
from callboard.settings import Settings
from tests.acceptance.conftest import DESK
from tests.acceptance.program import Program, read_until
from tests.conftest import make_home

pytestmark = pytest.mark.timeout(300)

LINES = 400


def test_agents_go_on_when_nats_and_then_postgres_are_killed_and_nothing_is_lost(
    program: Program, tmp_path: Path
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"line {n}\n" for n in range(LINES)))
    with program.start("run", DESK, "--input", lines, "--json") as run:
        read_until(run, "submitted")
        for name in ("nats_pid", "postgres_pid"):
            kill_and_wait_for_another(program, name)
        out, said = run.communicate(timeout=200)
    assert run.returncode == 0, said
    assert sorted(json.loads(out)["notes"]) == sorted(f"line {n}" for n in range(LINES))
    program("verify")
    standing = json.loads(program("status", "--json").stdout)
    assert standing["died"] == []
    assert standing["services"]["keeper"].startswith("process ")


def kill_and_wait_for_another(program: Program, name: str) -> None:
    """By its pid, as the kernel would; the one that follows is nobody's but the keeper's."""
    settings = Settings(home=program.home)
    before = getattr(find_instance(settings), name)
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (now := getattr(find_instance(settings), name, None)) in (None, before):
        assert time.monotonic() < deadline, now
        time.sleep(0.05)


def test_an_attached_up_says_what_was_started_again_and_ends_with_rays_head_leaving_nothing() -> None:
    folder = make_home()
    scratch = Path(tempfile.mkdtemp(prefix="", dir="/tmp"))  # short: paths of Ray's sockets have 107 bytes
    program = Program(folder / "home", TMPDIR=str(scratch))
    with program.start("up", "--without-gateway", DESK) as up:
        try:
            read_until(up, "Ctrl-C stops it.")
            kill_and_wait_for_another(program, "nats_pid")
            assert "started again in" in read_until(up, "NATS had died")
            head = ray_head(Settings(home=program.home)).running()
            assert head is not None
            [vital] = [child for child in psutil.Process(head).children() if child.name() == "gcs_server"]
            vital.kill()
            _, said = up.communicate(timeout=120)
        finally:
            up.kill()
            program("down")
    assert up.returncode == 3, said
    assert "Error: Ray's head has ended" in said
    assert program.survivors() == []
    assert list(scratch.iterdir()) == []
    shutil.rmtree(folder)
    scratch.rmdir()

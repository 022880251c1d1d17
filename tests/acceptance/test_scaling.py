"""Replicas of a model that go because there is too little to do for them: what they have under way is answered."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from callboard.ray_head import RayHead
from tests.acceptance.program import Program
from tests.conftest import make_home

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]
SCALED_MODEL = Path(__file__).with_name("scaled_model.py")
# How often the program says how much it asks; Serve's own 10 s would only make the test longer.
QUICKLY = {"RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5"}


@pytest.fixture
def ray_settings() -> Iterator[dict[str, str]]:
    """The environment for a Ray of this test's own, in which no gateway is served."""
    folder = make_home()
    program = Program(folder / "home")
    program.environment |= QUICKLY
    program("up", "--detach", "--without-gateway")
    head = RayHead(folder=program.home / "ray")
    yield {
        **QUICKLY,
        "RAY_ADDRESS": str(head.address()),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(head.token_path),
    }
    program("down")
    shutil.rmtree(folder)


async def test_what_is_under_way_in_a_replica_that_goes_is_answered(
    ray_settings: dict[str, str], tmp_path: Path
) -> None:
    ran = await asyncio.create_subprocess_exec(
        *(sys.executable, SCALED_MODEL, tmp_path),
        env=os.environ | ray_settings | {"PYTHONPATH": str(SCALED_MODEL.parents[2])},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await ran.communicate()
    assert said.decode().split("\n") == ["e: stop", "f: stop", "c: stop", "d: stop", ""], errors.decode()

"""A fault test that comes to its limit fails, and those after it are run."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

TESTS = """
import asyncio

import pytest


@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def thing():
    yield
    print("the thing has ended")


@pytest.mark.timeout(11)
async def test_waits_for_ever(thing):
    while True:
        await asyncio.sleep(0.01)


@pytest.mark.timeout(11)
async def test_comes_next(thing):
    await asyncio.sleep(0.01)
"""


async def test_the_tests_after_one_that_never_ends_are_run(tmp_path: Path) -> None:
    (tmp_path / "test_them.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nanyio_mode = auto\n")
    arguments = ("-p", "tests.faults.limit", "-rA", "--rootdir", str(tmp_path), "test_them.py")
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", *arguments, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said = (await run.communicate())[0].decode()
    assert "1 failed, 1 passed" in said
    assert said.count("the thing has ended") == 2
    assert "TimeoutError" in said

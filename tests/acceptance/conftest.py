"""One running Callboard, with Ray, for all tests of this folder: it takes seconds to start."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.program import Program
from tests.conftest import make_home

DESK = Path(__file__).parents[1] / "integration" / "desk"


@pytest.fixture(scope="session")
def program() -> Iterator[Program]:
    folder = make_home()
    program = Program(folder / "home")
    program("up", "--detach", "--without-gateway", DESK)
    yield program
    program("down")
    assert program.survivors() == []
    shutil.rmtree(folder)

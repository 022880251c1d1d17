"""New code of a domain whose host has all CPUs of the machine, as Ray counts them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import DESK
from tests.acceptance.program import Program
from tests.conftest import make_home


@pytest.fixture
def alone() -> Iterator[Program]:
    folder = make_home()
    program = Program(folder / "home")
    yield program
    program("down")
    assert program.survivors() == []
    shutil.rmtree(folder)


@pytest.mark.timeout(300)
def test_it_takes_the_place_of_the_old_one(alone: Program, tmp_path: Path) -> None:
    folder = tmp_path / "desk"
    shutil.copytree(DESK, folder)
    written = folder / "domain.yaml"
    written.write_text(written.read_text().replace("max: 1}", f"max: 1, cpus: {os.cpu_count()}}}"))
    alone("up", "--detach", "--without-gateway", folder)
    (folder / "new.py").write_text("")
    alone("up", "--detach", "--without-gateway", folder)  # ends once the newest code is ready

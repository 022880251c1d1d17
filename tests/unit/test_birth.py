"""Whether an ended host's process is gone is known by what the machine counts, whatever its clock says."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from actors.birth import born
from coordinators.gone import has_ended


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_process_is_the_same_for_as_long_as_it_lives(process: subprocess.Popen[bytes]) -> None:
    was = born(process.pid)
    assert was is not None
    process.send_signal(signal.SIGSTOP)  # it may wake up
    assert not has_ended(process.pid, was)
    process.kill()
    process.wait()
    assert has_ended(process.pid, was)


def test_what_is_left_of_a_process_has_ended(process: subprocess.Popen[bytes]) -> None:
    was = born(process.pid)
    assert was is not None
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    assert has_ended(process.pid, was)


def test_another_process_of_the_same_number_is_not_taken_for_it(process: subprocess.Popen[bytes]) -> None:
    mine = born(os.getpid())
    assert mine is not None
    assert has_ended(process.pid, mine)

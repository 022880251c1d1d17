"""The program as a user starts it, with Ray: up, run, look, down."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.acceptance.program import Program, read_until

DESK = Path(__file__).parents[1] / "integration" / "desk"

pytestmark = pytest.mark.timeout(300)


def test_up_joins_what_runs(program: Program) -> None:
    found = json.loads(program("up", "--detach", "--without-gateway", "--json").stdout)
    assert found["joined"] is True
    assert json.loads(program("status", "--json").stdout)["running"] is True


def test_run_ends_with_the_result(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("".join(f"line {n}\n" for n in range(50)) + "poison\n")
    ran = program("run", DESK, "--input", file)
    assert ran.stdout.startswith("# Notes")
    assert "50 taken" in ran.stdout
    assert "51 events published" in ran.stderr
    result = json.loads(program("run", DESK, "--input", file, "--json").stdout)
    assert result["notes"] == [f"line {n}" for n in range(50)]


def test_a_failed_task_is_exit_code_1(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("refuse\n")
    ran = program("run", DESK, "--input", file, "--json", code=1)
    assert ran.stdout == ""
    assert "Error: " in ran.stderr.splitlines()[-1]
    assert "refuses" in ran.stderr
    assert "\x1b" not in ran.stderr


def test_an_input_that_cannot_be_taken_in_is_an_error(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(b"\xff\xfe\x00\x01")
    said = program("run", DESK, "--input", file, code=1).stderr.splitlines()[-1]
    assert said.startswith("Error: ")
    assert "notes.txt is not text." in said


def test_doctor_speaks_of_rays_ports_and_token(program: Program) -> None:
    found = {f["check"]: f for f in json.loads(program("doctor", "--json").stdout)["findings"]}
    assert found["ray token"]["status"] == "good"
    assert found["listening"]["status"] == "good"
    assert found["partitions"]["status"] == "good"


@pytest.mark.parametrize(
    ("word", "how", "code", "last"),
    [
        ("joining", signal.SIGINT, 130, "Interrupted."),
        ("submitted", signal.SIGINT, 130, "Interrupted."),
        ("submitted", signal.SIGTERM, 143, "Terminated."),  # after Ray has set its own handler
    ],
)
def test_a_signal_ends_a_run_cleanly_and_the_task_goes_on(
    program: Program, tmp_path: Path, word: str, how: signal.Signals, code: int, last: str
) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("wait\n")
    process = program.start("run", DESK, "--input", file)
    said = read_until(process, word)
    process.send_signal(how)
    out, rest = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == ""
    assert "Traceback" not in rest
    assert rest.splitlines()[-1] == last
    assert json.loads(program("status", "--json").stdout)["running"] is True
    if word == "submitted":
        task = said.split()[-2]
        assert f"callboard task {task}" in rest
        assert json.loads(program("task", task, "--json").stdout)["status"] in ("assigned", "running")

"""The main job as a user runs it: a log in, a report out, also while hosts are killed."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from callboard.runtime import joined_cluster
from callboard.settings import Settings
from storage.inspect import HostView, list_hosts
from tests.acceptance.program import PROGRAM, Program
from tests.unit.secops.triage_run import EXAMPLE, SAMPLE, comparable, real_log, reference

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long enough that hosts can be killed while it is fed and read; most lines accuse nobody."""
    path = tmp_path_factory.mktemp("secops") / "long.log"
    rng = random.Random(7)
    sources = [f"203.0.{n % 40}.{n // 40 + 1}" for n in range(400)]
    path.write_text(
        "".join(
            f"Dec 10 {n // 3600 % 24:02}:{n // 60 % 60:02}:{n % 60:02} gate sshd[{n}]: "
            + (
                f"Failed password for u{n % 11} from {rng.choice(sources)} port 22 ssh2\n"
                if n % 8 == 0
                else f"Connection closed by {rng.choice(sources)} port 22 [preauth]\n"
            )
            for n in range(12_000)
        ),
        "utf-8",
    )
    return path


def triage(program: Program, path: Path | str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        program("run", EXAMPLE, "--input", path, "--approve", "policy", "--json").stdout
    )
    return found


def test_standard_output_is_the_report_and_nothing_else(program: Program) -> None:
    found = triage(program, SAMPLE)
    assert comparable(found) == reference(SAMPLE)
    assert found["markdown"].startswith("# SSH incident report")
    entry = {"address", "failures", "users", "verdict", "severity", "evidence", "action"}
    assert all(entry <= each.keys() for each in found["addresses"])


def test_the_same_file_again_and_its_gzip_twin_give_the_same_report(program: Program, tmp_path: Path) -> None:
    (tmp_path / "auth.log").write_bytes(gzip.compress(SAMPLE.read_bytes()))
    assert comparable(triage(program, tmp_path / "auth.log")) == comparable(triage(program, SAMPLE))


def test_a_person_gets_the_page(program: Program) -> None:
    ran = program("run", EXAMPLE, "--input", real_log() or SAMPLE, "--approve", "policy")
    assert ran.stdout.startswith("# SSH incident report")
    assert "judging their sources" in ran.stderr


def test_a_log_comes_in_over_standard_input(program: Program) -> None:
    with SAMPLE.open("rb") as log:
        ran = subprocess.run(
            [PROGRAM, "run", EXAMPLE, "--input", "-", "--approve", "policy", "--json"],
            env=program.environment,
            stdin=log,
            capture_output=True,
            timeout=120,
            check=True,
        )
    found = comparable(json.loads(ran.stdout))
    found["log"]["name"] = "auth.log"
    assert found == reference(SAMPLE)


def test_killing_hosts_while_a_log_is_fed_changes_nothing(program: Program, long_log: Path) -> None:
    with started(program, long_log) as process:
        wait_for_turns(program, 200)
        killed = [kill_a_host(program)]
        wait_for_turns(program, 200)
        killed.append(kill_a_host(program))
        out, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert len(set(killed)) == 2
    assert comparable(json.loads(out)) == reference(long_log)
    assert json.loads(program("dead-letters", "--domain", "secops", "--json").stdout)["dead_letters"] == []
    assert comparable(triage(program, long_log)) == reference(long_log)


def test_two_runs_at_once_on_one_file_give_the_same_report(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(SAMPLE.read_text("utf-8") + "a line that no other test has fed\n", "utf-8")
    with started(program, path) as one, started(program, path) as other:
        reports = [json.loads(each.communicate(timeout=120)[0]) for each in (one, other)]
    assert comparable(reports[0]) == comparable(reports[1]) == reference(path)
    assert reports[0]["id"] != reports[1]["id"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "log is empty."),
        pytest.param(bytes(range(256)) * 99, "log is not text.", marks=pytest.mark.long),
        pytest.param(gzip.compress(b"x\n" * 9999)[:-9], "Cannot read log:", marks=pytest.mark.long),
        (None, "cannot be read"),
    ],
    ids=["empty", "binary", "damaged", "missing"],
)
def test_what_is_no_log_is_one_clear_line(
    program: Program, tmp_path: Path, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "log").write_bytes(content)
    ran = program("run", EXAMPLE, "--input", tmp_path / "log", "--json", code=1)
    assert ran.stdout == ""
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert said in last
    assert "Traceback" not in ran.stderr


@contextmanager
def started(program: Program, path: Path) -> Iterator[subprocess.Popen[str]]:
    with program.start("run", EXAMPLE, "--input", path, "--approve", "policy", "--json") as process:
        yield process
        process.kill()


def hosts(program: Program) -> list[HostView]:
    async def read() -> list[HostView]:
        async with joined_cluster(Settings(home=program.home)) as cluster:
            found = await list_hosts(cluster.postgres)
            return [host for host in found if host.domain == "secops" and host.ended_at is None]

    return asyncio.run(read())


def wait_for_turns(program: Program, more: int) -> None:
    """Wait until the living hosts have handled so many more messages."""
    deadline = time.monotonic() + 60
    before = {host.epoch: host.turns for host in hosts(program)}
    while time.monotonic() < deadline:
        if sum(max(0, host.turns - before.get(host.epoch, 0)) for host in hosts(program)) >= more:
            return
        time.sleep(0.05)
    pytest.fail("no host did any work")


def kill_a_host(program: Program) -> int:
    """Kill the host that has most to do."""
    busiest = max(hosts(program), key=lambda host: host.backlog)
    os.kill(busiest.pid, signal.SIGKILL)
    return busiest.pid

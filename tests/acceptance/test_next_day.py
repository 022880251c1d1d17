"""A job that waits for people outlives everything that ran when it began to wait."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from callboard.runtime import running_services
from callboard.settings import Settings
from tests.acceptance.conftest import DESK
from tests.acceptance.program import PROGRAM, Program
from tests.unit.secops.triage_run import EXAMPLE

# A whole cluster dies and starts again: 40 s. test_waiting.py and test_approving.py have the short forms.
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

GRAVE = ("198.51.100.77", "2001:db8:77::7")


def test_a_block_that_is_approved_the_day_after_everything_was_killed_is_executed_once(
    program: Program, tmp_path: Path
) -> None:
    with begun(program, "run", EXAMPLE, "--input", log(tmp_path), "--json") as run:
        task, ids = told_to_approve(run)
        kill_all(program)
        run.communicate()

    with a_day_later(program), begun(program, "task", task, "--follow", "--json") as follow:
        program("approve", ids[GRAVE[0]], "--as", "alice", "--comment", "slept on it")
        program("up", "--detach", DESK)  # for the tests after this one
        decided = [
            decide(program, "approve", ids[GRAVE[1]], "--as", "bob", "--comment", "seen"),
            decide(program, "deny", ids[GRAVE[1]], "--as", "carol", "--reason", "no"),
        ]
        told = "".join(each.communicate(timeout=180)[1] for each in decided)
        codes = [each.returncode for each in decided]
        report = json.loads(follow.communicate(timeout=240)[0])
    assert sorted(codes) == [0, 1]
    assert ("was approved by bob" if codes[0] == 0 else "was denied by carol") in told

    found = {each["address"]: each["response"] for each in report["addresses"]}
    assert outcome(found[GRAVE[0]]) == ("executed", "alice", "slept on it")
    expected = ("executed", "bob", "seen") if codes[0] == 0 else ("denied", "carol", "no")
    assert outcome(found[GRAVE[1]]) == expected
    assert "approved by `alice` at 2" in report["markdown"]
    calls = json.loads(program("ledger", "--task", f"secops/{task}", "--json").stdout)["calls"]
    attempts = {call["arguments"]["address"]: (call["status"], call["attempts"]) for call in calls}
    assert attempts == {
        GRAVE[0]: ("succeeded", 1),
        GRAVE[1]: ("succeeded", 1) if codes[0] == 0 else ("denied", 0),
    }
    script = (program.home / "secops" / "blocklist.nft").read_text()
    assert [script.count(f"\t{address} timeout 24h") for address in GRAVE] == [1, int(codes[0] == 0)]


def log(folder: Path) -> Path:
    """Two sources that no other test knows, each grave enough for a person to decide."""
    path = folder / "auth.log"
    path.write_text(
        "".join(
            f"Dec 10 06:{n // 60:02}:{n % 60:02} gate sshd[{n}]: "
            f"Failed password for root from {GRAVE[n % 2]} port 22 ssh2\n"
            for n in range(120)
        )
    )
    return path


def outcome(response: dict[str, Any]) -> tuple[str, str, str]:
    return response["outcome"], response["decided_by"], response["comment"]


@contextlib.contextmanager
def begun(program: Program, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
    process = decide(program, *words)
    with process:
        yield process
        process.kill()


def decide(program: Program, *words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [PROGRAM, *words],
        env=program.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told_to_approve(run: subprocess.Popen[str]) -> tuple[str, dict[str, str]]:
    """Read what a run says until it has named both blocks: its task, and each address with its approval's id."""
    assert run.stderr is not None
    task, address = "", ""
    found: dict[str, str] = {}
    while found.keys() != set(GRAVE):
        line = run.stderr.readline()
        assert line, found
        if line.startswith("task "):
            task = line.split()[1]
        elif line.startswith("It waits for a person: call block_address: address "):
            address = line.split()[8].rstrip(",")
        elif line.startswith("    callboard approve "):
            found[address] = line.split()[2]
    return task, found


def kill_all(program: Program) -> None:
    """Postgres, NATS, Ray, hosts and commands, each with -9."""
    found = processes(program)
    names = " ".join(" ".join(process.cmdline()) for process in found)
    for part in ("postgres", "nats-server", "raylet", "ray::HostActor", "callboard run"):
        assert part in names, f"no {part} runs: {names}"
    deadline = time.monotonic() + 30
    while found:  # one that was being started meanwhile is met the second time
        assert time.monotonic() < deadline, found
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, 5)
        found = processes(program)


def processes(program: Program) -> list[psutil.Process]:
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get("CALLBOARD_HOME") == str(program.home)
            if ours or str(program.home) in " ".join(process.cmdline()):
                found |= {each.pid: each for each in (process, *process.children(recursive=True))}
    return [each for each in found.values() if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


@contextlib.contextmanager
def a_day_later(program: Program) -> Iterator[None]:
    """The services run, and every time that is stored is a day further back: to them it is tomorrow."""

    async def move(url: str) -> None:
        db = await asyncpg.connect(url)
        try:
            columns = await db.fetch(
                "select table_name, column_name, data_type from information_schema.columns"
                " join information_schema.tables using (table_schema, table_name)"
                " where table_schema = 'callboard' and table_type = 'BASE TABLE'"
                "   and (data_type = 'timestamp with time zone' or column_name = 'began_at')"
                "   and not exists (select from pg_inherits where inhrelid = format('callboard.%I', table_name)::regclass)"
            )
            assert {"promises", "turns", "hosts", "journal"} <= {row["table_name"] for row in columns}
            for table in {row["table_name"] for row in columns}:
                changes = ", ".join(
                    f"{row['column_name']} = {row['column_name']} - "
                    + ("86400" if row["data_type"] == "double precision" else "interval '1 day'")
                    for row in columns
                    if row["table_name"] == table
                )
                await db.execute(f"update callboard.{table} set {changes}")  # noqa: S608  (the schema's own names)
        finally:
            await db.close()

    with asyncio.Runner() as runner:
        services = running_services(Settings(home=program.home))
        endpoints = runner.run(services.__aenter__())
        try:
            runner.run(move(endpoints.postgres_url))
            yield
        finally:
            runner.run(services.__aexit__(None, None, None))

"""Commands that start Callboard for themselves: what they start, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from callboard.runtime import ray_head
from callboard.services import ensure_services, running_endpoints
from callboard.settings import Settings
from storage.connect import connect
from tests.acceptance.program import Program, read_until
from tests.conftest import make_home
from tests.unit.secops.triage_run import EXAMPLE, SAMPLE, comparable, reference

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def alone() -> Iterator[Program]:
    """A home in which nothing runs, before and after."""
    folder = make_home()
    program = Program(folder / "home")
    yield program
    found = left_behind(program)
    program("down")
    assert found == []
    shutil.rmtree(folder)


def left_behind(program: Program) -> list[str]:
    """Processes that were started for this home, Ray's and those that join it included."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CALLBOARD_HOME") == str(program.home):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found + program.survivors()


@pytest.mark.parametrize(
    ("word", "after_s", "how"),
    [
        ("starting Postgres", 0.0, signal.SIGINT),
        pytest.param("starting Postgres", 0.0, signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("starting Postgres", 1.5, signal.SIGINT, marks=pytest.mark.long),
        ("starting Postgres", 1.5, signal.SIGTERM),
        pytest.param("starting the coord", 0.0, signal.SIGINT, marks=pytest.mark.long),
        pytest.param("starting the coord", 0.0, signal.SIGTERM, marks=pytest.mark.long),
    ],
)
def test_a_signal_while_it_starts_leaves_nothing_behind(
    alone: Program, word: str, after_s: float, how: signal.Signals
) -> None:
    process = alone.start("up")
    read_until(process, word)
    time.sleep(after_s)  # anywhere in what follows, and in Ray's own start above all
    process.send_signal(how)
    assert_stopped_whole(alone, process, how)


@pytest.mark.parametrize(
    ("point", "how"),
    [
        ("start.checks_postgres", signal.SIGINT),
        pytest.param("start.checks_postgres", signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("start.migrates", signal.SIGINT, marks=pytest.mark.long),
        pytest.param("start.migrates", signal.SIGTERM, marks=pytest.mark.long),
    ],
)
def test_a_signal_in_the_middle_of_a_statement_of_its_start_leaves_nothing_behind(
    alone: Program, point: str, how: signal.Signals
) -> None:
    process = alone.start("up", CALLBOARD_FAULTS=f"{point}=stop")
    read_until(process, f"fault fired: {point}")
    wait_until_it_stands_still(process.pid)  # it says so before it is
    process.send_signal(how)
    process.send_signal(signal.SIGCONT)
    assert_stopped_whole(alone, process, how)


def wait_until_it_stands_still(pid: int) -> None:
    deadline = time.monotonic() + 30
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_stopped_whole(alone: Program, process: subprocess.Popen[str], how: signal.Signals) -> None:
    """The fixture looks for what is left of it."""
    out, rest = process.communicate(timeout=60)
    assert process.returncode == (130 if how is signal.SIGINT else 143)
    assert out == ""
    assert rest.splitlines()[-1] == ("Interrupted." if how is signal.SIGINT else "Terminated.")
    assert len(rest.splitlines()) <= 4, rest
    assert ray_head(Settings(home=alone.home)).running() is None


@pytest.mark.long
def test_a_second_ctrl_c_does_not_keep_it_from_stopping_what_it_has_started(alone: Program) -> None:
    process = alone.start("up")
    read_until(process, "starting the coordinators")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "It is being stopped. Once more leaves it as it is.\n" in rest


@pytest.mark.parametrize("beside", [1, pytest.param(2, marks=pytest.mark.long)])
def test_runs_that_start_at_once_share_one_callboard_until_the_last_of_them_ends(
    alone: Program, tmp_path: Path, beside: int
) -> None:
    policy = ("--approve", "policy", "--json")
    others = [alone.start("run", EXAMPLE, "--input", SAMPLE, *policy) for _ in range(beside)]
    log = [*SAMPLE.read_text("utf-8").splitlines(keepends=True), "a line that the others have not fed\n"]
    last = alone.start("run", EXAMPLE, "--input", "-", *policy, stdin=subprocess.PIPE)
    assert last.stdin is not None
    last.stdin.write("".join(log[:100]))
    last.stdin.flush()
    ended = [each.communicate(timeout=120) for each in others]
    assert [each.returncode for each in others] == [0] * beside, ended
    last.stdin.write("".join(log[100:]))
    ended.append(last.communicate(timeout=60))
    assert last.returncode == 0, ended
    (tmp_path / "log").write_text("".join(log))
    wanted = reference(tmp_path / "log")
    wanted["log"]["name"] = "standard input"
    reports = [comparable(json.loads(out)) for out, _ in ended]
    assert reports == [reference(SAMPLE)] * beside + [wanted]
    said = [rest.splitlines() for _, rest in ended]
    for line in ("starting Postgres, NATS and Ray", "starting the coordinators", "stopping the hosts"):
        assert [lines.count(line) for lines in said].count(1) == 1, said
    left = "Another command uses this Callboard: the last one stops it, or `callboard down` at once."
    assert [lines[-1] for lines in said] == [left] * beside + ["stopping Ray, NATS and Postgres"]


def domain(folder: Path, name: str, code: str) -> Path:
    """A domain of one kind and one host, whose tasks go to one agent."""
    folder = folder / name
    folder.mkdir()
    (folder / "domain.yaml").write_text(
        f"domain: {name}\nkinds:\n  - class: {name}_agents:Only\n"
        "tasks: {policy: direct, to: only/main}\nhosts: {min: 1, max: 1}\n"
    )
    (folder / f"{name}_agents.py").write_text(
        "import asyncio\n"
        "from pathlib import Path\n"
        "from callboard import Agent, Context, TaskWork, handler, message, tool\n"
        "from pydantic import BaseModel\n"
        "@message('test.ball.v1')\n"
        "class Ball(BaseModel):\n"
        "    hits: int = 0\n"
        "class Only(Agent):\n"
        "    kind = 'only'\n" + code
    )
    return folder


CALLER = """
    @handler
    async def begin(self, work: TaskWork, ctx: Context) -> None:
        if work.input["to"]:
            ctx.send(work.input["to"], Ball())
        else:
            ctx.complete({"hits": 0})

    @handler
    async def back(self, ball: Ball, ctx: Context) -> None:
        ctx.complete({"hits": ball.hits})
"""
MIRROR = """
    @handler
    async def begin(self, work: TaskWork, ctx: Context) -> None:
        ctx.complete({})

    @handler
    async def back(self, ball: Ball, ctx: Context) -> None:
        ctx.reply(Ball(hits=ball.hits + 1))
"""


@pytest.mark.long
def test_a_run_of_its_own_starts_hosts_of_other_domains_when_they_are_sent_to(
    alone: Program, tmp_path: Path
) -> None:
    caller, mirror = domain(tmp_path, "caller", CALLER), domain(tmp_path, "mirror", MIRROR)
    alone("run", mirror)
    given = tmp_path / "input.json"
    given.write_text('{"to": ""}')
    alone("run", caller, "--input", given)
    assert hosts_since_start(alone) == {"caller": 1, "mirror": 1}
    given.write_text('{"to": "mirror/only/one"}')
    assert json.loads(alone("run", caller, "--input", given, "--json").stdout) == {"hits": 1}
    assert hosts_since_start(alone) == {"caller": 2, "mirror": 2}


@pytest.mark.long
def test_a_removed_domain_leaves_the_others_and_ray_as_they_are(alone: Program, tmp_path: Path) -> None:
    caller, mirror = domain(tmp_path, "caller", CALLER), domain(tmp_path, "mirror", MIRROR)
    found = json.loads(alone("up", "--detach", "--without-gateway", "--json", caller).stdout)
    assert (found["joined"], found["domains"]) == (False, ["caller"])
    assert found["ready_in_s"] > 0
    ran = alone("up", "--detach", "--without-gateway", mirror)
    assert re.search(
        r"^Callboard runs already; mirror is registered; its hosts were ready after \d+\.\d s; dashboard",
        ran.stdout,
    )
    assert ran.stderr == "joining the running Callboard\nwaiting for the hosts of mirror\n"
    before = json.loads(alone("status", "--json").stdout)["hosts"]
    assert {psutil.Process(host["pid"]).nice() for host in before} == {psutil.Process().nice()}
    done = json.loads(alone("domains", "remove", "mirror", "--yes", "--delete-data", "--json").stdout)
    assert (done["hosts_drained"], done["hosts_fenced"]) == (1, 0)
    assert [d["domain"] for d in json.loads(alone("domains", "--json").stdout)["domains"]] == ["caller"]
    wait_until_led(alone, {"master", "caller"})
    given = tmp_path / "input.json"
    given.write_text('{"to": ""}')
    assert json.loads(alone("run", caller, "--input", given, "--json").stdout) == {"hits": 0}
    after = json.loads(alone("status", "--json").stdout)["hosts"]
    assert [h["epoch"] for h in after] == [h["epoch"] for h in before if h["domain"] == "caller"]
    # And it can come back, with a coordinator and a host of its own.
    assert json.loads(alone("run", mirror, "--json").stdout) == {}
    alone("down")


SCALES = """
    @handler
    async def begin(self, work: TaskWork, ctx: Context) -> None:
        ctx.complete({"said": await ctx.call(weigh, work.input["until"])})

@tool(timeout=240)
async def weigh(until: str) -> str:
    while not Path(until).exists():
        await asyncio.sleep(0.05)
    return "weighed"
"""
ABSENT_S = 5.0  # Ray brings a coordinator back sooner


@pytest.mark.long
def test_down_waits_for_a_call_that_is_made_once_at_most_and_nobody_leads_meanwhile(
    alone: Program, tmp_path: Path
) -> None:
    scales, given, weighed = domain(tmp_path, "scales", SCALES), tmp_path / "input.json", tmp_path / "weighed"
    given.write_text(json.dumps({"until": str(weighed)}))
    alone("up", "--detach", "--without-gateway", scales)
    run = alone.start("run", scales, "--input", given)
    while [call["status"] for call in calls(alone)] != ["started"]:
        pass  # each look takes a moment, and the whole test has a limit
    run.send_signal(signal.SIGINT)  # the task goes on
    run.communicate(timeout=60)
    down = alone.start("down")
    try:
        read_until(down, "waiting for calls of at-most-once tools to end")
        nobody_leads_for(ABSENT_S, alone)
        assert down.poll() is None
    finally:
        weighed.touch()
    out, said = down.communicate(timeout=60)
    assert (down.returncode, out) == (0, "Callboard is stopped.\n")
    assert said == "stopping Ray, NATS and Postgres\n"
    left = read_stopped(
        alone,
        "select tool, status, attempts from ledger",
        "select ended_why, suspect from hosts",
        "select name from promises where kind in ('approval', 'outcome')",
        "select name from coordinators",
    )
    assert left == [[("weigh", "succeeded", 1)], [("stopped", [])], [], []]


def calls(program: Program) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(program("ledger", "--json").stdout)["calls"]
    return found


def nobody_leads_for(seconds: float, program: Program) -> None:
    """Wait until no coordinator has led for so long."""
    endpoints = running_endpoints(Settings(home=program.home))
    assert endpoints is not None

    async def wait() -> None:
        db = await connect(endpoints.postgres_url, application="callboard-test")
        try:
            last = time.monotonic()
            async with asyncio.timeout(60):
                while time.monotonic() - last < seconds:
                    if await db.fetchval("select exists (select from coordinators)"):
                        last = time.monotonic()
                    await asyncio.sleep(0.05)
        finally:
            await db.close()

    asyncio.run(wait())


def read_stopped(program: Program, *queries: str) -> list[list[tuple[Any, ...]]]:
    """What the database of a Callboard that is stopped holds: its services run for the moment."""

    async def read() -> list[list[tuple[Any, ...]]]:
        async with await ensure_services(Settings(home=program.home)) as services:
            db = await connect(services.endpoints.postgres_url, application="callboard-test")
            try:
                return [[tuple(row) for row in await db.fetch(sql)] for sql in queries]
            finally:
                await db.close()

    return asyncio.run(read())


def hosts_since_start(program: Program) -> dict[str, int]:
    """How many hosts each domain has had."""
    [found] = read_stopped(program, "select domain, count(*) from hosts group by 1")
    return dict(found)


def wait_until_led(program: Program, names: set[str]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = json.loads(program("status", "--json").stdout)["coordinators"]
        if {coordinator["name"] for coordinator in found} == names:
            return
    pytest.fail(f"{found} lead")


def test_the_signals_tests_would_see_a_process_that_is_left(alone: Program) -> None:
    """The fixture's own check can fail."""
    process = subprocess.Popen(["sleep", "60"], env={**os.environ, "CALLBOARD_HOME": str(alone.home)})
    try:
        # The kernel shows a new program's environment a moment after Popen returns.
        deadline = time.monotonic() + 10
        while not (found := left_behind(alone)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert found == ["sleep 60"]
    finally:
        process.kill()
        process.wait()

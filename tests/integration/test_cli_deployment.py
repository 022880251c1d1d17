"""`status`, `doctor`, `tasks` and `task`, and what every command says when a service is away or wrong."""

from __future__ import annotations

import json
import secrets
import socket

import pytest

from bus.events import EventStream
from callboard.ray_head import RayHead
from callboard.services import Endpoints
from tests.integration.cli import Cli, note, until
from tests.integration.deployment import Deployment


async def fully_owned(desk: Deployment) -> None:
    """Its host owns everything, and has beaten."""
    await until(
        lambda: desk.fetch(
            "select from hosts natural join heartbeats where cardinality(owned) = 4 and ready_at is not null"
        )
    )


async def test_status_shows_domains_hosts_and_sizes(cli: Cli, desk: Deployment) -> None:
    await fully_owned(desk)
    await note(desk, "a", "poison")
    await until(lambda: desk.fetch("select from dead_letters"))
    found = await cli.json("status")
    assert found["running"] is True
    (domain,) = found["domains"]
    assert (domain["domain"], domain["partitions"], domain["unowned"]) == ("desk", 4, [])
    assert domain["dead_letters"] == 1
    (host,) = found["hosts"]
    assert host["owned"] == [0, 1, 2, 3]
    assert [c["name"] for c in found["coordinators"]] == ["desk"]
    assert "transitions" in {table["name"] for table in found["tables"]}
    assert list(found["services"]) == ["postgres", "nats", "keeper", "ray", "models", "dashboard"]
    text = await cli("status")
    assert "4/4" in text
    await desk.forsake()
    await desk.kill_hosts()
    await desk.pool.execute("update hosts set ended_at = now(), owned = '{}'")
    assert "no host owns partitions 0-3" in await cli("status")


async def test_events_that_nobody_has_read_are_counted(
    cli: Cli, desk: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def waiting() -> int | None:
        [domain] = (await cli.json("status"))["domains"]
        count: int | None = domain["events_waiting"]
        return count

    stream = EventStream(desk.transport)
    await stream.ensure()
    before = await waiting()
    await desk.forsake()
    await desk.kill_hosts()  # nobody reads
    key, body = secrets.token_hex(4), {"task": secrets.token_hex(4), "number": 1, "text": "x"}
    for number in range(3):
        await stream.publish("desk", "note", json.dumps(body).encode(), message_id=f"{key}{number}")
    assert (before, await waiting()) == (0, 3)
    await stream.publish("other", "note", b"{}")
    assert await waiting() == 3
    await desk.coordinate()
    await until(lambda: desk.fetch("select from agents where agent = $1", f"clerk/{body['task']}"))
    assert await waiting() == 0
    monkeypatch.setenv("CALLBOARD_NATS_URL", "nats://127.0.0.1:1")
    assert await waiting() is None


async def test_status_has_the_same_keys_whether_anything_runs_or_not(
    cli: Cli, desk: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await cli.json("status")
    for variable in ("POSTGRES", "NATS"):
        monkeypatch.delenv(f"CALLBOARD_{variable}_URL")
    resting = await cli.json("status", code=1)
    keys = [
        "running",
        "home",
        "services",
        "died",
        "unrecorded_ray",
        "model_levels",
        "coordinators",
        "domains",
        "paused",
        "asked",
        "hosts",
        "died_hosts",
        "tables",
        "untaken_events",
    ]
    assert list(running) == list(resting) == keys
    assert (
        list(running["services"])
        == list(resting["services"])
        == ["postgres", "nats", "keeper", "ray", "models", "dashboard"]
    )
    assert (resting["running"], resting["home"]) == (False, running["home"])
    assert not any(resting["services"].values())
    assert resting["died"] == []
    assert [resting[key] for key in keys[4:]] == [None] * 10
    assert [key for key in keys[5:] if running[key] is None] == ["model_levels"]  # no gateway runs beside it


async def test_a_ray_head_without_a_record_is_shown_with_the_command_that_ends_it(
    cli: Cli, desk: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RayHead, "unrecorded", lambda self: 4711)
    line = "ray         process 4711 is a head that no command joins; `callboard down` ends it\n"
    assert line in await cli("status")
    assert (await cli.json("status"))["unrecorded_ray"] == 4711
    for variable in ("POSTGRES", "NATS"):
        monkeypatch.delenv(f"CALLBOARD_{variable}_URL")
    assert line in await cli("status", code=1)
    assert "Nothing runs in" in cli.out


async def test_tasks_and_one_task_are_shown(cli: Cli, desk: Deployment) -> None:
    good = await desk.submit({"lines": 0})
    bad = await desk.submit({"refuse": True})
    for task in (good, bad):
        await desk.client.wait(task, timeout_s=20)
    listed = await cli.json("tasks")
    assert {task["id"]: task["status"] for task in listed["tasks"]} == {good: "completed", bad: "failed"}
    assert listed["more"] is False
    assert await cli.json("tasks", "--open") == {"tasks": [], "more": False}
    first = await cli.json("tasks", "--domain", "desk", "--limit", "1")
    assert ([task["id"] for task in first["tasks"]], first["more"]) == ([bad], True)
    assert "a test" in await cli("tasks")
    shown = await cli.json("task", good)
    assert shown["result"]["notes"] == []
    assert [event["number"] for event in shown["events"]] == list(range(1, len(shown["events"]) + 1))
    assert "# Notes" in await cli("task", good)
    text = await cli("task", bad, code=1)
    assert "refuses \\x1b[31msuch" in text
    assert "\x1b" not in text
    assert "There is no task" in await cli.error("task", "00000000-0000-0000-0000-000000000000")
    assert "is not the id of a task" in await cli.error("task", "seven")
    assert "no domain 'other'" in await cli.error("tasks", "--domain", "other")


async def test_doctor_finds_a_deployment_in_order(cli: Cli, desk: Deployment) -> None:
    await fully_owned(desk)
    found = await cli.json("doctor")
    assert found["healthy"] is True
    status = {finding["check"]: finding["status"] for finding in found["findings"]}
    for check in (
        "versions",
        "postgres",
        "nats",
        "clock",
        "migrations",
        "partitions",
        "release",
        "dead letters",
        "months ahead",
    ):
        assert status[check] == "good", found
    assert "✓ migrations" in await cli("doctor")


async def test_a_host_that_died_is_named_for_an_hour_and_one_that_was_ended_is_not(
    cli: Cli, desk: Deployment
) -> None:
    await fully_owned(desk)
    assert "died" not in await cli("status")
    [name] = desk.launcher.hosts
    await desk.kill_hosts()
    await until(lambda: desk.fetch("select from hosts where host = $1 and ended_at is not null", name))
    [died] = (await cli.json("status"))["died_hosts"]
    assert (died["host"], died["ended_why"]) == (name, "its process has ended")
    words = f"1 host died in the last hour: {name}, {died['ended_at'][11:19]} (its process has ended)"
    assert words in " ".join((await cli("status")).split())
    found = {f["check"]: f for f in (await cli.json("doctor"))["findings"]}
    assert (found["hosts"]["status"], found["hosts"]["detail"]) == ("warn", words)
    for why, ago_s in (("drained", 0), ("silent for 1.0 s", 3660)):
        await desk.pool.execute(
            "update hosts set ended_why = $2, ended_at = now() - make_interval(secs => $3) where host = $1",
            name, why, ago_s,
        )  # fmt: skip
        assert (await cli.json("status"))["died_hosts"] == []
        assert "died" not in await cli("status")


async def test_doctor_names_what_is_wrong_with_a_mend(
    cli: Cli, desk: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fully_owned(desk)
    await note(desk, "a", "poison")
    await until(lambda: desk.fetch("select from dead_letters"))
    await desk.forsake()
    await desk.kill_hosts()
    await desk.pool.execute("update heartbeats set at = now() - interval '1 minute'")
    await desk.pool.execute("update migrations set number = 99 where number = 1")
    missing = {f["check"]: f for f in (await cli.json("doctor", code=1))["findings"]}
    assert missing["migrations"]["status"] == "fail"
    await desk.pool.execute("update migrations set number = 1 where number = 99")
    found = {f["check"]: f for f in (await cli.json("doctor", code=1))["findings"]}
    assert found["partitions"]["status"] == "fail"
    assert "silent" in found["partitions"]["detail"]
    assert found["dead letters"]["status"] == "warn"
    assert all(f["mend"] for f in found.values() if f["status"] != "good")
    assert "✗ partitions" in await cli("doctor", code=1)


async def test_doctor_sees_an_unsafe_postgres(cli: Cli, desk: Deployment, database: str) -> None:
    name = await desk.pool.fetchval("select current_database()")
    await desk.pool.execute(f'alter database "{name}" set synchronous_commit = off')
    found = {f["check"]: f for f in (await cli.json("doctor", code=1))["findings"]}
    assert found["postgres"]["status"] == "fail"
    assert "synchronous_commit=off" in found["postgres"]["detail"]


@pytest.mark.parametrize(
    "command", [["agents"], ["tasks"], ["status"], ["dead-letters"], ["backup", "/tmp/x.backup"]]
)
async def test_a_postgres_that_is_away_is_one_line_without_its_password(
    command: list[str], cli: Cli, services: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", f"postgresql://me:hunter2@127.0.0.1:{port}/db")
    monkeypatch.setenv("CALLBOARD_NATS_URL", services.nats_url)
    said = await cli.error(*command, code=3)
    assert f"me@127.0.0.1:{port}/db cannot be used: connection refused" in said
    assert "hunter2" not in cli.err


async def test_a_wrong_password_is_said_and_not_shown(
    cli: Cli, services: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = services.postgres_url.split(":")[2].split("@")[0]
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", services.postgres_url.replace(password, "hunter2"))
    monkeypatch.setenv("CALLBOARD_NATS_URL", services.nats_url)
    assert "refused the user or password" in await cli.error("agents", code=3)
    assert "hunter2" not in cli.err


async def test_a_role_that_may_not_read_the_schema_is_told_so(
    cli: Cli, desk: Deployment, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.pool.execute("create role stranger login password 'secret'")
    try:
        monkeypatch.setenv(
            "CALLBOARD_POSTGRES_URL", f"postgresql://stranger:secret@{database.partition('@')[2]}"
        )
        said = await cli.error("agents")
        assert "permission denied for schema callboard" in said
        assert "bug" not in said
        assert "secret" not in said
    finally:
        await desk.pool.execute("drop role stranger")


async def test_a_nats_that_is_away_is_one_line(
    cli: Cli, desk: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLBOARD_NATS_URL", "nats://me:hunter2@127.0.0.1:1")
    monkeypatch.setattr("bus.nats.CONNECT_WITHIN_S", 0.5)
    assert "NATS at 127.0.0.1:1 does not answer" in await cli.error("pause", "desk/clerk/a", code=3)
    assert "hunter2" not in cli.err


async def test_an_empty_database_is_said_to_be_empty(
    cli: Cli, services: Endpoints, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", empty_database)
    monkeypatch.setenv("CALLBOARD_NATS_URL", services.nats_url)
    for command in (["agents"], ["tasks"], ["status"], ["agent", "desk/clerk/a"]):
        assert "The database is empty" in await cli.error(*command)

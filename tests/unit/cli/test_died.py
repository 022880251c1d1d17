"""What `status`, `doctor` and a `run` say of services that have died, without a server."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from callboard.cli.main import invoke
from callboard.died import died_hosts_text
from callboard.services import Home, why_postgres_is_gone
from callboard.services.instance import forget_instance
from callboard.settings import Settings
from storage.inspect import HostView


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of an instance whose services have died: its record is there, and nobody holds their locks."""
    endpoints = {
        "postgres_url": "postgresql://me:secret@/x?host=/tmp/run",
        "nats_url": "nats://me:secret@127.0.0.1:1",
    }
    endpoints |= {"embedded_postgres": True, "embedded_nats": True}  # type: ignore[dict-item]
    (tmp_path / "instance.json").write_text(json.dumps({"endpoints": endpoints, "started_at": 1.0}))
    monkeypatch.setenv("CALLBOARD_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def keeper(home: Path) -> Iterator[int]:
    """A process that holds the keeper's lock, as the keeper does."""
    with (home / "keeper.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(os.getpid()))
        file.flush()
        yield os.getpid()


@pytest.mark.usefixtures("home")
def test_status_says_what_has_died_and_what_starts_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["status"]) == 1
    said = capsys.readouterr().out
    assert "Postgres and NATS have died; `callboard up` starts them again." in said
    assert "(embedded, has died)" in said
    assert "Nothing runs" not in said
    assert invoke(["status", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["died"] == ["Postgres", "NATS"]


def test_status_names_the_keeper_that_is_at_it(keeper: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["status"]) == 1
    said = capsys.readouterr().out
    assert f"keeper      process {keeper}" in said
    assert "Postgres and NATS have died; the keeper starts them again." in said


def test_an_instance_that_was_stopped_has_not_died(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forget_instance(Home(home))
    assert invoke(["status"]) == 1
    assert "Nothing runs in" in capsys.readouterr().out


@pytest.mark.usefixtures("home")
def test_doctor_says_so_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["doctor", "--json"]) == 1
    found = {each["check"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert found["keeper"]["status"] == "fail"
    assert found["keeper"]["detail"] == "Postgres and NATS have died; `callboard up` starts them again."
    assert "services" not in found


@pytest.mark.usefixtures("home", "keeper")
def test_doctor_says_what_was_started_again_how_often_and_when(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now().astimezone()
    at = [(now - timedelta(minutes=minutes)).isoformat(" ", "seconds") for minutes in (90, 50, 40, 30)]
    (home / "keeper.log").write_text(
        f"{at[0]} NATS had died: started again in 0.1 s.\n"
        f"{at[1]} Postgres had died: started again in 0.8 s.\n"
        f"{at[2]} Postgres died, and cannot be started: why. It is tried again in 1 s.\n"
        f"{at[3]} Postgres and NATS had died: started again in 0.8 s.\n"
        "2026-11-2 had died: started again\nhad died: started again"
    )
    invoke(["doctor", "--json"])
    found = [each for each in json.loads(capsys.readouterr().out)["findings"] if each["check"] == "died"]
    last = at[3][11:19]
    assert [(each["status"], each["detail"]) for each in found] == [
        (
            "warn",
            f"Postgres died and was started again 2 times in the last hour, last at {last} (keeper.log)",
        ),
        ("warn", f"NATS died and was started again 1 time in the last hour, last at {last} (keeper.log)"),
    ]
    assert str(home / "postgres.log") in found[0]["mend"]


def test_a_database_that_is_kept_is_waited_for(home: Path, request: pytest.FixtureRequest) -> None:
    settings = Settings(home=home)
    assert why_postgres_is_gone(settings) == "Postgres has died"
    request.getfixturevalue("keeper")
    assert why_postgres_is_gone(settings) is None
    forget_instance(Home(home))
    assert why_postgres_is_gone(settings) == "Callboard was stopped"


def test_of_many_hosts_that_died_the_newest_are_named() -> None:
    at = datetime(2026, 11, 22, 7, 2, 27, tzinfo=UTC)
    hosts = [host(f"desk-{n}", at - timedelta(minutes=n)) for n in range(5)]
    assert died_hosts_text(hosts) == (
        "5 hosts died in the last hour: desk-0, 07:02:27 (its process has ended);"
        " desk-1, 07:01:27 (its process has ended); desk-2, 07:00:27 (its process has ended); and 2 before"
    )


def host(name: str, ended_at: datetime) -> HostView:
    return HostView(
        domain="desk", epoch=1, host=name, node="n", pid=1, release="r", owned=[], wanted=[], suspect=[],
        draining=False, started_at=ended_at, ready=True, ended_at=ended_at, ended_why="its process has ended",
        silent_s=0.0, lag_ms=0.0, blocked_by=None, backlog=0, agents=0, turns=0, rss_bytes=0,
    )  # fmt: skip
